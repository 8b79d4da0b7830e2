from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import toy_graphs

from tlcompile import compile as backends
from tlcompile.artifacts import Graph
from tlcompile.compile.litert import COPIED, Options, missing
from tlcompile.errors import BackendMissing, TlcompileError
from tlcompile.package.carry import needed

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

Graphs = Callable[[str], Graph]
needs_converter = pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="needs litert-torch")


@needs_converter
def test_the_converter_of_a_named_python_is_taken_and_texts_are_padded_to_tokens(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # not in the environment that builds
    backends.build("litert", Options(python=sys.executable, tokens=8, threads=2), graphs("text"), "fp32", tmp_path)
    with closing(backends.open_engine(tmp_path)) as runner:
        assert runner.run(toy_graphs.texts(2, 3))["logits"].shape == (2, 4)
        with pytest.raises(TlcompileError, match=r"found 9 tokens, expected at most 8"):
            runner.run(toy_graphs.texts(1, 9))


def test_a_missing_converter_is_told_with_the_lines_that_make_its_environment(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(BackendMissing, match=r"python -m venv litert .*pip install litert-torch.*python = "):
        backends.build("litert", Options(), graphs("fp32"), "fp32", tmp_path)


def test_a_bundle_carries_what_the_converter_is_given() -> None:
    copied = {f"tlcompile.compile.{name.removesuffix('.py')}" for name in COPIED}
    assert copied <= set(needed(["litert"]))


def test_a_python_that_is_not_there_is_told(graphs: Graphs, tmp_path: Path) -> None:
    options = Options(python="no/such/python")
    with pytest.raises(TlcompileError, match=r"can't start '.*no/such/python'"):
        backends.build("litert", options, graphs("fp32"), "fp32", tmp_path)


def test_a_python_without_the_converter_is_told(graphs: Graphs, tmp_path: Path) -> None:
    bare = Path("/usr/bin/python3")
    if not bare.exists():
        pytest.skip("no other Python here")
    with pytest.raises(TlcompileError, match=r"the converter failed: .*No module named"):
        backends.build("litert", Options(python=str(bare)), graphs("fp32"), "fp32", tmp_path)
