"""Fine-tuning: a pretrained network and labelled splits -> a Checkpoint folder. The only user of accelerate.

    job.py worker.py         what is to be trained, as plain JSON; one process of the training, or all there is
    loop.py                  the loop: read this first
    settle.py                what the recipe leaves open: batch_size.py, find_lr.py, the schedule's name
    select.py                which parameters learn at which rate, by depth.py; lora.py
    features.py behind.py    a head alone, on features that are computed once; head_start.py
    batches.py               examples -> tensors: views.py, text_views.py, mixing.py, cache.py, chance.py
    rewritten.py             texts rewritten by models: back_translation.py, mask_filling.py
    optim.py schedules.py    parameter groups, optimizers (lion.py, muon.py), the rate of every step
    distill.py               another network's answers, learnt beside the labels
    judging.py               what weights are worth and which are kept: averaging.py, choosing.py
    monitor.py trackers.py   gradients that vanish or explode, NaN; where the figures go
    checkpoints.py           where a run stands, exact to the batch
    machine.py kernels.py    precision, memory, layout, quicker kernels: depthwise.py, clamped.py
    applied.py lost.py       what was really applied, held against the recipe
    samples.py               what the network really received
    reference.py             what the finished fp32 network says of held-out examples: what later steps are held to

`run` is the door; it imports torch only when called.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tlcompile import errors
from tlcompile.artifacts import read_json, write_json
from tlcompile.errors import Problem, TlcompileError
from tlcompile.train.job import Job

__all__ = ["Job", "run"]


def run(job: Job, folder: Path, work: Path) -> None:
    """Train into `folder`; `work` keeps the checkpoints of a run that was killed."""
    write_json(work / "job.json", job.to_json())
    if job.table.processes == 1:
        from tlcompile.train.worker import train

        train(job, folder, work)
        return
    threads = max(1, (os.cpu_count() or 1) // job.table.processes)
    with TemporaryDirectory(dir=work) as told:  # by the processes, and the launcher's own log
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--log-dir={told}/log"]
        module = ["--module", "tlcompile.train.worker", str(work / "job.json"), str(folder), str(work), told]
        command = [*launcher, f"--nproc-per-node={job.table.processes}", *module]
        done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        for file in sorted(Path(told).glob("*.json")):
            error = read_json(file)
            raise getattr(errors, error["kind"])(*(Problem(**problem) for problem in error["problems"]))
    if done.returncode:
        raise TlcompileError(f"training in {job.table.processes} processes ended with exit code {done.returncode}")
