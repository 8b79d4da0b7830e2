"""Views inside the graph answer as a plain loop over the same views does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from PIL import Image
from torchvision.transforms import v2

from tests.families import exported, passed, text_folder
from tests.tiny import MODEL
from tlcompile import compile as backends
from tlcompile import parity, registry
from tlcompile.artifacts import Feed, Graph, Signature, Target, TextSpec
from tlcompile.compile import _nvidia
from tlcompile.errors import RecipeError, TlcompileError
from tlcompile.export.preprocess import graph as preprocessing
from tlcompile.models import timm, transformers
from tlcompile.models._inputs import evaluation_view
from tlcompile.optimize import Context, fuse_tta
from tlcompile.optimize import _views as grammar
from tlcompile.optimize._views_cut import cut
from tlcompile.optimize._views_mean import aggregate
from tlcompile.optimize._views_outputs import view_outputs

CROPPING = {**MODEL, "crop_pct": 0.8}
NUMPY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "hflip": lambda x: x[..., ::-1],
    "vflip": lambda x: x[..., ::-1, :],
    "rot90": lambda x: np.rot90(x, 1, (2, 3)),
    "rot180": lambda x: np.rot90(x, 2, (2, 3)),
    "rot270": lambda x: np.rot90(x, 3, (2, 3)),
    "shift:3,-2": lambda x: np.pad(x, ((0, 0), (0, 0), (0, 2), (3, 0)), "reflect")[:, :, 2:, :-3],
    "hflip+rot90": lambda x: np.rot90(x[..., ::-1], 1, (2, 3)),
}


def images(count: int, height: int = 50, width: int = 70, seed: int = 0) -> Feed:
    """Not symmetric in any direction: a dark corner, a bright edge, noise."""
    x = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    x[:, : height // 2, : width // 3] //= 4
    return {"image": x}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    """fp32, fp16 and int8 of a network whose answers differ between views by far more than 1e-4."""
    folder = tmp_path_factory.mktemp("graphs")
    torch.manual_seed(0)
    network = timm.build(timm.Options(**{k: v for k, v in CROPPING.items() if k != "library"}), 3)
    network.module.train()
    with torch.no_grad():
        for _ in range(20):  # statistics of the norms
            network.module(torch.randn(16, 3, 32, 32))
        network.module.eval()
        head = network.module.classifier
        head.weight.copy_(torch.randn_like(head.weight))
        head.weight.mul_(3 / network.module(torch.randn(32, 3, 32, 32)).std())
    base = passed("simplify", exported(network, [images(4), images(2, 33, 61)], folder / "raw"), folder / "fp32")
    return {
        "fp32": base,
        "fp16": passed("half", base, folder / "fp16"),
        "int8": passed("quantize", base, folder / "int8", "x86", min_agreement=0.0),
        "tensorrt": passed("quantize", base, folder / "tensorrt", "tensorrt", min_agreement=0.0),
    }


def network_of(graph: Graph) -> InferenceSession:
    """The network alone, pixels -> logits, cut out by onnx's own tool."""
    extracted = onnx.utils.Extractor(onnx.load(graph.model)).extract_model(["pixels"], ["logits"])
    return InferenceSession(extracted.SerializeToString())


def pixels_of(graph: Graph, feed: Feed) -> np.ndarray:
    session = InferenceSession(preprocessing(graph.signature.spec, 18).SerializeToString())
    return np.asarray(session.run(None, feed)[0])


def loop(graph: Graph, feed: Feed, views: tuple[str, ...]) -> np.ndarray:
    """Logits [V, N, K]: numpy moves the pixels, the network is called once a view."""
    session, pixels = network_of(graph), pixels_of(graph, feed)
    return np.stack([session.run(None, {"pixels": np.ascontiguousarray(NUMPY[v](pixels))})[0] for v in views])


def fused(graph: Graph, folder: Path, **options: object) -> Graph:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "signature.json").write_bytes((graph.folder / "signature.json").read_bytes())
    context = Context("", lambda: iter(()))
    fuse_tta.apply(graph.model, fuse_tta.Options.model_validate(options), context, folder / "model.onnx")
    return Graph(folder, "")


