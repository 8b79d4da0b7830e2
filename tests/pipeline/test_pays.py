"""Which views and members stay."""

from __future__ import annotations

import numpy as np
import pytest

from tlcompile.artifacts import Labels
from tlcompile.pipeline import pays
from tlcompile.pipeline.pays import Held

NAMES = ("identity", "helps", "same", "hurts")


def held(n: int = 600, labels: Labels = "class", seed: int = 0, **changed: object) -> Held:
    """A plain voice, one with noise of its own, a copy of the first, and one that is always wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    clean = 1.5 * np.eye(3)[truth]
    plain, other = (clean + rng.normal(size=clean.shape) for _ in range(2))
    target: np.ndarray = np.eye(3, dtype=np.float32)[truth] if labels == "classes" else truth
    logits = np.stack([plain, other, plain, np.roll(clean, 1, axis=1)])
    return Held(NAMES, logits, target, labels, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", ["class", "classes"])
@pytest.mark.parametrize("way", ["probabilities", "logits", "learned"])
def test_a_voice_with_noise_of_its_own_stays_and_others_go(labels: Labels, way: str) -> None:
    found = pays.select(held(labels=labels, way=way), 0, 4)
    assert found["kept"][:2] == ["identity", "helps"]
    assert "hurts" not in found["kept"]
    assert found["after"] > found["before"]
    account = found["account"]
    assert account["corrected"] > account["corrupted"]
    weights = np.array(found["weights"])
    assert weights.shape == ((2, 3) if way == "learned" else (2,))
    assert np.abs(weights.sum(0) - 1).max() < 1e-9


def test_what_was_tried_says_why_it_is_not_kept() -> None:
    rows = {row["name"]: row for row in pays.select(held(), 0, 4)["tried"]}
    assert set(rows) == {"helps", "same", "hurts"}
    assert [name for name, row in rows.items() if row["kept"]] == ["helps"]
    assert rows["helps"]["p_better"] < 0.05 / 3
    assert rows["hurts"]["alone"]["corrupted"] > rows["hurts"]["alone"]["corrected"]
    assert rows["same"]["alone"] == {"n": 600, "corrected": 0, "corrupted": 0, "p": 1.0}


def test_no_more_than_the_budget_are_kept() -> None:
    assert pays.select(held(), 0, 1)["kept"] == ["identity"]


def test_of_too_few_examples_nothing_is_shown() -> None:
    found = pays.select(held(12), 0, 4)
    assert found["kept"] == ["identity"]
    assert found["weights"] == []
    assert found["account"] == {"n": 12, "corrected": 0, "corrupted": 0, "p": 1.0}


def test_noise_is_rarely_taken_for_a_gain() -> None:
    kept = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 3, 200)
        plain = 1.5 * np.eye(3)[truth] + rng.normal(size=(200, 3))
        copies = [plain + 0.01 * rng.normal(size=plain.shape) for _ in range(3)]
        found = pays.select(Held(NAMES, np.stack([plain, *copies]), truth, "class", equal=True), 0, 4)
        kept += len(found["kept"]) > 1
    assert kept <= 9  # 3 expected at a risk of 5 %


def test_the_best_voice_is_where_members_begin() -> None:
    mixed = held()
    order = [3, 1, 0, 2]
    turned = Held(tuple(NAMES[i] for i in order), mixed.logits[order], mixed.truth, "class")
    alone = [float(mixed.scores(mixed.answer(mixed.logits[i][None], None)).mean()) for i in order]
    assert alone[pays.best(turned)] == max(alone)


def test_equal_weights_are_none() -> None:
    assert pays.select(held(equal=True), 0, 4)["weights"] == []


def test_numbers_are_averaged_and_judged_by_their_error() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    logits = np.stack([truth[:, None] + rng.normal(size=(400, 1)) for _ in range(2)])
    found = pays.select(Held(("a", "b"), logits, truth, "number"), 0, 2)
    assert found["kept"] == ["a", "b"]
    assert found["after"] > found["before"] + 0.2
    assert found["diversity"] == {}
