"""Reads `[ensemble]`, `[tta]`, `[distill]` and `[pseudo_labels]` with the reader of the other tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tlcompile import registry
from tlcompile.options import Options, PathText
from tlcompile.recipe import ensemble_tables as tables
from tlcompile.recipe import fits
from tlcompile.recipe.tables import Plugin
from tlcompile.recipe.train_table import TrainTable

if TYPE_CHECKING:
    from tlcompile.recipe.load import _Reader

NAMES = ("ensemble", "tta", "distill", "pseudo_labels")
_Table = TypeVar("_Table", bound=Options)


def read(reader: _Reader, raw: Mapping[str, Any], model: Plugin, train: TrainTable, seed: int) -> tables.Extras:
    """The tables that `raw`, the whole recipe, has of these; mistakes are said to `reader`."""

    def table(kind: type[_Table], name: str) -> _Table | None:
        return reader.table(kind, raw[name], (name,)) if name in raw else None

    return tables.Extras(
        _ensemble(reader, raw, model, train, seed) if "ensemble" in raw else None,
        table(tables.TtaTable, "tta"),
        table(tables.DistillTable, "distill"),
        table(tables.PseudoLabelsTable, "pseudo_labels"),
    )


def _ensemble(
    reader: _Reader, raw: Mapping[str, Any], model: Plugin, train: TrainTable, seed: int
) -> tables.Ensemble | None:
    own = {key: value for key, value in raw["ensemble"].items() if key != "member"}
    table = reader.table(tables.EnsembleTable, own, ("ensemble",), also=("member",))
    listed = raw["ensemble"].get("member", [])
    if not isinstance(listed, list) or not all(isinstance(member, dict) for member in listed):
        reader.say(("ensemble", "member"), "expected [[ensemble.member]] tables")
        return None
    if table is None:
        return None
    if not listed:
        return tables.Ensemble(table, tables.seeds(table, seed, model, train))
    written, members = _listed(reader, raw, listed, model, seed)
    return tables.Ensemble(table, members, written)


def _listed(
    reader: _Reader, raw: Mapping[str, Any], listed: Sequence[Mapping[str, Any]], model: Plugin, seed: int
) -> tuple[tuple[tables.MemberTable, ...], tuple[tables.Member, ...]]:
    """Each `[[ensemble.member]]` as written, and with what it takes from [model] and [train]."""
    written, members = [], []
    for index, keys in enumerate(listed):
        where = ("ensemble", "member", index)
        table = reader.table(tables.MemberTable, keys, where)
        if table is None:
            continue
        library = table.model.get("library", model.name)
        base = raw["model"] if library == model.name else {}
        _, network = reader.plugin(None, {**base, **table.model}, (*where, "model"), "models", "library")
        trained = reader.table(TrainTable, {**raw.get("train", {}), **table.train}, (*where, "train"))
        if network is None or trained is None:
            continue
        for problem in fits.check(trained, registry.load("tasks", raw["data"]["task"])):
            reader.say((*where, *problem.where.split(".")), problem.what, problem.nearest)
        written.append(table)
        own_seed = seed + index + 1 if table.seed is None else table.seed
        bundle = table.bundle if isinstance(table.bundle, PathText) and table.bundle else None
        members.append(tables.Member(f"member-{index + 2}", network, trained, own_seed, bundle))
    return tuple(written), tuple(members)