def answers(graph: Graph, feed: Feed) -> Feed:
    return parity.run_graph(graph.model, [feed])[0]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(sorted(NUMPY)), min_size=1, max_size=5, unique=True),
    st.sampled_from(["probabilities", "logits", "max"]),
    st.sampled_from(["batched", "unrolled"]),
    st.sampled_from(["none", "views", "classes"]),
    st.integers(1, 5),
    st.floats(0.5, 3),
)
def test_views_weights_and_batches_of_any_kind_answer_as_the_loop(
    graphs: dict[str, Graph],
    tmp_path_factory: pytest.TempPathFactory,
    views: list[str],
    how: str,
    layout: str,
    weighted: str,
    batch: int,
    temperature: float,
) -> None:
    rng, count = np.random.default_rng(batch), len(views)
    raw = rng.random((count, 3) if weighted == "classes" else count) + 0.1
    weights = None if weighted == "none" or how == "max" else raw / raw.sum(0)
    options = {"views": views, "aggregation": how, "layout": layout, "temperature": temperature}
    given_weights = {} if weights is None else {"weights": weights.tolist()}
    feed = images(batch, seed=batch)
    found = answers(fused(graphs["fp32"], tmp_path_factory.mktemp("f"), **options, **given_weights), feed)
    z = loop(graphs["fp32"], feed, tuple(views)) / temperature
    w = np.full((count, 1, 1), 1 / count) if weights is None else weights.reshape(count, 1, -1)
    if how == "logits":
        expected = softmax((z * w).sum(0))
    else:
        expected = softmax(z).max(0) if how == "max" else (softmax(z) * w).sum(0)
        expected = expected / expected.sum(-1, keepdims=True)
    assert np.abs(found["probabilities"] - expected).max() < 1e-4
    assert np.abs(softmax(found["logits"]) - expected).max() < 1e-4


@pytest.mark.parametrize("view", [v for v in sorted(NUMPY) if v != "identity"])
def test_a_view_is_not_the_plain_image(graphs: dict[str, Graph], tmp_path: Path, view: str) -> None:
    feed = images(4)
    plain, seen = (answers(fused(graphs["fp32"], tmp_path / v, views=[v]), feed) for v in ("identity", view))
    assert np.abs(plain["probabilities"] - seen["probabilities"]).max() > 1e-2
    assert np.abs(plain["probabilities"] - answers(graphs["fp32"], feed)["probabilities"]).max() < 1e-5


def test_corners_and_zooms_are_those_of_torchvision(graphs: dict[str, Graph]) -> None:
    graph, image = graphs["fp32"], images(1, 50, 71)["image"]
    spec = graph.signature.spec
    picture = Image.fromarray(image[0])
    resized = v2.Resize(spec.resize_to, v2.InterpolationMode.BICUBIC)(picture)
    crops = [*v2.FiveCrop(spec.image_size)(resized)]
    zoomed = evaluation_view(replace(spec, crop_pct=spec.image_size / int(spec.resize_to * 1.3)))(picture)
    levels = [np.asarray(crop, np.float32).transpose(2, 0, 1) for crop in crops] + [zoomed.numpy().astype(np.float32)]
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (spec.mean, spec.std))
    session = network_of(graph)
    expected = [session.run(None, {"pixels": ((x / 255 - mean) / std)[None]})[0][0] for x in levels]
    names = ("crop:top-left", "crop:top-right", "crop:bottom-left", "crop:bottom-right", "identity", "zoom:1.3")
    found = view_outputs(graph, [{"image": image}], names)[:, 0]
    distances = np.abs(softmax(found)[:, None] - softmax(np.stack(expected))[None]).max(-1)
    assert np.diag(distances).max() < 0.02  # a pixel may be one grey level off
    assert distances.argmin(1).tolist() == list(range(len(names)))


def test_a_small_turn_is_that_of_torchvision(graphs: dict[str, Graph]) -> None:
    feed = images(2)
    pixels = torch.from_numpy(pixels_of(graphs["fp32"], feed))
    turned = v2.functional.rotate(pixels, 10, v2.InterpolationMode.BILINEAR, fill=None)
    expected = network_of(graphs["fp32"]).run(None, {"pixels": turned.numpy()})[0]
    found = view_outputs(graphs["fp32"], [feed], ("rotate:10", "rotate:-10"))
    assert np.abs(softmax(found[0]) - softmax(expected)).max() < 0.02
    assert np.abs(softmax(found[1]) - softmax(expected)).max() > 0.02


