"""What is said about times. No test asserts how fast anything is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from tlcompile import compile as backends
from tlcompile.errors import TlcompileError
from tlcompile.evaluate import latency


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def told(seconds: np.ndarray, batch: int = 1) -> dict[str, object]:
    return latency.summary(seconds, batch, rng())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(1e-6, 10), min_size=3, max_size=3), min_size=2, max_size=20),
    st.integers(1, 64),
)
def test_percentiles_are_in_order_and_throughput_is_examples_by_mean_time(rows: list[list[float]], batch: int) -> None:
    seconds = np.array(rows)
    found = latency.summary(seconds, batch, rng())
    order = [found["p50_ms"], found["p90_ms"], found["p99_ms"], found["max_ms"]]
    assert order == sorted(order)
    low, high = found["p50_interval_ms"]
    assert low <= high
    assert found["throughput_per_s"] == pytest.approx(batch / seconds.mean(), rel=1e-3)
    assert found["n"] == seconds.size


def test_steady_times_are_not_called_noisy() -> None:
    found = told(rng().normal(0.010, 0.0002, (30, 10)))
    assert found["noisy"] == ""
    assert found["p50_ms"] == pytest.approx(10, rel=0.01)


def test_rounds_that_disagree_are_called_noisy_though_calls_within_them_agree() -> None:
    rounds = rng().choice([0.010, 0.014], (30, 1)) + rng().normal(0, 0.00001, (30, 10))
    noisy = str(told(rounds)["noisy"])
    assert noisy.startswith("too noisy to decide: the median's 95 % interval is ")


def test_a_machine_that_slows_down_half_way_is_told() -> None:
    rounds = np.full((30, 10), 0.010)
    rounds[15:] = 0.012
    assert "second half of the rounds was" in str(told(rounds)["noisy"])
    assert "slower" in str(told(rounds)["noisy"])


def test_the_interval_of_the_median_covers_it_about_as_often_as_it_says() -> None:
    generator, covered = rng(), 0
    for _ in range(100):
        rounds = 10 + generator.normal(0, 1, (20, 1)) + generator.normal(0, 0.3, (20, 10))
        low, high = latency._interval(rounds, generator)
        covered += low <= 10 <= high
    assert 0.87 <= covered / 100 <= 0.99


def test_a_ratio_by_rounds_does_not_see_a_machine_that_gets_slower_or_stops_for_a_moment() -> None:
    speed = np.linspace(1, 2, 20)[:, None] * rng().uniform(0.8, 1.2, (20, 1))
    one, two = 0.7 * speed * np.ones((20, 10)), speed * np.ones((20, 10))
    one[3] *= 5  # something else ran
    two[::2, :7] *= 9
    assert latency.by_round(one, two) == pytest.approx(0.7)
    assert np.median(one) / np.median(two) != pytest.approx(0.7, rel=1e-3)


@pytest.mark.parametrize(("calls", "words"), [(200, "with probability 13% the true p99 is above"), (662, "are enough")])
def test_a_p99_says_how_far_it_can_be_trusted(calls: int, words: str) -> None:
    assert words in str(told(np.full((calls // 2, 2), 0.01))["p99_note"])


def test_times_have_four_significant_digits() -> None:
    found = told(np.full((4, 10), 0.0012345678), batch=8)
    assert (found["p50_ms"], found["throughput_per_s"]) == (1.235, 6480.0)


def test_a_feed_is_put_in_words() -> None:
    assert latency.in_words(toy_graphs.images(2, 24, 20)) == "image uint8 2x24x20x3"
    assert latency.in_words(toy_graphs.texts(1, 7)) == "input_ids int64 1x7, attention_mask int64 1x7"


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(TlcompileError, match="found runs = 19, expected at least 20"):
        latency.measure({}, {}, 19)


def test_an_engine_is_timed_on_many_examples_each_in_its_turn(tmp_path: Path) -> None:
    graph, engine = toy_graphs.image_graph(tmp_path / "graph"), tmp_path / "engine"
    engine.mkdir()
    backends.build("onnxruntime", toy_graphs.options_of("onnxruntime"), graph, "fp32", engine)
    small, large = toy_graphs.images(1, 8, 8), toy_graphs.images(1, 900, 900)
    found = []
    for feeds in ([small] * 9 + [large], [large] * 9 + [small]):
        own = latency.Own({"one": feeds})
        [times] = latency.measure({"one": engine}, {1: own}, runs=40)["one"]["batches"].values()
        assert times["examples"] == 10
        assert times["n"] == 40
        assert times["mean_interval_ms"][0] <= times["mean_ms"] <= times["mean_interval_ms"][1]
        found.append(times)
    mostly_small, mostly_large = found
    assert mostly_large["p50_ms"] > 2 * mostly_small["p50_ms"]
    assert mostly_small["examples_mean_ms"] > mostly_small["p50_ms"]


def test_of_an_example_the_median_of_its_calls_counts() -> None:
    seconds = np.array([[0.001, 0.005], [0.001, 0.005], [0.9, 0.005]])  # one call was interrupted
    assert latency.by_example(seconds, 2) == {"examples": 2, "examples_mean_ms": 3.0}


def test_engines_are_measured_side_by_side_at_every_batch(tmp_path: Path) -> None:
    graph = toy_graphs.image_graph(tmp_path / "graph")
    engines = {}
    for threads in (1, 2):
        engines[f"t{threads}"] = tmp_path / f"t{threads}"
        engines[f"t{threads}"].mkdir()
        options = type(toy_graphs.options_of("onnxruntime"))(threads=threads)
        backends.build("onnxruntime", options, graph, "fp32", engines[f"t{threads}"])
    found = latency.measure(engines, {1: toy_graphs.images(1), 4: toy_graphs.images(4)}, runs=25)
    assert list(found) == ["t1", "t2"]
    for name, result in found.items():
        assert result["threads"] == int(name[1])
        assert result["device"] == backends.device("onnxruntime", toy_graphs.options_of("onnxruntime"))
        assert result["load_s"] > 0
        assert result["rss_mib"] > 10
        assert list(result["batches"]) == ["1", "4"]
        for batch, times in result["batches"].items():
            assert times["n"] == 30  # 25 rounded up to whole bursts
            assert times["warmup"] == 16
            assert times["p50_ms"] > 0
            assert times["feed"] == f"image uint8 {batch}x24x20x3"
