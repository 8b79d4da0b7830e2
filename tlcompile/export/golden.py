"""The golden feeds: a few held-out examples as they come, with what torch says of each, and the first rung of parity.

Taken from the validation split, spread over its classes, so that the test split stays unseen until `evaluate`.

Of images the rung is judged in two halves, because a pixel that is rounded otherwise would hide a fault of the network:
the pixels against those of the training library, and the network against torch on the pixels of the graph itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tlcompile import parity
from tlcompile.artifacts import Feed, ImageSpec, Signature
from tlcompile.errors import ParityError, Problem
from tlcompile.runtime.feeds import Example, Feeder, batches

if TYPE_CHECKING:
    from pathlib import Path

    from tlcompile.data._split import Split
    from tlcompile.models._network import Network

COUNT = 32
MAX_SIDE = 512  # larger photos are cut to a corner of this many pixels, so that a bundle stays small
LEVELS = 0.1
"""Largest mean difference of the pixels of the median example, in grey levels: a few are one level off by rounding, and
of very tall pictures more (see `preprocess`)."""
TOLERANCE = parity.Tolerance(max_abs=0.2, agreement=0.9, logits=3e-4)
"""Pixels that are rounded otherwise move the answers of a trained network by less than 0.02, of a random one by 0.1.
On the same pixels its logits differ by the order of sums only."""


def choose(strata: np.ndarray, count: int = COUNT) -> list[int]:
    """`count` indices that go round the classes (or other strata) in order; deterministic."""
    by_class = [np.flatnonzero(strata == c) for c in np.unique(strata)]
    rounds = [int(group[i]) for i in range(max(map(len, by_class))) for group in by_class if i < len(group)]
    return rounds[:count]


def examples(split: Split, indices: list[int]) -> list[Example]:
    found: list[Example] = [split[i] for i in indices]
    return [e if isinstance(e, str) else np.ascontiguousarray(e[:MAX_SIDE, :MAX_SIDE]) for e in found]


def feeds(chosen: list[Example], feeder: Feeder) -> tuple[list[Feed], list[int]]:
    """(feeds of at most 8 examples of one shape, the order of `chosen` in them)."""
    groups = list(batches(chosen, 8))
    return [feeder([chosen[i] for i in group]) for group in groups], [i for group in groups for i in group]


def against_torch(
    network: Network,
    model: Path,
    examples: list[Example],
    feeds: list[Feed],
    expected: list[Feed],
    signature: Signature,
) -> parity.Rung:
    """The rung `export`, within tolerance; ParityError where the graph `model` is not the network.

    `examples` are those of `feeds`, in their order; `expected` is what torch says of them (see `graph.torch_outputs`).
    """
    pictures = isinstance(network.spec, ImageSpec)
    found = parity.run_graph(model, feeds, ("pixels",) if pictures else ())
    if pictures:
        _check_pixels(np.concatenate([out["pixels"] for out in found]), examples, network)
    rung = parity.compare("export", "torch", found, expected, TOLERANCE, signature)
    inputs = [{"pixels": out["pixels"]} for out in found] if pictures else feeds
    moved = parity.logits_moved(found, [{"logits": _logits(network, feed)} for feed in inputs], signature.labels)
    return parity.check(replace(rung, logits=moved))


def _check_pixels(found: np.ndarray, examples: list[Example], network: Network) -> None:
    from PIL import Image

    from tlcompile.models._inputs import evaluation_view

    assert isinstance(network.spec, ImageSpec)
    view, std = evaluation_view(network.spec), np.array(network.spec.std).reshape(-1, 1, 1)
    mean = np.array(network.spec.mean).reshape(-1, 1, 1)
    off = [
        np.abs((pixels * std + mean) * 255 - view(Image.fromarray(np.asarray(example))).numpy()).mean()
        for pixels, example in zip(found, examples, strict=True)
    ]
    if not (level := float(np.median(off))) <= LEVELS:
        what = f"the pixels are {level:.2g} grey levels from the training library's on average"
        raise ParityError(Problem("export", f"{what} (allowed {LEVELS:g}): resize, crop, mean or std differ"))


def _logits(network: Network, feed: Feed) -> np.ndarray:
    import torch

    with torch.inference_mode():
        result: np.ndarray = network.module(*(torch.from_numpy(array) for array in feed.values())).numpy()
    return result
