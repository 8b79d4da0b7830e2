"""There and back with two tiny Marian models of random weights: their words mean nothing, the way they take is real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tlcompile.artifacts import TextSpec
from tlcompile.errors import RecipeError
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train import back_translation
from tlcompile.train.back_translation import DIRECTIONS, Translator, back_translated
from tlcompile.train.text_views import text_view

WORDS = ["<pad>", "</s>", "<unk>", "a", "good", "bad", "film", "very", "not"]
TEXTS = ["a good film", "very bad", "not a bad film", "a good film", *(f"very {w}" for w in WORDS[3:])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("translation")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = MarianConfig(
        vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=12,
        pad_token_id=0, eos_token_id=1, forced_eos_token_id=1, decoder_start_token_id=0, init_std=1.0,
    )  # fmt: skip
    for seed, name in enumerate(DIRECTIONS):
        torch.manual_seed(seed)
        model = MarianMTModel(config)
        model.final_logits_bias[:, :3] = -100.0  # words only, up to the longest that it can say
        model.save_pretrained(root / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(root / name)
    return root


def test_each_text_goes_there_and_back(folder: Path, tmp_path: Path) -> None:
    there, back = (Translator(folder / name) for name in DIRECTIONS)
    found = back_translated(TEXTS, folder, tmp_path)
    assert set(found) == set(TEXTS)
    assert all(again == (back(there([text]))[0].strip() or text) for text, again in found.items())
    assert any(again != text for text, again in found.items())
    assert len(set(found.values())) > 1
    assert found == back_translated(TEXTS, folder, None)


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = back_translated(TEXTS[:2], folder, tmp_path)
    path = next(tmp_path.glob("*.jsonl"))
    done = path.read_bytes()
    path.write_bytes(done + b'["a half writ')  # as a killed run leaves it
    both = back_translated(TEXTS, folder, tmp_path)
    assert path.read_bytes().startswith(done)
    assert {text: both[text] for text in first} == first
    assert len({json.loads(line)[0] for line in path.read_text().splitlines()}) == len(set(TEXTS))
    monkeypatch.setattr(back_translation, "Translator", None)  # nothing is left to translate
    assert back_translated(TEXTS, folder, tmp_path) == both


def test_about_half_of_the_texts_are_seen_translated_in_an_epoch(folder: Path, tmp_path: Path) -> None:
    path = folder / "there" / "tokenizer.json"
    network = Network(torch.nn.Identity(), TextSpec(16), (), path.read_text())
    view = text_view(network, AugmentTable(back_translation=str(folder)), 7, TEXTS, tmp_path)
    assert view is not None
    text = next(text for text, again in view.translations.items() if text != again)
    plain = [i for i in range(400) if view([text], 0, [i])["input_ids"].tolist() == encoded(path, text)]
    other = [
        i for i in range(400) if view([text], 0, [i])["input_ids"].tolist() == encoded(path, view.translations[text])
    ]
    assert len(plain) + len(other) == 400
    assert len(other) == pytest.approx(200, abs=40)


def encoded(tokenizer: Path, text: str) -> list[list[int]]:
    return [Tokenizer.from_file(str(tokenizer)).encode(text).ids]


def test_a_folder_without_models_is_told_by_direction(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        back_translated(TEXTS, tmp_path, None)
    assert [p.where for p in caught.value.problems] == ["train.augment.back_translation"] * 2
    assert "no model 'there' (no there/config.json)" in str(caught.value)
    for name in DIRECTIONS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RecipeError, match="can't be loaded as a translation model"):
        back_translated(TEXTS, tmp_path, None)
