"""The training loop: one epoch after another, on whatever accelerate finds. Read `fit`, `epoch` and `step`.

Everything that a step needs is made in `__post_init__`, each part by its own module; everything that the future depends
on is in a checkpoint (`checkpoints.py`), so a killed run goes on where it was.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tlcompile import progress, registry, tasks
from tlcompile.artifacts import ImageSpec
from tlcompile.errors import Problem, TlcompileError
from tlcompile.models._network import Network
from tlcompile.train import (
    applied,
    averaging,
    distill,
    dress,
    head_start,
    machine,
    monitor,
    optim,
    samples,
    schedules,
    select,
    settle,
)
from tlcompile.train.checkpoints import Checkpoints
from tlcompile.train.choosing import Choice
from tlcompile.train.clipping import Clipping
from tlcompile.train.features import Rows, evaluation_loader, training_loader
from tlcompile.train.job import Job
from tlcompile.train.mixing import Mix
from tlcompile.train.trackers import Trackers

if TYPE_CHECKING:
    from tlcompile.data._split import Split

Inputs = dict[str, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Sums:
    """Running figures of an epoch, of this process."""

    loss: float = 0.0
    score: float = 0.0
    seen: int = 0
    seconds: float = 0.0

    def add(self, loss: float, score: float, n: int) -> None:
        self.loss, self.score, self.seen = self.loss + loss * n, self.score + score, self.seen + n


@dataclass
class Trainer:
    """One training run. `fit` leaves the trained weights in `network.module`. `val` is None where there is none.

    Where only the head is trained, `network` is the network from its features on, and the examples are features.
    """

    job: Job
    network: Network
    train: Split | Rows
    val: Split | Rows | None
    work: Path
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        job = self.job
        self.task = registry.load("tasks", job.task)
        self.accelerator = machine.accelerator(job.table)
        spec = self.network.spec
        self.size = (job.table.image_size or spec.image_size) if isinstance(spec, ImageSpec) else 0
        machine.prepare(self.network.module, job.table, bool(self.size))
        select.prepare(self.network, job.table)
        dress.put_on(self.network, **job.dress)
        rates = select.rates(self.network, job.table)
        counts = class_counts(self.train.labels)
        named = tasks.loss_name(job.table, self.task)
        self.loss: LossFunction = self.task.loss(named, job.table, counts)
        self.plain_loss = self.task.loss(named, job.table.model_copy(update=PLAIN), None)
        self.table = settle.table(self, rates)
        table = self.table
        processes = self.accelerator.num_processes
        self.per_process = max(1, settle.number(table.batch_size) // processes)
        self.teacher = distill.Teacher(job, self.task.LABELS, self.network, self.accelerator.device)
        answers = distill.kept_answers(job, len(self.train))
        loader, self.order = training_loader(
            self.train, self.network, self.size, table, self.per_process, job.seed, self.work, answers
        )
        optimizer = optim.optimizer(self.network.module, self.network.head, table, rates)
        if table.trainable == "gradual":
            self.network.module.requires_grad_(True)  # several processes exchange what is open now; `unfreeze` follows
        module = torch.compile(self.network.module) if table.compile else self.network.module
        self.module, self.optimizer, self.loader = self.accelerator.prepare(module, optimizer, loader)
        if self.val is not None:
            held_out = evaluation_loader(self.val, self.network, 64, table, self.work)
            self.val_loader = self.accelerator.prepare(held_out)
        self.steps = -(-len(self.loader) // table.accumulate) * table.epochs
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        self.schedule = schedules.Schedule(inner, table, self.steps, table.epochs)
        self.average = averaging.Average(table)
        self.clipping = Clipping(table.clip_norm)
        self.accelerator.register_for_checkpointing(self.schedule, self.average, self.clipping)
        self.checkpoints = Checkpoints(self.accelerator, self.work, job.identity(), table.save_every_s)
        self.choice = Choice(table, self.work)
        self.mix = Mix(table.augment, len(job.classes), job.seed)
        self.gradients = monitor.Gradients(self.network.module)
        self.trackers = Trackers(
            table.trackers if self.accelerator.is_main_process else (),
            job.name,
            Path(table.runs_dir),
            table.model_dump(exclude={"augment", "lora"}),
            self.work,
        )

    def fit(self) -> dict[str, Any]:
        """Train the epochs that are left; the hyper-parameters as applied."""
        epoch, batch, sums = self.resume()
        if (epoch, batch) == (0, 0) and self.table.head_start:
            self.head_start()
        while epoch < self.table.epochs and not self.choice.stop(self.history):
            select.unfreeze(self.network, self.table, epoch)
            row = self.epoch(epoch, batch, sums)
            self.end_epoch(epoch, row)
            epoch, batch, sums = epoch + 1, 0, Sums()
        kept = self.finish()
        self.trackers.finish()
        self.network.module = self.accelerator.unwrap_model(self.module, keep_torch_compile=False)
        select.merge(self.network)
        dress.take_off(self.network.module)
        return self.read_back(kept)

    def resume(self) -> tuple[int, int, Sums]:
        """(epochs done, batches done of the next, its figures so far), from the newest checkpoint."""
        state = self.checkpoints.load()
        self.trackers.rewind(self.schedule.done)
        if state is None:
            return 0, 0, Sums()
        self.history = state["history"]
        self.gradients.calls = self.schedule.done
        epoch, batch = int(state["epoch"]), int(state["batch"])
        progress.say(
            f"  resuming after epoch {epoch} of {self.table.epochs}" + (f" and {batch} batches" if batch else "")
        )
        return epoch, batch, Sums(**state["sums"][self.accelerator.process_index]) if batch else Sums()

    def head_start(self) -> None:
        """Every process fits the same head: the features and the solver are deterministic."""
        assert not isinstance(self.train, Rows), "a recipe that trains the head alone has no head start"
        accuracy = head_start.fit(self.network, self.train)
        progress.say(f"  head fitted on frozen features, accuracy on train {accuracy:.4f}")

    def epoch(self, epoch: int, done: int, sums: Sums) -> dict[str, Any]:
        """Train what is left of an epoch after `done` batches; its row of the history."""
        self.order.begin(epoch, done * self.per_process * self.accelerator.num_processes)
        self.train_mode()
        start = time.monotonic() - sums.seconds
        with progress.bar(f"epoch {epoch + 1}/{self.table.epochs}", len(self.loader) + done) as bar:
            bar.step(done)
            for batch, (inputs, targets) in enumerate(self.loader, start=done):
                self.step(epoch, batch, inputs, targets, sums)
                sums.seconds = time.monotonic() - start
                bar.step(1, f"loss {sums.loss / sums.seen:.4f}  {sums.seen / sums.seconds:.0f}/s")
                last = batch + 1 == len(self.loader) + done
                if self.accelerator.sync_gradients and not last and self.checkpoints.due():
                    self.save(epoch, batch + 1, sums)
        return self.row(epoch, sums)

    def train_mode(self) -> None:
        self.module.train()
        optim.to_train(self.optimizer)
        select.frozen_norms(self.network)
        if self.table.freeze_norm:
            machine.freeze_norm(self.network.module)

    def step(self, epoch: int, batch: int, inputs: Inputs, targets: Any, sums: Sums) -> None:
        """One batch: forward, backward and, where enough of them are summed up, a step of the optimizer."""
        table, accelerator = self.table, self.accelerator
        targets, kept = distill.parted(targets)
        mixed, soft = self.mix(inputs, targets, epoch, batch * accelerator.num_processes + accelerator.process_index)
        if (epoch, batch) == (0, 0) and accelerator.is_main_process and not isinstance(self.train, Rows):
            self.save_sample(mixed, soft)
        with accelerator.accumulate(self.module):
            with machine.forward_pass(accelerator, table):
                logits = self.module(*mixed.values())
                answers = self.teacher.answers(mixed, kept)
            loss = self.teacher(self.loss(logits, soft), logits, answers)
            value = float(loss.detach())
            if not math.isfinite(value):
                self.stop_on_nan(mixed, soft, value)
            extra = optim.penalty(self.network.module, table)
            accelerator.backward(loss if extra is None else loss + extra)
            if accelerator.sync_gradients:
                accelerator.unscale_gradients()
                if table.monitor_gradients:
                    self.gradients.look()
                self.clipping(list(self.module.parameters()))
            self.optimizer.step()
            self.optimizer.zero_grad()
        if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
            rate = self.schedule.last_lr()[0]
            self.schedule.step()
            self.average.update_step(self.network.module)
            if accelerator.is_main_process:
                self.trackers.log({"loss": value, "lr": rate}, self.schedule.done)
        sums.add(value, float(self.task.score(logits.detach(), soft).sum()), len(targets))

    def stop_on_nan(self, inputs: Inputs, targets: Tensor, loss: float) -> None:
        step = self.schedule.done + 1
        layer = monitor.first_bad_layer(self.network.module, inputs)
        path = monitor.save_bad_batch(self.work, inputs, targets, {"step": step, "loss": loss, "first": layer})
        what = f"the loss of step {step} became NaN or infinite"
        what += f", first at {layer}" if layer else ", although the network's outputs are finite"
        raise TlcompileError(Problem("train", f"{what}; the batch is in {path}; lower train.lr or check the data"))

    def save_sample(self, inputs: Inputs, targets: Tensor) -> None:
        folder = self.work / "samples"
        folder.mkdir(exist_ok=True)
        tokenizer = self.network.tokenizer
        samples.save(inputs, targets, self.job.classes, self.network.spec, folder, tokenizer=tokenizer)

    def row(self, epoch: int, sums: Sums) -> dict[str, Any]:
        """The row of the history: figures over all processes."""
        mine = torch.tensor([sums.loss, sums.score, sums.seen], dtype=torch.float64, device=self.accelerator.device)
        loss, score, seen = self.accelerator.reduce(mine).tolist()
        val_loss, val_score = self.validate() if self.val is not None else (None, None)
        return {
            "epoch": epoch + 1,
            "train_loss": loss / seen,
            "train_accuracy": score / seen,
            "val_loss": val_loss,
            "val_accuracy": val_score,
            "lr": self.schedule.last_lr()[0],
            "seconds": round(sums.seconds, 2),
            "items_per_s": round(seen / max(sums.seconds, 1e-9), 1),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }

    def end_epoch(self, epoch: int, row: dict[str, Any]) -> None:
        """Everything that happens between two epochs; the checkpoint comes last."""
        self.history.append(row)
        self.average.after_epoch(self.network.module, epoch)
        self.schedule.after_epoch(row["val_loss"])
        if self.accelerator.is_main_process:
            with self.judged() as module:
                self.choice.after_epoch(self.history, module.state_dict())
            figures = {k: float(v) for k, v in row.items() if v is not None}
            self.trackers.log(figures, self.schedule.done)
        shown = f"loss {row['train_loss']:.4f}"
        if row["val_loss"] is not None:
            shown += f"  val loss {row['val_loss']:.4f}  val {self.task.METRIC} {row['val_accuracy']:.4f}"
        progress.say(f"  epoch {epoch + 1}/{self.table.epochs}  {shown}  {row['items_per_s']:.0f}/s")
        self.save(epoch + 1, 0, Sums())

    def save(self, epoch: int, batch: int, sums: Sums) -> None:
        mine = [vars(sums)]
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            mine = gather_object(mine)
        self.checkpoints.save(epoch, batch, {"history": self.history, "sums": mine})

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """The network with the weights that count: a moving average's or Schedule-Free's instead of the last ones."""
        module, state = self.network.module, self.average.weights() if self.average.decay else None
        optim.to_eval(self.optimizer)
        before = {name: value.clone() for name, value in module.state_dict().items()} if state else {}
        if state:
            module.load_state_dict(state)
        try:
            yield module
        finally:
            if state:
                module.load_state_dict(before)
            optim.to_train(self.optimizer)

    def validate(self) -> tuple[float, float]:
        """(mean loss without smoothing and weights, mean score) on the validation split."""
        loss, score, seen = 0.0, 0.0, 0
        with self.judged(), torch.inference_mode():
            self.module.eval()
            for inputs, targets in self.val_loader:
                logits, targets = self.accelerator.gather_for_metrics((self.module(*inputs.values()), targets))
                loss += float(self.plain_loss(logits, targets)) * len(targets)
                score += float(self.task.score(logits, targets).sum())
                seen += len(targets)
        return loss / seen, score / seen

    def finish(self) -> str:
        """Put the weights that are kept into the network; which they are, in words."""
        table, module = self.table, self.network.module
        chosen = self.choice.final(self.history, self.score_of)
        optim.to_eval(self.optimizer)
        averaged = self.average.weights()
        if chosen or averaged:
            module.load_state_dict(chosen[0] if chosen else averaged or {})
        if table.average_last or table.keep == "soup" or table.optimizer == "schedulefree":
            self.refresh_norms()
        if chosen:
            return chosen[1]
        if table.average_last:
            return f"the mean of the weights after the last {table.average_last} epochs"
        return f"moving average of the weights, decay {table.ema_decay}" if table.ema_decay else "the last"

    def refresh_norms(self) -> None:
        """Batch norms take the statistics that fit the weights, unless they were to keep the pretrained ones."""
        if self.table.trainable == "all" and not self.table.freeze_norm:
            self.order.begin(self.table.epochs)
            averaging.recalibrate(self.network.module, self.loader)

    def score_of(self, state: dict[str, Tensor]) -> float:
        self.network.module.load_state_dict(state)
        self.refresh_norms()
        return self.validate()[1]

    def read_back(self, kept: str) -> dict[str, Any]:
        found = applied.read_back(self, kept)
        applied.compare(found, self.table)
        return found


PLAIN: dict[str, Any] = {"label_smoothing": 0.0, "class_weights": "none"}


def class_counts(labels: np.ndarray) -> Sequence[int] | None:
    """Training examples of each class; None where labels are numbers."""
    if labels.ndim == 2:
        return [int(n) for n in labels.sum(0)]
    return [int(n) for n in np.bincount(labels)] if labels.dtype.kind == "i" else None
