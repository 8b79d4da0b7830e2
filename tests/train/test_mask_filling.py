"""Masks filled in by a tiny BERT whose bias says which words are likeliest: the way that texts take is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

from tlcompile.artifacts import TextSpec
from tlcompile.errors import RecipeError
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train import mask_filling
from tlcompile.train.mask_filling import filled
from tlcompile.train.text_views import text_view

CITIES = ["Rome", "Oslo", "Bonn", "Lima", "Kyiv"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "in", "Paris", "1999", *CITIES]
TEXT = "a film in Paris a film 1999"
TEXTS = [TEXT, *(f"a film in {word}" for word in CITIES), "a film"]
ALL = 0.999999


def save_model(root: Path, mask: bool = True) -> Path:
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special |= {"mask_token": "[MASK]"} if mask else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(root)
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=16, max_position_embeddings=40)
    )  # fmt: skip
    with torch.no_grad():
        model.cls.predictions.bias[-len(CITIES) :] = 50.0
        model.cls.predictions.bias[0] = 100.0  # no text is filled with padding, however likely
    model.save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("masked"))


def test_entities_become_one_of_the_five_likeliest_words_and_all_else_stays(folder: Path) -> None:
    seen = set()
    for seed in range(20):
        found = filled(TEXTS, folder, AugmentTable(mask_entities=ALL), seed, None)
        first, second = found[TEXT].removeprefix("a film in ").split(" a film ")
        assert {first, second} <= set(CITIES)
        assert found["a film"] == "a film"
        seen |= {first, second}
    assert len(seen) > 2


def test_a_share_of_the_words_is_replaced(folder: Path) -> None:
    texts = [" ".join(["a", "film"] * n) for n in range(5, 18)]
    found = filled(texts, folder, AugmentTable(mask_tokens=0.3), 1, None)
    words = [word for text in found.values() for word in text.split()]
    assert set(words) == {"a", "film", *CITIES}
    assert sum(word in CITIES for word in words) / len(words) == pytest.approx(0.3, abs=0.08)


def test_what_is_filled_is_a_function_of_seed_and_text_and_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = AugmentTable(mask_entities=ALL)
    found = filled(TEXTS, folder, augment, 1, tmp_path)
    assert found == filled(TEXTS[::-1], folder, augment, 1, None)
    assert found != filled(TEXTS, folder, augment, 2, tmp_path)
    monkeypatch.setattr(mask_filling, "Filler", None)  # nothing is left to fill
    assert filled(TEXTS, folder, augment, 1, tmp_path) == found


def view(folder: Path, **augment: Any) -> Any:
    tokenizer = (folder / "tokenizer.json").read_text()
    network = Network(nn.Identity(), TextSpec(16), (), tokenizer)
    return text_view(network, AugmentTable(fill_masks=str(folder), **augment), 7, TEXTS, None)


def test_about_half_of_the_texts_are_seen_filled_and_none_with_a_mask(folder: Path) -> None:
    made = view(folder, mask_entities=ALL)
    inputs = made([TEXT] * 400, 0, range(400))["input_ids"]
    assert not (inputs == WORDS.index("[MASK]")).any()
    assert int((inputs == WORDS.index("Paris")).any(1).sum()) == pytest.approx(200, abs=40)


def test_what_is_no_masked_language_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.augment\.fill_masks: '.*' holds no model"):
        filled(TEXTS, tmp_path, AugmentTable(mask_entities=0.5), 1, None)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RecipeError, match=r"fill_masks: '.*' can't be loaded as a masked language model"):
        filled(TEXTS, tmp_path, AugmentTable(mask_entities=0.5), 1, None)
    without = save_model(tmp_path / "without", mask=False)
    with pytest.raises(RecipeError, match=r"fill_masks: the tokenizer in '.*' is not a fast one with a mask token"):
        filled(TEXTS, without, AugmentTable(mask_entities=0.5), 1, None)
