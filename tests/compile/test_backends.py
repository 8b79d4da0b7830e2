"""One suite for every backend of the room: a new file there is held to it by being there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import toy_graphs
from pydantic import ValidationError
from toy_graphs import options_of

from tlcompile import compile as backends
from tlcompile import registry
from tlcompile.artifacts import Engine, Graph, read_json, write_json
from tlcompile.errors import BackendMissing, BundleError, TlcompileError
from tlcompile.pipeline.step import plugin_parts
from tlcompile.recipe import Plugin
from tlcompile.store import Store

Engines = Callable[[str, str], Path]
Graphs = Callable[[str], Graph]
BACKENDS = registry.names("compile")
HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "rich", "psutil"}
LIBRARY = {"coreml": "coremltools", "litert": "ai_edge_litert"}
"""What a backend imports where that is not its own name."""
TOLERANCE = {"fp32": 1e-4, "int8": 0.01, "text": 1e-4}

every_backend = pytest.mark.parametrize("backend", BACKENDS)


def reference(graph: Graph, feed: toy_graphs.Feed) -> np.ndarray:
    """The logits of the graph as it is written, in floating point: nothing fused, no int8 kernel."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(str(graph.model), settings).run(["logits"], feed)[0])


@every_backend
def test_importing_a_backend_imports_nothing_heavy(backend: str) -> None:
    code = f"import sys, tlcompile.compile.{backend}; print(*{HEAVY!r} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


@every_backend
def test_what_describes_a_backend_is_text(backend: str) -> None:
    options = options_of(backend)
    assert backends.dialect(backend, options) in ("x86-vnni", "x86", "arm", "tensorrt")
    assert isinstance(backends.runs_here(backend, options), str)
    for facts in (backends.device(backend, options), backends.versions(backend)):
        assert all(isinstance(k, str) and isinstance(v, str) for k, v in facts.items())
    assert all(field.description for field in type(options).model_fields.values())


@every_backend
def test_unknown_options_are_refused(backend: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        type(options_of(backend)).model_validate({"thread": 2})


@every_backend
@pytest.mark.parametrize("variant", ["fp32", "int8", "text"])
def test_an_engine_folder_describes_itself(backend: str, variant: str, engines: Engines, graphs: Graphs) -> None:
    folder = engines(backend, variant)
    info = read_json(folder / "engine.json")
    assert (info["backend"], info["variant"]) == (backend, variant)
    assert type(options_of(backend)).model_validate(info["options"]) == options_of(backend)
    assert info["versions"] == backends.versions(backend) != {}
    assert info["runs_here"] == (info["why_not"] == "")
    graph = graphs("text" if variant == "text" else "fp32")
    assert Engine(folder, "").signature == graph.signature
    assert (folder / "tokenizer.json").exists() == (variant == "text")


@every_backend
@pytest.mark.parametrize("variant", ["fp32", "int8", "text"])
def test_an_engine_answers_like_its_graph_at_any_batch_and_size(
    backend: str, variant: str, running: Engines, graphs: Graphs
) -> None:
    folder = running(backend, variant)
    if variant == "text":
        graph, feeds = graphs("text"), [toy_graphs.texts(batch, tokens) for batch, tokens in [(1, 7), (3, 7), (2, 30)]]
    else:
        graph = graphs("fp32" if variant == "fp32" else backends.dialect(backend, options_of(backend)))
        feeds = [toy_graphs.images(*size) for size in [(1, 24, 20), (5, 24, 20), (2, 9, 40), (1, 24, 20)]]
    with closing(backends.open_engine(folder)) as runner:
        for feed in feeds:
            outputs = runner.run(feed)
            assert list(outputs) == ["logits", "probabilities"]
            np.testing.assert_allclose(outputs["logits"], reference(graph, feed), atol=TOLERANCE[variant])
            np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-5)


@every_backend
def test_answers_outlive_the_next_run(backend: str, running: Engines) -> None:
    with closing(backends.open_engine(running(backend, "fp32"))) as runner:
        first = runner.run(toy_graphs.images(2))["logits"]
        kept = first.copy()
        runner.run(toy_graphs.images(2, seed=1))
        np.testing.assert_array_equal(first, kept)


