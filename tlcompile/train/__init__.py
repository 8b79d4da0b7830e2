"""Fine-tuning: a pretrained network and labelled splits -> a Checkpoint folder. The only user of accelerate.

    job.py         what is to be trained, as plain JSON: the same for one process and for several
    batches.py     examples -> tensors, augmented; every random choice is a function of (seed, epoch, index)
    optim.py       parameter groups, optimizer, learning-rate schedule
    loop.py        the loop, its checkpoints and the way back into them
    applied.py     the hyper-parameters as they really were, read back and compared with the recipe
    reference.py   what the finished fp32 torch network says of held-out examples: what later steps are held to

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
