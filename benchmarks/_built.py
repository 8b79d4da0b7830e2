"""A build that a benchmark measures: a recipe with other values, built by the command line, and where its steps lie."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcompile.artifacts import Graph, Splits, read_json
from tlcompile.errors import GateError
from tlcompile.pipeline.evaluate import source_of
from tlcompile.pipeline.plan import plan
from tlcompile.pipeline.step import Step, look
from tlcompile.recipe.load import load
from tlcompile.recipe.tables import Recipe, Target
from tlcompile.recipe.write import toml
from tlcompile.store import Store


@dataclass(frozen=True)
class Built:
    """A finished build: its steps by name, the folder that each filled, and the facts of its report."""

    recipe: Recipe
    steps: dict[str, Step]
    folders: dict[str, Path]
    report: dict[str, Any]

    @property
    def splits(self) -> Splits:
        return Splits(self.folders["data"], "")

    @property
    def plain(self) -> Graph:
        """The network as trained, exported, before any pass."""
        return Graph(self.folders["export"], "")

    def graph_of(self, engine: str) -> Graph:
        """The graph that this engine was compiled from."""
        (need,) = (n for n in self.steps[engine].needs if (self.folders[n] / "model.onnx").exists())
        return Graph(self.folders[need], "")

    def target(self, name: str) -> Target:
        return next(target for target in self.recipe.targets if target.name == name)

    @property
    def onnxruntime(self) -> Target:
        return next(target for target in self.recipe.targets if target.backend.name == "onnxruntime")

    @property
    def shipped(self) -> list[dict[str, Any]]:
        """Rows of the report: what ships for each target that runs here, the fastest first."""
        rows = [row for row in self.report["variants"] if row["chosen"] and "batch_1" in row["latency"]]
        return sorted(rows, key=lambda row: row["latency"]["batch_1"]["p50_ms"])


def variation(recipe: Path, data: Path | None, kind: str, changes: dict[str, dict[str, Any]]) -> str:
    """The recipe as TOML with `changes` (table -> keys) in it and without gates, on the labelled examples in `data`."""
    tables = tomllib.loads(recipe.read_text(encoding="utf-8"))
    tables.pop("gates", None)  # they would stop the build; here whatever comes out is measured
    if data is not None:
        tables["data"] = {"task": tables["data"]["task"], "source": source_of(data, kind)}
    tables["data"]["path"] = str(data.resolve() if data else (recipe.parent / tables["data"]["path"]).resolve())
    return toml(_merged(tables, changes))


def _merged(tables: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `tables`, table by table."""
    nested = {k: _merged(tables.get(k, {}), v) if isinstance(v, dict) else v for k, v in changes.items()}
    return {**tables, **nested}


class OutOfReach(SystemExit):
    """Pruning can't reach the speedup of the recipe on this machine; `best` is what it can."""

    def __init__(self, best: float) -> None:
        super().__init__(f"the speedup can't be reached here, the best is {best:g}")
        self.best = best


def build(text: str, store: Path, scratch: Path) -> Built:
    """Build the recipe `text`; OutOfReach, or another SystemExit where it came to no report."""
    path = scratch / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "tlcompile", "build", str(path), "--store", str(store)]
    command += ["--output", str(scratch / "bundle")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            said.append(line)
    if running.returncode not in (0, GateError.exit_code):
        raise SystemExit(f"the build ended with exit code {running.returncode}")
    if best := re.search(r"can't be reached on .*: the best is ([\d.]+)", "".join(said)):
        raise OutOfReach(float(best[1]))
    recipe = load(path)
    looks = list(look(plan(recipe, Store(store)), Store(store), recipe.name))
    folders = {found.step.name: found.entry.folder for found in looks if found.entry}
    if "report" not in folders:
        raise SystemExit("the build ended before its report: a pass did not reach what it was asked for")
    report = read_json(folders["report"] / "report.json")
    return Built(recipe, {found.step.name: found.step for found in looks}, folders, report)