@every_backend
def test_arrays_of_any_memory_order_give_the_same_answer(backend: str, running: Engines) -> None:
    feed = toy_graphs.images(3)
    with closing(backends.open_engine(running(backend, "fp32"))) as runner:
        turned = {"image": np.asfortranarray(feed["image"])}
        np.testing.assert_array_equal(runner.run(feed)["logits"], runner.run(turned)["logits"])


@every_backend
def test_sessions_and_threads_do_not_disturb_each_other(backend: str, running: Engines) -> None:
    folder = running(backend, "fp32")
    feeds = [toy_graphs.images(1 + i % 3, 16 + i, 20, seed=i) for i in range(8)]
    with closing(backends.open_engine(folder)) as one, closing(backends.open_engine(folder)) as two:
        expected = [one.run(feed)["logits"] for feed in feeds]
        with ThreadPoolExecutor(4) as pool:
            jobs = [(runner, i) for _ in range(5) for runner in (one, two) for i in range(len(feeds))]
            answers = list(pool.map(lambda job: job[0].run(feeds[job[1]])["logits"], jobs))
    for (_, i), answer in zip(jobs, answers, strict=True):
        np.testing.assert_allclose(answer, expected[i], atol=1e-6)


@every_backend
def test_a_wrong_feed_is_refused_and_the_engine_goes_on(backend: str, running: Engines) -> None:
    right = toy_graphs.images(2)
    wrong = {
        "imge": ({"imge": right["image"]}, "did you mean 'image'"),
        "dtype": ({"image": right["image"].astype(np.float32)}, "found dtype float32, expected uint8"),
        "rank": ({"image": right["image"][0]}, "expected 4 axes"),
        "channels": ({"image": right["image"][..., :1]}, "found 1 on axis 3"),
        "empty": ({"image": right["image"][:0]}, "at least 1"),
    }
    with closing(backends.open_engine(running(backend, "fp32"))) as runner:
        for feed, message in wrong.values():
            with pytest.raises(TlcompileError, match=message):
                runner.run(feed)
        assert runner.run(right)["logits"].shape == (2, 4)


@every_backend
def test_a_closed_engine_says_so(backend: str, running: Engines) -> None:
    runner = backends.open_engine(running(backend, "fp32"))
    runner.close()
    runner.close()
    with pytest.raises(TlcompileError, match="was closed"):
        runner.run(toy_graphs.images(1))


