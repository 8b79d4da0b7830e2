"""The golden feeds: a few held-out examples as they come, with what torch says of each, and the first rung of parity.

Taken from the validation split, spread over its classes, so that the test split stays unseen until `evaluate`.

Of images the rung is judged in two halves, because a pixel that is rounded otherwise would hide a fault of the network:
the pixels of all of them against those of the training library, and the network against torch on the pixels of the
graph itself, of `HELD` examples and, in one batch, of `SHARP` pictures cut to the network's size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tlcompile import parity, probes
from tlcompile.artifacts import GOLDEN_BATCH, Feed, ImageSpec, Labels, Signature
from tlcompile.data._assign import strata
from tlcompile.errors import ParityError, Problem
from tlcompile.runtime.feeds import Example, Feeder, batches

if TYPE_CHECKING:
    from pathlib import Path

    from tlcompile.data._split import Split
    from tlcompile.models._network import Network

COUNT = 32
HELD, SHARP = 16, 8
MAX_SIDE = 512  # larger photos are cut to a corner of this many pixels, so that a bundle stays small
LEVELS = 0.1
"""Largest mean difference of the pixels of the median example, in grey levels: a few are one level off by rounding, and
of very tall pictures more (see `preprocess`)."""
TOLERANCE = parity.Tolerance(max_abs=0.2, agreement=0.9, logits=3e-4)
"""Pixels that are rounded otherwise move the answers of a trained network by less than 0.02, of a random one by 0.1; of
one that amplifies more, as far as one grey level moves them is allowed. On the same pixels logits differ by the order
of sums only."""
INNER = ("pixels",)
"""What the preprocessing gives the network."""


def choose(strata: np.ndarray, count: int = COUNT) -> list[int]:
    """`count` indices that go round the classes (or other strata) in order; deterministic."""
    by_class = [np.flatnonzero(strata == c) for c in np.unique(strata)]
    rounds = [int(group[i]) for i in range(max(map(len, by_class))) for group in by_class if i < len(group)]
    return rounds[:count]


def of_split(split: Split, labels: Labels) -> list[Example]:
    """The golden examples of a split."""
    return examples(split, choose(strata(split.truth, labels, 1)[0]))


def examples(split: Split, indices: list[int]) -> list[Example]:
    found: list[Example] = [split[i] for i in indices]
    return [e if isinstance(e, str) else np.ascontiguousarray(e[:MAX_SIDE, :MAX_SIDE]) for e in found]


def feeds(chosen: list[Example], feeder: Feeder) -> tuple[list[Feed], list[int]]:
    """(feeds of at most `GOLDEN_BATCH` examples of one shape, the order of `chosen` in them)."""
    groups = list(batches(chosen, GOLDEN_BATCH))
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
    sharp = _batched(probes.cut(feeds, signature), SHARP)
    answers = parity.run_graph(model, [*feeds, *sharp], INNER if pictures else ())
    found, exact = answers[: len(feeds)], answers[len(feeds) :]
    rung = parity.compare("export", "torch", found, expected, TOLERANCE, signature)
    if not pictures:
        return parity.check(rung)
    _check_pixels(np.concatenate([out["pixels"] for out in found]), examples, network)
    if not replace(rung, logits=None).ok:
        rung = replace(rung, tolerance=_widened(found, parity.run_graph(model, probes.jittered(feeds)), signature))
    rung = parity.check(replace(rung, logits=_moved(network, _batched(found, HELD), signature)))
    parity.check(replace(rung, rung="export (exact pixels)", logits=_moved(network, exact, signature)))
    return rung


def _batched(feeds: list[Feed], count: int) -> list[Feed]:
    """At most `count` examples of `feeds`, whose shapes are alike, evenly taken, in batches of `GOLDEN_BATCH`."""
    if not feeds:
        return []
    joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    examples = len(next(iter(joined.values())))
    chosen = np.unique(np.arange(count) * examples // count)
    parts = [chosen[start : start + GOLDEN_BATCH] for start in range(0, len(chosen), GOLDEN_BATCH)]
    return [{name: value[part] for name, value in joined.items()} for part in parts]


def _moved(network: Network, answers: list[Feed], signature: Signature) -> float | None:
    """How far the logits of `answers` are from torch's on the pixels that are in them."""
    import torch

    def truth(pixels: np.ndarray) -> Feed:
        inputs = torch.from_numpy(pixels).to(memory_format=torch.channels_last)  # twice as quick for convolutions
        return {"logits": network.module(inputs).numpy()}

    with torch.inference_mode():
        return parity.logits_moved(answers, [truth(out["pixels"]) for out in answers], signature.labels)


def _widened(found: list[Feed], jittered: list[Feed], signature: Signature) -> parity.Tolerance:
    """TOLERANCE, or what the answers move by when every pixel moves by one grey level, where that is more."""
    sway = parity.compare("", "", jittered, found, TOLERANCE, signature)
    return replace(
        TOLERANCE, max_abs=max(TOLERANCE.max_abs, sway.max_abs), agreement=min(TOLERANCE.agreement, sway.agreement)
    )


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
