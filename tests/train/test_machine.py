"""What a training process asks of its machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
