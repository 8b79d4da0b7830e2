"""Weights and temperatures of the passes that average are judged where the recipe is read, all mistakes at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy_recipe import mistakes, with_lines
from tlcompile.optimize._shares import shares
from tlcompile.recipe import parse

_POSITIVE = st.floats(0.01, 10)


def test_weights_that_do_not_sum_to_one_are_told_where_the_recipe_is_read() -> None:
    found = mistakes(
        with_lines(
            "[optimize.fuse_tta]",
            "weights = [0.5, 0.6]",
            "[optimize.fuse_ensemble]",
            'members = ["a.onnx"]',
            "weights = [[0.5, 0.5], [0.5, 0.4]]",
            "temperatures = [1.0, 0.0]",
        )
    )
    assert len(found) == 3
    first, second, third = found
    assert "optimize.fuse_tta.weights: weights are at least 0 and sum to one; found a sum of 1.1" in first
    assert "optimize.fuse_ensemble.weights: weights are at least 0 and sum to one in each class" in second
    assert "optimize.fuse_ensemble.temperatures" in third
    assert "greater than 0" in third


def test_weights_that_sum_to_one_are_taken() -> None:
    recipe = parse(with_lines("[optimize.fuse_tta]", "weights = [[0.5, 1], [0.5, 0]]"))
    [options] = [step.options for step in recipe.passes if step.name == "fuse_tta"]
    assert options.model_dump()["weights"] == ((0.5, 1.0), (0.5, 0.0))


@given(st.lists(_POSITIVE, min_size=1, max_size=6))
def test_shares_of_a_whole_are_taken_and_nothing_else(parts: list[float]) -> None:
    whole = tuple((np.array(parts) / sum(parts)).tolist())
    assert shares(whole) == whole
    with pytest.raises(ValueError, match="found a sum of"):
        shares(tuple(1.01 * part for part in whole))
    with pytest.raises(ValueError, match=r"the least -0\.5"):
        shares((*whole, -0.5, 0.5))


@pytest.mark.parametrize("uneven", [((0.5, 0.5), (0.5,)), (0.5, (0.5,))])
def test_a_list_for_each_class_is_as_long_for_every_voice(uneven: tuple[float | tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="lists of the same length"):
        shares(uneven)


def test_no_weights_are_equal_ones() -> None:
    assert shares(()) == ()
