from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toy_graphs

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, read_json
from tlcompile.compile.ncnn import Options, missing
from tlcompile.errors import TlcompileError
from tlcompile.pipeline.step import plugin_parts
from tlcompile.recipe import Plugin
from tlcompile.store import Store

Engines = Callable[[str, str], Path]
Graphs = Callable[[str], Graph]
needs_ncnn = pytest.mark.skipif(bool(missing()), reason=missing())


def test_texts_and_int8_are_refused_before_a_build() -> None:
    assert "images" in backends.refuses("ncnn", "fp32", "text")
    assert "fp32" in backends.refuses("ncnn", "pruned-int8", "image")
    assert backends.refuses("ncnn", "pruned-fp32", "image") == ""


@needs_ncnn
def test_the_device_needs_no_converter_and_the_key_knows_its_version(engines: Engines, tmp_path: Path) -> None:
    info = read_json(engines("ncnn", "fp32") / "engine.json")
    assert (set(info["versions"]), info["pnnx"] != "") == ({"ncnn"}, True)
    assert set(plugin_parts(Plugin("compile", "ncnn", Options()), Store(tmp_path))["tools"]) == {"ncnn", "pnnx"}


@needs_ncnn
def test_a_graph_of_texts_or_quantized_is_refused_in_words(graphs: Graphs, tmp_path: Path) -> None:
    for name, told in (("text", "it takes images"), ("arm", "it is quantized")):
        (tmp_path / name).mkdir()
        with pytest.raises(TlcompileError, match=told):
            backends.build("ncnn", Options(), graphs(name), "fp32", tmp_path / name)
        assert not (tmp_path / name / "engine.json").exists()


@needs_ncnn
def test_half_precision_weights_are_half_the_size(tmp_path: Path) -> None:
    graph = toy_graphs.image_graph(tmp_path / "wide", channels=512)
    sizes = {}
    for weights in ("f32", "f16"):
        (tmp_path / weights).mkdir()
        backends.build("ncnn", Options(weights=weights), graph, "fp32", tmp_path / weights)
        sizes[weights] = (tmp_path / weights / "model.bin").stat().st_size
    assert sizes["f16"] < 0.6 * sizes["f32"]
