"""The steps of `[ensemble]` and `[tta]`: members, what of them is kept, and the graphs that answer together.

    train/member-K     one more network each; export and passes as of every line
    choose/tta         which views stay, with which weights        choose/ensemble   which members
    optimize/KIND-…    one graph of them, for each precision and dialect; KIND is tta, ensemble or ensemble-tta, and
                       tta-exit or ensemble-exit where the first voice may answer alone

All choosing is done on validation examples. What is chosen is compiled, measured on the test examples and has to pay
like every variant, see `choose.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tlcompile.artifacts import FIRST_VOICE
from tlcompile.errors import Problem, RecipeError
from tlcompile.optimize import _views
from tlcompile.options import PathText
from tlcompile.pipeline import ensembles, fusing, students
from tlcompile.pipeline.pseudo_steps import labelled
from tlcompile.pipeline.step import Step, tools
from tlcompile.recipe import Recipe
from tlcompile.recipe.ensemble_tables import Member
from tlcompile.store import Store

TTA, ENSEMBLE, BOTH = "tta", "ensemble", "ensemble-tta"
EXIT = "-exit"
CHOOSE = "choose/"
Training = Callable[[Recipe], dict[str, Any]]
"""The parts of the key of a training."""
SOUP, STUDENT = "soup", "student"


@dataclass
class Fused:
    """The fused graphs of a build. `lines` are those of the members, the first being the network as trained."""

    recipe: Recipe
    lines: tuple[str, ...] = ("",)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the recipe asks for; the last one has the most voices."""
        extras = self.recipe.extras
        asked = {TTA: extras.tta, ENSEMBLE: extras.ensemble, BOTH: extras.tta and extras.ensemble}
        return (*exits(self.recipe), *(kind for kind, table in asked.items() if table))

    def parts(self, kind: str) -> tuple[str, ...]:
        return ("",) if kind in (TTA, TTA + EXIT) else self.lines

    def step(self, kind: str, precision: str, dialect: str, parts: tuple[str, ...]) -> Step:
        """The graphs of the steps `parts` as one."""
        name = f"optimize/{kind}-{precision}" + (f"-{dialect}" if dialect else "")
        chosen = tuple(CHOOSE + word for word in kind.removesuffix(EXIT).split("-"))
        used = tools("onnx", "onnxruntime", "onnxruntime-gpu")
        return Step(
            name,
            "optimize",
            ("data", *parts, *chosen),
            lambda: {"kind": kind, "tools": used, **({"parted at": FIRST_VOICE} if kind.endswith(EXIT) else {})},
            partial(fusing.fuse, self.recipe, name, parts, chosen, kind.endswith(EXIT)),
        )


def exits(recipe: Recipe) -> tuple[str, ...]:
    """The kinds whose first voice may answer alone."""
    extras = recipe.extras
    asked = {TTA: extras.tta, ENSEMBLE: extras.ensemble.table if extras.ensemble else None}
    return tuple(kind + EXIT for kind, table in asked.items() if table and table.early_exit)


def judged(recipe: Recipe, kind: str) -> dict[str, Any]:
    """What the threshold of an early exit also depends on; nothing where none is asked for."""
    if kind + EXIT not in exits(recipe):
        return {}
    return {"exit": {"margin": recipe.gates.max_accuracy_drop, "alpha": recipe.evaluate.alpha}}


def held_back(recipe: Recipe) -> Recipe:
    """The recipe with its validation examples held back from training, so that something can be chosen on them."""
    return replace(recipe, train=recipe.train.model_copy(update={"retrain_full": False}))


def views_of(recipe: Recipe, kind: str) -> tuple[str, ...]:
    """The views to try, the first being what the others have to improve. RecipeError where one does not fit `kind`.

    All windows of a text stand for themselves: they are compared with its beginning, and are none of several views.
    """
    assert recipe.extras.tta
    asked, where = recipe.extras.tta.views, f"{recipe.path}: tta.views"
    found = _views.parse(_views.lawful(kind) if asked == "auto" else asked, kind, where)
    if asked == "auto":
        return tuple(view.name for view in found if not view.all_windows)
    if any(view.all_windows for view in found) and len(found) > 1:
        raise RecipeError(Problem(where, "all windows of a text are not averaged with other views: name them alone"))
    return tuple(view.name for view in found)


def choose_tta_step(recipe: Recipe, kind: str, graph: str) -> Step:
    views, table = views_of(recipe, kind), recipe.extras.tta
    assert table
    keys = {"aggregation", "max_views"} | ({"document_tokens"} if kind == "text" else set())
    parts = {"views": views, "table": table.model_dump(mode="json", include=keys), **judged(recipe, TTA)}
    return Step(
        CHOOSE + TTA,
        "optimize",
        ("data", graph),
        lambda: {**parts, "tools": tools("numpy", "onnxruntime", "onnxruntime-gpu")},
        partial(ensembles.choose_tta, recipe, views, graph),
    )


