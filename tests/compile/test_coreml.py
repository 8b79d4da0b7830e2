from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import toy_graphs

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, read_json
from tlcompile.compile.coreml import UNITS, Options, missing
from tlcompile.errors import TlcompileError

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

Engines = Callable[[str, str], Path]


def test_the_package_has_the_operators_of_the_graph(engines: Engines) -> None:
    operators = read_json(engines("coreml", "fp32") / "engine.json")["operators"]
    assert (operators["conv"], operators["linear"], operators["softmax"]) == (1, 1, 1)


def test_a_package_with_another_interface_is_refused(engines: Engines) -> None:
    from tlcompile.compile._to_coreml import read_back

    package = engines("coreml", "fp32") / "model.mlpackage"
    assert read_back(package, {"input_0": (1, 3, 16, 16)}, ["logits", "probabilities"])
    with pytest.raises(TlcompileError, match=r"expected \{'input_0': \(1, 3, 8, 8\)\}"):
        read_back(package, {"input_0": (1, 3, 8, 8)}, ["logits", "probabilities"])


def test_half_precision_halves_the_weights(tmp_path: Path) -> None:
    graph: Graph = toy_graphs.image_graph(tmp_path / "wide", channels=512)
    sizes = {}
    for precision in ("f32", "f16"):
        (tmp_path / precision).mkdir()
        backends.build("coreml", Options(precision=precision), graph, "fp32", tmp_path / precision)
        sizes[precision] = next((tmp_path / precision).rglob("weight.bin")).stat().st_size
    assert sizes["f16"] < 0.6 * sizes["f32"]


def test_coremltools_knows_every_unit_and_no_other_may_run_it() -> None:
    import coremltools

    assert set(UNITS) == set(get_args(Options.model_fields["units"].annotation))
    assert set(UNITS.values()) == {unit.name for unit in coremltools.ComputeUnit}
