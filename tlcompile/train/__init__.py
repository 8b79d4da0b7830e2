"""Fine-tuning: a pretrained network and labelled splits -> a Checkpoint folder. The only user of accelerate.

    job.py worker.py         what is to be trained, as plain JSON; one process of the training, or all there is
    loop.py                  the loop: read this first
    settle.py                what the recipe leaves open: batch_size.py, find_lr.py, the schedule's name
    select.py                which parameters learn at which rate, by depth.py; lora.py
    features.py behind.py    a head alone, on features that are computed once; head_start.py
    batches.py               examples -> tensors: views.py, text_views.py, mixing.py, cache.py, chance.py
    optim.py schedules.py    parameter groups, optimizers (lion.py, muon.py), the rate of every step
    distill.py               another network's answers, learnt beside the labels
    averaging.py choosing.py which weights are kept: averages, the best epoch, a soup
    monitor.py trackers.py   gradients that vanish or explode, NaN; where the figures go
    checkpoints.py           where a run stands, exact to the batch
    machine.py depthwise.py  precision, memory layout, kernels
    applied.py samples.py    what was really applied; what the network really received
    reference.py             what the finished fp32 network says of held-out examples: what later steps are held to

`run` is the door; it imports torch only when called.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tlcompile.artifacts import write_json
from tlcompile.errors import TlcompileError
from tlcompile.train.job import Job

__all__ = ["Job", "run"]


def run(job: Job, folder: Path, work: Path) -> None:
    """Train into `folder`; `work` keeps the checkpoints of a run that was killed."""
    write_json(work / "job.json", job.to_json())
    if job.table.processes == 1:
        from tlcompile.train.worker import train

        train(job, folder, work)
        return
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={job.table.processes}",
    ]
    module = ["--module", "tlcompile.train.worker", str(work / "job.json"), str(folder), str(work)]
    threads = max(1, (os.cpu_count() or 1) // job.table.processes)
    done = subprocess.run([*launcher, *module], check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise TlcompileError(f"training in {job.table.processes} processes ended with exit code {done.returncode}")
