"""Fewer Transposes: which are lost, which become a Reshape, and what stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.families import exported, feeds_of, passed, rungs, text_folder
from tests.optimize.test_faults import FAULTS, planted, run_faulty
from tlcompile.artifacts import Graph
from tlcompile.errors import ParityError, TlcompileError
from tlcompile.models import timm, transformers
from tlcompile.optimize import Context, layout
from tlcompile.parity import run_graph

Steps = Sequence[tuple[str, Sequence[int]]]


def network(path: Path, steps: Steps, shape: Sequence[int | str]) -> None:
    """x -> each step in turn -> logits. A step is an operator and, of a Transpose, its order of axes."""
    nodes, last = [], "x"
    constants = [numpy_helper.from_array(np.arange(1, 3, dtype=np.float32).reshape(2), "two")]
    for index, (kind, order) in enumerate(steps):
        out = f"t{index}" if index < len(steps) - 1 else "logits"
        inputs = [last, "two"] if kind in ("Add", "Mul") else [last]
        more = {"perm": list(order)} if kind == "Transpose" else {}
        nodes.append(helper.make_node(kind, inputs, [out], name=f"node{index}", **more))
        last = out
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None] * len(shape))
    made = helper.make_graph(nodes, "steps", [x], [y], constants)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def apply(folder: Path) -> onnx.ModelProto:
    layout.apply(folder / "m.onnx", layout.Options(), Context("", lambda: iter(())), folder / "l.onnx")
    return onnx.load(folder / "l.onnx")


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def same(folder: Path, shape: Sequence[int]) -> bool:
    feeds = [{"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}]
    before, after = (run_graph(folder / name, feeds)[0]["logits"] for name in ("m.onnx", "l.onnx"))
    return np.array_equal(before, after)


def test_a_transpose_is_lost_where_it_meets_its_inverse_behind_elementwise_nodes(tmp_path: Path) -> None:
    steps = [("Transpose", (0, 3, 1, 2)), ("Relu", ()), ("Mul", ()), ("Transpose", (0, 2, 3, 1))]
    network(tmp_path / "m.onnx", steps, ["batch", 4, 2, 3])
    model = apply(tmp_path)
    assert kinds(model) == ["Relu", "Mul"]
    assert [node.name for node in model.graph.node] == ["node1", "node2"]  # others are named in recipes
    assert same(tmp_path, (3, 4, 2, 3))


def test_two_in_a_row_become_one(tmp_path: Path) -> None:
    network(tmp_path / "m.onnx", [("Transpose", (1, 2, 0)), ("Transpose", (0, 2, 1)), ("Relu", ())], [2, 3, 2])
    assert sorted(kinds(apply(tmp_path))) == ["Relu", "Transpose"]
    assert same(tmp_path, (2, 3, 2))


@pytest.mark.parametrize(
    ("shape", "kind"), [(("batch", 1, 5, 2), "Reshape"), (("batch", 1, "n", 2), "Transpose"), ((2, 3, 1, 2), "Reshape")]
)
def test_what_moves_axes_of_length_one_only_is_a_reshape(
    tmp_path: Path, shape: tuple[int | str, ...], kind: str
) -> None:
    network(tmp_path / "m.onnx", [("Transpose", (0, 2, 1, 3)), ("Relu", ())], shape)
    assert kind in kinds(apply(tmp_path))
    assert same(tmp_path, tuple(3 if isinstance(size, str) else size for size in shape))


def test_a_graph_that_gains_nothing_stays_as_it_was_byte_for_byte(tmp_path: Path) -> None:
    network(tmp_path / "m.onnx", [("Relu", ()), ("Transpose", (0, 2, 1)), ("Softmax", ())], [2, 3, 2])
    apply(tmp_path)
    assert (tmp_path / "l.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


@given(
    st.lists(
        st.one_of(
            st.permutations(range(3)).map(lambda order: ("Transpose", tuple(order))),
            st.sampled_from(("Relu", "Add", "Mul", "Neg")).map(lambda kind: (kind, ())),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_whatever_is_moved_the_answer_is_the_same_and_transposes_are_no_more(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, tuple[int, ...]]]
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    network(folder / "m.onnx", steps, [2, 2, 2])
    model = apply(folder)
    assert same(folder, (2, 2, 2))
    assert layout.transposes(model) <= sum(kind == "Transpose" for kind, _ in steps)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """A small ViT, before anything simplified it."""
    torch.manual_seed(0)
    made = timm.build(timm.Options(name="test_vit", weights="none", image_size=32, crop_pct=1.0), 3)
    torch.nn.init.normal_(made.module.head.weight)
    return exported(made, feeds_of(made), tmp_path_factory.mktemp("vit"))


def test_the_picture_is_cast_before_it_is_transposed(base: Graph, tmp_path: Path) -> None:
    model = onnx.load(passed("layout", base, tmp_path).model)
    readers = [node.op_type for node in model.graph.node if "image" in node.input]
    assert sorted(readers) == ["Cast", "Shape"]


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2"])
def test_texts_of_every_length_answer_as_before(family: str, tmp_path: Path) -> None:
    values = {"name": str(text_folder(tmp_path / "model", family)), "max_length": 64}
    built = transformers.build(transformers.Options.model_validate(values, context={"base": tmp_path}), 3)
    made = passed("layout", exported(built, feeds_of(built), tmp_path / "export"), tmp_path / "layout")
    assert rungs(made) == ["export", "optimize/layout"]


@pytest.mark.parametrize("fault", ["a tensor scaled by 0.8", "two channels swapped", "a wrong mean"])
def test_a_fault_behind_it_is_named(base: Graph, fault: str, tmp_path: Path) -> None:
    made = passed("layout", base, tmp_path / "sound")
    assert fault in FAULTS
    assert planted(made, fault, tmp_path / "faulty.onnx") > 6e-4
    with pytest.raises(ParityError, match=r"optimize/layout: "):
        run_faulty("layout", "", base, tmp_path / "faulty.onnx", tmp_path / "made")


def test_a_wrong_order_of_axes_is_named(base: Graph, tmp_path: Path) -> None:
    model = onnx.load(passed("layout", base, tmp_path / "sound").model)
    turned = [n for n in model.graph.node if n.op_type == "Transpose" and not n.name.startswith("preprocess/")]
    for node in turned:
        order = next(a for a in node.attribute if a.name == "perm").ints
        if len(order) == 4 and list(order) == [0, 2, 1, 3]:
            order[:] = [0, 1, 2, 3]
    onnx.save(model, tmp_path / "faulty.onnx")
    with pytest.raises(ParityError):
        run_faulty("layout", "", base, tmp_path / "faulty.onnx", tmp_path / "made")


def test_a_file_that_is_no_graph_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(TlcompileError, match=r"optimize\.layout: this graph can't be rewritten"):
        apply(tmp_path)
