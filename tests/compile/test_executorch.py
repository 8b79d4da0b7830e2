from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import toy_graphs

from tlcompile import compile as backends
from tlcompile.artifacts import Graph, read_json
from tlcompile.compile.executorch import Options, missing
from tlcompile.errors import TlcompileError

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

Engines = Callable[[str, str], Path]
Graphs = Callable[[str], Graph]


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_xnnpack_takes_the_whole_network(variant: str, engines: Engines) -> None:
    operators = read_json(engines("executorch", variant) / "engine.json")["operators"]
    assert operators == {"executorch_call_delegate": 1}


def test_int8_weights_are_stored_as_int8(graphs: Graphs, tmp_path: Path) -> None:
    wide = toy_graphs.image_graph(tmp_path / "wide", channels=512)
    quantized = toy_graphs.quantized(wide, tmp_path / "int8", "arm")
    sizes = []
    for name, graph in (("fp32", wide), ("s8", quantized)):
        (tmp_path / name / "engine").mkdir(parents=True)
        backends.build("executorch", Options(), graph, name, tmp_path / name / "engine")
        sizes.append((tmp_path / name / "engine" / "model.pte").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


def test_shorter_texts_are_padded_and_longer_ones_refused(graphs: Graphs, tmp_path: Path) -> None:
    backends.build("executorch", Options(tokens=8), graphs("text"), "fp32", tmp_path)
    with closing(backends.open_engine(tmp_path)) as runner:
        assert runner.run(toy_graphs.texts(2, 3))["logits"].shape == (2, 4)
        with pytest.raises(TlcompileError, match=r"found 9 tokens, expected at most 8, .*`tokens`"):
            runner.run(toy_graphs.texts(1, 9))


def test_a_batch_answers_as_its_examples_do_alone(engines: Engines) -> None:
    feed = toy_graphs.images(3)
    with closing(backends.open_engine(engines("executorch", "fp32"))) as runner:
        together = runner.run(feed)["logits"]
        alone = [runner.run({"image": feed["image"][i : i + 1]})["logits"] for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))
