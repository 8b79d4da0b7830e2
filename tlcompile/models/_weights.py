"""Weights from files: safetensors, or torch files read with `weights_only=True`. Never a pickle of code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.errors import Problem, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]


def read(path: Path) -> State:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file; RecipeError where there are none."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RecipeError(Problem("model.weights", f"no such file '{path.name}'")) from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise RecipeError(Problem("model.weights", f"'{path.name}' can't be read as tensors only: {reason}")) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise RecipeError(Problem("model.weights", f"'{path.name}' holds no mapping of names to tensors"))
    return {str(k).removeprefix("module."): v for k, v in found.items()}


def load_into(module: nn.Module, state: State, head: tuple[str, ...], file: str) -> None:
    """Copy `state` into `module`. Only the head (prefixes `head`) may be absent or of another shape: it is new."""
    own = module.state_dict()
    is_head = tuple(f"{h}." for h in head)
    body = {k: v for k, v in state.items() if k in own and not k.startswith(is_head)}
    problems = [
        Problem("model.weights", f"{k}: expected shape {tuple(own[k].shape)}, found {tuple(v.shape)} in {file}")
        for k, v in body.items()
        if own[k].shape != v.shape
    ]
    wanted = [k for k in own if not k.startswith(is_head) and not k.endswith("num_batches_tracked")]
    absent = [k for k in wanted if k not in body]
    if absent:
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        problems.append(Problem("model.weights", f"{file} lacks {len(absent)} of {len(wanted)} tensors: {shown}"))
    if problems:
        raise RecipeError(*problems[:20])
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    module.load_state_dict(fitting, strict=False)


def from_efficientnet_pytorch(state: State, stages: list[int]) -> State:
    """Rename the tensors of the `efficientnet_pytorch` family to timm's names.

    That family numbers blocks through (`_blocks.7`), timm by stage (`blocks.3.1`); `stages` are timm's block counts.
    In stage 0 the blocks have no expansion, so the same slot has another name there.
    """
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    later |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    places = [(s, b) for s, count in enumerate(stages) for b in range(count)]
    renamed: State = {}
    for key, value in state.items():
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", key):
            stage, block = places[int(match[1])]
            name = (first if stage == 0 else later)[match[2]]
            renamed[f"blocks.{stage}.{block}.{name}.{match[3]}"] = value
        else:
            slot, _, rest = key.partition(".")
            renamed[f"{outer.get(slot, slot)}.{rest}"] = value
    return renamed
