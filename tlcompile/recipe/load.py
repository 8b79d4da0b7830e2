"""Read a recipe: TOML, then each table by its own model, then what only the whole can tell. Collects every mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tlcompile import registry
from tlcompile.errors import Problem, RecipeError, nearest, one_of
from tlcompile.options import Options
from tlcompile.recipe import ensemble_tables, explore_table, fits, locate, members, opset
from tlcompile.recipe.alternatives import merged
from tlcompile.recipe.tables import (
    DataTable,
    EvaluateTable,
    ExportTable,
    GatesTable,
    HeadTable,
    Plugin,
    Recipe,
    Target,
    TargetTable,
)
from tlcompile.recipe.train_table import TrainTable

TABLES = ("data", "model", "train", *members.NAMES, "compress", "export", "optimize", "compile", "evaluate", "gates")
Table = TypeVar("Table", bound=Options)

_TYPE_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "a boolean (true or false)",
    "tuple_type": "an array",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def load(path: Path, data: Path | None = None) -> Recipe:
    """The recipe at `path`; `data` replaces its `data.path`. RecipeError lists every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [str(path.parent / f.name) for f in path.parent.glob("*.toml")]
        raise RecipeError(Problem(str(path), "no such recipe", nearest(str(path), siblings))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(Problem(str(path), f"can't be read as UTF-8 text: {error}")) from error
    return parse(text, path, data)


def parse(text: str, path: Path = Path("recipe.toml"), data: Path | None = None) -> Recipe:
    """`text` as a recipe; `path` names it in messages and is where its relative paths start."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(Problem(str(path), f"not valid TOML: {error}")) from error
    if data is not None and isinstance(raw.get("data"), dict):
        source = raw["data"].get("source")
        if source in registry.names("data") and "path" not in registry.load("data", source).Options.model_fields:
            raise RecipeError(Problem("--data", f"source '{source}' of {path} reads no path"))
        raw["data"]["path"] = str(data.resolve())
    reader = _Reader(path, locate.lines(text))
    recipe = reader.recipe(raw, text)
    if reader.problems or recipe is None:
        raise RecipeError(*reader.problems)
    return recipe


@dataclass
class _Reader:
    """Collects problems while the tables are read; a table that failed is None and is not asked about further."""

    path: Path
    places: dict[locate.Path, int]
    problems: list[Problem] = field(default_factory=list)

    def say(self, where: locate.Path, what: str, near: str = "") -> None:
        line = locate.line_of(where, self.places)
        place = f"{self.path}:{line}" if line else str(self.path)
        self.problems.append(Problem(f"{place}: {locate.spell(where)}" if where else place, what, near))

    def recipe(self, raw: dict[str, Any], text: str) -> Recipe | None:
        head = self.table(HeadTable, {k: v for k, v in raw.items() if k not in TABLES}, (), also=TABLES)
        for name in ("data", "model"):
            if name not in raw:
                self.say((), f"table [{name}] is required and not given")
        raw = {k: v for k, v in raw.items() if k in TABLES and self.is_table(k, v)}
        data, source = self.plugin(DataTable, raw.get("data"), ("data",), "data", "source")
        if data is not None:
            self.known("tasks", data.task, ("data", "task"))
        _, model = self.plugin(None, raw.get("model"), ("model",), "models", "library")
        train = self.table(TrainTable, raw.get("train", {}), ("train",))
        extras = self.learning(raw, data, model, train, head.seed if head else 0)
        export = self.table(ExportTable, raw.get("export", {}), ("export",))
        compress = self.passes("compress", raw.get("compress", {}))
        optimize = raw.get("optimize", {})
        explore = explore_table.read(self, optimize, train)
        passes = self.passes("optimize", {k: v for k, v in optimize.items() if k != explore_table.EXPLORE})
        targets = self.targets(raw.get("compile", [{"backend": "onnxruntime"}]))
        if export:
            export = opset.settled(export, targets)
            if wrong := opset.problem(export, targets):
                self.say(("export", opset.KEY), wrong)
        evaluate = self.table(EvaluateTable, raw.get("evaluate", {}), ("evaluate",))
        gates = self.table(GatesTable, raw.get("gates", {}), ("gates",))
        if self.problems or not (head and data and source and model and train and export and evaluate and gates):
            return None
        return Recipe(
            self.path,
            text,
            head.name,
            head.seed,
            data.task,
            data,
            source,
            model,
            train,
            compress,
            export,
            passes,
            targets,
            evaluate,
            gates,
            extras,
            explore,
        )

    def learning(
        self, raw: dict[str, Any], data: DataTable | None, model: Plugin | None, train: TrainTable | None, seed: int
    ) -> ensemble_tables.Extras:
        """The tables of members, views and students, and whether they and [train] suit the task."""
        if not (data and train and data.task in registry.names("tasks")):
            return ensemble_tables.Extras()
        task = registry.load("tasks", data.task)
        problems = list(fits.check(train, task))
        extras = ensemble_tables.Extras()
        if model:
            extras = members.read(self, raw, model, train, seed)
            problems += ensemble_tables.check(extras, task.LABELS, train)
        for problem in problems:
            self.say(tuple(problem.where.split(".")), problem.what, problem.nearest)
        return extras

    def is_table(self, name: str, value: Any) -> bool:
        if name == "compile":
            right = isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
        else:
            right = isinstance(value, dict)
        if right:
            return True
        form = "[[compile]] tables" if name == "compile" else f"a table [{name}]"
        self.say((name,), f"expected {form}, found {_found(value)}")
        return False

    def table(
        self, model: type[Table], raw: Mapping[str, Any], where: locate.Path, also: Sequence[str] = ()
    ) -> Table | None:
        """`raw` validated by `model`; `also` are further names that an unknown key may have meant."""
        try:
            return model.model_validate(raw, context={"base": self.path.parent})
        except ValidationError as error:
            for mistake in merged(error.errors(include_url=False), model):
                self.mistake(mistake, where, model, also)
            return None

    def mistake(self, mistake: Any, where: locate.Path, model: type[Options], also: Sequence[str]) -> None:
        place = (*where, *mistake["loc"])
        kind, value = mistake["type"], mistake["input"]
        if kind == "extra_forbidden":
            known = [*_model_at(model, mistake["loc"][:-1]).model_fields, *also]
            self.say(place, "unknown key", nearest(str(mistake["loc"][-1]), known))
        elif kind == "missing":
            self.say(place, "required and not given")
        elif kind == "alternatives" or kind == "literal_error" or kind in _EXPECTED:
            wanted = [w for m in mistake.get("alternatives", [mistake]) for w in _wanted(m)]
            near = nearest(value, [w.strip("'") for w in wanted]) if isinstance(value, str) else ""
            *most, last = dict.fromkeys(wanted)
            self.say(place, f"expected {', '.join(most)}{' or ' if most else ''}{last}, found {_found(value)}", near)
        elif kind == "value_error":
            self.say(place, mistake["msg"].removeprefix("Value error, "))
        else:
            self.say(place, f"{mistake['msg'][0].lower()}{mistake['msg'][1:]}, found {_found(value)}")

    def known(self, room: str, name: str, where: locate.Path) -> bool:
        """Whether `name` is a plug-in of `room`; says so if not."""
        if name in registry.names(room) or name in registry.third_party(room):
            return True
        known = sorted({*registry.names(room), *registry.third_party(room)})
        self.say(where, f"'{name}' is not one of {one_of(known)}", nearest(name, known))
        return False

    def plugin(
        self, common: type[Table] | None, raw: Mapping[str, Any] | None, where: locate.Path, room: str, selector: str
    ) -> tuple[Table | None, Plugin | None]:
        """A table shared by `common` keys and those of the plug-in that its `selector` key names."""
        if raw is None:
            return None, None
        name = raw.get(selector)
        options: type[Options] | None = None
        if isinstance(name, str):
            options = registry.load(room, name).Options if self.known(room, name, (*where, selector)) else None
        elif common is None or name is not None:
            self.say(
                (*where, selector),
                f"expected a name in quotes, found {_found(name)}" if selector in raw else "required and not given",
            )
        mine = {selector, *(common.model_fields if common else ())}
        others = {k: v for k, v in raw.items() if k not in mine}
        table = None
        if common is not None and (name is None or isinstance(name, str)):
            table = self.table(common, {k: v for k, v in raw.items() if k in mine}, where)
        if options is None:
            return table, None
        chosen = self.table(options, others, where, also=sorted(mine))
        return table, Plugin(room, str(name), chosen) if chosen is not None else None

    def passes(self, room: str, raw: Mapping[str, Any]) -> tuple[Plugin, ...]:
        """`[<room>.<pass>]` in the recipe's order; passes that are on by default come first."""
        wanted = {**{n: {} for n in registry.names(room) if n not in raw and _on(room, n)}, **raw}
        found = []
        for name, table in wanted.items():
            where = (room, name)
            if not self.known(room, name, where):
                continue
            if not isinstance(table, dict):
                self.say(where, f"expected a table [{room}.{name}], found {_found(table)}")
            elif options := self.table(registry.load(room, name).Options, table, where):
                found.append(Plugin(room, name, options))
        return tuple(found)

    def targets(self, raw: Sequence[Mapping[str, Any]]) -> tuple[Target, ...]:
        found: list[Target] = []
        for index, table in enumerate(raw):
            where = ("compile", index)
            common, backend = self.plugin(TargetTable, table, where, "compile", "backend")
            if common is None or backend is None:
                continue
            name = common.name or backend.name
            if name in [t.name for t in found]:
                self.say((*where, "name"), f"a second target is called '{name}'; give each a name of its own")
            found.append(Target(name, backend, common.variants))
        return tuple(found)


def _on(room: str, name: str) -> bool:
    return bool(getattr(registry.load(room, name), "ON_BY_DEFAULT", False))


def _model_at(model: type[Options], loc: Sequence[Any]) -> type[Options]:
    """The model of the nested table at `loc`."""
    for part in loc:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, Options):
            model = annotation
    return model


def _wanted(mistake: Any) -> list[str]:
    """What would have been right: the words of a choice, or a type."""
    if mistake["type"] != "literal_error":
        return [_EXPECTED[mistake["type"]]]
    words: list[str] = mistake["ctx"]["expected"].replace(" or ", ", ").split(", ")
    return words


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    shown = repr(value) if not isinstance(value, bool) else str(value).lower()
    return f"{_TYPE_NAMES.get(type(value), type(value).__name__)} {shown[:60]}"
