"""Release gates: what the recipe asks of an artifact, and whether what was measured shows it.

A gate passes on evidence only. What was not measured well enough to tell fails and says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tlcompile.evaluate.statistics import Drop, MeanDrop
from tlcompile.recipe.tables import GatesTable


@dataclass(frozen=True)
class Verdict:
    """One gate on one target: `value` is what was measured, in the unit of `limit`; `why` is a sentence.

    A latency gate on an engine that can't run here is `deferred`: it does not fail the build, it is not proven either,
    and the manifest hands it on to the device.
    """

    target: str
    gate: str
    limit: float
    value: float | None
    passed: bool
    why: str
    deferred: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What gates look at. `accuracy` is the mean score, which sentences call `metric`.

    Latencies in milliseconds at batch 1, resident memory after batches; None = not measured (it can't run here).
    """

    accuracy: float
    drop: Drop | MeanDrop
    p50_ms: float | None
    p99_ms: float | None
    size_mb: float
    metric: str = "accuracy"
    memory_mb: float | None = None


def judge(gates: GatesTable, found: Measured, target: str) -> list[Verdict]:
    """A verdict for each gate that the recipe sets, on what was found of `target`."""
    verdicts = []
    if gates.min_accuracy is not None:
        why = f"{found.metric} {found.accuracy:.4f}"
        passed = found.accuracy >= gates.min_accuracy
        verdicts.append(Verdict(target, "min_accuracy", gates.min_accuracy, found.accuracy, passed, why))
    if gates.max_accuracy_drop is not None:
        verdicts.append(_drop(target, gates.max_accuracy_drop, found.drop))
    for gate, limit, value, unit in (
        ("max_latency_p50_ms", gates.max_latency_p50_ms, found.p50_ms, "ms"),
        ("max_latency_p99_ms", gates.max_latency_p99_ms, found.p99_ms, "ms"),
        ("max_size_mb", gates.max_size_mb, found.size_mb, "MB"),
        ("max_memory_mb", gates.max_memory_mb, found.memory_mb, "MB"),
    ):
        if limit is not None and value is None:
            why = "deferred: this engine can't run on this machine; to be shown on its device"
            verdicts.append(Verdict(target, gate, limit, None, True, why, deferred=True))
        elif limit is not None and value is not None:
            verdicts.append(Verdict(target, gate, limit, value, value <= limit, f"{value:.4g} {unit}"))
    return verdicts


def _drop(target: str, margin: float, drop: Drop | MeanDrop) -> Verdict:
    """Non-inferiority: the upper limit of the drop must be below the margin, not the drop itself."""
    why = (
        f"drop {100 * drop.drop:+.2f} points on {drop.n} examples ({drop.b} lost, {drop.c} won), "
        f"at most {100 * drop.upper:.2f} with {1 - drop.alpha:.0%} confidence"
    )
    passed = drop.upper < margin
    if not passed and drop.drop < margin:
        why += "; undecided: too few test examples to show it, use more or a wider margin"
    return Verdict(target, "max_accuracy_drop", margin, drop.upper, passed, why)
