"""Which views and members stay: those whose answer pays for its time on held-out examples.

Greedy forward selection (R. Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004, section 2): to
what is kept joins the voice that helps most, as long as it is shown to help. Shown means on examples that the weights
were not fitted on: their log scores rise with a one-sided paired p below ALPHA, divided by the number of voices that
were tried (Bonferroni), and no more answers are corrupted than corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlcompile.artifacts import Labels
from tlcompile.evaluate import combine
from tlcompile.evaluate.figures import scores
from tlcompile.optimize._views_mean import Activation, Aggregation, aggregate

ACTIVATIONS: dict[Labels, Activation] = {"class": "softmax", "classes": "sigmoid", "number": "identity"}


@dataclass(frozen=True)
class Held:
    """Logits [M, N, K] of all voices on held-out examples, and the truth as in `combine`."""

    names: tuple[str, ...]
    logits: np.ndarray
    truth: np.ndarray
    labels: Labels
    way: combine.Way = "probabilities"
    equal: bool = False  # no weights are fitted

    def fitted(self, kept: Sequence[int]) -> list[Any]:
        """Weights of the voices `kept`, by all examples: one a voice, of 'learned' a list for each; [] = equal ones."""
        weights = None if self.equal else combine.fit(self.logits[list(kept)], self.truth, self.labels, self.way)
        return [] if weights is None else _exact(weights).tolist()

    def answers(self, kept: Sequence[int]) -> np.ndarray:
        """Of the voices `kept`, float64 [N, K], each with weights fitted without it."""
        part = self.logits[list(kept)]
        if self.equal or len(kept) == 1:
            return self.answer(part, None)
        return combine.out_of_fold(part, self.truth, self.labels, self.way, self.answer)

    def answer(self, logits: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        way: Aggregation = "probabilities" if self.way == "learned" else self.way
        return aggregate(logits, ACTIVATIONS[self.labels], way, () if weights is None else weights)

    def log_scores(self, answers: np.ndarray) -> np.ndarray:
        return combine.log_scores(answers, self.truth, self.labels)

    def scores(self, answers: np.ndarray) -> np.ndarray:
        return scores(answers, self.truth, self.labels)


def _exact(weights: np.ndarray) -> np.ndarray:
    """Sums of exactly one as far as float32 goes: rounded to six digits, the rest given to the largest."""
    rounded = weights.round(6)
    rounded[rounded.argmax(0), *(() if rounded.ndim == 1 else (np.arange(rounded.shape[1]),))] += 1 - rounded.sum(0)
    return np.asarray(rounded)


def best(held: Held) -> int:
    """The voice that is best by itself: the highest score, of equals the likelier truth."""
    alone = [held.answer(voice[None], None) for voice in held.logits]
    return max(range(len(alone)), key=lambda i: (held.scores(alone[i]).mean(), held.log_scores(alone[i]).mean()))


def select(held: Held, first: int, most: int) -> dict[str, Any]:
    """What is kept of `held`, `first` and at most `most` voices: plain values, for `choice.json`.

    `tried` says of each other voice what it corrected and corrupted, its p, and whether it is kept.
    """
    kept = [first]
    tried: dict[int, dict[str, Any]] = {}
    others = [i for i in range(len(held.names)) if i != first]
    before = held.answers(kept)
    while len(kept) < most and (rest := [i for i in others if i not in kept]):
        after = {i: held.answers([*kept, i]) for i in rest}
        gains = {i: float(held.log_scores(a).mean() - held.log_scores(before).mean()) for i, a in after.items()}
        rows = {i: _row(held, first, i, before, a) for i, a in after.items()}
        joins = max(rest, key=lambda i: (rows[i]["kept"], gains[i]))
        tried |= {i: {**row, "kept": i == joins and row["kept"]} for i, row in rows.items()}
        if not rows[joins]["kept"]:
            break
        kept, before = [*kept, joins], after[joins]
    return {
        "kept": [held.names[i] for i in kept],
        "indices": kept,
        "weights": held.fitted(kept) if len(kept) > 1 else [],
        "tried": [tried[i] for i in others if i in tried],
        **_together(held, first, kept, before),
    }


def instead(held: Held) -> dict[str, Any]:
    """As `select`, of two voices of which one stays: the second where it is shown to be better than the first."""
    before, after = held.answers([0]), held.answers([1])
    row = _row(held, 0, 1, before, after)
    kept, answers = ([1], after) if row["kept"] else ([0], before)
    told = {"kept": [held.names[i] for i in kept], "indices": kept, "weights": [], "tried": [row]}
    return {**told, **_together(held, 0, kept, answers)}


def _row(held: Held, first: int, voice: int, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """What the voice does to the answers `before`, and `alone`: what it would do in the place of `first`."""
    account = combine.account(held.scores(before), held.scores(after))
    own = combine.account(*(held.scores(held.answers([i])) for i in (first, voice)))
    p = combine.p_better(held.log_scores(before), held.log_scores(after))
    pays = p < combine.ALPHA / (len(held.names) - 1) and account.corrected >= account.corrupted
    return {"name": held.names[voice], **account.to_json(), "p_better": p, "kept": pays, "alone": own.to_json()}


def _together(held: Held, first: int, kept: Sequence[int], answers: np.ndarray) -> dict[str, Any]:
    """The account of all that is kept against `first` alone, and how alike the voices are."""
    alone = held.scores(held.answers([first]))
    found = held.scores(answers)
    right = np.stack([held.scores(held.answer(held.logits[i][None], None)) for i in range(len(held.names))])
    return {
        "before": float(alone.mean()),
        "after": float(found.mean()),
        "account": combine.account(alone, found).to_json(),
        "each": {name: float(row.mean()) for name, row in zip(held.names, right, strict=True)},
        "diversity": combine.diversity(right) if right.dtype == bool else {},
    }
