"""An early exit as two engines answers as the graph with a branch does, and asks no more than it has to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toy_bundle
import toy_graphs
from onnxruntime import InferenceSession

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import EXIT_FILE, FIRST_VOICE, Feed, Graph, Runner, read_json, write_json
from tlcompile.compile._branches import part
from tlcompile.compile._cut import cut
from tlcompile.errors import BackendMissing, BundleError
from tlcompile.optimize import fuse_ensemble, fuse_tta
from tlcompile.package.manifest import read as read_manifest
from tlcompile.package.verify import verify
from tlcompile.runtime import load as open_bundle
from tlcompile.runtime import rebuild
from tlcompile.runtime.choose import options_of

COUNT = 12


def ensemble(folder: Path, exit_at: float) -> Graph:
    first, second = toy_graphs.image_graph(folder / "a"), toy_graphs.image_graph(folder / "b", channels=16)
    options = fuse_ensemble.Options(
        members=(str(second.model),), weights=(0.6, 0.4), temperatures=(1.2, 0.8), exit_at=exit_at
    )
    fuse_ensemble.apply(first.model, options, None, folder / "model.onnx")  # type: ignore[arg-type]
    return written(folder, first, exit_at)


def views(folder: Path, exit_at: float) -> Graph:
    plain = toy_graphs.text_graph(folder / "plain")
    options = fuse_tta.Options(views=("head", "tail", "middle"), exit_at=exit_at)
    onnx.save(fuse_tta.fuse(onnx.load(plain.model), plain.signature, options), folder / "model.onnx")
    return written(folder, plain, exit_at)


def written(folder: Path, like: Graph, exit_at: float) -> Graph:
    write_json(folder / "signature.json", like.signature.to_json())
    write_json(folder / EXIT_FILE, {"threshold": exit_at})
    return Graph(folder, "")


def pictures() -> Feed:
    light = np.linspace(0.05, 1, COUNT)[:, None, None, None]
    return {"image": (toy_graphs.images(COUNT)["image"] * light).astype(np.uint8)}


def documents() -> Feed:
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(3 * i, 3 * i + 6, 90) for i in range(COUNT)])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


MAKERS: dict[str, tuple[Callable[[Path, float], Graph], Callable[[], Feed]]] = {
    "ensemble": (ensemble, pictures),
    "tta": (views, documents),
}


@dataclass(frozen=True)
class Case:
    """A graph whose first voice is sure of some examples of `feed`, those of `leaves`."""

    graph: Graph
    feed: Feed
    leaves: np.ndarray

    def one(self, index: int) -> Feed:
        return {name: value[index : index + 1] for name, value in self.feed.items()}


@pytest.fixture(scope="module", params=MAKERS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    make, feeds = MAKERS[request.param]
    root, feed = tmp_path_factory.mktemp(request.param), feeds()
    alone = InferenceSession(make(root / "alone", 1e-6).model).run(["probabilities"], feed)[0].max(-1)
    sure = np.sort(alone)
    at = int(np.diff(sure)[3:-3].argmax()) + 3  # the border is where no example is near it
    threshold = float(sure[at : at + 2].mean())
    return Case(make(root / "graph", threshold), feed, alone >= threshold)


class Counted:
    """An engine, and how many examples it was asked for by each call."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.asked = runner, list[int]()

    def run(self, feed: Feed) -> Feed:
        self.asked.append(len(next(iter(feed.values()))))
        return self.runner.run(feed)

    def close(self) -> None:
        self.runner.close()


def opened(case: Case, backend: str, folder: Path, **options: Any) -> Any:
    folder.mkdir(parents=True)
    backends.build(backend, registry.load("compile", backend).Options(threads=1, **options), case.graph, "fp32", folder)
    return backends.open_engine(folder)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_two_engines_answer_as_the_graph_with_its_branch_and_ask_for_the_unsure_alone(
    case: Case, tmp_path: Path, backend: str
) -> None:
    whole = opened(case, backend, tmp_path / "if")
    split = opened(case, backend, tmp_path / "split", early_exit="split")
    assert not (tmp_path / "if" / EXIT_FILE).exists()
    split._runner.rest = rest = Counted(split._runner.rest)
    expected, found = whole.run(case.feed), split.run(case.feed)
    assert set(found) == set(expected) == {"logits", "probabilities"}
    assert np.abs(found["probabilities"] - expected["probabilities"]).max() < 1e-4
    assert rest.asked == [(~case.leaves).sum()]
    assert 3 <= case.leaves.sum() <= COUNT - 3
    for index in range(COUNT):
        alone = split.run(case.one(index))["probabilities"][0]
        assert np.abs(alone - expected["probabilities"][index]).max() < 1e-4
    assert rest.asked[1:] == [1] * (~case.leaves).sum()
    split.close()


