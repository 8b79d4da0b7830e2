"""What can't fit into the limits, or can't be one graph, is told before any training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import nn

from tests import tiny
from tests.pipeline.test_ensemble_build import told
from tests.test_import_is_free import COMMAND, HEAVY, imported
from tests.toy_recipe import SMALLEST
from tlcompile.artifacts import ImageSpec
from tlcompile.errors import RecipeError
from tlcompile.evaluate.gates import judge
from tlcompile.evaluate.statistics import Drop
from tlcompile.models._network import Network
from tlcompile.pipeline import beforehand
from tlcompile.pipeline.build import build
from tlcompile.pipeline.choose import Candidate
from tlcompile.pipeline.explore_choice import found
from tlcompile.recipe import Recipe, load, parse
from tlcompile.store import Store

ENSEMBLE = "[ensemble]\n"


@pytest.fixture(scope="module")
def weights() -> int:
    model = timm.create_model(str(tiny.MODEL["name"]), num_classes=2)
    return sum(p.numel() for p in model.parameters())


def said(recipe: Recipe) -> list[str]:
    return [str(problem).removeprefix(f"{recipe.path}: ") for problem in beforehand.problems(recipe)]


def limited(root: Path, extra: str, quantize: bool = True, variants: tuple[str, ...] = (), **gates: float) -> Recipe:
    keys = "\n".join(f"{name} = {value}" for name, value in gates.items())
    return told(root, f"{extra}[gates]\n{keys}\n", variants, quantize=quantize)


def test_members_that_can_not_be_so_small_are_told_with_how_many_would_fit(tmp_path: Path, weights: int) -> None:
    once = weights / 1e6
    [text] = said(limited(tmp_path, ENSEMBLE, max_size_mb=2.5 * once))
    assert text.startswith(f"ensemble: 3 members hold at least {3 * once:.3g} MB of weights")
    assert text.endswith(", 2 fit")
    assert said(limited(tmp_path, ENSEMBLE, max_size_mb=3.01 * once)) == []
    [text] = said(limited(tmp_path, ENSEMBLE, max_size_mb=0.5 * once))
    assert text.endswith("not even one fits")


def test_a_weight_has_the_bytes_of_the_smallest_precision_that_is_built(tmp_path: Path, weights: int) -> None:
    limit = 3.01 * weights / 1e6
    assert said(limited(tmp_path, ENSEMBLE, max_size_mb=limit)) == []
    assert said(limited(tmp_path, ENSEMBLE, quantize=False, max_size_mb=limit))[0].endswith("not even one fits")
    assert said(limited(tmp_path, ENSEMBLE, variants=("ensemble-fp32",), max_size_mb=limit))
    half = limited(tmp_path, "[optimize.half]\n" + ENSEMBLE, quantize=False, max_size_mb=2 * limit)
    assert said(half) == []


def test_an_early_exit_of_views_needs_room_for_its_network_twice(tmp_path: Path, weights: int) -> None:
    views, once = "[tta]\nearly_exit = true\n", weights / 1e6
    [text] = said(limited(tmp_path, views, quantize=False, max_size_mb=7 * once))
    assert text.startswith("tta.early_exit: its engine holds the network twice")
    assert said(limited(tmp_path, views, quantize=False, max_size_mb=8.01 * once)) == []
    assert said(limited(tmp_path, views, max_size_mb=1.5 * once)) == []  # int8 weights are shared with the branch
    split = limited(tmp_path, views, max_size_mb=1.5 * once)
    text = split.text.replace('backend = "onnxruntime"', 'backend = "onnxruntime"\nearly_exit = "split"')
    assert len(said(parse(text, split.path))) == 1


def test_the_widest_layer_is_the_one_that_reads_and_writes_most() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert beforehand.widest(Network(module, ImageSpec(8), ("3",))) == (3 + 4) * 8 * 8


def test_views_and_members_that_need_more_memory_are_told_with_what_would_fit(tmp_path: Path, weights: int) -> None:
    module = timm.create_model(str(tiny.MODEL["name"]), num_classes=2)
    wide = beforehand.widest(Network(module, ImageSpec(32), ("classifier",))) * 8 / 1e6  # a batch of 8, a byte each
    once, views = weights / 1e6, "[tta]\nmax_views = 3\n"
    assert said(limited(tmp_path, views, max_memory_mb=once + 3.01 * wide)) == []
    [text] = said(limited(tmp_path, views, max_memory_mb=once + 2.01 * wide))
    assert text.startswith("tta: 1 network holds at least")
    assert "3 views of a batch of 8" in text
    assert text.endswith("2 views fit")
    [text] = said(limited(tmp_path, ENSEMBLE, max_memory_mb=2.01 * once + wide))
    assert text.startswith("ensemble: 3 members hold at least")
    assert text.endswith("with one view 2 fit")


def test_it_is_an_error_of_the_recipe_before_any_data_is_read(tmp_path: Path) -> None:
    tiny.folder(tmp_path / "data", 20)
    with pytest.raises(RecipeError, match=r"gates\.max_memory_mb = 0\.01") as caught:
        build(limited(tmp_path, ENSEMBLE, max_memory_mb=0.01), Store(tmp_path / "store"), tmp_path / "dist")
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "store").rglob("train.arrow"))


def test_a_bundle_counts_by_the_size_of_its_graph(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir(parents=True)
    (tmp_path / "bundle" / "model.onnx").write_bytes(bytes(4_000_000))
    member = '[ensemble]\n[[ensemble.member]]\nbundle = "bundle"\n'
    [text] = said(limited(tmp_path, member, max_size_mb=1.0))
    assert text.endswith("one fits")
    assert said(limited(tmp_path, member, max_size_mb=1.5)) == []


def test_nothing_is_built_where_nothing_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError

    recipes = [told(tmp_path, ENSEMBLE), told(tmp_path, "[gates]\nmax_size_mb = 1e-6")]
    monkeypatch.setattr(beforehand, "voice", never)
    assert [said(recipe) for recipe in recipes] == [[], []]


def text_recipe(root: Path, *lines: str) -> Recipe:
    head, _, _ = SMALLEST.replace("image-classification", "text-classification").partition("[model]")
    model = '[model]\nlibrary = "transformers"\nname = "bert"\nmax_length = 16'
    (root / "recipe.toml").write_text("\n".join((head, model, "[ensemble]", *lines)))
    return load(root / "recipe.toml")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: `like` has the tokenizer of `bert`, `other` knows one word more."""
    root = tmp_path_factory.mktemp("texts")
    tiny.bert(root / "bert")
    for name in ("like", "other"):
        shutil.copytree(root / "bert", root / name)
    place = root / "other" / "tokenizer.json"
    tokenizer = json.loads(place.read_text())
    tokenizer["model"]["vocab"]["dull"] = len(tokenizer["model"]["vocab"])
    place.write_text(json.dumps(tokenizer))
    return root


