"""The check of feeds that all backends share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy_graphs
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.artifacts import Signature
from tlcompile.compile._feed import Checked, mistakes
from tlcompile.errors import TlcompileError

sizes = st.integers(0, 4)


def told(feed: dict[str, Any], signature: Signature) -> list[str]:
    return [str(problem) for problem in mistakes(feed, signature)]


@given(st.lists(sizes, min_size=0, max_size=5), st.sampled_from(["uint8", "int8", "float32", ">u2"]))
def test_an_image_feed_is_accepted_exactly_when_it_fits(shape: list[int], dtype: str) -> None:
    fits = len(shape) == 4 and shape[3] == 3 and min(shape) > 0 and dtype == "uint8"
    assert (told({"image": np.zeros(shape, dtype)}, toy_graphs.IMAGE) == []) == fits


@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes))
def test_dimensions_of_one_name_must_agree_across_inputs(ids: tuple[int, int], mask: tuple[int, int]) -> None:
    feed = {"input_ids": np.zeros(ids, np.int64), "attention_mask": np.zeros(mask, np.int64)}
    assert (told(feed, toy_graphs.TEXT) == []) == (ids == mask and min(ids) > 0)


def test_all_mistakes_are_told_at_once_with_what_was_found_and_expected() -> None:
    feed = {"input_idz": np.zeros((2, 3), np.int64), "attention_mask": np.zeros((2, 0), np.float64)}
    assert told(feed, toy_graphs.TEXT) == [
        "feed: found an input 'input_idz', expected 'input_ids' or 'attention_mask'; did you mean 'input_ids'?",
        "feed: 'input_ids' is missing, expected int64 [batch,tokens]",
        "feed 'attention_mask': found dtype float64, expected int64",
        "feed 'attention_mask': found 0 on axis 1 (tokens), expected at least 1",
    ]


def test_a_list_is_not_an_array() -> None:
    assert told({"image": [[1]]}, toy_graphs.IMAGE) == [
        "feed 'image': found list, expected a numpy array of uint8 [batch,height,width,3]"
    ]


def test_an_error_of_the_runtime_becomes_ours() -> None:
    class Broken:
        def run(self, feed: dict[str, Any]) -> dict[str, Any]:
            raise RuntimeError("Exception from src/x.cpp:1:\nno memory\n")

        def close(self) -> None:
            pass

    with pytest.raises(TlcompileError, match=r"^some-runtime: the run failed: no memory$"):
        Checked(Broken(), toy_graphs.IMAGE, "some-runtime").run(toy_graphs.images(1))
