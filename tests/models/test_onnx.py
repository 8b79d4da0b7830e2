"""ONNX files of others become networks that can be trained, saved, rebuilt and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.families import exported, feeds_of
from tlcompile.errors import RecipeError
from tlcompile.models import onnx as library

SIDE = 32


def options(path: Path, **changed: object) -> library.Options:
    return library.Options.model_validate({"path": str(path), **changed}, context={"base": path.parent})


def small() -> torch.nn.Module:
    """A network with what the ONNX model zoo has: convolution, batch norm, residual, pool, dropout, linear, softmax."""
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.norm(self.conv(x)))

    first = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), Residual(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*first, nn.Dropout(0.2), nn.Linear(8, 10), nn.Softmax(-1)).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    common = {"opset_version": 17, "dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE}
    torch.onnx.export(small(), (torch.zeros(1, 3, SIDE, SIDE),), str(path), **common)
    return path


def test_the_body_keeps_its_weights_and_gets_a_new_head(file: Path) -> None:
    assert library.check(options(file)) == []
    network = library.build(options(file), 4)
    assert network.head == ("head",)
    assert (network.spec.image_size, network.spec.resize_to) == (SIDE, int(SIDE / 0.875))
    assert network.module.head.weight.shape == (4, 8)
    trained = {tuple(p.shape) for p in network.module.parameters()}
    assert {(8, 3, 3, 3), (8, 8, 3, 3)} <= trained
    loss = network.module.train()(torch.randn(3, 3, SIDE, SIDE)).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.module.parameters())


def test_a_checkpoint_fits_the_network_that_is_built_again(file: Path) -> None:
    trained = library.build(options(file), 4).module.eval()
    again = library.build(options(file), 4, pretrained=False).module.eval()
    again.load_state_dict(trained.state_dict())
    pixels = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(trained(pixels), again(pixels))


def test_it_is_exported_with_any_batch_and_answers_like_torch(file: Path, tmp_path: Path) -> None:
    network = library.build(options(file), 4)
    feeds = feeds_of(network)
    assert {len(f["image"]) for f in feeds} == {4}  # the file was made for one image a call
    exported(network, feeds, tmp_path)


def test_the_order_of_colours_is_that_of_the_file(file: Path) -> None:
    rgb, bgr = (library.build(options(file, channels=c), 4).module.eval() for c in ("RGB", "BGR"))
    bgr.load_state_dict(rgb.state_dict())
    pixels = torch.randn(1, 3, SIDE, SIDE)
    assert torch.allclose(rgb(pixels), bgr(pixels.flip(1)))
    assert not torch.allclose(rgb(pixels), bgr(pixels))


def made(path: Path, nodes: list[Any], shape: list[Any] | None = None, width: int = 4, **tensors: np.ndarray) -> Path:
    """A file with one image input and the given nodes, whose last output is `logits`."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or ["n", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", width])
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()]
    graph = helper.make_graph(nodes, "g", [image], [logits], constants)
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.someone", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return path


POOL = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
WEIGHT = np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("gemm", [True, False])
def test_the_last_layer_is_found_behind_softmax_and_bias(gemm: bool, tmp_path: Path) -> None:
    last = (
        [helper.make_node("Gemm", ["f", "w", "b"], ["l"])]
        if gemm
        else [helper.make_node("MatMul", ["f", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["l"])]
    )
    nodes = [*POOL, *last, helper.make_node("Softmax", ["l"], ["logits"], axis=-1)]
    network = library.build(options(made(tmp_path / "m.onnx", nodes, w=WEIGHT, b=np.zeros(4))), 7)
    assert network.module.head.weight.shape == (7, 3)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    assert torch.allclose(network.module.body(pixels), pixels.mean((2, 3)), atol=1e-6)


def test_weights_that_the_file_multiplies_and_adds_as_constants_are_trained(tmp_path: Path) -> None:
    inner = [helper.make_node("MatMul", ["f", "v"], ["m"]), helper.make_node("Add", ["m", "c"], ["a"])]
    nodes = [*POOL, *inner, helper.make_node("Gemm", ["a", "w"], ["logits"])]
    path = made(tmp_path / "m.onnx", nodes, v=np.ones((3, 3)), c=np.ones(3), w=WEIGHT)
    network = library.build(options(path), 4)
    network.module(torch.randn(2, 3, SIDE, SIDE)).square().sum().backward()
    body = [p for name, p in network.module.named_parameters() if not name.startswith("head.")]
    assert sorted(tuple(p.shape) for p in body) == [(3,), (3, 3)]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in body)