def test_every_threshold_answers_as_its_graph(case: Case, tmp_path: Path) -> None:
    """From nobody leaves to all do; the parts of the graph are the same for all of them."""
    split = opened(case, "onnxruntime", tmp_path / "split", early_exit="split")
    first = split._runner.first.run(case.feed)["probabilities"]
    every = split._runner.rest.run({**case.feed, FIRST_VOICE: split._runner.first.run(case.feed)[FIRST_VOICE]})
    assert np.abs(first - every["probabilities"]).max() > 0.01
    for threshold in (1e-6, 0.3, 0.5, 0.7, 1.0):
        split._runner.threshold = threshold
        sure = (first.max(-1) >= threshold)[:, None]
        expected = np.where(sure, first, every["probabilities"])
        assert np.abs(split.run(case.feed)["probabilities"] - expected).max() < 1e-5


def test_what_is_no_number_is_not_sure(case: Case, tmp_path: Path) -> None:
    class Broken:
        def run(self, feed: Feed) -> Feed:
            nothing = np.full((COUNT, 4), np.nan, np.float32)
            return {**real.run(feed), "probabilities": nothing}

    split = opened(case, "onnxruntime", tmp_path / "split", early_exit="split")
    real, split._runner.first = split._runner.first, Broken()
    assert np.isfinite(split.run(case.feed)["probabilities"]).all()


def test_a_feed_that_does_not_fit_is_told_as_of_every_engine(case: Case, tmp_path: Path) -> None:
    from tlcompile.errors import TlcompileError

    split = opened(case, "onnxruntime", tmp_path / "split", early_exit="split")
    with pytest.raises(TlcompileError, match="'strange', expected"):
        split.run({**case.feed, "strange": np.zeros(1)})


@pytest.mark.parametrize("continues", [True, False])
def test_no_part_has_a_branch_and_the_others_start_where_the_first_voice_ends(case: Case, continues: bool) -> None:
    whole = onnx.load(case.graph.model)
    first, rest = part(whole, case.graph.signature, continues)
    for one in (first, rest):
        assert "If" not in [node.op_type for node in one.model.graph.node]
    [alone] = InferenceSession(first.model.SerializeToString()).run(["probabilities"], case.feed)
    begun = InferenceSession(first.model.SerializeToString()).run([FIRST_VOICE], case.feed)[0] if continues else None
    more = {FIRST_VOICE: begun} if continues else {}
    [every] = InferenceSession(rest.model.SerializeToString()).run(["probabilities"], {**case.feed, **more})
    [expected] = InferenceSession(whole.SerializeToString()).run(["probabilities"], case.feed)
    assert np.abs(np.where(case.leaves[:, None], alone, every) - expected).max() < 1e-5
    products = [sum(n.op_type == "Gemm" for n in one.model.graph.node) for one in (first, rest)]
    assert products == ([1, 1] if continues else [1, 2])
    names = [t.name for t in rest.signature.inputs]
    assert (FIRST_VOICE in names) == continues


def test_weights_are_in_the_part_that_reads_them_and_there_once(tmp_path: Path) -> None:
    graph = ensemble(tmp_path, 0.5)
    parts = part(onnx.load(graph.model), graph.signature, continues=True)
    kernels = [[tuple(t.dims) for t in one.model.graph.initializer if len(t.dims) == 4] for one in parts]
    assert kernels == [[(32, 3, 3, 3)], [(16, 3, 3, 3)]]
    both = part(onnx.load(graph.model), graph.signature, continues=False)[1]
    assert sum(len(t.dims) == 4 for t in both.model.graph.initializer) == 2
    same = views(tmp_path / "views", 0.5)
    for one in part(onnx.load(same.model), same.signature, continues=False):
        assert sum(tuple(t.dims) == (50, 16) for t in one.model.graph.initializer) == 1


def test_a_runtime_of_one_fixed_shape_can_take_both_parts(tmp_path: Path) -> None:
    """As the backends for mobile devices cut a graph: the tokens of a text get one number."""
    graph = views(tmp_path, 0.5)
    for index, one in enumerate(part(onnx.load(graph.model), graph.signature, continues=False)):
        folder = tmp_path / str(index)
        (folder / "cut").mkdir(parents=True)
        onnx.save(one.model, folder / "model.onnx")
        write_json(folder / "signature.json", one.signature.to_json())
        network = cut(Graph(folder, ""), 8, folder / "cut").network
        feed = {name: value[:1, :8] for name, value in documents().items()}
        assert InferenceSession(network).run(["probabilities"], feed)[0].shape == (1, 4)


def test_backends_for_mobile_devices_are_fed_inputs_alone() -> None:
    alone = {name for name in registry.names("compile") if getattr(registry.load("compile", name), "INPUTS_ONLY", 0)}
    assert alone == {"coreml", "executorch", "litert", "ncnn"}


