"""`[optimize] explore`: which speedups of the network and thread counts are tried beside what the recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Strict, field_validator

from tlcompile.options import Field, Options

if TYPE_CHECKING:
    from tlcompile.recipe.load import _Reader
    from tlcompile.recipe.train_table import TrainTable

EXPLORE = "explore"
Speedup = Annotated[float, Field(gt=1)]
Threads = Annotated[int, Field(ge=0)]


class ExploreTable(Options):
    """`[optimize.explore]`; `explore = true` in `[optimize]` takes every default."""

    speedups: Annotated[tuple[Speedup, ...], Strict(False)] = Field(
        (1.25, 1.5, 2.0), description="of pruned networks, times faster than the one as trained; [] = none is pruned"
    )
    threads: Annotated[tuple[Threads, ...], Strict(False)] = Field(
        (1, 0), description="CPU threads of targets that set none themselves; 0 = one a physical core"
    )
    budget_minutes: float = Field(
        60.0, gt=0, description="no further network is pruned once all that was made of the others took this long"
    )

    @field_validator("speedups", "threads")
    @classmethod
    def _each_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        names = [f"{v:g}" for v in value]  # as lines and targets are called
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each once, found {', '.join(twice)} more than once")
        return value

    @field_validator("threads")
    @classmethod
    def _one_at_least(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("expected at least one number of threads, found none")
        return value

    @field_validator("speedups")
    @classmethod
    def _the_easiest_first(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(value))


def read(reader: _Reader, optimize: Mapping[str, Any], train: TrainTable | None) -> ExploreTable | None:
    """The table out of `[optimize]`, None where it is not asked for; mistakes are said to `reader`."""
    asked, where = optimize.get(EXPLORE, False), ("optimize", EXPLORE)
    if not isinstance(asked, bool | dict):
        reader.say(where, f"expected true, false or a table [optimize.explore], found {asked!r}")
        return None
    if asked is False:
        return None
    table = reader.table(ExploreTable, {} if asked is True else asked, where)
    if table and table.speedups and train and train.trainable in ("head", "lora"):
        what = f"networks are pruned, and train.trainable = '{train.trainable}' keeps them as they are"
        reader.say(where, f"{what}; train 'all' or 'last:N', or explore without: speedups = []")
    return table
