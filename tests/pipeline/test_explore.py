"""How `[optimize] explore` makes a plan grow, what bounds it, and which engine ships in the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy_recipe import SMALLEST
from tlcompile import compile as backends
from tlcompile.compile._cpu import cores
from tlcompile.errors import GateError, RecipeError
from tlcompile.evaluate.statistics import Drop
from tlcompile.pipeline import explore
from tlcompile.pipeline.choose import Candidate, choose
from tlcompile.pipeline.explore_choice import bundled, contest, shared_risk
from tlcompile.pipeline.plan import plan
from tlcompile.pipeline.step import Made, Step
from tlcompile.recipe import Recipe, parse
from tlcompile.store import Entry, Store

ORT, OPENVINO = '[[compile]]\nbackend = "onnxruntime"\n', '[[compile]]\nbackend = "openvino"\n'
EXPLORE = "[optimize.explore]\nspeedups = [2.0, 1.5]\nthreads = [1]\n"


def recipe(*tables: str) -> Recipe:
    return parse(SMALLEST + "\n" + "\n".join(tables))


def names(root: Path, *tables: str) -> list[str]:
    return [step.name for step in plan(recipe(*tables), Store(root / "store"))]


def engines(root: Path, *tables: str) -> set[str]:
    return {name.removeprefix("compile/") for name in names(root, *tables) if name.startswith("compile/")}


# what is tried


def test_every_speedup_precision_backend_and_thread_count_is_one_engine(tmp_path: Path) -> None:
    found = engines(tmp_path, EXPLORE.replace("[1]", "[1, 3]"), "[optimize.quantize]", ORT, OPENVINO)
    targets = ("onnxruntime@1", "onnxruntime@3", "openvino@1", "openvino@3")
    lines = ("", "pruned-1.5x-", "pruned-2x-")
    assert found == {f"{t}/{line}{p}" for t in targets for line in lines for p in ("fp32", "int8")}


def test_true_takes_the_defaults_of_the_table(tmp_path: Path) -> None:
    found = engines(tmp_path, "[optimize]\nexplore = true", ORT)
    assert found == engines(tmp_path, "[optimize.explore]", ORT) > engines(tmp_path, "[optimize]\nexplore = false", ORT)
    assert {"onnxruntime/pruned-1.25x-fp32", "onnxruntime/fp32"} <= found
    assert ("onnxruntime@1/fp32" in found) == (cores() > 1)


def test_a_target_with_threads_of_its_own_and_a_backend_without_threads_are_not_multiplied(tmp_path: Path) -> None:
    own = f"{ORT}threads = 1\n", f'{OPENVINO}device = "GPU"\n', '[[compile]]\nbackend = "tensorrt"\nfinalize = true\n'
    found = engines(tmp_path, "[optimize.explore]\nspeedups = []\nthreads = [1, 2, 3]", *own)
    assert found == {"onnxruntime/fp32", "openvino/fp32", "tensorrt/fp32"}


def test_all_cores_by_number_and_by_0_are_one_target() -> None:
    asked = recipe(f"[optimize.explore]\nthreads = [0, {cores()}]", ORT)
    assert [target.name for target in explore.targets(asked)] == ["onnxruntime"]


def test_the_speedup_and_the_keys_of_compress_prune_join_what_is_explored() -> None:
    asked = recipe("[compress.prune]\nspeedup = 3.0\nimportance = 'magnitude'\n[compress.qat]", EXPLORE)
    links = explore.links(asked)
    tags = ("1.5x", "2x", "3x")
    assert set(links) == {"qat", *(f"pruned-{t}{end}" for t in tags for end in ("", "-qat"))}
    assert {links[f"pruned-{t}"].step.to_json()["speedup"] for t in tags} == {1.5, 2.0, 3.0}
    assert links["pruned-2x"].step.to_json()["importance"] == "magnitude"
    assert (links["pruned-2x"].before, links["pruned-2x-qat"].before) == ("", "pruned-2x")


def test_a_speedup_of_compress_prune_that_is_called_like_an_explored_one_takes_its_place() -> None:
    asked = recipe("[compress.prune]\nspeedup = 1.5000001", EXPLORE)
    assert explore.speedups(asked) == (1.5000001, 2.0)
    assert explore.links(asked)["pruned-1.5x"].speedup == 1.5000001


def test_without_explore_the_lines_are_those_of_compress() -> None:
    links = explore.links(recipe("[compress.prune]\n[compress.qat]"))
    assert {line: link.name for line, link in links.items()} == {
        "pruned": "compress/prune",
        "pruned-qat": "compress/qat",
    }


def test_a_precision_that_a_target_names_stands_for_it_in_every_line(tmp_path: Path) -> None:
    found = engines(tmp_path, EXPLORE, "[optimize.quantize]", f'{ORT}variants = ["int8"]\n')
    assert found == {f"onnxruntime@1/{v}" for v in ("int8", "pruned-1.5x-int8", "pruned-2x-int8")}


def test_a_variant_that_is_not_made_is_told_once_with_the_recipes_name_of_the_target(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        names(tmp_path, EXPLORE.replace("[1]", "[1, 3]"), f'{ORT}variants = ["pruned-fp32"]\n')
    [problem] = caught.value.problems
    assert "compile 'onnxruntime': variants" in problem.where
    assert problem.nearest == "pruned-2x-fp32"


def test_pruning_and_its_timing_know_nothing_of_thread_counts(tmp_path: Path) -> None:
    def key(threads: str) -> Any:
        asked = recipe(EXPLORE.replace("[1]", threads), ORT)
        return next(s for s in plan(asked, Store(tmp_path)) if s.name == "compress/prune-2x").parts()

    assert key("[1]") == key("[1, 3]")


def test_lines_are_made_one_after_the_other_the_least_pruned_first(tmp_path: Path) -> None:
    found = names(tmp_path, EXPLORE, ORT)
    begins = [found.index(f"compress/begin-{speedup}x") for speedup in ("1.5", "2")]
    assert all("pruned" not in name and "prune-" not in name for name in found[: begins[0]])
    first = found[begins[0] + 1 : begins[1]]
    assert (first[0], first[-1]) == ("compress/prune-1.5x", "evaluate/onnxruntime@1/pruned-1.5x-fp32")
    assert found[-3:] == ["evaluate/latency", "report", "package"]


# within the budget


def filled(store: Store, step: Step, made: Made) -> Entry:
    return store.make(step.key(made), lambda folder: step.make(made, folder, folder))


@dataclass
class Toy:
    """A plan of steps that only take time, in a real store."""

    root: Path
    reach: float = 10.0
    took_s: float = 0.05
    killed: str = ""

    def steps(self) -> list[Step]:
        found = [self.step("train", ())]
        for speedup in (1.5, 2, 3):
            found.append(self.step(f"compress/prune-{speedup:g}x", ("train",), speedup))
            found.append(self.step(f"export/pruned-{speedup:g}x", (found[-1].name,)))
        return found

    def step(self, name: str, needs: tuple[str, ...], speedup: float = 0) -> Step:
        def make(made: Made, folder: Path, work: Path) -> None:
            if name == self.killed:
                raise KeyboardInterrupt
            if speedup > self.reach:
                raise GateError(f"{speedup:g} can't be reached: the best is {self.reach:g}")
            time.sleep(self.took_s if speedup else 0)
            (folder / "made").write_text(name)

        return Step(name, name.partition("/")[0], needs, dict, make)

    def build(self, minutes: float) -> tuple[set[str], dict[str, Entry]]:
        """(names of what was made now, every entry)."""
        store, made = Store(self.root), dict[str, Entry]()
        asked = recipe(f"[optimize.explore]\nspeedups = [1.5, 2, 3]\nbudget_minutes = {minutes}")
        for step in explore.within_budget(asked, self.steps()):
            made[step.name] = filled(store, step, made)
        return {name for name, entry in made.items() if not entry.cached}, made


def verdicts(made: dict[str, Entry]) -> list[str]:
    """Of the exports of the three lines: '' of a line that was made."""
    found = [explore.skipped(made[f"export/pruned-{s}x"]) for s in ("1.5", "2", "3")]
    return [f"{why['verdict']}: {why['why']}" if why else "" for why in found]


def test_no_line_is_begun_once_the_budget_is_spent(tmp_path: Path) -> None:
    _, made = Toy(tmp_path).build(minutes=0.001)  # 0.06 s: spent after two lines of 0.05 s
    assert verdicts(made) == ["", "", "not tried: the budget of 0.001 minutes was spent"]
    assert not (made["compress/prune-3x"].folder / "made").exists()


def test_a_rerun_makes_nothing(tmp_path: Path) -> None:
    Toy(tmp_path).build(minutes=0.001)
    assert Toy(tmp_path).build(minutes=0.001)[0] == set()


def test_a_larger_budget_makes_only_what_was_not_tried(tmp_path: Path) -> None:
    Toy(tmp_path).build(minutes=0.001)
    now, made = Toy(tmp_path).build(minutes=60)
    assert verdicts(made) == ["", "", ""]
    assert now == {f"compress/begin-{s}x" for s in ("1.5", "2", "3")} | {"compress/prune-3x", "export/pruned-3x"}
    assert Toy(tmp_path).build(minutes=0.001)[0] == set()  # and the smaller one is as it was


def test_a_killed_build_goes_on_with_the_line_that_it_was_at(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Toy(tmp_path, killed="compress/prune-2x").build(minutes=60)
    now, made = Toy(tmp_path).build(minutes=60)
    assert verdicts(made) == ["", "", ""]
    assert "export/pruned-1.5x" not in now
    assert {"compress/prune-2x", "compress/prune-3x"} <= now


def test_a_speedup_out_of_reach_is_kept_as_rejected_and_larger_ones_are_not_tried(tmp_path: Path) -> None:
    reason = "2 can't be reached: the best is 1.7"
    _, made = Toy(tmp_path, reach=1.7).build(minutes=60)
    assert verdicts(made) == ["", f"rejected: {reason}", f"not tried: a smaller speedup is out of reach: {reason}"]


def test_a_mistake_in_compress_prune_is_no_result(tmp_path: Path) -> None:
    def refused(*tables: str) -> dict[str, Any] | None:
        def make(made: Made, folder: Path, work: Path) -> None:
            raise RecipeError("no engine 'openvno' runs here")

        root = Step("compress/prune-2x", "compress", (), dict, make)
        begin, tried = explore.within_budget(recipe(*tables, "[optimize.explore]\nspeedups = [2]"), [root])
        store, made = Store(tmp_path / str(len(tables))), dict[str, Entry]()
        for step in (begin, tried):
            made[step.name] = filled(store, step, made)
        return explore.skipped(made[root.name])

    assert (refused() or {})["verdict"] == "rejected"  # a network that can't be cut, where nobody said how
    with pytest.raises(RecipeError):
        refused("[compress.prune]\ntarget = 'openvno/fp32'")


# which ships


def measured(target: str, variant: str, drop: Drop, p50_ms: float | None, accuracy: float = 0.9, mb: float = 4) -> Any:
    latency = {"batch_1": {"p50_ms": p50_ms, "p99_ms": p50_ms}} if p50_ms else {}
    row = {"target": target, "variant": variant, "accuracy": accuracy, "latency": latency, "drop_upper": drop.upper}
    return row, drop, Candidate(variant, drop, p50_ms, mb)


SAME, CLOSE = Drop(1000, 0, 0, 0.05), Drop(1000, 6, 2, 0.05)  # 0.98 points at most
GATES = "[optimize.explore]\n[gates]\n"


def ships(gates: str, *found: Any) -> tuple[str, list[str]]:
    asked = recipe(GATES, gates)
    each = [one for _, _, one in contest(asked, list(found))]
    best, why = choose(each, asked.gates.max_accuracy_drop)
    return each[best].variant, why


def test_one_engine_ships_of_all_targets_the_fastest_that_passes_every_gate() -> None:
    slow = measured("openvino", "int8", SAME, 3.0)
    small = measured("openvino@1", "pruned-2x-int8", SAME, 2.0, mb=1)
    fast = measured("onnxruntime", "int8", SAME, 1.0, accuracy=0.8)
    assert ships("", slow, small, fast)[0] == "onnxruntime/int8"
    best, why = ships("min_accuracy = 0.85\nmax_size_mb = 2", slow, small, fast)
    assert best == "openvino@1/pruned-2x-int8"
    assert why[0] == "dropped: 4 MB, the gate max_size_mb is 2"
    assert why[2] == "dropped: accuracy 0.8000, the gate min_accuracy is 0.85; 4 MB, the gate max_size_mb is 2"


def test_where_none_passes_every_gate_the_fastest_within_the_drop_is_held_against_them() -> None:
    found = measured("openvino", "fp32", SAME, 3.0), measured("openvino", "int8", SAME, 2.0)
    assert ships("max_latency_p50_ms = 1", *found)[0] == "openvino/int8"


def test_the_frontier_is_what_no_other_is_both_faster_and_at_least_as_accurate_than() -> None:
    rows = [
        measured("a", "fp32", SAME, 3.0, 0.95),
        measured("a", "int8", SAME, 2.0, 0.9),
        measured("b", "int8", SAME, 2.5, 0.9),
        measured("c", "int8", SAME, None, 0.99),
    ]
    contest(recipe(GATES), rows)
    assert [row["frontier"] for row, _, _ in rows] == [True, True, False, False]


def test_claims_share_the_risk_and_what_is_clear_leaves_the_rest_to_the_others() -> None:
    margin = CLOSE.upper + 1e-4  # shown by itself, not at half the risk
    two = [measured("a", "pruned-int8", CLOSE, 1.0), measured("b", "int8", CLOSE, 1.0)]
    assert [drop.alpha for _, drop, _ in shared_risk(two, margin)] == [0.025, 0.025]
    beside = [measured("a", "fp32", SAME, 1.0), two[0]]
    assert [drop.alpha for _, drop, _ in shared_risk(beside, margin)] == [0.025, 0.05]
    siblings = [measured("a", "int8", CLOSE, 1.0), measured("a@1", "int8", CLOSE, 1.0)]
    assert [drop.alpha for _, drop, _ in shared_risk(siblings, margin)] == [0.05, 0.05]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), min_size=1, max_size=8))
def test_no_more_is_shown_than_by_each_alone_and_no_less_than_with_equal_shares(counts: list[tuple[int, int]]) -> None:
    found = [measured("a", f"v{i}", Drop(800, b, c, 0.05), 1.0) for i, (b, c) in enumerate(counts)]
    shown = [drop.upper < 0.02 for _, drop, _ in shared_risk(found, 0.02)]
    alone = [Drop(800, b, c, 0.05).upper < 0.02 for b, c in counts]
    equal = [Drop(800, b, c, 0.05 / len(counts)).upper < 0.02 for b, c in counts]
    assert all(e <= s <= a for e, s, a in zip(equal, shown, alone, strict=True))


def test_where_nothing_is_left_of_what_targets_name_it_is_told() -> None:
    with pytest.raises(GateError, match="no engine is left"):
        contest(recipe(GATES), [])


def test_what_runs_here_competes_and_what_does_not_ships_by_itself() -> None:
    later = '[[compile]]\nbackend = "tensorrt"\nfinalize = true\n'
    groups = explore.groups(recipe("[optimize.explore]\nthreads = [1]", ORT, later))
    assert [[target.name for target in group] for group in groups] == [["onnxruntime@1"], ["tensorrt"]]
    assert not backends.runs_here("onnxruntime", groups[0][0].backend.options)
    assert [len(group) for group in explore.groups(recipe(ORT, later))] == [1, 1]


def test_a_bundle_knows_the_recipes_names_of_targets() -> None:
    facts = {"variants": [{"target": "openvino@1"}], "gates": [{"target": "openvino"}], "name": "x"}
    assert bundled(facts) == {"variants": [{"target": "openvino"}], "gates": [{"target": "openvino"}], "name": "x"}
