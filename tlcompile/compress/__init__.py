"""Passes over a trained network, one a file: Checkpoint -> Checkpoint. Each makes a *line* beside the one before.

A pass is a module with
    Options, PACKAGES
    LINE                 the word that its networks are called by: `pruned`, `sparse`, …
    PRECISIONS           optional: the only precisions that its networks are meant for, e.g. `("int8",)`
    apply(context, options, folder)   fills `folder` with a Checkpoint

Passes follow each other in the recipe's order, each on the result of the one before. Every line is exported, compiled
and measured like the network as trained, and has to pay for itself. This room knows no backend and no training loop:
both are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tlcompile.artifacts import Checkpoint, Lesson, Splits
from tlcompile.recipe.tables import Plugin

if TYPE_CHECKING:
    from tlcompile.models._network import Network

__all__ = ["Context", "Train", "run"]


class Train(Protocol):
    """Training as the recipe says, from the network of the Checkpoint `start` into the Checkpoint `folder`.

    `overrides` are keys of `[train]` with other values. `teacher` is learnt beside the labels. `work` keeps what a
    killed run goes on from. `dress` is what the network wears meanwhile: the arguments of `train.dress.put_on`.
    """

    def __call__(
        self,
        start: Path,
        overrides: Mapping[str, Any],
        folder: Path,
        work: Path,
        /,
        teacher: Lesson | None = None,
        dress: Mapping[str, Sequence[str]] | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class Context:
    """What a pass may ask for. `work` outlives a killed build."""

    checkpoint: Checkpoint
    splits: Splits
    restore: Callable[[], Network]
    train: Train
    latency: Callable[[Network, str], dict[str, float]]
    """Median milliseconds at batch 1 of the network as it is now, by target and precision: `{"openvino/int8": 4.1}`.

    Of the one that is named; "" = of all. For the network as it came always of all.
    """
    work: Path
    dialects: tuple[str, ...] = ()
    """The Q/DQ dialects of the targets."""


def run(step: Plugin, context: Context, folder: Path) -> None:
    """Fill `folder` with the Checkpoint after `step`."""
    step.module.apply(context, step.options, folder)
