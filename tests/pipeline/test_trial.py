"""What passes over networks steer by: milliseconds of a network on the targets of its recipe."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.tiny import folder, recipe
from tlcompile.compress import _axes, _search
from tlcompile.models._restore import restore
from tlcompile.pipeline.build import build
from tlcompile.pipeline.stages import checkpoint_of
from tlcompile.pipeline.step import splits_of
from tlcompile.pipeline.trial import latency_of
from tlcompile.recipe import load
from tlcompile.store import Store


def test_the_whole_network_takes_the_time_of_its_yardstick_whenever_it_is_asked(tmp_path: Path) -> None:
    folder(tmp_path / "data")
    asked = load(recipe(tmp_path / "recipe.toml", epochs=1, quantize=False))
    steps = dict(build(asked, Store(tmp_path / "store"), tmp_path / "dist", "train").steps)
    checkpoint, splits = checkpoint_of(steps, "train"), splits_of(steps)
    network = restore(checkpoint.folder, asked.model.module, asked.model.options)
    work = tmp_path / "work"
    work.mkdir()
    first = latency_of(asked, checkpoint, splits, network, work)
    assert set(first) == {"onnxruntime/fp32"}
    assert first["onnxruntime/fp32"] > 0
    assert latency_of(asked, checkpoint, splits, network, work) == first, "else their noise would be in every speedup"


def test_a_cut_network_is_timed_on_the_one_engine_that_is_asked_for(tmp_path: Path) -> None:
    folder(tmp_path / "data")
    asked = load(recipe(tmp_path / "recipe.toml", epochs=1))
    steps = dict(build(asked, Store(tmp_path / "store"), tmp_path / "dist", "train").steps)
    checkpoint, splits = checkpoint_of(steps, "train"), splits_of(steps)
    network = restore(checkpoint.folder, asked.model.module, asked.model.options)
    work = tmp_path / "work"
    work.mkdir()
    axes = _axes.axes(network)
    axis = max(axes, key=lambda axis: axis.size)
    cut = _search.pruned(network, axes, {axis.name: torch.arange(axis.size // 2)})
    (time,) = latency_of(asked, checkpoint, splits, cut, work, "onnxruntime/int8").items()
    assert time[0] == "onnxruntime/int8"
    assert time[1] > 0
    assert set(latency_of(asked, checkpoint, splits, cut, work)) == {"onnxruntime/fp32", "onnxruntime/int8"}
    every = latency_of(asked, checkpoint, splits, network, work, "onnxruntime/int8")
    assert set(every) == {"onnxruntime/fp32", "onnxruntime/int8"}, "of the network as it came, for a target to choose"
