"""What a training process asks of its machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch

from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import machine

STEPS = """
import resource, torch
from tlcompile.train import machine
machine.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    kept = [torch.ones(30 << 20, dtype=torch.uint8) for _ in range(8)]
step()
before = faults()
for _ in range(20):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_finds_the_pages_of_the_last_one() -> None:
    found = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 20_000  # a tensor has 7,680 pages; without it 69,000 to 1,228,000


@pytest.mark.parametrize(("device", "threads"), [("cpu", 2), ("meta", 1)])
def test_who_goes_on_alone_takes_the_cores_of_the_processes_beside_it(
    device: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    try:
        torch.set_num_threads(1)
        machine.take_cores_of_others(torch.device(device))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_what_checkpointing_computes_again_has_the_gradients_of_what_it_threw_away() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=2).to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def gradients(table: TrainTable) -> list[torch.Tensor]:
        network.set_grad_checkpointing(table.gradient_checkpointing)
        accelerator = machine.accelerator(table)
        with machine.forward_pass(accelerator, table):
            loss = network(x).square().sum()
        return list(torch.autograd.grad(loss, list(network.parameters())))

    plain, again = gradients(TrainTable()), gradients(TrainTable(gradient_checkpointing=True))
    torch.testing.assert_close(again, plain)
