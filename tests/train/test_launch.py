"""Training that is started by accelerate's launcher, as on several machines, and training that is compiled."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.toy_training import job, run
from tlcompile.artifacts import write_json
from tlcompile.data import Split
from tlcompile.export.network import to_onnx
from tlcompile.models import timm
from tlcompile.parity import run_graph
from tlcompile.recipe.tables import Plugin
from tlcompile.recipe.train_table import AugmentTable

PLAIN = {"epochs": 1, "freeze_norm": True, "optimizer": "sgd", "lr": 0.01, "augment": AugmentTable()}
COMPILER = next((path for name in ("c++", "g++", "clang++", "cl") if (path := shutil.which(name))), "")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_two_machines_that_accelerate_launches_give_what_one_process_does(splits: Path, tmp_path: Path) -> None:
    """As docs/recipes.md says, each machine one process; here they are two addresses of one machine."""
    alone = run(job(splits, **PLAIN), tmp_path / "alone")
    out, work = tmp_path / "out", tmp_path / "work"
    for folder in (out, work):
        folder.mkdir()
    write_json(tmp_path / "job.json", job(splits, **PLAIN).to_json())
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    launcher += ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    worker = ["--module", "tlcompile.train.worker", *map(str, (tmp_path / "job.json", out, work))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            [*launcher, "--machine_rank", str(rank), *worker],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [machine.communicate(timeout=300)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    applied = json.loads((out / "applied.json").read_text())
    assert (applied["processes"], applied["batch_size"]) == (2, 8)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (alone, out))
    assert all(np.allclose(ours[k].numpy(), theirs[k].numpy(), atol=1e-5) for k in ours)


@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler, and there is none here")
def test_a_compiled_network_learns_what_a_plain_one_does_and_is_exported_as_that(
    splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    count = sum(len(Split(splits, name)) for name in ("train", "val"))
    # A second size, or validation, would be compiled again; layers that don't learn have no kernels for gradients.
    two_steps = {**PLAIN, "epochs": 2, "lr": 0.1, "batch_size": count, "retrain_full": True, "trainable": "last:1"}
    small = Plugin("models", "timm", timm.Options(name="test_resnet", weights="none", image_size=32))  # few kernels
    asked = [replace(job(splits, **two_steps, compile=compile), model=small) for compile in (False, True)]
    plain, compiled = run(asked[0], tmp_path / "plain"), run(asked[1], tmp_path / "compiled")
    assert json.loads((plain / "applied.json").read_text())["compile"] is False
    applied = json.loads((compiled / "applied.json").read_text())
    assert (applied["compile"], applied["steps"]) == (True, 2)
    assert any((tmp_path / "inductor").rglob("*.cpp"))  # kernels were really made
    before, after = (load_file(folder / "model.safetensors") for folder in (plain, compiled))
    assert list(after) == list(before)
    assert all(np.allclose(before[k].numpy(), after[k].numpy(), atol=1e-5) for k in before)
    network = asked[1].restored(compiled)
    assert after[f"{network.head[-1]}.weight"].abs().max() > 1e-3  # it began at zero
    to_onnx(network, "torchscript", 18, tmp_path / "network.onnx")
    pixels = torch.randn(3, 3, network.spec.image_size, network.spec.image_size)  # type: ignore[union-attr]
    [found] = run_graph(tmp_path / "network.onnx", [{"pixels": pixels.numpy()}])
    with torch.inference_mode():
        assert np.abs(found["logits"] - network.module(pixels).numpy()).max() < 1e-5
