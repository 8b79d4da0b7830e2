"""`[ensemble]`, `[tta]`, `[distill]` and `[pseudo_labels]`: more than one network, view or teacher for one answer.

None of them is on where the recipe does not have its table. `docs/recipes.md` says what for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator, model_validator

from tlcompile.artifacts import Labels
from tlcompile.errors import Problem
from tlcompile.options import Field, NameList, Options, PathText, RecipePath
from tlcompile.recipe.tables import Plugin
from tlcompile.recipe.train_table import TrainTable

ENSEMBLE = "ensemble"
SEEDS = 3
"""Members where the recipe says neither how many nor which: the network and two more seeds of it."""


class MemberTable(Options):
    """`[[ensemble.member]]`: one more network beside the one of `[model]` and `[train]`."""

    seed: int | None = Field(None, ge=0, lt=2**32, description="not given: the recipe's seed + 1, + 2, …")
    model: dict[str, Any] = Field({}, description="keys of [model] with other values; another library brings its own")
    train: dict[str, Any] = Field({}, description="keys of [train] with other values")
    bundle: RecipePath = Field("", description="a finished bundle of the same classes instead of a training")

    @model_validator(mode="after")
    def _bundle_is_finished(self) -> MemberTable:
        if self.bundle and (self.model or self.train or self.seed is not None):
            raise ValueError("a bundle is finished: no seed, model or train beside it")
        return self


class EnsembleTable(Options):
    """`[ensemble]`"""

    members: int | None = Field(None, ge=2, description="as many seeds of one network; not given: 3, or as listed")
    max_members: int = Field(3, ge=2, description="more than this is refused: each costs its time in every answer")
    weights: Literal["fitted", "equal"] = Field("fitted", description="on validation examples, judged out of fold")
    soup: bool = Field(True, description="also the mean of the weights of members with one architecture")
    early_exit: bool = Field(False, description="also an engine that asks the best member alone where that is sure")
    max_slowdown: float = Field(
        4.0, gt=1, description="may take this many times the time of what ships without the ensemble"
    )


class TtaTable(Options):
    """`[tta]`: several views of each example, one answer."""

    views: Literal["auto"] | NameList = Field(
        "auto", description="'auto', or names: the first is what the others have to improve"
    )
    aggregation: Literal["probabilities", "logits", "max", "learned"] = Field(
        "probabilities", description="mean of probabilities or logits, the largest, or weights fitted for each class"
    )
    max_views: int = Field(4, ge=2, description="views that are kept at most, the first one counted")
    early_exit: bool = Field(False, description="also an engine that takes the first view alone where that is sure")
    document_tokens: int | None = Field(
        None, ge=16, description="tokens that are read of a text; not given: 16 times what the network takes"
    )
    max_slowdown: float = Field(4.0, gt=1, description="may take this many times the time of what ships without views")

    @field_validator("views")
    @classmethod
    def _several(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not value:
            raise ValueError("expected 'auto' or at least one view")
        return value


class DistillTable(Options):
    """`[distill]`: a student of one network's cost learns what a teacher says of the training examples."""

    teacher: RecipePath = Field(
        ENSEMBLE, description="'ensemble' (with its views), an ONNX file or a bundle of the same classes"
    )
    alpha: float = Field(0.5, gt=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(2.0, gt=0, description="softens what is learnt from the teacher")
    epochs: int | None = Field(None, ge=1, description="not given: those of [train]")
    start: Literal["trained", "pretrained"] = Field("trained", description="weights that the student begins with")


class PseudoLabelsTable(Options):
    """`[pseudo_labels]`: unlabelled examples, labelled by the network, join its training."""

    path: RecipePath = Field(description="a folder of images, or texts: .txt one a line, .csv or .jsonl with 'text'")
    threshold: float = Field(0.9, ge=0, lt=1, description="least probability of an example that joins")
    top_k: int | None = Field(None, ge=1, description="at most this many a class, the surest first")
    labels: Literal["hard", "soft"] = Field(
        "hard", description="the class, or all probabilities; then the loss is the cross-entropy to them alone"
    )
    rounds: int = Field(1, ge=1, le=5, description="how often they are labelled, by the network of the round before")


@dataclass(frozen=True)
class Member:
    """One more network of the ensemble, every key filled in. `bundle` is a finished one: then nothing is trained."""

    name: str  # of its line: member-2, member-3, …
    model: Plugin
    train: TrainTable
    seed: int
    bundle: PathText | None = None


@dataclass(frozen=True)
class Ensemble:
    """`[ensemble]` and its members but the first, which is the network of `[model]` and `[train]`."""

    table: EnsembleTable
    members: tuple[Member, ...]
    written: tuple[MemberTable, ...] = ()

    def to_json(self) -> dict[str, Any]:
        own = self.table.model_dump(mode="json", exclude_none=True)
        return {**own, "member": [m.model_dump(mode="json", exclude_none=True) for m in self.written]}


@dataclass(frozen=True)
class Extras:
    """The four tables as far as the recipe has them."""

    ensemble: Ensemble | None = None
    tta: TtaTable | None = None
    distill: DistillTable | None = None
    pseudo_labels: PseudoLabelsTable | None = None

    @property
    def choosing(self) -> bool:
        """Whether something is chosen on validation examples."""
        return self.ensemble is not None or self.tta is not None

    def to_json(self) -> dict[str, Any]:
        """Only those that are there."""
        tables = {"tta": self.tta, "distill": self.distill, "pseudo_labels": self.pseudo_labels}
        plain = {name: t.model_dump(mode="json", exclude_none=True) for name, t in tables.items() if t}
        return {**({"ensemble": self.ensemble.to_json()} if self.ensemble else {}), **plain}

    def paths(self) -> Iterator[tuple[str, PathText]]:
        """(key, path) of what the recipe points to in the file system."""
        for i, member in enumerate(self.ensemble.written if self.ensemble else ()):
            if isinstance(member.bundle, PathText) and member.bundle:
                yield f"ensemble.member[{i}].bundle", member.bundle
        if self.distill and isinstance(self.distill.teacher, PathText) and self.distill.teacher != ENSEMBLE:
            yield "distill.teacher", self.distill.teacher
        if self.pseudo_labels and isinstance(self.pseudo_labels.path, PathText):
            yield "pseudo_labels.path", self.pseudo_labels.path


def seeds(table: EnsembleTable, seed: int, model: Plugin, train: TrainTable) -> tuple[Member, ...]:
    """The members of an ensemble that lists none: the same network from the seeds after `seed`."""
    count = table.members or SEEDS
    return tuple(Member(f"member-{i + 1}", model, train, seed + i) for i in range(1, count))


def check(extras: Extras, labels: Labels, train: TrainTable) -> list[Problem]:
    """What the tables ask of each other, of the task's labels and of [train]; `where` is a key."""
    problems = []
    for key, table in (("pseudo_labels", extras.pseudo_labels), ("distill", extras.distill)):
        if table and train.trainable == "head":
            problems.append(Problem(key, "trainable = 'head' computes features once, of the labelled examples alone"))
    ensemble = extras.ensemble
    if ensemble:
        count, most = 1 + len(ensemble.members), ensemble.table.max_members
        if ensemble.table.members and ensemble.written:
            problems.append(Problem("ensemble.members", "members are listed below: say how many or which, not both"))
        if count > most:
            what = f"{count} members are more than max_members = {most}; raise it if answers may take that long"
            problems.append(Problem("ensemble", what))
    if extras.distill and extras.distill.teacher == ENSEMBLE and not ensemble:
        problems.append(Problem("distill.teacher", "'ensemble' needs a table [ensemble]; or name an ONNX file"))
    if extras.pseudo_labels and labels != "class":
        problems.append(Problem("pseudo_labels", "needs a task of one class an example"))
    exits = {"tta": extras.tta, "ensemble": ensemble.table if ensemble else None}
    for key in (name for name, one in exits.items() if one and one.early_exit and labels == "number"):
        problems.append(Problem(f"{key}.early_exit", "a number comes without a confidence to leave early by"))
    if extras.tta and extras.tta.aggregation == "max" and labels == "number":
        problems.append(Problem("tta.aggregation", "the largest of several numbers is no better founded; use a mean"))
    if extras.tta and extras.tta.aggregation == "learned" and labels == "number":
        problems.append(Problem("tta.aggregation", "'learned' fits weights for each class; a number has none"))
    return problems
