"""Which layers to leave in fp32, so that int8 loses no more accuracy than allowed and is as fast as it can be.

1. Sensitivity: each layer is quantized alone; layers are put in order of how far that moves the answers.
2. The shortest beginning of that order is found, by bisection, that is acceptable when left in fp32.
3. Each layer of that beginning is tried in int8 again, the least sensitive first: what is acceptable stays so.
4. Where latency can be measured: all layers of one kind of operator are put back to fp32 where that is faster.

Acceptable is a drop whose upper confidence limit is below the margin. Where the examples are too few to show that
even of a graph that answers all of them alike, the drop itself is compared.

Each trial is remembered in a journal, so an interrupted search goes on where it was. The budget bounds step 1 (two
thirds of it) and step 3; bisection is always carried through. Layers that were not reached come last in the order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlcompile.optimize._graph import Wiring, attribute, has_weight
from tlcompile.optimize._qdq import kinds
from tlcompile.optimize._trials import Trial, Trials

if TYPE_CHECKING:
    import onnx

FOR_SENSITIVITY = 2 / 3
FASTER = 0.97  # a graph counts as faster below this share of the other's time: less is noise
Layer = tuple[str, ...]  # names of nodes that are quantized together: a product and the activation behind it


@dataclass(frozen=True)
class Found:
    """The nodes to leave in fp32, and what was tried: `record` is written beside the graph."""

    in_fp32: frozenset[str]
    record: dict[str, Any]


def layers_of(graph: onnx.GraphProto, excluded: Collection[str]) -> list[Layer]:
    """The quantizable layers in the graph's order."""
    wiring, chosen, found = Wiring(graph), kinds(graph), []
    behind: set[str] = set()
    for node in graph.node:
        if node.op_type not in chosen or node.name in excluded or node.name in behind:
            continue
        layer = [node.name]
        user = wiring.only_user(node.output[0]) if has_weight(wiring, node) else None
        if user is not None and user.op_type in ("Clip", "Relu") and user.op_type in chosen:
            layer.append(user.name)
        behind.update(layer)
        found.append(tuple(layer))
    return found


def kind_of(node: onnx.NodeProto) -> str:
    """The operator, and whether a convolution is depthwise: engines have one kernel for each."""
    return f"{node.op_type} depthwise" if attribute(node, "group", 1) > 1 else node.op_type


def search(
    trials: Trials,
    graph: onnx.GraphProto,
    layers: list[Layer],
    margin: float,
    budget_s: float,
    latency: Callable[[frozenset[str]], float] | None,
) -> Found:
    """The layers to leave in fp32; `latency` measures, in ms, the graph with the given nodes in fp32."""
    enough = trials.drop(trials.answers, trials.answers)[1] < margin
    acceptable: Callable[[Trial], bool] = lambda t: (t.upper if enough else t.drop) < margin  # noqa: E731
    order, found = _order(trials, layers, budget_s * FOR_SENSITIVITY)
    record: dict[str, Any] = {
        "examples": len(trials.answers),
        "margin": margin,
        "judged_by": "upper confidence limit of the drop" if enough else "the drop itself: too few examples",
        "layers": [{"nodes": layer, "divergence": found.get(layer)} for layer in order],
    }
    count, curve = _shortest(trials, order, acceptable)
    kept = _put_back(trials, order[:count], acceptable, budget_s)
    in_fp32 = frozenset(name for layer in kept for name in layer)
    record["curve"] = [{"in_fp32": k, **_facts(trial)} for k, trial in sorted(curve.items())]
    if latency is not None:
        in_fp32, record["latency"] = _fastest(graph, layers, in_fp32, latency)
    chosen = trials.run(in_fp32)
    record["chosen"] = {"in_fp32": sorted(in_fp32), **_facts(chosen), "acceptable": acceptable(chosen)}
    return Found(in_fp32, record)


def _facts(trial: Trial) -> dict[str, float]:
    return {"divergence": trial.divergence, "drop": trial.drop, "upper": trial.upper}


def _order(trials: Trials, layers: list[Layer], seconds: float) -> tuple[list[Layer], dict[Layer, float]]:
    """Layers, the most sensitive first, and how far each alone moves the answers; those not reached in time last."""
    found: dict[Layer, float] = {}
    for layer in layers:
        if trials.spent > seconds:
            break
        others = [name for other in layers if other != layer for name in other]
        found[layer] = trials.run(others).divergence
    return sorted(layers, key=lambda layer: -found.get(layer, -1.0)), found


def _shortest(trials: Trials, order: list[Layer], acceptable: Callable[[Trial], bool]) -> tuple[int, dict[int, Trial]]:
    """How many layers of the beginning of `order` must stay in fp32, and the trials that showed it.

    Bisection takes for granted that more layers in fp32 lose no more.
    """
    tried: dict[int, Trial] = {}

    def try_with(count: int) -> bool:
        tried[count] = trials.run(name for layer in order[:count] for name in layer)
        return acceptable(tried[count])

    if try_with(0):
        return 0, tried
    low, high = 0, len(order)  # not acceptable; acceptable: nothing is quantized
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if try_with(middle) else (middle, high)
    return high, tried


def _put_back(trials: Trials, kept: list[Layer], acceptable: Callable[[Trial], bool], budget_s: float) -> list[Layer]:
    """`kept` without the layers that may be quantized after all, tried from the least sensitive one on.

    The last of them is not tried: without it the bisection found the choice unacceptable.
    """
    for layer in reversed(kept[:-1]):
        if trials.spent > budget_s:
            break
        fewer = [other for other in kept if other != layer]
        if acceptable(trials.run(name for other in fewer for name in other)):
            kept = fewer
    return kept


def _fastest(
    graph: onnx.GraphProto, layers: list[Layer], in_fp32: frozenset[str], latency: Callable[[frozenset[str]], float]
) -> tuple[frozenset[str], list[dict[str, Any]]]:
    """`in_fp32` and every kind of layer whose int8 form makes the engine slower."""
    nodes = {node.name: node for node in graph.node}
    groups: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        groups[kind_of(nodes[layer[0]])].update(layer)
    best = latency(in_fp32)
    measured: list[dict[str, Any]] = [{"also_in_fp32": "", "ms": best, "kept": True}]
    for kind, names in groups.items():
        wider = in_fp32 | names
        if wider == in_fp32 or len(groups) == 1:
            continue
        ms = latency(wider)
        faster = ms < FASTER * best
        measured.append({"also_in_fp32": kind, "ms": ms, "kept": faster})
        if faster:
            in_fp32, best = wider, ms
    return in_fp32, measured
