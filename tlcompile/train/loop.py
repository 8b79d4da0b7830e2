"""The training loop: one epoch after another, on whatever accelerate finds. Read `fit`, `epoch` and `step`.

Everything that a step needs is made in `__post_init__`, each part by its own module; everything that the future depends
on is in a checkpoint (`checkpoints.py`), so a killed run goes on where it was.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tlcompile import progress, registry, tasks
from tlcompile.artifacts import ImageSpec, read_json, write_json
from tlcompile.errors import Problem, TlcompileError
from tlcompile.models._network import Network
from tlcompile.train import (
    applied,
    averaging,
    distill,
    dress,
    head_start,
    judging,
    lost,
    machine,
    monitor,
    optim,
    padding,
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
        self.task = registry.load("tasks", self.job.task)
        self.accelerator = machine.accelerator(self.job.table)
        rates = self._prepare_network()
        self._make_losses()
        self.table = settle.table(self, rates)
        self._make_loaders()
        self._make_optimizer(rates)
        self._make_records()

    def _prepare_network(self) -> dict[str, float]:
        """What is trained, how it lies in memory and what it wears; each parameter's factor of the rate."""
        table, spec = self.job.table, self.network.spec
        self.size = (table.image_size or spec.image_size) if isinstance(spec, ImageSpec) else 0
        machine.prepare(self.network.module, table, bool(self.size))
        self.learnable = [name for name, p in self.network.module.named_parameters() if p.requires_grad]
        select.prepare(self.network, table)
        dress.put_on(self.network, **self.job.dress)
        self.first_means = {
            name: mean.cpu().clone() for name, mean in applied.running_means(self.network.module).items()
        }
        return select.rates(self.network, table)

    def _make_losses(self) -> None:
        """What is learnt from, and the same without smoothing and weights, for validation."""
        table = self.job.table
        name = tasks.loss_name(table, self.task)
        self.counts = class_counts(self.train.labels)
        self.loss: LossFunction = self.task.loss(name, table, self.counts)
        self.plain_loss: LossFunction = self.task.loss(name, table.model_copy(update=PLAIN), None)
        self.teacher = distill.Teacher(self.job, self.task.LABELS, self.network, self.accelerator.device)

    def _make_loaders(self) -> None:
        table, job, processes = self.table, self.job, self.accelerator.num_processes
        per_process = max(1, settle.number(table.batch_size) // processes)
        self.batch_size = per_process * processes
        answers = distill.kept_answers(job, len(self.train))
        loader, self.order = training_loader(
            self.train, self.network, self.size, table, per_process, job.seed, self.work, answers
        )
        self.loader = self.accelerator.prepare(loader)
        self.batches = len(self.loader)
        if self.val is not None:
            held_out = evaluation_loader(self.val, self.network, 64, table, self.work)
            self.val_loader = self.accelerator.prepare(held_out)

    def _make_optimizer(self, rates: dict[str, float]) -> None:
        """With the schedule and the averages that follow its steps."""
        table = self.table
        optimizer = optim.optimizer(self.network.module, self.network.head, table, rates)
        if table.trainable == "gradual":
            self.network.module.requires_grad_(True)  # several processes exchange what is open now; `unfreeze` follows
        module = torch.compile(self.network.module) if table.compile else self.network.module
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        steps = -(-self.batches // table.accumulate) * table.epochs
        self.schedule = schedules.Schedule(inner, table, steps, table.epochs)
        self.average = averaging.Average(table)
        self.clipping = Clipping(table.clip_norm)
        self.accelerator.register_for_checkpointing(self.schedule, self.average, self.clipping)

    def _make_records(self) -> None:
        """What is kept of the run and told of it."""
        table = self.table
        self.checkpoints = Checkpoints(self.accelerator, self.work, self.job.identity(), table.save_every_s)
        self.choice = Choice(table, self.work)
        self.mix = Mix(table.augment, len(self.job.classes), self.job.seed)
        self.gradients = monitor.Gradients(self.network.module)
        self.penalty: float | None = None  # L1 of the last step
        self.trackers = Trackers(
            table.trackers if self.accelerator.is_main_process else (),
            self.job.name,
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
            self.epoch(epoch, batch, sums)
            self.end_epoch(epoch, sums)
            epoch, batch, sums = epoch + 1, 0, Sums()
        kept = judging.keep(self)
        self.trackers.finish()
        found = applied.read_back(self, kept)
        lost.compare(found, self.job, self.table)
        self.network.module = self.accelerator.unwrap_model(self.module, keep_torch_compile=False)
        select.merge(self.network)
        dress.take_off(self.network.module)
        return found

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
        if self.accelerator.is_local_main_process:
            write_json(self.work / HEAD_START, {"accuracy": accuracy})

    def head_start_accuracy(self) -> float | None:
        """That of the fitted head on the training split, None where none was fitted; a resumed run knows it too."""
        self.accelerator.wait_for_everyone()
        path = self.work / HEAD_START
        return float(read_json(path)["accuracy"]) if path.exists() else None

    def epoch(self, epoch: int, done: int, sums: Sums) -> None:
        """Train what is left of an epoch after `done` batches; its figures go into `sums`."""
        self.order.begin(epoch, done * self.batch_size)
        self.module.train()
        optim.to_train(self.optimizer)
        select.train_mode(self.network, self.table)
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

    def step(self, epoch: int, batch: int, inputs: Inputs, targets: Any, sums: Sums) -> None:
        """One batch: forward, backward and, where enough of them are summed up, a step of the optimizer."""
        table, accelerator = self.table, self.accelerator
        targets, kept = distill.parted(targets)
        mixed, soft = self.mix(inputs, targets, epoch, batch)
        if (epoch, batch) == (0, 0) and accelerator.is_main_process and not isinstance(self.train, Rows):
            self.save_sample(mixed, soft)
        with accelerator.accumulate(self.module):
            with machine.forward_pass(accelerator, table):
                logits = padding.forward(self.module, mixed)
                answers = self.teacher.answers(mixed, kept)
            loss = self.teacher(self.loss(logits, soft), logits, answers)
            value = float(loss.detach())
            if not math.isfinite(value):
                self.stop_on_nan(mixed, soft, value)
            extra = optim.penalty(self.network.module, table)
            self.penalty = None if extra is None else float(extra.detach())
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
        """The row of the history: figures over all processes, validation of the network as it is."""
        mine = torch.tensor([sums.loss, sums.score, sums.seen], dtype=torch.float64, device=self.accelerator.device)
        loss, score, seen = self.accelerator.reduce(mine).tolist()
        val_loss, val_score = judging.validate(self) if self.val is not None else (None, None)
        return {
            "epoch": epoch + 1,
            "train_loss": loss / seen,
            "train_accuracy": score / seen,
            "val_loss": val_loss,
            "val_accuracy": val_score,
            "lr": self.schedule.last_lr()[0],
            "trainable_parameters": sum(p.numel() for p in self.network.module.parameters() if p.requires_grad),
            "seconds": round(sums.seconds, 2),
            "items_per_s": round(seen / max(sums.seconds, 1e-9), 1),
            **({"l1_penalty": self.penalty} if self.penalty is not None else {}),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }

    def end_epoch(self, epoch: int, sums: Sums) -> None:
        """Everything that happens between two epochs; the checkpoint comes last."""
        self.average.after_epoch(self.network.module, epoch)
        with judging.weights_that_count(self) as module:
            row = self.row(epoch, sums)
            self.history.append(row)
            if self.accelerator.is_main_process:
                self.choice.after_epoch(self.history, module.state_dict())
        self.schedule.after_epoch(row["val_loss"])
        if self.accelerator.is_main_process:
            self.trackers.log({k: float(v) for k, v in row.items() if v is not None}, self.schedule.done)
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


HEAD_START = "head_start.json"
PLAIN: dict[str, Any] = {"label_smoothing": 0.0, "class_weights": "none"}


def class_counts(labels: np.ndarray) -> Sequence[int] | None:
    """Training examples of each class; None where labels are numbers."""
    if labels.ndim == 2:
        return [int(n) for n in labels.sum(0)]
    return [int(n) for n in np.bincount(labels)] if labels.dtype.kind == "i" else None
