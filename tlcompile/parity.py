"""Verify-each: after every step the same golden feeds are run and held against the step before.

A step states how far it may move the numbers (`Tolerance`); one that moves them further stops the build and is named.
The judge is ONNX Runtime on the CPU, so that a graph is judged before any backend has seen it. Q/DQ nodes are computed
as they are written, in fp32: integer kernels saturate on some CPUs, which is a matter of the engine, not of the graph.
bf16 is emulated, see `emulation`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlcompile.artifacts import Feed, ImageSpec, Labels, Signature
from tlcompile.emulation import computable
from tlcompile.errors import ParityError, Problem, first_line
from tlcompile.probes import cut, jittered

SAME_NUMBER = 0.25
"""Two numbers closer than this, in standard deviations of the target, count as the same."""


@dataclass(frozen=True)
class Tolerance:
    """`max_abs`: largest allowed difference of a probability, or of a number in its standard deviations.

    `agreement`: least share of equal labels; of numbers, of those that are less than a quarter of that apart.
    `logits`: largest root mean square difference of the logits, in units of their own spread; None: not looked at.
    """

    max_abs: float
    agreement: float
    logits: float | None = None


SAME = Tolerance(max_abs=0.01, agreement=0.9, logits=3e-4)
"""Of a step that computes the same in another order: the logits decide."""
REWRITTEN = Tolerance(max_abs=1e-4, agreement=1.0, logits=3e-4)
"""Of a pass that writes the same sums in other nodes."""
ROUNDING = {"fp32": 1e-3, "fp16": 5e-3, "bf16": 0.04}
ROUNDING_INT8 = 0.05
"""What the logits of an engine may always be off from those of its own graph: in fp32 by the order of sums."""
LOWERED = {"f16": 0.05, "tf32": 0.05, "bf16": 0.2}
"""What they may be off where the recipe lets the engine itself compute in a lower precision than its graph."""


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
    logits: float | None = None

    @property
    def ok(self) -> bool:
        near = self.max_abs <= self.tolerance.max_abs and self.agreement >= self.tolerance.agreement
        return near and (self.logits is None or self.tolerance.logits is None or self.logits <= self.tolerance.logits)

    @property
    def found(self) -> str:
        """What was measured beside what is allowed, in words; what any figure would satisfy is left out."""
        number, allowed, parts = self.labels == "number", self.tolerance, []
        if self.logits is not None and allowed.logits is not None:
            parts.append(f"logits off by {self.logits:.2%} of their spread (allowed {allowed.logits:.2%})")
        if allowed.max_abs < 1 or number:
            error = "an answer, in standard deviations of the target," if number else "a probability"
            parts.append(f"largest error of {error} {self.max_abs:.4g} (allowed {allowed.max_abs:g})")
        if allowed.agreement > 0:
            same = "same within a quarter" if number else "same label"
            parts.append(f"{same} {self.agreement:.1%} (at least {allowed.agreement:.0%})")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def run_graph(model: Path, feeds: list[Feed], inner: tuple[str, ...] = ()) -> list[Feed]:
    """The outputs of an ONNX file in ONNX Runtime and its tensors `inner`, one dict a feed.

    ParityError where it does not load or run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(_source(model, inner), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    except Exception as error:  # the classes of onnxruntime have no base of their own
        reason = first_line(error)
        raise ParityError(Problem(model.name, f"ONNX Runtime refuses the graph: {reason}")) from error


def _source(model: Path, inner: tuple[str, ...]) -> str | bytes:
    """What ONNX Runtime loads: the file, or the graph as it can compute it, with the tensors `inner` as outputs."""
    import onnx

    loaded = onnx.load(model)
    source = computable(loaded)
    if source is loaded and not inner:
        return str(model)
    source.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    content: bytes = source.SerializeToString()
    return content


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
    moved = logits_moved(found, expected, labels)
    return Rung(rung, against, gap, float(same.mean()), len(a), tolerance, labels, moved)


def logits_moved(found: list[Feed], expected: list[Feed], labels: Labels = "class") -> float | None:
    """Root mean square difference of the logits, in standard deviations of the expected ones; None without logits.

    Of classes the mean over each example's logits is taken off first: it changes no probability. NaN is infinite.
    """
    import numpy as np

    if not all("logits" in out for out in (*found, *expected)):
        return None
    a, b = (np.concatenate([out["logits"] for out in side]).astype(np.float64) for side in (found, expected))
    if labels == "class":
        a, b = (value - value.mean(-1, keepdims=True) for value in (a, b))
    spread = max(float(b.std()), 1e-3 * float(np.abs(b).max()), 1e-30)
    moved = float(np.sqrt(np.mean((a - b) ** 2))) / spread
    return moved if np.isfinite(moved) else float("inf")


def probes(feeds: list[Feed], signature: Signature) -> list[Feed]:
    """What an engine is asked: `feeds`, and of images the same pictures cut to the size of the network's own."""
    return [*feeds, *cut(feeds, signature)]


def compare_engine(
    rung: str,
    before: dict[str, Any],
    answers: list[Feed],
    model: Path,
    feeds: list[Feed],
    precision: str,
    signature: Signature,
    options: dict[str, Any] | None = None,
) -> list[Rung]:
    """How far an engine is from its own graph `model`; `answers` are its own to `probes(feeds)`.

    `options` are those of its backend, which may let it compute in a lower precision than its graph.

    `before` is the last rung of that graph. On pictures as they come, where an engine may round pixels otherwise, it
    may be further by as much as the graph moves when every pixel moves by one grey level.
    """
    allowed = engine_limit(before, precision, options or {})
    expected = run_graph(model, probes(feeds, signature))
    name, count = before["rung"], len(feeds)
    if not isinstance(signature.spec, ImageSpec):
        return [compare(rung, name, answers, expected, Tolerance(1.0, 0.0, allowed), signature)]
    golden, exact = expected[:count], expected[count:]
    sway = logits_moved(run_graph(model, jittered(feeds)), golden, signature.labels) or 0.0
    limits = Tolerance(1.0, 0.0, allowed + sway), Tolerance(1.0, 0.0, allowed)
    return [
        compare(rung, name, answers[:count], golden, limits[0], signature),
        compare(f"{rung} (exact pixels)", name, answers[count:], exact, limits[1], signature),
    ]


def engine_limit(before: dict[str, Any], precision: str, options: dict[str, Any]) -> float:
    """How far the logits of an engine may be from those of its graph, whose last rung is `before`.

    `sway` is what its logits move where examples at the border of an early exit go the other way.
    In a lower precision as far as that precision moved the graph, and a quarter more, for other pictures: kernels round
    between layers too, and a network amplifies both alike. Of trained networks a quarter was seen, of random ones all.
    """
    allowed = max(ROUNDING.get(precision, ROUNDING_INT8), _lowered(options))
    sway = float(before.get("sway", {}).get("logits") or 0.0)
    return sway + (allowed if precision == "fp32" else max(allowed, 1.25 * (before.get("logits") or 0.0)))


def _lowered(options: dict[str, Any]) -> float:
    asked = {"tf32"} if options.get("tf32") else set()
    asked |= {str(options.get(key)) for key in ("precision", "weights")} & set(LOWERED)
    if options.get("precision") == "auto" and options.get("device", "CPU") != "CPU":
        asked.add("f16")  # what GPUs and NPUs take by themselves
    return max((LOWERED[name] for name in asked), default=0.0)


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
