"""Weights set to zero by magnitude, and the rest trained to make up for it.

    2:4            of four weights in a row along the input channels two are zero: NVIDIA's GPUs since Ampere skip them
                   (A. Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 4), where the engine is
                   built with `sparse_weights = true`. Layers whose input channels don't come in fours stay dense
    unstructured   a share of all weights. No engine here runs faster for it: only a compressed file gets smaller

The zeros stay while the network is fine-tuned with its own earlier answers as teacher. `sparse.json` has the density of
each layer, why others are dense, and the size of the compressed weights before and after. Whether the sparse network
ships is decided by what its engines measure, like that of any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from tlcompile.artifacts import read_json, write_json
from tlcompile.compress import Context
from tlcompile.compress._recover import RecoverOptions
from tlcompile.errors import Problem, RecipeError, nearest, one_of
from tlcompile.options import Field, NameList

if TYPE_CHECKING:
    from torch import nn


PACKAGES = ("torch",)
LINE = "sparse"
WHERE = "compress.sparsity"
SIZE_ONLY = "unstructured zeros make no engine faster: only a compressed file of the weights gets smaller"


class Options(RecoverOptions):
    pattern: Literal["2:4", "unstructured"] = "2:4"
    amount: float | None = Field(
        None, gt=0, lt=1, description="of unstructured: share of all weights that become zero; 0.5 where not given"
    )
    layers: NameList = Field(
        (), description="names of layers, or patterns ('*' any text); () = all that the pattern fits"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.pattern == "2:4" and self.amount is not None:
            raise ValueError("amount goes with pattern = 'unstructured': 2:4 is a half by itself")
        return self


def apply(context: Context, options: Options, folder: Path) -> None:
    """Fill `folder` with the Checkpoint and `sparse.json`. RecipeError where a named layer doesn't fit the pattern."""
    from safetensors.torch import load_file

    from tlcompile.compress import _zeros
    from tlcompile.compress._recover import recover, start_from, trainable

    how = trainable(context, WHERE)
    network = context.restore()
    before = _zeros.compressed(network.module.state_dict())
    layers, dense = chosen(network.module, options)
    if options.pattern == "2:4":
        _zeros.two_of_four(layers)
    else:
        _zeros.unstructured(layers, options.amount or 0.5)
    if empty := [name for name, layer in layers.items() if not layer.get_parameter("weight").any()]:
        raise RecipeError(Problem(f"{WHERE}.amount", f"{options.amount} leaves nothing of {one_of(empty)}"))
    start = start_from(network, context.checkpoint.folder, context.work / "start")
    recover(context, options, WHERE, start, {"trainable": how}, {"keep_zeros": list(layers)}, folder)
    state = load_file(folder / "model.safetensors")
    facts = {
        "pattern": options.pattern,
        "density": {name: _zeros.density(state[f"{name}.weight"]) for name in layers},
        "dense": dense,
        "compressed_bytes": {"before": before, "after": _zeros.compressed(state)},
    }
    write_json(folder / "sparse.json", facts)
    _note(folder, facts)


def chosen(module: nn.Module, options: Options) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """(layers that become sparse by name, other layers with the reason why they stay dense)."""
    from fnmatch import fnmatchcase

    from tlcompile.compress import _zeros

    known: dict[str, nn.Module] = {name: m for name, m in module.named_modules() if isinstance(m, _zeros.KINDS)}
    unfit = {n: _zeros.unfit(m) for n, m in known.items() if _zeros.unfit(m)} if options.pattern == "2:4" else {}
    asked = {p: [n for n in known if fnmatchcase(n, p)] for p in options.layers}
    problems = [
        Problem(f"{WHERE}.layers", f"no linear or convolution layer '{p}' in this network", nearest(p, known))
        for p, found in asked.items()
        if not found
    ]
    problems += [Problem(f"{WHERE}.layers", f"'{p}' can't be 2:4 sparse: {unfit[p]}") for p in asked if p in unfit]
    named = set().union(*asked.values()) if asked else set(known)
    layers = {name: m for name, m in known.items() if name in named and name not in unfit}
    if not problems and not layers:
        problems = [Problem(WHERE, f"no layer of this network fits the pattern {options.pattern}")]
    if problems:
        raise RecipeError(*problems)
    left = {name: unfit.get(name, "not named in layers") for name in known if name not in layers}
    return layers, left


def _note(folder: Path, facts: dict[str, Any]) -> None:
    """Say in the Checkpoint's notes what became of the weights."""
    sizes, applied = facts["compressed_bytes"], read_json(folder / "applied.json")
    text = f"sparse: {len(facts['density'])} layers {facts['pattern']}, {len(facts['dense'])} dense; "
    text += f"compressed weights {sizes['before'] / 1e6:.3g} -> {sizes['after'] / 1e6:.3g} MB"
    applied["notes"] += [text, *([SIZE_ONLY] if facts["pattern"] == "unstructured" else [])]
    write_json(folder / "applied.json", applied)
