"""What passes over networks steer by: milliseconds of a network on the targets of its recipe."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import folder, recipe
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
