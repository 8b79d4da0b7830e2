"""The training loop: one epoch after another, a checkpoint after each, on whatever accelerate finds.

What is kept in `work` (the last finished epoch: weights, optimizer, schedule, scaler, random states; the history so
far) is enough for a killed run to go on. It is replaced by renames only.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from tlcompile import progress, registry
from tlcompile.artifacts import ImageSpec
from tlcompile.models._network import Network
from tlcompile.train import applied, head_start, optim
from tlcompile.train.batches import evaluation_loader, training_loader
from tlcompile.train.job import Job

if TYPE_CHECKING:
    from tlcompile.data._split import Split


def precision(asked: str) -> str:
    """accelerate's name of the precision: on a CPU fp32 unless the recipe says otherwise."""
    if asked == "auto":
        if not torch.cuda.is_available():
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": "no"}.get(asked, asked)


def freeze_norm(module: torch.nn.Module) -> None:
    """Batch norms of `module` use and keep their running statistics although it is being trained."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()


@dataclass
class Trainer:
    """One training run. `fit` leaves the trained weights in `network.module`."""

    job: Job
    network: Network
    train: Split
    val: Split
    work: Path
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        table, job = self.job.table, self.job
        self.task = registry.load("tasks", job.task)
        self.accelerator = Accelerator(mixed_precision=precision(table.precision), cpu=not torch.cuda.is_available())
        spec = self.network.spec
        self.size = (table.image_size or spec.image_size) if isinstance(spec, ImageSpec) else 0
        if isinstance(spec, ImageSpec):
            self.network.module.to(memory_format=torch.channels_last)
        processes = self.accelerator.num_processes
        loader, self.order = training_loader(
            self.train, self.network, self.size, table, max(1, table.batch_size // processes), job.seed
        )
        self.val_loader = self.accelerator.prepare(evaluation_loader(self.val, self.network, 64))
        self.optimizer = optim.optimizer(self.network.module, self.network.head, table)
        self.module, self.optimizer, self.loader = self.accelerator.prepare(self.network.module, self.optimizer, loader)
        self.steps = len(self.loader) * table.epochs
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        self.scheduler = optim.schedule(inner, self.steps, table)
        self.accelerator.register_for_checkpointing(self.scheduler)

    def fit(self) -> dict[str, Any]:
        """Train the epochs that are left; the hyper-parameters as applied."""
        start = self.resume()
        if start == 0 and self.job.table.head_start:
            self.head_start()
        for epoch in range(start, self.job.table.epochs):
            row = self.epoch(epoch)
            self.history.append(row)
            self.save(epoch)
            if self.accelerator.is_main_process:
                shown = f"loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}"
                shown += f"  val accuracy {row['val_accuracy']:.4f}  {row['items_per_s']:.0f}/s"
                progress.say(f"  epoch {epoch + 1}/{self.job.table.epochs}  {shown}")
        self.network.module = self.accelerator.unwrap_model(self.module)
        return self.read_back()

    def head_start(self) -> None:
        """Every process fits the same head: the features and the solver are deterministic."""
        accuracy = head_start.fit(self.network, self.train)
        if self.accelerator.is_main_process:
            progress.say(f"  head fitted on frozen features, accuracy on train {accuracy:.4f}")

    def epoch(self, epoch: int) -> dict[str, Any]:
        self.order.epoch = epoch
        self.module.train()
        if self.job.table.freeze_norm:
            freeze_norm(self.module)
        start, seen = time.monotonic(), 0
        total_loss, hits = 0.0, 0
        with progress.bar(f"epoch {epoch + 1}/{self.job.table.epochs}", len(self.loader)) as bar:
            for inputs, targets in self.loader:
                logits, loss = self.step(inputs, targets)
                seen += len(targets)
                total_loss += loss * len(targets)
                hits += int(self.task.correct(logits.detach(), targets).sum())
                bar.step(1, f"loss {total_loss / seen:.4f}  {seen / (time.monotonic() - start):.0f}/s")
        seconds = time.monotonic() - start
        sums = torch.tensor([total_loss, hits, seen], dtype=torch.float64, device=self.accelerator.device)
        total_loss, hits_all, seen_all = self.accelerator.reduce(sums).tolist()
        val_loss, val_accuracy = self.validate()
        return {
            "epoch": epoch + 1,
            "train_loss": total_loss / seen_all,
            "train_accuracy": hits_all / seen_all,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "lr": self.scheduler.get_last_lr()[0],
            "seconds": round(seconds, 2),
            "items_per_s": round(seen_all / seconds, 1),
        }

    def step(self, inputs: dict[str, torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, float]:
        with self.accelerator.autocast():
            logits = self.module(*inputs.values())
        loss = self.task.loss(logits, targets, self.job.table.label_smoothing)
        value = float(loss.detach())
        if value != value:
            raise FloatingPointError
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.module.parameters(), self.job.table.clip_norm)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        return logits, value

    def validate(self) -> tuple[float, float]:
        """(mean loss, accuracy) on the validation split."""
        self.module.eval()
        loss, hits, seen = 0.0, 0, 0
        with torch.inference_mode():
            for inputs, targets in self.val_loader:
                logits, targets = self.accelerator.gather_for_metrics((self.module(*inputs.values()), targets))
                loss += float(self.task.loss(logits, targets)) * len(targets)
                hits += int(self.task.correct(logits, targets).sum())
                seen += len(targets)
        return loss / seen, hits / seen

    def save(self, epoch: int) -> None:
        """`work/epoch-N`, complete or not there; the one before it is removed."""
        accelerator, folder = self.accelerator, self.work / f"epoch-{epoch + 1}"
        temporary = self.work / f"saving-{epoch + 1}"
        accelerator.save_state(str(temporary), safe_serialization=True)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (temporary / "history.json").write_text(json.dumps(self.history))
            os.replace(temporary, folder)
            shutil.rmtree(self.work / f"epoch-{epoch}", ignore_errors=True)
        accelerator.wait_for_everyone()

    def resume(self) -> int:
        """Load the newest finished epoch of `work`; the number of epochs already done."""
        done = sorted(int(f.name.removeprefix("epoch-")) for f in self.work.glob("epoch-*"))
        if not done:
            return 0
        folder = self.work / f"epoch-{done[-1]}"
        self.accelerator.load_state(str(folder))
        self.history = json.loads((folder / "history.json").read_text())
        progress.say(f"  resuming after epoch {done[-1]} of {self.job.table.epochs}")
        return done[-1]

    def read_back(self) -> dict[str, Any]:
        table = self.job.table
        loader: Any = self.loader
        facts = {
            "epochs": len(self.history),
            "steps": self.steps,
            "batch_size": loader.total_batch_size,
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision.replace("no", "fp32"),
            "device": str(self.accelerator.device),
            "threads": torch.get_num_threads(),
            "schedule_factor_at_end": self.scheduler.lr_lambdas[0](self.scheduler.last_epoch),
            "label_smoothing": table.label_smoothing,
            "clip_norm": table.clip_norm,
            "seed": self.job.seed,
            "image_size": self.size or None,
            "head_start": table.head_start,
            "freeze_norm": table.freeze_norm,
            "augment": table.augment.model_dump(),
        }
        found = applied.read_back(self.optimizer, self.network.module, facts)
        applied.compare(found, table)
        return found
