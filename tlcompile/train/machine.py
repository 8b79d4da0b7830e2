"""How a network runs on this machine: precision, memory, its layout, kernels."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from tlcompile.errors import Problem, RecipeError
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train.kernels import quick_gradients


def precision(asked: str) -> str:
    """accelerate's name of the precision: on a CPU fp32 unless the recipe says otherwise."""
    if asked == "auto":
        if not torch.cuda.is_available():
            return "no"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": "no"}.get(asked, asked)


def accelerator(table: TrainTable) -> Accelerator:
    """A new one. accelerate keeps the precision of the first for the whole process, and a build trains several."""
    AcceleratorState._reset_state()
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = table.tf32
    return Accelerator(
        mixed_precision=precision(table.precision),
        gradient_accumulation_steps=table.accumulate,
        cpu=not torch.cuda.is_available(),
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=table.trainable == "gradual")],
    )


def keep_freed_memory() -> None:
    """Have glibc keep what it frees for the next step, in this process; nothing happens where there is no glibc.

    Without it each larger tensor of each step is mapped anew and its pages are cleared one fault at a time: 5 to 20 %
    of a training step on CPUs (`benchmarks/LOG.md`). Tensors of more than 32 MiB still come and go.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3  # malloc.h
        mallopt(m_mmap_threshold, 32 << 20)  # the most that glibc takes
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 64 << 20)


def take_cores_of_others(device: torch.device) -> None:
    """For the one process that goes on where several of this machine have trained, each with its share of the cores."""
    if device.type == "cpu":
        torch.set_num_threads(torch.get_num_threads() * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # the launcher's


def prepare(module: nn.Module, table: TrainTable, image: bool) -> None:
    """Memory layout and gradient checkpointing, in place. RecipeError where the network has no checkpointing."""
    if image and table.channels_last:
        module.to(memory_format=torch.channels_last)
    if not table.gradient_checkpointing:
        return
    for part in module.modules():
        for name in ("set_grad_checkpointing", "gradient_checkpointing_enable"):  # timm, transformers
            switch: Any = getattr(part, name, None)
            if switch is not None:
                switch()
                return
    raise RecipeError(
        Problem("train.gradient_checkpointing", "this network has no gradient checkpointing; set it to false")
    )


def is_channels_last(module: nn.Module) -> bool | None:
    """Whether the weights of convolutions lie so in memory; None where no kernel is larger than a pixel."""
    weights = [p for n, p in module.named_parameters() if p.ndim == 4 and ".lora_" not in n]
    telling = [p for p in weights if p.shape[1] > 1 and p.shape[2] * p.shape[3] > 1]
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in telling) if telling else None


def is_checkpointed(module: nn.Module) -> bool:
    names = ("grad_checkpointing", "gradient_checkpointing")  # timm, transformers
    return any(getattr(part, name, False) is True for part in module.modules() for name in names)


def freeze_norm(module: nn.Module) -> None:
    """Batch norms of `module` use and keep their running statistics although it is being trained."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


@contextmanager
def forward_pass(accelerator: Accelerator, table: TrainTable) -> Iterator[None]:
    """Around the forward pass of a training step."""
    with accelerator.autocast():
        if accelerator.device.type == "cpu" and not table.compile:
            with quick_gradients():
                yield
        else:
            yield
