"""The finder ends at the largest power of two that the memory takes."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from tlcompile.train import batch_size

CPU = torch.device("cpu")


class Greedy(nn.Module):
    """Takes 64 MiB an example."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.repeat(1, 2**24) * self.weight).sum(1, keepdim=True)


def loss(logits: torch.Tensor) -> torch.Tensor:
    return logits.sum()


def test_a_batch_leaves_sixteen_steps_an_epoch() -> None:
    assert batch_size.find(nn.Linear(1, 1), {"x": torch.ones(1, 1)}, loss, 16 * 40, CPU) == 32


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is set on Linux only")
def test_it_halves_until_the_memory_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "free_bytes", lambda: 2 << 30)
    module = Greedy()
    found = batch_size.find(module, {"x": torch.ones(1, 1)}, loss, 16 * 64, CPU)
    assert found in (4, 8, 16)
    assert module.weight.grad is None
    torch.ones(2**28)  # 1 GiB: the limit is lifted again


def test_the_free_memory_is_that_of_this_machine() -> None:
    assert 1 << 27 < batch_size.free_bytes() < 1 << 63
