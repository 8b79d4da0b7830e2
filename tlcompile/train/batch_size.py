"""The largest power of two of examples that fits into memory, by trying: accelerate's finder around a training step."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import find_executable_batch_size
from torch import Tensor, nn

from tlcompile import progress
from tlcompile.errors import Problem, TlcompileError

LARGEST = 1024
LEAST_STEPS = 16
"""Steps an epoch that even the largest batch leaves: fewer learn little."""
RESERVE = 0.2
"""Share of the free memory of a CPU that is left to others."""
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # what the finder takes for a full memory


def find(
    module: nn.Module, example: dict[str, Tensor], loss: Callable[[Tensor], Tensor], examples: int, device: torch.device
) -> int:
    """A batch size for `module` and inputs like `example` (tensors [1, ...]); `examples` are those of the split.

    The module is not changed: a copy takes the trial steps. `loss` maps logits [N, K] to a number.
    """
    most = min(LARGEST, max(1, examples // LEAST_STEPS))
    largest = 1 << (most.bit_length() - 1)
    trial = copy.deepcopy(module).to(device).train()
    optimizer = torch.optim.AdamW([p for p in trial.parameters() if p.requires_grad])

    def attempt(batch_size: int) -> int:
        try:
            inputs = [v.to(device).expand(batch_size, *v.shape[1:]).contiguous() for v in example.values()]
            loss(trial(*inputs)).backward()
            optimizer.step()
        except MemoryError as error:
            raise RuntimeError(_NO_MEMORY) from error
        finally:
            optimizer.zero_grad()
        return batch_size

    smaller = iter([*(largest >> i for i in range(1, largest.bit_length())), 0])
    finder = find_executable_batch_size(attempt, largest, lambda: next(smaller))
    with torch.random.fork_rng(), memory_limit(free_bytes() * (1 - RESERVE), device):
        try:
            found = int(finder())
        except RuntimeError as error:
            if "No executable batch size" not in str(error):
                raise
            what = "not even one example fits into memory; lower train.image_size or take a smaller network"
            raise TlcompileError(Problem("train.batch_size", what)) from error
    progress.say(f"  batch size {found}: the largest power of two that fits, of at most {most}")
    return found


def free_bytes() -> int:
    """Memory that this process may still take: of the machine and, in a container, of its limit."""
    if sys.platform != "linux":
        return 1 << 62
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, int(limit) - int(used))
    except OSError:
        return free


@contextmanager
def memory_limit(allowed: float, device: torch.device) -> Iterator[None]:
    """On a CPU an allocation of more than `allowed` bytes fails, instead of the system killing the process later."""
    if device.type != "cpu" or sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(pages * os.sysconf("SC_PAGE_SIZE") + allowed), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
