"""Toy graphs and their engines, built once for the whole room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import toy_graphs

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import Graph


def kind_of(variant: str) -> str:
    return "text" if variant == "text" else "image"


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Graph]:
    """`fp32`, `text` or the name of a Q/DQ dialect -> graph."""
    folder = tmp_path_factory.mktemp("graphs")
    made: dict[str, Graph] = {}

    def graph(name: str) -> Graph:
        if name not in made:
            if name == "fp32":
                made[name] = toy_graphs.image_graph(folder / name)
            elif name == "text":
                made[name] = toy_graphs.text_graph(folder / name)
            else:
                made[name] = toy_graphs.quantized(graph("fp32"), folder / name, name)
        return made[name]

    return graph


@pytest.fixture(scope="session")
def engines(graphs: Callable[[str], Graph], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """(backend, `fp32`, `int8` or `text`) -> engine folder; skips, with the reason, where it can't be built here."""
    made: dict[tuple[str, str], Path] = {}

    def engine(backend: str, variant: str) -> Path:
        if (backend, variant) not in made:
            options = toy_graphs.options_of(backend)
            if reason := registry.load("compile", backend).missing():
                pytest.skip(reason)
            if reason := backends.refuses(backend, "fp32" if variant == "text" else variant, kind_of(variant)):
                pytest.skip(reason)
            folder = tmp_path_factory.mktemp(f"{backend}-{variant}")
            graph = graphs(backends.dialect(backend, options) if variant == "int8" else variant)
            backends.build(backend, options, graph, variant, folder)
            made[backend, variant] = folder
        return made[backend, variant]

    return engine


@pytest.fixture(scope="session")
def running(engines: Callable[[str, str], Path]) -> Callable[[str, str], Path]:
    """Like `engines`; also skips where the engine can't run here."""

    def engine(backend: str, variant: str) -> Path:
        folder = engines(backend, variant)
        if reason := backends.runs_here(backend, toy_graphs.options_of(backend)):
            pytest.skip(reason)
        return folder

    return engine
