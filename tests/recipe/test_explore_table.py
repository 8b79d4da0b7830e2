"""What is said about `[optimize] explore` that is wrong."""

from __future__ import annotations

import pytest

from tests.toy_recipe import SMALLEST, mistake, mistakes
from tlcompile.recipe import parse
from tlcompile.recipe.write import toml


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("explore = 'yes'", "optimize.explore: expected true, false or a table [optimize.explore], found 'yes'"),
        ("explore = { speedups = [1.0] }", "optimize.explore.speedups[0]: input should be greater than 1"),
        ("explore = { speedups = 2 }", "optimize.explore.speedups: "),
        ("explore = { speedups = ['2'] }", "optimize.explore.speedups[0]: expected a number, found a string '2'"),
        ("explore = { speedups = [2, 1.5, 2.0] }", "optimize.explore.speedups: each once, found 2 more than once"),
        ("explore = { speedups = [1.5, 1.5000001] }", "optimize.explore.speedups: each once, found 1.5 more than once"),
        ("explore = { threads = [-1] }", "optimize.explore.threads[0]: input should be greater than or equal to 0"),
        ("explore = { threads = [1.5] }", "optimize.explore.threads[0]: expected an integer, found a number 1.5"),
        ("explore = { threads = [1, 1] }", "optimize.explore.threads: each once, found 1 more than once"),
        ("explore = { threads = [] }", "optimize.explore.threads: expected at least one number of threads, found none"),
        ("explore = { budget_minutes = 0 }", "optimize.explore.budget_minutes: input should be greater than 0"),
        ("explore = { budget = 30 }", "optimize.explore.budget: unknown key; did you mean 'budget_minutes'?"),
    ],
)
def test_a_mistake_is_told_with_its_place(line: str, said: str) -> None:
    assert mistake(f"{SMALLEST}\n[optimize]\n{line}\n").startswith(f"toy.toml:12: {said}")


@pytest.mark.parametrize("how", ["head", "lora"])
def test_a_body_that_stays_frozen_can_not_be_pruned(how: str) -> None:
    frozen = f"{SMALLEST}\n[train]\ntrainable = '{how}'\n[optimize.explore]\n"
    assert any(f"train.trainable = '{how}' keeps them as they are" in said for said in mistakes(frozen))
    assert parse(f"{frozen}speedups = []\n").explore


def test_it_is_resolved_with_every_default_and_reads_back_the_same() -> None:
    asked = parse(f"{SMALLEST}\n[optimize]\nexplore = true\n")
    resolved = asked.resolved()["optimize"]["explore"]
    assert resolved == {"speedups": [1.25, 1.5, 2.0], "threads": [1, 0], "budget_minutes": 60.0}
    assert "[optimize.explore]" in toml(asked.resolved())
    assert "explore" not in parse(SMALLEST).resolved()["optimize"]