MANY = ("identity", "hflip", "rot90", "rotate:5", "shift:2,1", "zoom:1.3", "crop:top-left", "hflip+zoom:1.5")


@pytest.mark.parametrize("layout", ["batched", "unrolled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_answers_as_its_loop_in_both_runtimes(
    graphs: dict[str, Graph], tmp_path: Path, precision: str, layout: str
) -> None:
    graph, feed = graphs[precision], images(3)
    made = fused(graph, tmp_path / "f", views=MANY, layout=layout)
    expected = aggregate(view_outputs(graph, [feed], MANY), "softmax")
    allowed = {"fp32": 1e-4, "fp16": 1e-2, "int8": 2e-2}[precision]
    assert np.abs(answers(made, feed)["probabilities"] - expected).max() < allowed
    compiled = openvino.Core().compile_model(made.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # OpenVINO's resize may round a pixel to the next grey level; its integer kernels round products
    assert np.abs(compiled(feed)["probabilities"] - expected).max() < {"fp32": 1e-2}.get(precision, 0.1)


def test_int8_keeps_its_q_and_dq_and_weights_are_there_once(graphs: dict[str, Graph], tmp_path: Path) -> None:
    before = onnx.load(graphs["int8"].model)
    for layout, times in (("batched", 1), ("unrolled", 2)):
        made = fused(graphs["int8"], tmp_path / layout, layout=layout)
        after = onnx.load(made.model)

        def count(model: onnx.ModelProto, kind: str) -> int:
            return sum(node.op_type == kind for node in model.graph.node)

        for kind in ("QuantizeLinear", "DequantizeLinear", "Conv"):
            assert count(after, kind) == times * count(before, kind)
        assert made.model.stat().st_size < graphs["int8"].model.stat().st_size + 40_000 * times


@pytest.mark.parametrize("precision", ["fp32", "fp16", "tensorrt"])
def test_the_fused_graph_builds_ahead_of_time_for_rtx(graphs: dict[str, Graph], tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    module = registry.load("compile", "tensorrt_rtx")
    made = fused(graphs[precision], tmp_path / "f", views=("identity", "hflip", "rotate:5", "crop:top-left"))
    (tmp_path / "engine").mkdir()
    options = module.Options(compute_capability=["sm86"], image_px=[32, 64, 96], batch=[1, 1, 8])
    backends.build("tensorrt_rtx", options, made, precision, tmp_path / "engine")
    assert list((tmp_path / "engine").glob("*.trt"))


def test_an_engine_for_one_image_holds_all_of_its_views(
    graphs: dict[str, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = fused(graphs["fp32"], tmp_path / "f", views=("identity", "hflip", "rotate:5", "crop:top-left"))
    logs: list[_nvidia.Log] = []
    monkeypatch.setattr(_nvidia, "layers_of_log", lambda log: logs.append(log) or [])
    (tmp_path / "engine").mkdir()
    options = {"compute_capability": ["sm86"], "image_px": [32, 64, 96], "batch": [1, 1, 1]}
    module = registry.load("compile", "tensorrt_rtx")
    backends.build("tensorrt_rtx", module.Options(**options), made, "fp32", tmp_path / "engine")
    asked = re.findall(r"Inputs: \[ { Name: image, Dimensions: \[(-?\d+),", logs[0].layers)
    convolved = re.findall(r"LayerType: correlation, Inputs: \[ { Name: \S+, Dimensions: \[(-?\d+),", logs[0].layers)
    assert set(asked) == {"1"}
    assert len(convolved) > 5
    assert set(convolved) == {"4"}


def test_what_verify_each_expects_is_the_loop(graphs: dict[str, Graph]) -> None:
    feeds = [images(2), images(3, 33, 61)]
    options = fuse_tta.Options(views=("identity", "vflip"))
    found = fuse_tta.expected(graphs["fp32"].model, options, feeds)
    for feed, answer in zip(feeds, found, strict=True):
        z = loop(graphs["fp32"], feed, ("identity", "vflip"))
        assert np.abs(answer["probabilities"] - softmax(z).mean(0)).max() < 1e-4


def retold(graph: Graph, labels: str, target: Target | None = None) -> tuple[onnx.ModelProto, Signature]:
    """The graph as one of another task: its answer node exchanged."""
    from tlcompile.export.graph import _answer

    model = onnx.load(graph.model)
    del model.graph.node[-1], model.graph.output[1:]
    _answer(model.graph, "sigmoid" if labels == "classes" else "identity", target)
    return model, replace(graph.signature, labels=labels, target=target)


def test_several_labels_and_numbers_are_averaged_as_they_answer(graphs: dict[str, Graph]) -> None:
    feed, views = images(3), ("identity", "hflip")
    z = loop(graphs["fp32"], feed, views)
    expected = {"classes": (1 / (1 + np.exp(-z))).mean(0), "number": z.mean(0) * 5 + 30}
    for labels, target in (("classes", None), ("number", Target("age", 30.0, 5.0))):
        model, signature = retold(graphs["fp32"], labels, target)
        made = fuse_tta.fuse(model, signature, fuse_tta.Options(views=views))
        logits, answer = InferenceSession(made.SerializeToString()).run(["logits", signature.answer], feed)
        assert np.abs(answer - expected[labels]).max() < 1e-4 * signature.unit
        if labels == "classes":
            assert np.abs(1 / (1 + np.exp(-logits)) - answer).max() < 1e-4


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_sure_first_view_is_the_answer_and_an_unsure_one_is_not(
    graphs: dict[str, Graph], tmp_path: Path, runtime: str
) -> None:
    graph, views = graphs["fp32"], ("identity", "hflip", "zoom:1.3")
    z = view_outputs(graph, [images(8)], views)
    first, every = softmax(z[0]), softmax(z).mean(0)
    threshold = float(np.median(first.max(-1)))
    made = fused(graph, tmp_path / "f", views=views, exit_at=threshold)
    if runtime == "openvino":
        compiled = openvino.Core().compile_model(made.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = np.stack([compiled({"image": images(8)["image"][i : i + 1]})["probabilities"][0] for i in range(8)])
    else:
        found = np.stack(
            [answers(made, {"image": images(8)["image"][i : i + 1]})["probabilities"][0] for i in range(8)]
        )
    sure = first.max(-1) >= threshold
    assert 0 < sure.sum() < 8
    assert np.abs(found - np.where(sure[:, None], first, every)).max() < (1e-4 if runtime == "onnxruntime" else 1e-2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = tmp_path_factory.mktemp("text")
    model = text_folder(folder / "bert", "bert")
    network = transformers.build(transformers.Options.model_validate({"name": str(model), "max_length": 16}), 3)
    ids = np.array([[0, 5, 6, 2]])
    return exported(network, [{"input_ids": ids, "attention_mask": np.ones_like(ids)}], folder / "graph")


def documents(lengths: Sequence[int]) -> Feed:
    ids = np.ones((len(lengths), max(lengths)), np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = [0, *np.random.default_rng(row).integers(4, 18, length - 2), 2]
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def windows_of(tokens: list[int], view: str, limit: int = 16) -> list[list[int]]:
    """What a Python loop would feed: slices of the text between its first and its last token."""
    body, room = tokens[1:-1], limit - 2
    last = max(len(body) - room, 0)
    if view.startswith("windows"):
        stride = int(view.split(":")[1])
        starts = [0] + [s for s in range(stride, len(body), stride) if s - stride + room < len(body)]
    else:
        number = int(view.partition(":")[2] or 0)
        starts = [
            {"head": 0, "tail": last, "middle": last // 2, f"span:{number}": last * (633 * number % 1024) // 1024}[view]
        ]
    return [[tokens[0], *body[s : s + room], tokens[-1]] for s in starts]


WINDOWS = [
    ("head",),
    ("head", "middle", "tail"),
    ("windows:14",),
    ("windows:5",),
    ("span:3",),
    ("head", "span:1", "span:32"),
]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(WINDOWS), st.lists(st.integers(3, 70), min_size=1, max_size=4), st.booleans())
@example(("head", "middle", "tail"), [40, 9, 17, 64], True)
@example(("span:3",), [40, 9, 17, 64], False)
@example(("windows:5",), [16, 5], False)
def test_windows_over_documents_answer_as_the_loop(
    text: Graph, views: tuple[str, ...], lengths: list[int], unrolled: bool
) -> None:
    assert isinstance(text.signature.spec, TextSpec)
    assert text.signature.spec.max_length == 16
    feed = documents(lengths)
    layout = "unrolled" if unrolled and not views[0].startswith("windows") else "batched"
    options = fuse_tta.Options.model_validate({"views": views, "layout": layout})
    made = fuse_tta.fuse(onnx.load(text.model), text.signature, options)
    found = InferenceSession(made.SerializeToString()).run(["probabilities"], feed)[0]
    single = InferenceSession(text.model)
    for row, length in enumerate(lengths):
        tokens = feed["input_ids"][row, :length].tolist()
        cuts = [window for view in views for window in windows_of(tokens, view)]
        each = [
            single.run(
                ["probabilities"], {"input_ids": np.array([c]), "attention_mask": np.ones((1, len(c)), np.int64)}
            )
            for c in cuts
        ]
        assert np.abs(found[row] - np.mean([e[0][0] for e in each], axis=0)).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ["identity", "hfilp"]}, "did you mean 'hflip'"),
        ({"views": ["windows:8"]}, "is a view of texts"),
        ({"views": ["hflip", "five-crop", "crop:top-left"]}, "'crop:top-left' is there twice"),
        ({"views": ["shift:0,0"]}, "two whole numbers, not both 0"),
        ({"views": ["zoom:0.5"]}, "shows more than there is of the image"),
        ({"views": []}, "at least one view"),
        ({"weights": [1.0]}, "expected 2 numbers"),
        ({"weights": [0.5, 0.5], "aggregation": "max"}, "takes no weights"),
        ({"views": ["hflip"], "exit_at": 0.9}, "from two views on"),
    ],
)
def test_views_and_weights_that_do_not_fit_are_told(
    graphs: dict[str, Graph], tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(TlcompileError, match=message):
        fused(graphs["fp32"], tmp_path / "f", **options)


def test_all_windows_stand_alone_as_one_batch_without_weights(text: Graph, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        fused(text, tmp_path / "f", views=["windows:8", "head"], weights=[0.5, 0.5], layout="unrolled")
    assert [problem.where for problem in caught.value.problems] == ["tta.views", "tta.weights", "tta.layout"]


def test_all_wrong_views_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        grammar.parse(["hfilp", "head", "zoom:1", "identity"], "image")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["span:0"], "a number from 1 to 32"),
        (["spans:33"], "a number from 1 to 32"),
        (["span:-1"], "no such view"),
        (["span:²"], "no such view"),
        (["span"], "did you mean 'span:"),
        (["spans:2", "span:2"], "'span:2' is there twice"),
        (["five-crop"], "is a view of images"),
    ],
)
def test_wrong_spans_are_told(names: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        grammar.parse(names, "text")
    with pytest.raises(RecipeError, match="is a view of texts"):
        grammar.parse(["spans:3"], "image")


def test_spans_stand_for_single_ones_that_lie_apart() -> None:
    names = [view.name for view in grammar.parse(["head", "spans:3"], "text")]
    assert names == ["head", "span:1", "span:2", "span:3"]
    for most in (3, 8, 32):
        places = sorted(view.share / grammar.SHARES for view in grammar.parse([f"spans:{most}"], "text"))
        gaps = np.diff([0, *places, 1])
        assert gaps.min() > 0.25 / most
        assert gaps.max() < 2 / most


def test_a_number_has_no_largest_probability(graphs: dict[str, Graph]) -> None:
    model, signature = retold(graphs["fp32"], "number", Target("age", 30.0, 5.0))
    with pytest.raises(RecipeError, match="learns a number"):
        fuse_tta.fuse(model, signature, fuse_tta.Options(aggregation="max"))


def test_a_graph_that_is_none_of_ours_is_told(graphs: dict[str, Graph]) -> None:
    model = onnx.load(graphs["fp32"].model)
    for node in model.graph.node:
        node.name = node.name.removeprefix("preprocess/")
    with pytest.raises(TlcompileError, match="expected one tensor between preprocessing and network, found image"):
        fuse_tta.fuse(model, graphs["fp32"].signature, fuse_tta.Options())
    for node in model.graph.node:
        node.output[:] = [name.replace("logits", "scores") for name in node.output]
    with pytest.raises(TlcompileError, match="can't be cut"):
        cut(model, "tta")


@pytest.mark.parametrize("kind", ["image", "text"])
def test_what_is_lawful_can_be_parsed(kind: str) -> None:
    for name in grammar.lawful(kind):
        assert grammar.parse([name], kind)[0].name == name
