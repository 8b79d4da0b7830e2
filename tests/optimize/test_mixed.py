"""The search leaves the layers in fp32 that need it, within its budget, and goes on after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import toy_networks as toy
from tests.tiny import MODEL
from tlcompile.artifacts import Graph, read_json
from tlcompile.optimize import Context, _mixed, _qdq, _trials, quantize
from tlcompile.optimize._trials import Trial


class Known:
    """Trials whose outcome is known: each layer in int8 costs so much, and they add up."""

    answers = np.zeros((100, 2))

    def __init__(self, costs: dict[str, float], seconds: float = 0.0) -> None:
        self.costs, self.seconds, self.count = costs, seconds, 0

    @property
    def spent(self) -> float:
        return self.count * self.seconds

    def drop(self, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        return 0.0, 0.0

    def run(self, in_fp32: object) -> Trial:
        self.count += 1
        kept = set(in_fp32)  # type: ignore[call-overload]
        cost = sum(c for name, c in self.costs.items() if name not in kept)
        return Trial(cost, cost, cost, self.seconds)


COSTS = {"a": 0.001, "b": 0.02, "c": 0.002, "d": 0.3, "e": 0.0, "f": 0.009}


def sought(costs: dict[str, float], margin: float, **changed: object) -> _mixed.Found:
    layers = [(name,) for name in costs]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", [], [n], name=n) for n in costs], "g", [], [])
    settings: dict[str, Any] = {"budget_s": 60.0, "latency": None, **changed}
    return _mixed.search(settings.pop("trials", Known(costs)), graph, layers, margin, **settings)


@pytest.mark.parametrize(
    ("margin", "expected"), [(1.0, ""), (0.1, "d"), (0.015, "bd"), (0.011, "bdf"), (0.0011, "bcdf"), (0.0001, "abcdf")]
)
def test_the_fewest_layers_stay_in_fp32_and_they_are_the_most_sensitive(margin: float, expected: str) -> None:
    assert sought(COSTS, margin).in_fp32 == set(expected)


def test_a_layer_between_that_does_little_is_put_back_into_int8() -> None:
    """Together, `a` and `b` are harmless: only the first in the order and the last need fp32."""

    class Unlike(Known):
        def run(self, in_fp32: object) -> Trial:
            kept = set(in_fp32)  # type: ignore[call-overload]
            drop = 0.0 if {"d", "f"} <= kept else 1.0
            return replace(super().run(kept), drop=drop, upper=drop)

    assert sought(COSTS, 0.01, trials=Unlike(COSTS)).in_fp32 == {"d", "f"}


def test_a_spent_budget_ends_the_measuring_of_sensitivity_and_not_the_search() -> None:
    trials = Known(COSTS, seconds=1.0)
    found = sought(COSTS, 0.1, trials=trials, budget_s=3.0)
    reached = [layer for layer in found.record["layers"] if layer["divergence"] is not None]
    assert len(reached) == 3
    assert found.record["chosen"]["acceptable"]
    assert "d" in found.in_fp32


def test_too_few_examples_are_judged_by_the_drop_itself_and_it_is_said() -> None:
    class Few(Known):
        def drop(self, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
            return 0.0, 0.2

    found = sought(COSTS, 0.1, trials=Few(COSTS))
    assert found.in_fp32 == {"d"}
    assert found.record["judged_by"] == "the drop itself: too few examples"


def test_a_kind_of_layer_that_is_slower_in_int8_is_put_back() -> None:
    graph = toy_graph_of_kinds()
    times = {frozenset(): 10.0, frozenset("a"): 9.9, frozenset("b"): 7.0, frozenset("bc"): 8.0}
    layers = [("a",), ("b",), ("c",)]
    chosen, measured = _mixed._fastest(graph, layers, frozenset(), lambda names: times[names])
    assert chosen == {"b"}
    assert [m["kept"] for m in measured] == [True, False, True, False]


def toy_graph_of_kinds() -> onnx.GraphProto:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["1"], name="a"),
        onnx.helper.make_node("Conv", ["1", "w"], ["2"], name="b", group=8),
        onnx.helper.make_node("Gemm", ["2", "w"], ["3"], name="c"),
    ]
    return onnx.helper.make_graph(nodes, "kinds", [], [])


def context(work: Path, margin: float = 0.01) -> Context:
    return Context("x86", lambda: iter(toy.text_feeds()), work=work, margin=margin)


SEARCH = quantize.Options(search=True)


def bad_layer(folder: Path) -> Graph:
    """An encoder whose last norm has a channel 3,000 times larger: products behind it can't be in int8."""
    return toy.encoder(folder, outlier=3000.0)


