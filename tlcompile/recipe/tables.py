"""The tables of a recipe and their defaults. What belongs to a plug-in stands in that plug-in's own `Options`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Strict, field_validator, model_validator

from tlcompile import registry
from tlcompile.options import Field, NameList, Options, PathText
from tlcompile.recipe.train_table import TrainTable

if TYPE_CHECKING:
    from tlcompile.recipe.ensemble_tables import Extras
    from tlcompile.recipe.explore_table import ExploreTable


class SplitTable(Options):
    """Shares of the examples; used for the splits that the source does not bring itself."""

    train: float = Field(0.7, gt=0, lt=1)
    val: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitTable:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, found {total:g}")
        return self


class DataTable(Options):
    """`[data]`: beside these keys it takes those of its source."""

    task: str = Field(description="what is learnt, e.g. image-classification")
    source: str = Field(description="where the examples come from, e.g. folder")
    split: SplitTable = SplitTable()
    calibration: int = Field(256, ge=8, description="training examples used to calibrate quantization")
    on_broken: Literal["error", "skip"] = Field(
        "error", description="what an unreadable image or an empty text does: stop, or be left out and counted"
    )


class ExportTable(Options):
    """`[export]`"""

    opset: int = Field(18, ge=17, le=21, description="not given: 18, or the nearest that all targets take")
    exporter: Literal["torchscript", "dynamo"] = "torchscript"


class EvaluateTable(Options):
    """`[evaluate]`"""

    batch_size: int = Field(8, ge=2, description="throughput is measured at batch 1 and at this")
    latency_runs: int = Field(200, ge=20, description="timed calls an engine and batch size, in interleaved rounds")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="risk of a false pass that the accuracy-drop gate may take")


class GatesTable(Options):
    """`[gates]`: what an artifact must show, on test examples and in the runtime that ships. Absent = not asked."""

    min_accuracy: float | None = Field(None, ge=0, le=1)
    max_accuracy_drop: float | None = Field(
        None, gt=0, le=1, description="non-inferiority margin against the fp32 torch model on the same examples"
    )
    max_latency_p50_ms: float | None = Field(None, gt=0)
    max_latency_p99_ms: float | None = Field(None, gt=0)
    max_size_mb: float | None = Field(None, gt=0, description="10^6 bytes of the engine that ships")
    max_memory_mb: float | None = Field(
        None, gt=0, description="10^6 bytes of main memory of the process that answers, after it was timed"
    )


class TargetTable(Options):
    """`[[compile]]`: beside these keys it takes those of its backend."""

    backend: str
    name: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="folder of the engine in the bundle; the backend's name where not given",
    )
    variants: Annotated[NameList, Strict(False)] = Field(
        (), description="which precisions to build and compare, e.g. ['fp32', 'int8']; all of them where not given"
    )


class HeadTable(Options):
    """The keys above the first table."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="name of the bundle")
    seed: int = Field(17, ge=0, lt=2**32)

    @field_validator("name")
    @classmethod
    def _no_reserved_end(cls, name: str) -> str:
        if name.endswith(".failed"):
            raise ValueError("must not end in '.failed': that is where the report of a failed gate is kept")
        return name


@dataclass(frozen=True)
class Plugin:
    """A plug-in that a recipe names, with its validated options."""

    room: str
    name: str
    options: Options

    @property
    def module(self) -> ModuleType:
        return registry.load(self.room, self.name)

    def paths(self) -> Iterator[tuple[str, PathText]]:
        """(key, path) of the options that point into the file system."""
        return ((k, v) for k, v in self.options if isinstance(v, PathText))

    def to_json(self) -> dict[str, Any]:
        return self.options.model_dump(mode="json")


@dataclass(frozen=True)
class Target:
    """One `[[compile]]` table."""

    name: str
    backend: Plugin
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, every default filled in."""

    path: Path
    text: str
    name: str
    seed: int
    task: str
    data: DataTable
    source: Plugin
    model: Plugin
    train: TrainTable
    compress: tuple[Plugin, ...]
    export: ExportTable
    passes: tuple[Plugin, ...]
    targets: tuple[Target, ...]
    evaluate: EvaluateTable
    gates: GatesTable
    extras: Extras
    explore: ExploreTable | None = None

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, as plain JSON values in the recipe's own structure."""
        return {
            "name": self.name,
            "seed": self.seed,
            "data": {**self.data.model_dump(mode="json"), **self.source.to_json()},
            "model": {"library": self.model.name, **self.model.to_json()},
            "train": self.train.model_dump(mode="json"),
            **self.extras.to_json(),
            "compress": {p.name: p.to_json() for p in self.compress},
            "export": self.export.model_dump(mode="json"),
            "optimize": {
                **({"explore": self.explore.model_dump(mode="json")} if self.explore else {}),
                **{p.name: p.to_json() for p in self.passes},
            },
            "compile": [
                {"backend": t.backend.name, "name": t.name, "variants": list(t.variants), **t.backend.to_json()}
                for t in self.targets
            ],
            "evaluate": self.evaluate.model_dump(mode="json"),
            "gates": self.gates.model_dump(mode="json", exclude_none=True),
        }
