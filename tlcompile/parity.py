"""Verify-each: after every step the same golden feeds are run and held against the step before.

A step states how far it may move the numbers (`Tolerance`); one that moves them further stops the build and is named.
The judge is ONNX Runtime on the CPU, so that a graph is judged before any backend has seen it. Q/DQ nodes are computed
as they are written, in fp32: integer kernels saturate on some CPUs, which is a matter of the engine, not of the graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlcompile.artifacts import Feed
from tlcompile.errors import ParityError, Problem


@dataclass(frozen=True)
class Tolerance:
    """`max_abs`: largest allowed difference of a probability. `agreement`: least share of equal top-1 labels."""

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

    @property
    def ok(self) -> bool:
        return self.max_abs <= self.tolerance.max_abs and self.agreement >= self.tolerance.agreement

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


def compare(rung: str, against: str, found: list[Feed], expected: list[Feed], tolerance: Tolerance) -> Rung:
    """How far the `probabilities` of `found` are from those of `expected`. NaN counts as infinitely far."""
    import numpy as np  # here: a recipe is checked, and tolerances are read, without it

    a = np.concatenate([f["probabilities"] for f in found]).astype(np.float64)
    b = np.concatenate([f["probabilities"] for f in expected]).astype(np.float64)
    if a.shape != b.shape:
        raise ParityError(Problem(rung, f"expected outputs of shape {b.shape} as from {against}, found {a.shape}"))
    gap = float(np.abs(a - b).max()) if np.isfinite(a).all() else float("inf")
    agreement = float((a.argmax(-1) == b.argmax(-1)).mean())
    return Rung(rung, against, gap, agreement, len(a), tolerance)


def check(rung: Rung) -> Rung:
    """`rung` if it is within tolerance, else ParityError that names it."""
    if not rung.ok:
        limits = rung.tolerance
        raise ParityError(
            Problem(
                rung.rung,
                f"changed the outputs too much against {rung.against} on {rung.n} golden examples: "
                f"largest difference of a probability {rung.max_abs:.4g} (allowed {limits.max_abs:g}), "
                f"same label {rung.agreement:.1%} (at least {limits.agreement:.0%})",
            )
        )
    return rung
