from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tlcompile.report.confusion import draw_confusion
from tlcompile.report.curves import draw_curves
from tlcompile.report.predictions import draw_predictions
from tlcompile.report.scatter import draw_variants, frontier
from tlcompile.report.style import names


def drawn(path: Path) -> np.ndarray:
    """The picture; fails where it is blank."""
    pixels = np.asarray(Image.open(path).convert("L"))
    assert (pixels < 128).mean() > 0.001
    return pixels


@pytest.mark.parametrize("classes", [2, 10, 25, 26, 100, 150])
def test_a_confusion_matrix_of_any_size_fits_a_screen(classes: int, tmp_path: Path) -> None:
    matrix = (np.eye(classes, dtype=int) * 9 + 1).tolist()
    labels = [f"a class with the number {i}" for i in range(classes)]
    assert draw_confusion({"confusion": matrix, "classes": labels}, tmp_path / "c.png")
    height, width = drawn(tmp_path / "c.png").shape
    assert 250 < height < 1900
    assert 300 < width < 1900


def test_class_names_in_any_script_are_drawn_without_a_warning(tmp_path: Path) -> None:
    facts = {"confusion": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "classes": ["好评", "$x_1^{$", "für\nalle"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_confusion(facts, tmp_path / "c.png")


def test_a_name_is_cut_in_the_middle_and_an_undrawable_one_is_its_index() -> None:
    assert names(["card_payment_wrong_exchange_rate", "好评", "ok", " "]) == [
        "card_payment_…xchange_rate",
        "#1",
        "ok",
        "#3",
    ]


def test_a_class_without_examples_does_not_divide_by_zero(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_confusion({"confusion": [[0, 0], [0, 4]]}, tmp_path / "c.png")


@pytest.mark.parametrize("epochs", [1, 2, 5, 60, 1000])
def test_curves_of_any_length_have_whole_epochs(epochs: int, tmp_path: Path) -> None:
    history = [{"epoch": e, "train_loss": 1 / e, "val_loss": None, "val_accuracy": 0.5} for e in range(1, epochs + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_curves({"history": history}, tmp_path / "c.png")
    drawn(tmp_path / "c.png")


def test_variants_without_latency_are_left_out(facts: dict[str, Any], tmp_path: Path) -> None:
    assert draw_variants(facts, tmp_path / "v.png")
    drawn(tmp_path / "v.png")
    facts["variants"] = facts["variants"][2:]
    assert not draw_variants(facts, tmp_path / "w.png")
    assert not (tmp_path / "w.png").exists()


@pytest.mark.parametrize("many", [3, 24, 40])
def test_the_names_of_many_variants_all_fit_beside_the_points(facts: dict[str, Any], tmp_path: Path, many: int) -> None:
    one = facts["variants"][1]
    facts["variants"] = [
        {**one, "engine": f"compile/openvino/ensemble-{i}-int8", "variant": str(i)} for i in range(many)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_variants(facts, tmp_path / "v.png")
    right = drawn(tmp_path / "v.png")[:, -150:] < 128
    assert not right[:4].any()
    assert not right[-4:].any()
    assert int(np.diff(right.any(axis=1).astype(int)).clip(0).sum()) >= many, "a line of text for each"


def test_of_many_explored_engines_only_the_frontier_is_named(facts: dict[str, Any], tmp_path: Path) -> None:
    def height(of_frontier: int) -> int:
        """Rows of pixels that the legend writes on."""
        one = facts["variants"][1]
        rows = [{**one, "engine": f"compile/engine-{i}", "frontier": i < of_frontier} for i in range(9)]
        assert draw_variants({**facts, "variants": rows}, tmp_path / f"{of_frontier}.png")
        right = drawn(tmp_path / f"{of_frontier}.png")[:, -150:]
        return int((right < 128).any(axis=1).sum())

    assert 0 < height(2) < height(8) / 2


def test_explored_precisions_whose_names_end_alike_have_marks_of_their_own(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    def picture(*precisions: str) -> np.ndarray:
        one = {**facts["variants"][1], "engine": "compile/engine", "frontier": True}
        rows = [{**one, "precision": p, "variant": p} for p in precisions]
        assert draw_variants({**facts, "variants": rows}, tmp_path / "v.png")
        return drawn(tmp_path / "v.png")

    assert (picture("int8", "dynamic-int8") != picture("int8", "int8")).any()
    assert (picture("int8", "dynamic-int8") == picture("int8", "fp32")).all()


@pytest.mark.parametrize("limit", [0.0, 0.5, 0.92, 1.0])
def test_a_gate_far_from_the_points_does_not_squash_them(facts: dict[str, Any], tmp_path: Path, limit: float) -> None:
    facts["gates"] = [{"gate": "min_accuracy", "limit": limit}, {"gate": "max_latency_p50_ms", "limit": limit * 1000}]
    assert draw_variants(facts, tmp_path / "v.png")
    drawn(tmp_path / "v.png")


def test_nothing_is_drawn_from_nothing(tmp_path: Path) -> None:
    for draw in (draw_variants, draw_curves, draw_confusion):
        assert not draw({}, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pairs", [[[1.0, 1.5], [2.0, 1.8], [3.0, 3.1]], [[2.0, 2.0]]])
def test_numbers_are_drawn_as_they_are_against_as_they_were_predicted(pairs: list[list[float]], tmp_path: Path) -> None:
    assert draw_predictions({"predictions": pairs, "data": {"target": {"name": "price"}}}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    assert not draw_predictions({"predictions": []}, tmp_path / "none.png")


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_frontier_holds_every_point_that_no_other_beats(points: list[tuple[float, float]]) -> None:
    best = frontier(points)
    for latency, accuracy in points:
        assert any(fast <= latency and good >= accuracy for fast, good in best)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(best))
