"""Which steps a recipe has: lines of networks, precisions, and what backends don't take. Nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_recipe import SMALLEST
from tlcompile.artifacts import write_json
from tlcompile.errors import RecipeError
from tlcompile.pipeline import facts
from tlcompile.pipeline.plan import plan
from tlcompile.recipe import parse
from tlcompile.store import Store

ORT, OPENVINO = '[[compile]]\nbackend = "onnxruntime"\n', '[[compile]]\nbackend = "openvino"\n'


def names(root: Path, *tables: str) -> list[str]:
    return [step.name for step in plan(parse(SMALLEST + "\n" + "\n".join(tables)), Store(root / "store"))]


def compiled(root: Path, *tables: str) -> list[str]:
    return [name.removeprefix("compile/") for name in names(root, *tables) if name.startswith("compile/")]


def test_a_pruned_line_is_exported_forked_and_compiled_beside_the_one_as_trained(tmp_path: Path) -> None:
    found = names(tmp_path, "[compress.prune]", "[optimize.quantize]", ORT)
    assert [n for n in found if "prune" in n and n.startswith(("compress", "export", "optimize"))] == [
        "compress/prune",
        "export/pruned",
        "optimize/base/pruned-simplify",
        next(n for n in found if n.startswith("optimize/pruned-int8")),
    ]
    every = ["fp32", "int8", "pruned-fp32", "pruned-int8"]
    assert sorted(n for n in found if n.startswith("compile/")) == [f"compile/onnxruntime/{v}" for v in every]


def test_passes_over_networks_follow_each_other_and_their_lines_are_named_so(tmp_path: Path) -> None:
    found = names(tmp_path, "[compress.prune]", "[compress.sparsity]", ORT)
    assert "compile/onnxruntime/pruned-sparse-fp32" in found
    steps = plan(parse(SMALLEST + "\n[compress.prune]\n[compress.sparsity]\n"), Store(tmp_path / "store"))
    assert next(s for s in steps if s.name == "compress/sparsity").needs == ("data", "compress/prune")


def test_a_network_that_was_trained_for_int8_is_built_in_int8_alone(tmp_path: Path) -> None:
    found = compiled(tmp_path, "[compress.qat]", "[optimize.quantize]", ORT)
    assert sorted(found) == ["onnxruntime/fp32", "onnxruntime/int8", "onnxruntime/qat-int8"]


def test_a_variant_that_a_backend_does_not_take_is_left_out_of_it(tmp_path: Path) -> None:
    found = compiled(tmp_path, "[optimize.dynamic]", OPENVINO, ORT)
    assert sorted(found) == ["onnxruntime/dynamic-int8", "onnxruntime/fp32", "openvino/fp32"]


def test_a_variant_that_is_named_and_not_taken_is_an_error_with_the_reason(tmp_path: Path) -> None:
    asked = '[[compile]]\nbackend = "openvino"\nvariants = ["dynamic-int8", "fp32", "int4"]\n'
    with pytest.raises(RecipeError) as caught:
        names(tmp_path, "[optimize.dynamic]", asked)
    first, second = (str(p) for p in caught.value.problems)
    assert "'dynamic-int8': dynamic int8 is made of MatMulInteger, which openvino has no int8 kernels for" in first
    assert "no pass of [optimize] makes 'int4'" in second


def said(root: Path, *tables: str, smallest: str = SMALLEST) -> list[str]:
    """What is wrong with the recipe of these tables, before anything runs."""
    try:
        plan(parse(smallest + "\n" + "\n".join(tables)), Store(root / "store"))
    except RecipeError as error:
        return [str(problem).split("compile ")[-1] for problem in error.problems]
    return []


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_a_range_of_batches_without_single_examples_is_told_before_training(tmp_path: Path, backend: str) -> None:
    def target(ranges: str) -> str:
        return f'[[compile]]\nbackend = "{backend}"\n{ranges}\n'

    [several] = said(tmp_path, target("batch = [2, 8, 16]\nprofiles = [{ batch = [4, 8, 32] }]"))
    assert several == (
        f"'{backend}': batch: found [2, 8, 16], [4, 8, 32], which takes no 1; it is judged with single examples too"
    )
    assert not said(tmp_path, target("batch = [2, 8, 16]\nprofiles = [{ batch = [1, 1, 1] }]"))
    assert not said(tmp_path, target("batch = [1, 1, 1]"), "[evaluate]\nbatch_size = 17")


def test_views_of_an_image_need_no_larger_batch(tmp_path: Path) -> None:
    views = '[tta]\nviews = ["identity", "hflip", "rotate:5", "crop:top-left"]\n'
    assert not said(tmp_path, views, '[[compile]]\nbackend = "tensorrt_rtx"\nbatch = [1, 1, 8]\n')


@pytest.mark.parametrize(
    ("table", "longest"), [("", "more tokens than the model takes"), ("document_tokens = 512", "512")]
)
def test_a_range_of_tokens_that_is_too_small_for_views_of_documents_is_told(
    tmp_path: Path, table: str, longest: str
) -> None:
    (tmp_path / "texts.jsonl").write_text("")
    texts = SMALLEST.replace("image-classification", "text-classification").replace('"timm"', '"transformers"')
    texts = texts.replace('source = "sklearn"', f'source = "jsonl"\npath = "{tmp_path / "texts.jsonl"}"')
    target = '[[compile]]\nbackend = "tensorrt_rtx"\n'
    small = "tokens = [1, 64, 128]\n"
    [only] = said(tmp_path, f"[tta]\n{table}", target + small, smallest=texts)
    assert "tokens: found [1, 64, 128], but views of documents read" in only
    assert longest in only
    assert only.endswith("leave it out, then each graph takes what it reads")
    assert not said(tmp_path, target + small, smallest=texts)
    assert not said(tmp_path, f"[tta]\n{table}", target, smallest=texts)


def test_an_opset_that_is_not_the_default_is_said_in_the_report(tmp_path: Path) -> None:
    write_json(tmp_path / "exporter.json", {"exporter": "torchscript", "refused": []})
    assert facts.exported(parse(SMALLEST), tmp_path) == []
    [said] = facts.exported(parse(f"{SMALLEST}\n[export]\nopset = 20\n"), tmp_path)
    assert said == "the graph is in ONNX opset 20: as the recipe says; 18 is the default"


def test_a_search_is_keyed_by_what_judges_it(tmp_path: Path) -> None:
    def key(margin: str, search: str) -> object:
        tables = f"[optimize.quantize]\n{search}\n[gates]\nmax_accuracy_drop = {margin}\n"
        steps = plan(parse(SMALLEST + "\n" + tables), Store(tmp_path / "store"))
        return next(s for s in steps if s.name.startswith("optimize/int8")).parts()

    assert key("0.01", "") == key("0.02", "")
    assert key("0.01", "search = true") != key("0.02", "search = true")


@pytest.mark.parametrize("line", ["", "pruned", "pruned-sparse"])
@pytest.mark.parametrize("precision", ["fp32", "int8", "dynamic-int8"])
def test_the_line_of_a_variant_is_what_stands_before_its_precision(line: str, precision: str) -> None:
    recipe = parse(f"{SMALLEST}\n[optimize.quantize]\n[optimize.dynamic]\n{ORT}")
    assert facts.line_of(recipe, f"{line}-{precision}".removeprefix("-")) == line