def test_a_backend_without_branches_splits_unasked_and_others_when_asked() -> None:
    def splits(name: str, **options: Any) -> bool:
        return backends.splits(name, registry.load("compile", name).Options(**options))

    assert {name for name in registry.names("compile") if not splits(name)} == {"onnxruntime", "openvino"}
    assert splits("onnxruntime", early_exit="split")


def test_a_plan_for_rtx_is_built_for_both_parts(tmp_path: Path) -> None:
    options = registry.load("compile", "tensorrt_rtx").Options(compute_capability=("sm86",), batch=(1, 1, 4))
    if reason := registry.load("compile", "tensorrt_rtx").missing():
        pytest.skip(reason)
    (tmp_path / "engine").mkdir()
    graph = ensemble(tmp_path / "graph", 0.5)
    backends.build("tensorrt_rtx", options, graph, "ensemble-exit-fp32", tmp_path / "engine")
    for name in ("first", "rest"):
        assert (tmp_path / "engine" / name / "engine-sm86.trt").stat().st_size > 1000
    info = read_json(tmp_path / "engine" / "engine.json")
    assert not info["reproducible"]
    assert info["first"]["engines"]["sm86"]["layers"] > 0
    assert (tmp_path / "engine" / backends.GRAPH).exists()


def test_an_engine_that_lacks_a_part_is_refused(case: Case, tmp_path: Path) -> None:
    opened(case, "onnxruntime", tmp_path / "split", early_exit="split").close()
    (tmp_path / "split" / "rest" / "model.onnx").unlink()
    with pytest.raises(BundleError, match="can't load this engine"):
        backends.open_engine(tmp_path / "split")


def bundle(root: Path, threshold: float, **options: Any) -> Path:
    root.mkdir()
    graph = ensemble(root / "graph", threshold)
    golden = toy_bundle.golden_of(graph, [pictures()], root / "golden.npz")
    return toy_bundle.package(root / "bundle", root, graph, golden, ["onnxruntime"], early_exit="split", **options)


def test_a_bundle_of_two_engines_is_sound_passes_its_self_test_and_answers(case: Case, tmp_path: Path) -> None:
    if "image" not in case.feed:
        pytest.skip("of images")
    place = bundle(tmp_path / "made", read_json(case.graph.folder / EXIT_FILE)["threshold"])
    assert any("all there" in fact for fact in verify(place))
    [expected] = InferenceSession(case.graph.model).run(["probabilities"], case.feed)
    with open_bundle(place, "onnxruntime") as model:
        assert model.self_test().ok
        answers = np.stack(list(model.answers(list(case.feed["image"]), batch_size=5)))
    assert np.abs(answers - expected).max() < 1e-4
    (place / "engines" / "onnxruntime" / "rest" / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"rest/model\.onnx"):
        verify(place)


def test_a_device_builds_both_engines_from_the_graph_and_says_what_it_lacks(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "image" not in case.feed:
        pytest.skip("of images")
    place = bundle(tmp_path / "made", read_json(case.graph.folder / EXIT_FILE)["threshold"], finalize=True)
    [entry] = read_manifest(place).engines
    there = backends.on_device("onnxruntime", options_of(entry), place / entry.folder)
    (tmp_path / "there").mkdir()
    rebuild.build(place, entry, there, tmp_path / "there")
    [expected] = InferenceSession(case.graph.model).run(["probabilities"], case.feed)
    found = backends.open_engine(tmp_path / "there").run(case.feed)["probabilities"]
    assert np.abs(found - expected).max() < 1e-4
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "lacking").mkdir()
    with pytest.raises(BackendMissing, match="pip install onnx"):
        rebuild.build(place, entry, there, tmp_path / "lacking")


def test_several_labels_leave_by_the_least_certain_one(tmp_path: Path) -> None:
    """The runner reads from the signature which confidence it is."""
    from tlcompile.compile._split import Split

    class Fixed:
        def __init__(self, p: list[list[float]]) -> None:
            self.p = np.array(p, np.float32)

        def run(self, feed: Feed) -> Feed:
            return {"probabilities": self.p[: len(feed["image"])].copy()}

        def close(self) -> None: ...

    first, rest = Fixed([[1.0, 0.5], [1.0, 0.03125]]), Fixed([[0.75, 0.75]])
    feed, one = {"image": np.zeros((2, 1))}, toy_graphs.IMAGE
    of_labels = Split(first, rest, replace(one, labels="classes"), 0.9).run(feed)["probabilities"]
    assert of_labels.tolist() == [[0.75, 0.75], [1.0, 0.03125]]
    of_class = Split(first, rest, one, 0.9).run(feed)["probabilities"]
    assert of_class.tolist() == [[1.0, 0.5], [1.0, 0.03125]]
