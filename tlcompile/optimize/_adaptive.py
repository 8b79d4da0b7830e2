"""Weights of a quantized graph rounded up or down, layer by layer, so that each layer's output is what fp32 makes.

The examples run through the quantized graph piece by piece (`_walk`): a layer is given what the layers before it make
with the codes that were found for them, and shall make what it makes in fp32 (`_unfolded`, `_rounding`). Scales stay.
On examples that took no part, the codes found are held against those rounded to the nearest step: a layer keeps the
ones that are better there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tlcompile import progress
from tlcompile.artifacts import Feed
from tlcompile.optimize._observe import observe
from tlcompile.optimize._rounding import Samples, adapt, joined
from tlcompile.optimize._trials import behind_preprocessing, preprocessed
from tlcompile.optimize._unfolded import Layer, Wanted, layers
from tlcompile.optimize._walk import Walk

if TYPE_CHECKING:
    import onnx

POSITIONS = 2048  # of its output that a layer is looked at, of all examples together
HELD_OUT = 5  # every so manieth example judges
Codes = dict[str, np.ndarray]
"""Name of a constant of the quantized graph -> its whole numbers."""


def adapted(
    model: onnx.ModelProto, quantized: onnx.ModelProto, feeds: Iterable[Feed], steps: int, seed: int = 0
) -> Codes:
    """The codes of those weights of `quantized`, made of `model`, that are better rounded another way.

    TlcompileError where a value is NaN or infinite, or where there is no example.
    """
    chosen, singles = list(layers(model, quantized)), _singles(preprocessed(model, feeds))
    wanted = _wanted(behind_preprocessing(model), chosen, singles, seed)
    walk, found, changes = Walk(behind_preprocessing(quantized), singles), Codes(), []
    with progress.bar("adaptive rounding", len(chosen)) as shown:
        for layer in chosen:
            sources = walk.to(layer.source)
            samples = [layer.samples(*pair) for pair in zip(sources, wanted.pop(layer.name), strict=True)]
            codes, change = _best(layer, samples, steps, seed)
            if change < 1:
                found[layer.codes] = codes
                put_codes(walk.model, {layer.codes: codes})
            changes.append(min(change, 1.0))
            shown.step(1, f"{layer.name}: its error × {changes[-1]:.2f}")
    if changes:
        told = f"{len(found)} of {len(chosen)} layers are better, their error on average × {np.mean(changes):.2f}"
        progress.say(f"  adaptive rounding: {told}")
    return found


def put_codes(model: onnx.ModelProto, codes: Codes) -> None:
    """Replace the constants `codes`, in place; those that the graph does not have are left out."""
    from onnx import helper, numpy_helper

    for constant in model.graph.initializer:
        if constant.name in codes:
            kind = helper.tensor_dtype_to_np_dtype(constant.data_type)
            constant.CopyFrom(numpy_helper.from_array(codes[constant.name].astype(kind), constant.name))


def _singles(batches: list[Feed]) -> list[Feed]:
    """One example a feed."""
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    return [
        {name: value[i : i + 1] for name, value in batch.items()}
        for batch, size in zip(batches, sizes, strict=True)
        for i in range(size)
    ]


def _wanted(model: onnx.ModelProto, chosen: list[Layer], feeds: list[Feed], seed: int) -> dict[str, list[Wanted]]:
    """What the fp32 `model` makes: layer -> of each feed."""
    quota, found = -(-POSITIONS // max(len(feeds), 1)), {layer.name: list[Wanted]() for layer in chosen}
    for index, values in enumerate(observe(model, [layer.output for layer in chosen], feeds)):
        for layer in chosen:
            found[layer.name].append(layer.wanted(values[layer.output], quota, np.random.default_rng((seed, index))))
    return found


def _best(layer: Layer, samples: list[Samples], steps: int, seed: int) -> tuple[np.ndarray, float]:
    """Codes as the graph stores them, and their error over that of the nearest codes on examples not learnt from."""
    weight, step = layer.grouped(layer.weight), layer.grouped(layer.step)
    judges = set(range(len(samples)))
    judges &= set(range(HELD_OUT - 1, len(samples), HELD_OUT)) or {len(samples) - 1}
    seen = [one for index, one in enumerate(samples) if index not in judges]
    codes = adapt(weight, step, joined(seen or samples), steps, seed)
    held = joined([samples[index] for index in sorted(judges)])
    before, after = held.error(np.rint(weight / step) * step), held.error(codes * step)
    return layer.as_stored(codes), after / before if before else 1.0