def test_on_a_real_graph_what_the_search_leaves_in_fp32_keeps_the_answers(tmp_path: Path) -> None:
    graph = bad_layer(tmp_path / "graph")
    (tmp_path / "out").mkdir()
    quantize.apply(graph.model, SEARCH, context(tmp_path), tmp_path / "out" / "model.onnx")
    record = read_json(tmp_path / "out" / "search.json")
    assert record["chosen"]["acceptable"]
    assert record["curve"][0]["drop"] > 0.01, "with all layers in int8 it is not acceptable"
    assert 0 < len(record["chosen"]["in_fp32"]) < 4
    model = onnx.load(tmp_path / "out" / "model.onnx")
    read = {name for n in model.graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            assert (node.name in record["chosen"]["in_fp32"]) == (node.input[1] not in read)


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = bad_layer(tmp_path / "graph")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    quantize.apply(graph.model, SEARCH, context(tmp_path / "whole"), tmp_path / "whole" / "model.onnx")
    made = []
    write = _qdq.write

    def counted(*arguments: object) -> onnx.ModelProto:
        made.append(arguments[2])
        if len(made) == 4:  # the first names the journal
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr("tlcompile.optimize._qdq.write", counted)
    parts = context(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        quantize.apply(graph.model, SEARCH, parts, tmp_path / "parts" / "model.onnx")
    (journal,) = (tmp_path / "parts").glob("search-*.jsonl")
    assert len(journal.read_text().splitlines()) == 2
    journal.write_text(journal.read_text() + '{"choice": "half a li')
    quantize.apply(graph.model, SEARCH, parts, tmp_path / "parts" / "model.onnx")
    before, after = ({frozenset(m) for m in some} for some in (made[1:3], made[5:-1]))
    assert len(after) == len(made[5:-1]), "no choice is tried twice"
    assert not before & after
    for name in ("search.json", "model.onnx"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_question_does_not_read_the_journal_of_this_one(tmp_path: Path) -> None:
    graph = bad_layer(tmp_path / "graph")
    (tmp_path / "out").mkdir()
    for dialect in ("x86", "arm"):
        asked = replace(context(tmp_path), dialect=dialect)
        quantize.apply(graph.model, SEARCH, asked, tmp_path / "out" / "model.onnx")
    journals = [path.read_text().splitlines() for path in tmp_path.glob("search-*.jsonl")]
    assert len(journals) == 2
    assert all(json.loads(line)["seconds"] > 0 for lines in journals for line in lines)


def test_a_trial_runs_the_network_behind_its_preprocessing_and_answers_the_same(tmp_path: Path) -> None:
    import torch

    from tests.families import exported, feeds_of
    from tlcompile.models import timm

    torch.manual_seed(0)
    network = timm.build(timm.Options(**{k: v for k, v in MODEL.items() if k != "library"}), 3)
    feeds = feeds_of(network)
    model = onnx.load(exported(network, feeds, tmp_path).model)
    behind = _trials.behind_preprocessing(model)
    assert len(behind.graph.node) < len(model.graph.node) - 10
    once = _trials.preprocessed(model, feeds)
    found = _trials.run(_trials.session(behind), "probabilities", once)
    expected = _trials.run(_trials.session(model), "probabilities", feeds)
    assert np.abs(found - expected).max() < 1e-5