@every_backend
def test_what_a_truncated_engine_gets_is_a_sentence(backend: str, engines: Engines, tmp_path: Path) -> None:
    folder = engines(backend, "fp32")
    for file in filter(Path.is_file, folder.rglob("*")):
        content = file.read_bytes()
        place = tmp_path / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if file.suffix == ".json" else content[: len(content) // 2])
    with pytest.raises((BundleError, BackendMissing)) as caught:
        backends.open_engine(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@every_backend
def test_an_engine_with_unknown_options_is_refused(backend: str, engines: Engines, tmp_path: Path) -> None:
    info = read_json(engines(backend, "fp32") / "engine.json")
    write_json(tmp_path / "engine.json", {**info, "options": {**info["options"], "newer": 1}})
    with pytest.raises(BundleError, match="newer"):
        backends.open_engine(tmp_path)


@every_backend
def test_a_missing_library_is_told_with_its_install_line(
    backend: str, graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARY.get(backend, backend), None)  # Python's way to say it is not there
    options = options_of(backend)
    assert "pip install" in backends.runs_here(backend, options)
    with pytest.raises(BackendMissing, match="pip install"):
        backends.build(backend, options, graphs("fp32"), "fp32", tmp_path)
    write_json(tmp_path / "engine.json", {"backend": backend, "options": options.model_dump(mode="json")})
    with pytest.raises(BackendMissing, match="pip install"):
        backends.open_engine(tmp_path)


@every_backend
def test_a_graph_with_an_unknown_operator_names_it(
    backend: str, graphs: Graphs, engines: Engines, tmp_path: Path
) -> None:
    import onnx

    engines(backend, "fp32")  # skips where the library is missing
    model = onnx.load(graphs("fp32").model)
    model.graph.node[-1].op_type = "Sofmax"
    (tmp_path / "graph").mkdir()
    onnx.save(model, tmp_path / "graph" / "model.onnx")
    write_json(tmp_path / "graph" / "signature.json", toy_graphs.IMAGE.to_json())
    with pytest.raises(TlcompileError, match="Sofmax"):
        backends.build(backend, options_of(backend), Graph(tmp_path / "graph", ""), "fp32", tmp_path)


ELSEWHERE: dict[str, dict[str, object]] = {
    "onnxruntime": {"providers": ("cuda", "cpu")},
    "openvino": {"device": "NPU"},
    "tensorrt_rtx": {"compute_capability": ("sm80",)},
    "coreml": {},
}


@every_backend
def test_an_engine_for_a_device_that_is_not_here_gets_a_sentence(
    backend: str, engines: Engines, graphs: Graphs, tmp_path: Path
) -> None:
    engines(backend, "fp32")  # skips where the library is missing
    if backend not in ELSEWHERE:
        pytest.skip("an engine of it is of no one device")
    options = type(options_of(backend)).model_validate(ELSEWHERE[backend])
    if not (why := backends.runs_here(backend, options)):
        pytest.skip("this machine has that device")
    backends.build(backend, options, graphs("fp32"), "fp32", tmp_path)
    assert read_json(tmp_path / "engine.json")["why_not"] == why
    with pytest.raises((BackendMissing, BundleError)) as caught:
        backends.open_engine(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@every_backend
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_an_engine_to_be_finalized_needs_no_library_and_says_what_to_do(
    backend: str, variant: str, graphs: Graphs, tmp_path: Path
) -> None:
    options = type(options_of(backend)).model_validate({**options_of(backend).model_dump(), "finalize": True})
    graph = graphs("fp32" if variant == "fp32" else backends.dialect(backend, options))
    backends.build(backend, options, graph, variant, tmp_path)
    info = read_json(tmp_path / "engine.json")
    assert (info["runs_here"], info["device"]) == (False, {})
    assert "tlcompile finalize BUNDLE" in info["why_not"] == backends.runs_here(backend, options)
    carried = {f.name for f in tmp_path.iterdir()} - {"engine.json", "signature.json"}
    assert carried == {"graph.onnx"}
    there = backends.on_device(backend, options, tmp_path)
    assert backends.runs_here(backend, there) != info["why_not"]
    if not registry.load("compile", backend).missing():
        with pytest.raises(BundleError, match="tlcompile finalize BUNDLE"):
            backends.open_engine(tmp_path)


@every_backend
def test_all_mistakes_of_a_feed_are_told_at_once(backend: str, running: Engines) -> None:
    feed = {"input_ids": np.zeros((2, 3), np.int32), "mask": np.zeros((2, 3), np.int64)}
    with closing(backends.open_engine(running(backend, "text"))) as runner, pytest.raises(TlcompileError) as caught:
        runner.run(feed)
    told = str(caught.value)
    for mistake in ("an input 'mask'", "'attention_mask' is missing", "found dtype int32, expected int64"):
        assert mistake in told


RUN = """
import sys, numpy as np
from pathlib import Path
from tlcompile import compile as backends
runner = backends.open_engine(Path(sys.argv[1]))
feed = dict(np.load(sys.argv[2]))
print("open", flush=True)
sys.stdin.readline()
answers = {runner.run(feed)["logits"].tobytes().hex() for _ in range(20)}
print(*answers)
runner.close()
"""


@every_backend
def test_two_processes_run_one_engine_at_once(backend: str, running: Engines, tmp_path: Path) -> None:
    feed = toy_graphs.images(3)
    np.savez(tmp_path / "feed.npz", **feed)
    folder = running(backend, "fp32")
    command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "feed.npz")]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in pair:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
    for child in pair:  # both hold the engine
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate()[0].strip() for child in pair]
    with closing(backends.open_engine(folder)) as runner:
        assert answers == [runner.run(feed)["logits"].tobytes().hex()] * 2


BUILD = """
import sys
from pathlib import Path
import toy_graphs
from tlcompile import compile as backends
from tlcompile.artifacts import Graph
from tlcompile.store import Key, Store
backend, graph, store = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
options = toy_graphs.options_of(backend)
print("ready", flush=True)
sys.stdin.readline()
key = Key("compile", {"backend": backend})
entry = Store(store).make(key, lambda out: backends.build(backend, options, Graph(graph, ""), "fp32", out))
print(entry.digest, entry.cached)
"""