def choose_ensemble_step(recipe: Recipe, sources: Mapping[str, str]) -> Step:
    """`sources`: line of each member -> the step of its Checkpoint, or of its graph where it came as a bundle."""
    assert recipe.extras.ensemble
    table = recipe.extras.ensemble.table
    parts = {"members": list(sources), "weights": table.weights, "most": table.max_members}
    parts |= judged(recipe, ENSEMBLE)
    return Step(
        CHOOSE + ENSEMBLE,
        "optimize",
        ("data", *sources.values()),
        lambda: {**parts, "tools": tools("numpy")},
        partial(ensembles.choose_members, recipe, dict(sources)),
    )


def recipes_of(recipe: Recipe) -> dict[str, Recipe]:
    """Line -> the recipe that would train this member by itself; bundles are trained already."""
    ensemble = recipe.extras.ensemble
    trained = [m for m in ensemble.members if m.bundle is None] if ensemble else []
    return {m.name: replace(recipe, model=m.model, train=m.train, seed=m.seed) for m in trained}


def member_steps(recipe: Recipe, training: Training, store: Store) -> dict[str, Step]:
    """Line -> the step that makes its Checkpoint, or its graph where it comes as a bundle."""
    ensemble, recipes = recipe.extras.ensemble, recipes_of(recipe)
    return {
        m.name: bundle_step(m, store)
        if m.bundle
        else training_step(recipes[m.name], f"train/{m.name}", recipe, training)
        for m in (ensemble.members if ensemble else ())
    }


def training_step(own: Recipe, name: str, recipe: Recipe, training: Training) -> Step:
    """One more training, as `own` says, in the build of `recipe`."""
    data = labelled(recipe)
    needs = tuple(dict.fromkeys(("data", data)))
    return Step(name, "train", needs, partial(training, own), partial(ensembles.train_member, own, data))


def bundle_step(member: Member, store: Store) -> Step:
    """A finished bundle's graph as the base graph of a member."""
    assert member.bundle is not None
    place = member.bundle

    def parts() -> dict[str, Any]:
        return {"bundle": store.stats.digest(place.absolute)}

    return Step(f"export/{member.name}", "export", ("data",), parts, partial(ensembles.of_bundle, place))


def soup_step(recipe: Recipe, training: Mapping[str, Any]) -> list[Step]:
    """The mean of the weights of all members that are the same network; none where there are not two of them."""
    ensemble = recipe.extras.ensemble
    if not ensemble or not ensemble.table.soup or recipe.train.retrain_full:
        return []
    same = [m for m in ensemble.members if m.bundle is None and m.model == recipe.model]
    if not same:
        return []
    sources = ("train", *(f"train/{m.name}" for m in same))
    return [
        Step(
            f"train/{SOUP}",
            "train",
            ("data", *sources),
            lambda: {"tools": tools("torch", "torchvision", "accelerate", "pillow"), "training": dict(training)},
            partial(ensembles.soup, recipe, sources),
        )
    ]


def given_steps(recipe: Recipe, members: Mapping[str, Step], store: Store) -> list[Step]:
    """What is finished already and is looked at before anything is trained: bundles that join, a teacher in a file."""
    ensemble = recipe.extras.ensemble
    found = [members[member.name] for member in (ensemble.members if ensemble else ()) if member.bundle]
    teacher = recipe.extras.distill.teacher if recipe.extras.distill else ENSEMBLE
    if not isinstance(teacher, PathText) or teacher == ENSEMBLE:
        return found

    def parts() -> dict[str, Any]:
        return {"file": store.stats.digest(teacher.absolute), "tools": tools("onnx")}

    return [*found, Step(students.GIVEN, "export", ("data",), parts, partial(students.given, recipe))]


def student_steps(recipe: Recipe, teacher: str, training: Mapping[str, Any], store: Store) -> list[Step]:
    """What the graph of the step `teacher` ('': the recipe's file) says of the training examples, and who learns it."""
    table = recipe.extras.distill
    assert table
    given = table.teacher if not teacher else None
    used = tools("numpy", "onnxruntime", "onnxruntime-gpu")

    def taught() -> dict[str, Any]:
        return {"tools": used, **({"file": store.stats.digest(given.absolute)} if isinstance(given, PathText) else {})}

    def learnt() -> dict[str, Any]:
        return {"training": dict(training), "table": table.model_dump(mode="json", exclude={"teacher"})}

    answers = Step(
        "distill/teacher",
        "train",
        ("data", teacher) if teacher else ("data", "export", students.GIVEN),
        taught,
        partial(students.answers, recipe, teacher),
    )
    return [
        answers,
        Step(f"train/{STUDENT}", "train", ("data", "train", answers.name), learnt, partial(students.train, recipe)),
    ]