def problems(path: Path, **changed: object) -> str:
    return "\n".join(str(p) for p in library.check(options(path, **changed)))


def test_mistakes_of_a_file_are_sentences(tmp_path: Path) -> None:
    assert "no such file 'none.onnx'" in problems(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("this is no graph")
    assert "'text.onnx' is not an ONNX file" in problems(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "'empty.onnx' is not an ONNX file" in problems(tmp_path / "empty.onnx")
    (tmp_path / "two").mkdir()
    assert "expected one .onnx file in the folder 'two', found 0" in problems(tmp_path / "two")
    strange = [helper.make_node("Sharpen", ["x"], ["s"], domain="com.someone")]
    last = [helper.make_node("Flatten", ["s"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["logits"])]
    path = made(tmp_path / "strange.onnx", strange + last, w=np.zeros((3 * SIDE * SIDE, 4)))
    assert "onnx2torch knows no 'com.someone:Sharpen'" in problems(path)
    path = made(tmp_path / "invalid.onnx", [helper.make_node("Sharpen", ["x"], ["logits"])])
    assert "No Op registered for Sharpen" in problems(path)
    path = made(tmp_path / "headless.onnx", [POOL[0], helper.make_node("Flatten", ["p"], ["logits"])], width=3)
    assert "no final linear layer (Gemm or MatMul): 'logits' comes from GlobalAveragePool" in problems(path)


def test_inputs_that_are_no_square_rgb_image_are_told_with_what_was_found(tmp_path: Path) -> None:
    nodes = [*POOL, helper.make_node("Gemm", ["f", "w"], ["logits"])]
    last = made(tmp_path / "nhwc.onnx", nodes, [1, SIDE, SIDE, 3], w=WEIGHT)
    assert f"expected an input float [N, 3, height, width]; 'x' is float [1, {SIDE}, {SIDE}, 3]" in problems(last)
    wide = made(tmp_path / "wide.onnx", nodes, [1, 3, SIDE, 2 * SIDE], w=WEIGHT)
    assert "model.image_size: expected a square" in problems(wide)
    free = made(tmp_path / "free.onnx", nodes, ["n", 3, "h", "w"], w=WEIGHT)
    assert "model.image_size: the file fixes no size, so the recipe must" in problems(free)
    assert problems(free, image_size=SIDE) == ""
    assert "model.image_size: expected 48" in problems(made(tmp_path / "m.onnx", nodes, w=WEIGHT), image_size=48)


def beside(folder: Path, place: str) -> Path:
    """A file whose weight lies in another file."""
    folder.mkdir(parents=True)
    path = made(folder / "m.onnx", [*POOL, helper.make_node("Gemm", ["f", "w"], ["logits"])], w=WEIGHT)
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    (folder.parent / "data.bin").write_bytes(weight.raw_data)
    (folder / "data.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    path.write_bytes(model.SerializeToString())
    return path


def test_tensors_in_other_files_are_read_from_the_folder_that_the_recipe_names_only(tmp_path: Path) -> None:
    path = beside(tmp_path / "a", "data.bin")
    assert "name its folder instead" in problems(path)
    assert library.build(options(path.parent), 5).module.head.weight.shape == (5, 3)
    assert "keeps tensors outside its folder, in '../data.bin'" in problems(
        beside(tmp_path / "b", "../data.bin").parent
    )
    assert "keeps tensors in 'gone.bin', which is not there" in problems(beside(tmp_path / "c", "gone.bin").parent)


def test_a_reshape_to_one_image_takes_any_number_of_them(tmp_path: Path) -> None:
    shape = helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(np.array([1, 3]), "s"))
    reshape = helper.make_node("Reshape", ["p", "s"], ["f"])
    nodes = [POOL[0], shape, reshape, helper.make_node("Gemm", ["f", "w"], ["logits"])]
    network = library.build(options(made(tmp_path / "m.onnx", nodes, [1, 3, SIDE, SIDE], w=WEIGHT)), 4)
    pixels = torch.randn(5, 3, SIDE, SIDE)
    assert torch.allclose(network.module.body(pixels), pixels.mean((2, 3)), atol=1e-6)


def test_a_graph_that_is_bound_to_one_image_a_call_is_told(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([3, 1]), "shape")
    nodes = [
        POOL[0],
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["f"], perm=[1, 0]),
        helper.make_node("Gemm", ["f", "w"], ["logits"]),
    ]
    path = made(tmp_path / "m.onnx", nodes, w=WEIGHT)
    with pytest.raises(RecipeError, match=r"can't run on 32 × 32 pixels|expected logits"):
        library.build(options(path), 4)
