"""What can be told of members and views before any training: whether they fit into the limits, and one tokenizer.

Networks are built without their weights. What is counted is the least that an engine holds: weights, in the smallest
precision that the recipe makes, and of memory also the widest layer of one member at the recipe's batch size, once for
each view. What was measured is judged by the same gates at the end of the build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import TextSpec
from tlcompile.errors import Problem
from tlcompile.options import PathText
from tlcompile.recipe import Plugin, Recipe

if TYPE_CHECKING:
    from tlcompile.models._network import Network

BYTES = {"binary": 0.125, "ternary": 0.25, "int4": 0.5, "int8": 1.0, "fp8": 1.0, "fp16": 2.0, "bf16": 2.0}
"""Of a weight in a variant that has the word in its name; 4 in others."""
WEIGHT_FILE = 4
"""Bytes of a weight in the fp32 graph of a bundle."""


@dataclass(frozen=True)
class Voice:
    """One member: how many weights it has, and numbers that its widest layer reads and writes of one example.

    `widest` is 0 and `tokenizer` the content of its file where it is a finished bundle.
    """

    name: str
    weights: int
    widest: int = 0
    tokenizer: str | None = None


def problems(recipe: Recipe) -> list[Problem]:
    """Empty where the recipe asks for no ensemble and no views, or all that it asks for may fit."""
    extras, gates = recipe.extras, recipe.gates
    limited = gates.max_size_mb is not None or gates.max_memory_mb is not None
    of_texts = registry.load("tasks", recipe.task).KIND == "text"
    mixed = of_texts and any(part != recipe.model for _, part in parts(recipe))
    if not (mixed or (limited and extras.choosing)):
        return []
    known: dict[str, Voice] = {}
    voices = [voice(name, member, known, limited) for name, member in parts(recipe)]
    found = other_tokenizers(voices)
    found += [problem for limit in (too_large, too_much_memory) for problem in limit(recipe, voices)]
    return [Problem(f"{recipe.path}: {problem.where}", problem.what) for problem in found]


def parts(recipe: Recipe) -> list[tuple[str, Plugin | PathText]]:
    """Name of each member -> its network or its bundle; the network of [model] first."""
    ensemble = recipe.extras.ensemble
    return [("train", recipe.model), *((m.name, m.bundle or m.model) for m in (ensemble.members if ensemble else ()))]


def voice(name: str, member: Plugin | PathText, known: dict[str, Voice], measured: bool) -> Voice:
    """What is known of `member`; a network that is in `known` is not built again, and only run where `measured`."""
    if isinstance(member, PathText):
        model, tokenizer = member.absolute / "model.onnx", member.absolute / "tokenizer.json"
        size = model.stat().st_size // WEIGHT_FILE if model.is_file() else 0  # a folder that is no bundle is told later
        return Voice(name, size, tokenizer=tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else None)
    if (key := repr(member)) not in known:
        network: Network = member.module.build(member.options, 2, pretrained=False)
        weights = sum(p.numel() for p in network.module.parameters())
        known[key] = Voice("", weights, widest(network) if measured else 0, network.tokenizer)
    same = known[key]
    return Voice(name, same.weights, same.widest, same.tokenizer)


def widest(network: Network) -> int:
    """The most numbers that one layer reads and writes of one example, as long or as large as the network takes."""
    import torch

    found = [0]

    def count(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [t for t in (*inputs, output) if isinstance(t, torch.Tensor)]
        found.append(sum(t.numel() for t in tensors))

    layers = [layer for layer in network.module.modules() if not any(layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    spec = network.spec
    with torch.no_grad():
        if isinstance(spec, TextSpec):
            tokens = torch.ones(1, spec.max_length, dtype=torch.int64)
            network.module.eval()(tokens, tokens)
        else:
            network.module.eval()(torch.zeros(1, 3, spec.image_size, spec.image_size))
    for hook in hooks:
        hook.remove()
    return max(found)


def other_tokenizers(voices: Sequence[Voice]) -> list[Problem]:
    """Members whose token ids are not those of the network of [model]: one graph takes one kind."""
    first, *others = voices
    what = "has another tokenizer than the network of [model]; one graph takes one kind of token ids"
    return [Problem(f"ensemble: {other.name}", what) for other in others if other.tokenizer != first.tokenizer]


def too_large(recipe: Recipe, voices: Sequence[Voice]) -> list[Problem]:
    """Members, and a network that is held twice, that can't be as small as `gates.max_size_mb` asks."""
    limit = recipe.gates.max_size_mb
    if limit is None:
        return []
    each = [voice.weights * smallest(recipe) / 1e6 for voice in voices]
    asked = f"gates.max_size_mb = {limit:g}"
    found = []
    if recipe.extras.ensemble and sum(each) > limit:
        found.append(
            Problem(
                "ensemble",
                f"{len(each)} members hold at least {sum(each):.3g} MB of weights; {asked}, {_fitting(each, limit)}",
            )
        )
    if recipe.extras.tta and recipe.extras.tta.early_exit and held_twice(recipe) and 2 * each[0] > limit >= each[0]:
        what = f"its engine holds the network twice, at least {2 * each[0]:.3g} MB of weights"
        found.append(Problem("tta.early_exit", f"{what}; {asked}, where it fits once: leave early_exit out"))
    return found


def held_twice(recipe: Recipe) -> bool:
    """Whether an early exit of views has its network twice on every target: two engines, or floats in a branch."""
    floats = smallest(recipe) > 1
    return all(floats or backends.splits(t.backend.name, t.backend.options) for t in recipe.targets)


def too_much_memory(recipe: Recipe, voices: Sequence[Voice]) -> list[Problem]:
    """Members and views that need more than `gates.max_memory_mb` for a batch."""
    limit, size = recipe.gates.max_memory_mb, smallest(recipe)
    if limit is None:
        return []
    tta, batch = recipe.extras.tta, recipe.evaluate.batch_size
    views = min(tta.max_views, tta.max_views if tta.views == "auto" else len(tta.views)) if tta else 1
    once = batch * max(voice.widest for voice in voices) * size / 1e6
    each = [voice.weights * size / 1e6 for voice in voices]
    if sum(each) + views * once <= limit:
        return []
    where = "ensemble" if recipe.extras.ensemble else "tta"
    what = (
        f"{len(each)} {'members hold' if len(each) > 1 else 'network holds'} at least {sum(each):.3g} MB of weights, "
        f"and {views} {'views' if views > 1 else 'view'} of a batch of {batch} {views * once:.3g} MB in one layer; "
        f"gates.max_memory_mb = {limit:g}"
    )
    fits = int((limit - sum(each)) / once) if once else 0
    if views > 1 and fits >= 1:
        return [Problem(where, f"{what}, {fits} {'view fits' if fits == 1 else 'views fit'}")]
    return [Problem(where, f"{what}, with one view {_fitting(each, limit - once)}")]


def _fitting(each: Sequence[float], limit: float) -> str:
    """How many of the members that need `each` MB have room in `limit`, the first ones first."""
    count = sum(total <= limit for total in accumulate(each))
    return {0: "not even one fits", 1: "one fits"}.get(count, f"{count} fit")


def smallest(recipe: Recipe) -> float:
    """Bytes of a weight in the smallest precision that any target builds."""
    made = {"fp32", *(step.module.variant(step.options) for step in recipe.passes)} - {""}
    named = {name for target in recipe.targets for name in target.variants}
    asked = named if all(target.variants for target in recipe.targets) else made
    return min(next((size for word, size in BYTES.items() if word in name), 4.0) for name in asked)
