"""Ranges of shapes: what the recipe may say, what an engine is built with, which one a feed takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import toy_graphs
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tlcompile.artifacts import Graph
from tlcompile.compile._feed import in_pieces
from tlcompile.compile._profiles import Profile, ProfileOptions, Shapes, nearest_profile, pieces, shapes
from tlcompile.errors import TlcompileError


def image(*ranges: tuple[int, int, int]) -> list[Shapes]:
    """Profiles of these batches over images of 8 to 64 pixels."""
    first, *others = ranges
    options = ProfileOptions(batch=first, image_px=(8, 16, 64), profiles=tuple(Profile(batch=r) for r in others))
    return shapes(options, toy_graphs.IMAGE)


def test_ranges_out_of_order_are_all_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        ProfileOptions.model_validate(
            {"batch": [4, 1, 2], "image_px": [0, 1, 2], "tokens": ["1", 2, 3], "profiles": [{"batch": [2, 1, 1]}]}
        )
    places = [error["loc"] for error in caught.value.errors()]
    assert places == [("batch",), ("image_px",), ("tokens", 0), ("profiles", 0, "batch")]
    assert "expected 1 <= minimum <= best <= maximum, found [4, 1, 2]" in str(caught.value)


@given(st.tuples(*[st.integers(-1, 40)] * 3))
def test_a_range_is_accepted_exactly_when_it_is_in_order(found: tuple[int, int, int]) -> None:
    low, best, high = found
    if 1 <= low <= best <= high:
        assert ProfileOptions(batch=found).batch == found
    else:
        with pytest.raises(ValidationError):
            ProfileOptions(batch=found)


def test_shapes_come_from_the_ranges_and_the_signature() -> None:
    options = ProfileOptions(batch=(1, 2, 4), image_px=(8, 16, 32))
    assert shapes(options, toy_graphs.IMAGE) == [{"image": ((1, 8, 8, 3), (2, 16, 16, 3), (4, 32, 32, 3))}]
    text = ((1, 1), (2, 64), (4, 64))  # the model takes 64 tokens
    assert shapes(options, toy_graphs.TEXT) == [{"input_ids": text, "attention_mask": text}]


def test_a_further_range_leaves_out_what_is_as_in_the_first() -> None:
    options = ProfileOptions(
        batch=(1, 1, 1), tokens=(1, 8, 16), profiles=(Profile(batch=(1, 32, 64)), Profile(tokens=(17, 32, 64)))
    )
    found = [profile["input_ids"] for profile in shapes(options, toy_graphs.TEXT)]
    assert found == [((1, 1), (1, 8), (1, 16)), ((1, 1), (32, 8), (64, 16)), ((1, 17), (1, 32), (1, 64))]


def test_more_tokens_than_the_model_takes_are_refused() -> None:
    with pytest.raises(TlcompileError, match=r"found \[1, 64, 512\], but the model takes 64 at most"):
        shapes(ProfileOptions(tokens=(1, 64, 512)), toy_graphs.TEXT)


def test_two_ranges_that_are_the_same_are_refused() -> None:
    with pytest.raises(TlcompileError, match="two ranges are the same"):
        shapes(ProfileOptions(profiles=(Profile(tokens=(1, 8, 16)),)), toy_graphs.IMAGE)  # an image has no tokens


def test_an_unknown_key_of_a_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ProfileOptions.model_validate({"profiles": [{"batches": [1, 2, 3]}]})


def test_a_feed_takes_the_range_that_is_fastest_nearest_to_it() -> None:
    profiles = image((1, 1, 4), (1, 32, 64), (65, 65, 99))
    chosen = {batch: nearest_profile(profiles, {"image": (batch, 16, 16, 3)}) for batch in (1, 2, 4, 5, 32, 64, 80)}
    assert chosen == {1: 0, 2: 0, 4: 0, 5: 1, 32: 1, 64: 1, 80: 2}


@given(st.integers(1, 130), st.integers(1, 100))
def test_a_feed_outside_of_every_range_takes_none(batch: int, side: int) -> None:
    found = nearest_profile(image((1, 1, 4), (32, 32, 64)), {"image": (batch, side, side, 3)})
    assert (found is not None) == (8 <= side <= 64 and (batch <= 4 or 32 <= batch <= 64))


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=3))
def test_a_feed_is_cut_into_the_fewest_pieces_that_the_ranges_take(count: int, drawn: list[tuple[int, int]]) -> None:
    ranges = sorted({(low, low + more) for low, more in drawn})
    found = pieces(image(*((low, low, high) for low, high in ranges)), {"image": (count, 16, 16, 3)})
    sizes = {size for low, high in ranges for size in range(low, high + 1)}
    reached, calls = {0}, 0  # sums of so many sizes
    while count not in reached and calls < count:
        reached, calls = {total + size for total, size in itertools.product(reached, sizes) if total < count}, calls + 1
    assert len(found) == (calls if count in reached else 0)
    assert sum(found) == (count if found else 0)
    assert set(found) <= sizes


def test_only_examples_are_cut() -> None:
    """One range is for single large pictures, the other for several small ones."""
    ranges = (Profile(batch=(2, 4, 4), image_px=(8, 8, 16)),)
    profiles = shapes(ProfileOptions(batch=(1, 1, 1), image_px=(16, 64, 64), profiles=ranges), toy_graphs.IMAGE)
    for side, counts in ((8, (4, 2)), (16, (4, 2)), (64, (1,) * 6), (65, ()), (7, ())):
        assert pieces(profiles, {"image": (6, side, side, 3)}) == counts
    assert pieces(profiles, {"image": (7, 8, 8, 3)}) == (4, 3)
    assert pieces(profiles, {"image": (1, 8, 8, 3)}) == ()
    assert pieces(profiles, {"image": (3, 16, 64, 3)}) == (1, 1, 1)


@pytest.mark.parametrize("most", [1, 3])
def test_a_runtime_that_takes_few_examples_answers_a_larger_feed_like_its_graph(
    most: int, graphs: Callable[[str], Graph], tmp_path: Path
) -> None:
    model = onnx.load(graphs("fp32").model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = most
    onnx.save(model, tmp_path / "fixed.onnx")
    fixed, free = (onnxruntime.InferenceSession(str(p)) for p in (tmp_path / "fixed.onnx", graphs("fp32").model))
    names, feed = [o.name for o in free.get_outputs()], toy_graphs.images(6)
    with pytest.raises(Exception, match="Got: 6 Expected"):
        fixed.run(names, feed)
    profiles = shapes(ProfileOptions(batch=(most,) * 3, image_px=(8, 16, 64)), toy_graphs.IMAGE)
    counts = pieces(profiles, {name: value.shape for name, value in feed.items()})
    assert counts == (most,) * (6 // most)
    found = in_pieces(lambda part: dict(zip(names, fixed.run(names, part), strict=True)), feed, counts)
    for name, expected in zip(names, free.run(names, feed), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-6)
