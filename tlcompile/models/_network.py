"""The one form in which every library hands over a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlcompile.artifacts import ImageSpec, TextSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Network:
    """A module with one calling convention per kind, and what surrounds it.

    image: `module(pixels)` with float32 [N, 3, S, S], normalised; text: `module(input_ids, attention_mask)` with int64
    [N, L]. Both return logits float32 [N, classes]. `head` are the prefixes of the parameters of the new classifier,
    `tokenizer` is the content of a text network's `tokenizer.json`.
    """

    module: nn.Module
    spec: ImageSpec | TextSpec
    head: tuple[str, ...]
    tokenizer: str | None = None
