"""A graph that is not the network is told, however rarely it differs; pixels rounded otherwise are no fault."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tlcompile import registry
from tlcompile.artifacts import Feed, ImageSpec, Signature
from tlcompile.errors import ParityError
from tlcompile.export.golden import TOLERANCE, _batched, against_torch
from tlcompile.export.graph import assemble, save, signature_of, torch_outputs
from tlcompile.export.network import to_onnx
from tlcompile.models._network import Network
from tlcompile.parity import Rung

SIDE = 16


class Edges(torch.nn.Module):
    """Mean of each colour, and `gain` for steps of more than half the range from a pixel to the next; times `scale`."""

    def __init__(self, gain: float, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        steps = torch.relu((pixels[..., 1:] - pixels[..., :-1]).abs() - 1.0)
        logits: torch.Tensor = (pixels.mean((2, 3)) + self.gain * steps.mean((2, 3))) * self.scale
        return logits


def network(gain: float, scale: float = 1.0) -> Network:
    return Network(Edges(gain, scale).eval(), ImageSpec(SIDE, interpolation="bilinear"), ())


def held(graph_of: Network, judge: Network, feed: Feed, path: Path, seen: Feed | None = None) -> Rung:
    """The first rung of the graph of one network, held against another, for which the pictures may be `seen`."""
    model = assemble(to_onnx(graph_of, "torchscript", 18, path), graph_of, 18)
    save(model, path)
    checkpoint: Any = SimpleNamespace(network={"task": "image-classification", "classes": ["r", "g", "b"]})
    signature: Signature = signature_of(model, judge, checkpoint, registry.load("tasks", "image-classification"))
    seen = seen or feed
    expected = torch_outputs(judge, list(seen["image"]), [seen])
    return against_torch(judge, path, list(feed["image"]), [feed], expected, signature)


def noise(count: int = 8) -> Feed:
    """Pixels without edges once they are averaged to a tenth of the size."""
    return {"image": np.random.default_rng(0).integers(0, 256, (count, 160, 170, 3), dtype=np.uint8)}


def test_a_part_of_the_network_that_no_example_excites_is_held_too(tmp_path: Path) -> None:
    assert held(network(1.0), network(1.0), noise(), tmp_path / "m.onnx").ok
    with pytest.raises(ParityError, match=r"export \(exact pixels\): changed the outputs too much against torch"):
        held(network(1.0), network(1.02), noise(), tmp_path / "m.onnx")


def test_a_network_that_amplifies_a_grey_level_is_no_fault_of_the_graph(tmp_path: Path) -> None:
    """Of pictures without colour the three answers are equal; four pixels in two of them were rounded to the next."""
    grey = np.random.default_rng(0).integers(1, 255, (8, SIDE, SIDE, 1), dtype=np.uint8).repeat(3, axis=-1)
    otherwise = grey.copy()
    otherwise[:2, 0, :4, 1] += 1
    wild = network(0.0, 2e4)
    rung = held(wild, wild, {"image": grey}, tmp_path / "m.onnx", {"image": otherwise})
    assert rung.max_abs > TOLERANCE.max_abs
    assert rung.agreement < TOLERANCE.agreement
    calm = network(0.0, 1.0)
    otherwise[:, :, :, 1] = 255
    with pytest.raises(ParityError, match="export: changed the outputs too much against torch"):
        held(calm, calm, {"image": grey}, tmp_path / "m.onnx", {"image": otherwise})


@pytest.mark.parametrize(("sizes", "batches"), [((3, 5, 4), [[0, 2, 4, 6, 8, 10]]), ((2, 2), [[0, 1, 2, 3]]), ((), [])])
def test_pictures_are_taken_evenly_from_all_feeds(sizes: tuple[int, ...], batches: list[list[int]]) -> None:
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    assert [feed["x"].tolist() for feed in _batched([{"x": p} for p in parts if len(p)], 6)] == batches


def test_no_batch_is_larger_than_a_golden_one() -> None:
    found = [feed["x"].tolist() for feed in _batched([{"x": np.arange(20)}], 20)]
    assert found == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