def test_members_with_other_tokenizers_are_told(texts: Path) -> None:
    member = "[[ensemble.member]]\nmodel = {{ name = '{}' }}".format
    assert said(text_recipe(texts, member("like"))) == []
    found = said(text_recipe(texts, member("other"), member("like")))
    assert found == [
        "ensemble: member-2: has another tokenizer than the network of [model]; one graph takes one kind of token ids"
    ]
    assert said(text_recipe(texts)) == []
    shorter = "[[ensemble.member]]\nmodel = { max_length = 8 }"
    assert said(text_recipe(texts, shorter)) == []


@pytest.mark.parametrize(("name", "count"), [("bert", 0), ("other", 1)])
def test_a_bundle_brings_its_own_tokenizer(texts: Path, name: str, count: int) -> None:
    from tlcompile.models import transformers

    options = transformers.Options.model_validate({"name": str(texts / name)})
    (texts / "bundle").mkdir(exist_ok=True)
    (texts / "bundle" / "tokenizer.json").write_text(transformers.build(options, 2, pretrained=False).tokenizer or "")
    assert len(said(text_recipe(texts, '[[ensemble.member]]\nbundle = "bundle"'))) == count


def test_a_check_of_such_a_recipe_imports_no_torch(tmp_path: Path) -> None:
    tiny.folder(tmp_path / "data", 2)
    recipe = limited(tmp_path, "[tta]\nearly_exit = true\n" + ENSEMBLE, max_memory_mb=0.01, max_size_mb=0.01)
    names = imported(COMMAND, "check", str(recipe.path), folder=tmp_path)
    assert not set(HEAVY) & set(names)


def test_what_was_measured_is_judged_by_the_same_gate(tmp_path: Path) -> None:
    recipe = limited(tmp_path, "", max_memory_mb=100)
    row = {"accuracy": 0.9, "latency": {}, "rss_mib": 96.0, "target": "t"}
    one = Candidate("fp32", Drop(10, 0, 0, 0.05), None, 1.0)
    [verdict] = judge(recipe.gates, found(recipe, (row, one.drop, one)), "t")
    assert not verdict.passed
    assert verdict.value == pytest.approx(96 * 2**20 / 1e6)
    [later] = judge(recipe.gates, found(recipe, ({**row, "rss_mib": None}, one.drop, one)), "t")
    assert later.deferred
