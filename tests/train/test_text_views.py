"""Masked, cut and replaced words, on small real tokenizers."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from tlcompile.artifacts import TextSpec
from tlcompile.errors import RecipeError
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.runtime.feeds import text_feeder
from tlcompile.train.entities import has_entity, is_entity
from tlcompile.train.synonyms import NEAREST, Neighbours, whole_words
from tlcompile.train.text_views import TextView, in_span, text_view

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["a", "film", "good", "fine", "great", "bad", "poor", "in", "paris", "1999", ".", "un", "##like", "##ly"]
PAD, UNK, CLS, SEP, MASK = range(5)
ID = {word: i for i, word in enumerate(WORDS)}
TEXT = "a good film in Paris 1999 . unlikely bad"
IDS = [CLS, *(ID[w] for w in ["a", "good", "film", "in", "paris", "1999", ".", "un", "##like", "##ly", "bad"]), SEP]
MANY = range(400)


def tokenizer(mask: bool = True) -> Tokenizer:
    made = Tokenizer(models.WordPiece(ID, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(WORDS[: 5 if mask else 4])
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return made


def embedding() -> nn.Embedding:
    """good, fine and great point one way, bad and poor another; all else is far from both."""
    part = nn.Embedding(len(WORDS), 8)
    with torch.no_grad():
        part.weight.normal_(generator=torch.Generator().manual_seed(0))
        for place, names in ((0, ("good", "fine", "great")), (1, ("bad", "poor"))):
            for i, name in enumerate(names):
                part.weight[ID[name]] = 20 * torch.eye(8)[place] + 0.1 * i
    return part


@pytest.fixture
def network() -> Network:
    return Network(nn.Sequential(embedding()), TextSpec(16, PAD), (), tokenizer().to_str())


def seen(network: Network, texts: list[str], indices: Any = MANY, epoch: int = 0, **augment: Any) -> list[list[int]]:
    """The ids of each text without padding; one text is seen under all `indices`."""
    view = text_view(network, AugmentTable(**augment), 7, texts, None)
    assert view is not None
    inputs = view(texts * (len(indices) // len(texts)), epoch, indices)
    return [row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


def test_without_a_key_there_is_no_view(network: Network) -> None:
    assert text_view(network, AugmentTable(hflip=True), 7, [TEXT], None) is None


def test_a_view_that_changes_nothing_is_what_the_bundle_feeds(network: Network) -> None:
    assert network.tokenizer is not None
    assert isinstance(network.spec, TextSpec)
    texts = [TEXT, "bad", "a good film " * 9]
    expected = text_feeder(network.tokenizer, network.spec)(texts)
    view = TextView(Tokenizer.from_str(network.tokenizer), network.spec, AugmentTable(), 7)
    view.tokenizer.enable_truncation(16)
    found = view(texts, 0, [0, 1, 2])
    assert {name: array.tolist() for name, array in expected.items()} == {k: v.tolist() for k, v in found.items()}


def test_a_share_of_the_tokens_is_masked_and_never_a_special_one(network: Network) -> None:
    rows = np.array(seen(network, [TEXT], mask_tokens=0.3))
    masked = rows == MASK
    assert (rows[:, [0, -1]] == [CLS, SEP]).all()
    assert (rows[~masked] == np.tile(IDS, (len(rows), 1))[~masked]).all()
    assert masked[:, 1:-1].mean(axis=0) == pytest.approx([0.3] * 11, abs=0.1)


def test_only_entities_are_masked_where_entities_are_asked_for(network: Network) -> None:
    rows = np.array(seen(network, [TEXT], mask_entities=0.5))
    expected = [0.5 if token in (ID["paris"], ID["1999"]) else 0 for token in IDS]
    assert (rows == MASK).mean(axis=0) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("we saw Rome", True),
        ("Nice film. Very good! Indeed", False),
        ("NATO met", True),
        ("in 1999", True),
        ("I saw it", False),
        ("lower case only", False),
        ("", False),
    ],
)
def test_entities_are_capitals_inside_a_sentence_and_numbers(text: str, found: bool) -> None:
    assert has_entity(text) is found
    assert is_entity("Rome", 0, 4) is False


def test_texts_without_any_entity_are_told_of_once(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    seen(network, ["a good film"], mask_tokens=0.1)
    assert capsys.readouterr().err == ""
    rows = seen(network, ["a good film"], mask_entities=0.9)
    rows += seen(network, ["a good film"], mask_entities=0.9)
    assert capsys.readouterr().err.count("no capitalised word and no number in the training texts") == 1
    assert all(MASK not in row for row in rows)
    seen(network, [TEXT], mask_entities=0.9)
    assert capsys.readouterr().err == ""


def test_one_stretch_of_words_is_cut_and_every_stretch_at_some_time(network: Network) -> None:
    words = [IDS[1:2], *([i] for i in IDS[2:8]), IDS[8:11], IDS[11:12]]  # nine, one of three tokens
    expected = {(CLS, *(i for w in words[:k] + words[k + 3 :] for i in w), SEP) for k in range(7)}
    assert {tuple(row) for row in seen(network, [TEXT], cut_span=0.3)} == expected


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=12), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_cut_leaves_at_least_one_word_and_all_special_tokens(words: list[int], share: float, number: float) -> None:
    tokens = np.array(words)
    cut = in_span(tokens, share, number)
    assert not cut[tokens < 0].any()
    assert (tokens < 0).all() or not cut[tokens >= 0].all()


def test_whole_words_are_replaced_by_their_neighbours(network: Network) -> None:
    near = Neighbours.of_network(network.module, tokenizer())
    at = np.array([ID["good"]] * NEAREST)
    found = near.instead(at, np.ones(NEAREST, bool), np.arange(NEAREST) / NEAREST).tolist()
    assert set(found[:2]) == {ID["fine"], ID["great"]}
    assert ID["good"] not in found
    rows = np.array(seen(network, [TEXT], synonyms=0.5))
    changed = (rows != IDS).mean(axis=0)
    letters = [len(WORDS[i]) > 0 and WORDS[i].isalpha() and i != ID["un"] for i in IDS]
    assert changed == pytest.approx(np.where(letters, 0.5, 0), abs=0.1)
    assert not {int(i) for i in rows[:, 1:-1].ravel()} & {PAD, CLS, SEP, MASK, UNK}


def test_a_neighbour_is_of_the_embedding_as_it_was_at_the_start(network: Network) -> None:
    view = text_view(network, AugmentTable(synonyms=0.9), 7, [TEXT], None)
    assert view is not None
    before = view([TEXT], 0, [3])["input_ids"]
    with torch.no_grad():
        network.module[0].weight.normal_()  # type: ignore[index]
    again = pickle.loads(pickle.dumps(view))([TEXT], 0, [3])["input_ids"]
    assert torch.equal(before, again)


def test_whole_words_begin_with_the_vocabularys_mark() -> None:
    assert whole_words({"Ġgood": 0, "ing": 1, "Ġ1": 2, "Ġ": 3, "Ġbad": 4}) == [0, 4]
    assert whole_words({"good": 0, "##ing": 1, "[PAD]": 2}) == [0]


ALL = {"mask_tokens": 0.2, "mask_entities": 0.5, "cut_span": 0.3, "synonyms": 0.4}


def test_a_view_depends_on_seed_epoch_and_index_alone(network: Network) -> None:
    together = seen(network, [TEXT], range(20), **ALL)
    assert together == [seen(network, [TEXT], [i], **ALL)[0] for i in range(20)]
    assert together != seen(network, [TEXT], range(20), epoch=1, **ALL)
    assert len({tuple(row) for row in together}) > 10


def test_keys_that_the_network_can_not_serve_are_refused(network: Network) -> None:
    network.tokenizer = tokenizer(mask=False).to_str()
    with pytest.raises(RecipeError) as caught:
        seen(network, [TEXT], mask_tokens=0.1, mask_entities=0.1)
    assert [p.where for p in caught.value.problems] == ["train.augment.mask_tokens", "train.augment.mask_entities"]
    assert "has no mask token" in str(caught.value)
    network.module = nn.Sequential(nn.Embedding(3, 4))
    with pytest.raises(RecipeError, match="no embedding of its tokenizer's vocabulary"):
        seen(network, [TEXT], synonyms=0.1)