@every_backend
def test_two_processes_that_build_one_engine_make_it_once(
    backend: str, engines: Engines, graphs: Graphs, tmp_path: Path
) -> None:
    engines(backend, "fp32")  # skips where the library is missing
    command = [sys.executable, "-c", BUILD, backend, str(graphs("fp32").folder), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(toy_graphs.__file__).parent)}
    pair = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for child in pair:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in pair:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    (digest, cached), (other, also) = (child.communicate()[0].split() for child in pair)
    assert digest == other
    assert {cached, also} == {"True", "False"}


NO_SPACE = """
import resource, signal, sys
from pathlib import Path
import toy_graphs
from tlcompile import compile as backends, registry
from tlcompile.artifacts import Graph
from tlcompile.errors import TlcompileError
backend = sys.argv[1]
__import__({"onnxruntime": "onnx", "coreml": "coremltools", "litert": "ai_edge_litert"}.get(backend, backend))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as on a full disk: a write of more fails
try:
    backends.build(backend, toy_graphs.options_of(backend), Graph(Path(sys.argv[2]), ""), "fp32", Path(sys.argv[3]))
except TlcompileError as error:
    print(error)
"""


@every_backend
def test_no_room_for_the_engine_is_told_and_leaves_none(
    backend: str, engines: Engines, graphs: Graphs, tmp_path: Path
) -> None:
    engines(backend, "fp32")  # skips where the library is missing
    command = [sys.executable, "-c", NO_SPACE, backend, str(graphs("fp32").folder), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(toy_graphs.__file__).parent)}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert told.startswith(f"{backend}: the build failed: ")
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "engine.json").exists()


@every_backend
def test_every_option_is_in_the_key_unless_its_backend_says_otherwise(backend: str, tmp_path: Path) -> None:
    module = registry.load("compile", backend)
    parts = plugin_parts(Plugin("compile", backend, options_of(backend)), Store(tmp_path))
    left_out = set(getattr(module, "NOT_IN_KEY", ()))
    assert set(parts["options"]) == set(module.Options.model_fields) - left_out
    assert left_out < set(module.Options.model_fields)
    assert set(getattr(module, "HERE", {})) | set(getattr(module, "CARRIED", {})) < set(module.Options.model_fields)
    if not module.missing():
        assert parts["tools"]


@every_backend
def test_weights_outside_of_the_graph_are_refused_by_name(
    backend: str, engines: Engines, graphs: Graphs, tmp_path: Path
) -> None:
    import onnx

    engines(backend, "fp32")  # skips where the library is missing
    model = onnx.load(graphs("fp32").model)
    weights = next(w for w in model.graph.initializer if w.name == "conv_w")
    (tmp_path / "secret.bin").write_bytes(weights.raw_data)
    onnx.external_data_helper.set_external_data(weights, "../secret.bin")
    weights.ClearField("raw_data")
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    with pytest.raises(TlcompileError, match=r"the weights 'conv_w' are in another file \('\.\./secret\.bin'\)"):
        backends.build(backend, options_of(backend), Graph(tmp_path / "graph", ""), "fp32", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@every_backend
@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_file_that_is_no_graph_gets_a_sentence(
    backend: str, content: bytes | None, engines: Engines, graphs: Graphs, tmp_path: Path
) -> None:
    engines(backend, "fp32")  # skips where the library is missing
    whole = graphs("fp32").model.read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "signature.json", toy_graphs.IMAGE.to_json())
    with pytest.raises(TlcompileError) as caught:
        backends.build(backend, options_of(backend), Graph(tmp_path, ""), "fp32", tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_an_engine_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not an engine folder"):
        backends.open_engine(tmp_path)
    (tmp_path / "engine.json").write_text('{"backend": "onnxrun')
    with pytest.raises(BundleError, match="not an engine folder"):
        backends.open_engine(tmp_path)


def test_some_engine_of_this_suite_ran(running: Engines) -> None:
    assert running("onnxruntime", "int8").is_dir()
