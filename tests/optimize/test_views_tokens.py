"""How texts are framed and cut: what the tokenizer does, and what the loops that graphs are held against do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.families import exported, passed, text_folder
from tlcompile import parity
from tlcompile.artifacts import Feed, TextSpec
from tlcompile.models import transformers
from tlcompile.optimize._views_outputs import beginning
from tlcompile.optimize._views_tokens import Special, special_of
from tlcompile.runtime.feeds import text_feeder

FRAMES = {
    "[BOS] $A [EOS]": Special(first=True, last=True),
    "[BOS] $A": Special(first=True, last=False),
    "$A [EOS]": Special(first=False, last=True),
    "$A": Special(first=False, last=False),
}


def tokenizer(frame: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[BOS]": 1, "[EOS]": 2, "a": 3, "film": 4}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(frame, special_tokens=[("[BOS]", 1), ("[EOS]", 2)])
    return made


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_told_by_its_ends(tmp_path: Path, frame: str) -> None:
    tokenizer(frame).save(str(tmp_path / "tokenizer.json"))
    assert special_of(tmp_path / "tokenizer.json") == FRAMES[frame]


@settings(max_examples=50)
@given(st.sampled_from(sorted(FRAMES)), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(4, 12))
def test_a_beginning_is_what_the_tokenizer_would_have_left(frame: str, words: list[int], limit: int) -> None:
    content = tokenizer(frame).to_str()
    texts = ["a film " * (count // 2) + "a " * (count % 2) for count in words]
    longer, shorter = (text_feeder(content, TextSpec(most, 0))(texts) for most in (40, limit))
    found = beginning(longer, limit, FRAMES[frame])
    for key, expected in shorter.items():
        np.testing.assert_array_equal(found[key], expected)


def cut(feed: Feed) -> Feed:
    return beginning(feed, 16, Special())


def test_a_pass_with_views_of_documents_takes_whole_documents(tmp_path: Path) -> None:
    model = text_folder(tmp_path / "bert", "bert")
    network = transformers.build(transformers.Options.model_validate({"name": str(model), "max_length": 16}), 3)
    ids = np.array([[0, 5, 6, 2]])
    graph = exported(network, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}], tmp_path / "graph")
    made = passed("fuse_tta", graph, tmp_path / "tta", views=["head", "spans:2"], document_tokens=50)
    assert isinstance(made.signature.spec, TextSpec)
    assert made.signature.spec.max_length == 50
    ids = np.random.default_rng(0).integers(4, 18, (3, 50))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    [portable] = parity.run_graph(made.model, [feed])
    engine = openvino.Core().compile_model(made.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(engine(feed)["probabilities"] - portable["probabilities"]).max() < 1e-4
    assert (
        np.abs(portable["probabilities"] - parity.run_graph(graph.model, [cut(feed)])[0]["probabilities"]).max() > 0.01
    )
