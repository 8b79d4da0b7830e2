"""Trials of a mixed-precision search: what a choice of layers does to the answers, remembered on disk.

The graph is cut behind its preprocessing, whose output is computed once for each example: a trial runs the network
only. Q/DQ is computed as written, in fp32, as the judge of parity does.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import Feed, Labels
from tlcompile.optimize._graph import PREPROCESSING

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from tlcompile.artifacts import Signature
    from tlcompile.optimize import Context

BATCH = 16  # examples of one shape that a trial runs at once

Drop = Callable[[np.ndarray, np.ndarray], tuple[float, float]]
"""(fp32 answers, other answers) on the same examples -> (accuracy drop, its upper confidence limit)."""


@dataclass(frozen=True)
class Trial:
    """What a choice of layers costs: `divergence` of its answers from those of fp32, mean over the examples; the
    accuracy `drop` and the limit `upper` below which it is; `seconds` that finding out took."""

    divergence: float
    drop: float
    upper: float
    seconds: float


@dataclass
class Trials:
    """Runs choices of layers on `feeds`, batches behind the preprocessing; results are appended to `journal`."""

    make: Callable[[frozenset[str]], onnx.ModelProto]  # nodes left in fp32 -> the graph
    feeds: list[Feed]
    answers: np.ndarray  # of fp32, [n, K]
    answer: str  # name of the output
    labels: Labels
    drop: Drop
    journal: Path
    done: dict[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take what an interrupted search found; a last line that was not written to its end is left out."""
        lines = self.journal.read_text("utf-8").splitlines(keepends=True) if self.journal.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        self.journal.write_text("".join(whole), "utf-8")
        for line in map(json.loads, whole):
            name = line.pop("choice")
            self.done[name] = Trial(**line)

    @property
    def spent(self) -> float:
        """Seconds, of interrupted runs too."""
        return sum(trial.seconds for trial in self.done.values())

    def run(self, in_fp32: Iterable[str]) -> Trial:
        """The trial with the nodes `in_fp32` left as they are, all others quantized."""
        chosen = frozenset(in_fp32)
        name = hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()
        if name not in self.done:
            start = time.perf_counter()
            found = run(session(behind_preprocessing(self.make(chosen))), self.answer, self.feeds)
            gap = divergence(self.answers, found, self.labels)
            trial = Trial(gap, *self.drop(self.answers, found), time.perf_counter() - start)
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"choice": name, **asdict(trial)}) + "\n")
            self.done[name] = trial
        return self.done[name]


def start(
    model: onnx.ModelProto,
    make: Callable[[frozenset[str]], onnx.ModelProto],
    signature: Signature,
    context: Context,
    work: Path,
) -> Trials:
    """Trials on the validation examples of `context`, or those of calibration, with a journal in `work`.

    The journal is named after everything that a trial depends on beside its choice, so no other search reads it.
    """
    feeds = preprocessed(model, (context.validation or context.calibration)())
    answers = run(session(behind_preprocessing(model)), signature.answer, feeds)
    name, made = hashlib.sha256(answers.tobytes()), make(frozenset()).graph
    for part in sorted(part.SerializeToString(deterministic=True) for part in (*made.node, *made.initializer)):
        name.update(part)
    drop = context.drop or changed(signature.labels, signature.unit)
    journal = work / f"search-{name.hexdigest()}.jsonl"
    return Trials(make, feeds, answers, signature.answer, signature.labels, drop, journal)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def run(opened: onnxruntime.InferenceSession, answer: str, feeds: list[Feed]) -> np.ndarray:
    """The output `answer` of every example, [n, K]."""
    wanted = {value.name for value in opened.get_inputs()}
    given = ({name: value for name, value in feed.items() if name in wanted} for feed in feeds)
    return np.concatenate([opened.run([answer], feed)[0] for feed in given]).astype(np.float64)


def divergence(before: np.ndarray, after: np.ndarray, labels: Labels) -> float:
    """Mean KL divergence of the answers: of one distribution over classes, of one yes or no a class; for numbers the
    mean squared difference."""
    if labels == "number":
        return float(((before - after) ** 2).mean())
    p, q = before.clip(1e-9, 1), after.clip(1e-9, 1)
    gaps = p * np.log(p / q)
    if labels == "classes":
        gaps = gaps + (1 - p).clip(1e-9) * np.log((1 - p).clip(1e-9) / (1 - q).clip(1e-9))
    return float(gaps.sum(-1).mean())


def changed(labels: Labels, unit: float) -> Drop:
    """A drop without labels: the share of answers that are no longer those of fp32. Never less than the true drop."""
    from tlcompile.parity import SAME_NUMBER

    def drop(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        if labels == "class":
            other = before.argmax(-1) != after.argmax(-1)
        elif labels == "classes":
            other = (before > 0.5) != (after > 0.5)
        else:
            other = np.abs(before - after) >= SAME_NUMBER * unit
        return float(other.mean()), float(other.mean())

    return drop


def behind_preprocessing(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the preprocessing: what it gives to the network becomes an input."""
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    first, rest = _halves(model.graph)
    crossing = _crossing(first, rest)
    copy.graph.ClearField("node")
    copy.graph.node.extend(rest)
    read = {name for node in rest for name in node.input}
    kept = [value for value in model.graph.input if value.name in read]
    copy.graph.ClearField("input")
    copy.graph.input.extend([*kept, *(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in crossing)])
    return copy


def preprocessed(model: onnx.ModelProto, feeds: Iterable[Feed]) -> list[Feed]:
    """The feeds of `behind_preprocessing`, with examples of one shape in batches."""
    from tlcompile.optimize._observe import observe

    crossing = _crossing(*_halves(model.graph))
    if not crossing:
        return list(feeds)
    found = list(observe(model, crossing, feeds))
    batches: list[list[Feed]] = []
    for feed in found:
        fits = batches and len(batches[-1]) < BATCH and _shapes(batches[-1][0]) == _shapes(feed)
        if fits:
            batches[-1].append(feed)
        else:
            batches.append([feed])
    return [{name: np.concatenate([feed[name] for feed in batch]) for name in crossing} for batch in batches]


def _shapes(feed: Feed) -> list[tuple[int, ...]]:
    return [value.shape[1:] for value in feed.values()]


def _halves(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Nodes of the preprocessing, and the others. Q/DQ nodes are named after their tensor and belong to the others."""
    is_first = [n.name.startswith(PREPROCESSING) and "QuantizeLinear" not in n.op_type for n in graph.node]
    nodes = list(zip(graph.node, is_first, strict=True))
    return [n for n, first in nodes if first], [n for n, first in nodes if not first]


def _crossing(first: list[onnx.NodeProto], rest: list[onnx.NodeProto]) -> list[str]:
    made = {name for node in first for name in node.output}
    return list(dict.fromkeys(name for node in rest for name in node.input if name in made))
