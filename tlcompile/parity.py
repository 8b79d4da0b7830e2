"""Verify-each: after every step the same golden feeds are run and held against the step before.

A step states how far it may move the numbers (`Tolerance`); one that moves them further stops the build and is named.
The judge is ONNX Runtime on the CPU, so that a graph is judged before any backend has seen it. Q/DQ nodes are computed
as they are written, in fp32: integer kernels saturate on some CPUs, which is a matter of the engine, not of the graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlcompile.artifacts import Feed, Labels, Signature
from tlcompile.errors import ParityError, Problem

SAME_NUMBER = 0.25
"""Two numbers closer than this, in standard deviations of the target, count as the same."""


@dataclass(frozen=True)
class Tolerance:
    """`max_abs`: largest allowed difference of a probability, or of a number in its standard deviations.

    `agreement`: least share of equal labels; of numbers, of those that are less than a quarter of that apart.
    """

    max_abs: float
    agreement: float


@dataclass(frozen=True)
class Rung:
    """One step of the ladder from torch to the engine: what was compared with what, and how far apart they are."""

    rung: str
    against: str
    max_abs: float
    agreement: float
    n: int
    tolerance: Tolerance
    labels: Labels = "class"

    @property
    def ok(self) -> bool:
        return self.max_abs <= self.tolerance.max_abs and self.agreement >= self.tolerance.agreement

    @property
    def found(self) -> str:
        """What was measured beside what is allowed, in words."""
        number = self.labels == "number"
        error = "an answer, in standard deviations of the target," if number else "a probability"
        return (
            f"largest error of {error} {self.max_abs:.4g} (allowed {self.tolerance.max_abs:g}), "
            f"{'same within a quarter' if number else 'same label'} {self.agreement:.1%} "
            f"(at least {self.tolerance.agreement:.0%})"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def run_graph(model: Path, feeds: list[Feed]) -> list[Feed]:
    """The outputs of an ONNX file in ONNX Runtime, one dict a feed. ParityError where it does not load or run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    except Exception as error:  # the classes of onnxruntime have no base of their own
        raise ParityError(
            Problem(model.name, f"ONNX Runtime refuses the graph: {str(error).splitlines()[0]}")
        ) from error


def compare(
    rung: str,
    against: str,
    found: list[Feed],
    expected: list[Feed],
    tolerance: Tolerance,
    signature: Signature | None = None,
) -> Rung:
    """How far the answers of `found` are from those of `expected`. NaN counts as infinitely far.

    `signature` says what the answer is; the probabilities of classes where it is not given.
    """
    import numpy as np  # here: a recipe is checked, and tolerances are read, without it

    answer, unit = (signature.answer, signature.unit) if signature else ("probabilities", 1.0)
    labels: Labels = signature.labels if signature else "class"
    a = np.concatenate([f[answer] for f in found]).astype(np.float64) / unit
    b = np.concatenate([f[answer] for f in expected]).astype(np.float64) / unit
    if a.shape != b.shape:
        raise ParityError(Problem(rung, f"expected outputs of shape {b.shape} as from {against}, found {a.shape}"))
    gap = float(np.abs(a - b).max()) if np.isfinite(a).all() else float("inf")
    if labels == "class":
        same = a.argmax(-1) == b.argmax(-1)
    else:
        same = (a > 0.5) == (b > 0.5) if labels == "classes" else np.abs(a - b) < SAME_NUMBER
    return Rung(rung, against, gap, float(same.mean()), len(a), tolerance, labels)


def check(rung: Rung) -> Rung:
    """`rung` if it is within tolerance, else ParityError that names it."""
    if not rung.ok:
        raise ParityError(
            Problem(
                rung.rung,
                f"changed the outputs too much against {rung.against} on {rung.n} golden examples: {rung.found}",
            )
        )
    return rung
