"""Engines in processes of their own: real children, really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import toy_graphs

from tlcompile import compile as backends
from tlcompile.compile import _cuda
from tlcompile.errors import BackendMissing, BundleError, TlcompileError
from tlcompile.evaluate.isolate import EngineProcess

BACKENDS = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(bool(backends._backend("openvino").missing()), reason="missing")),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("engines")
    graph = toy_graphs.image_graph(root / "graph")

    def build(backend: str) -> Path:
        folder = root / backend
        if not folder.exists():
            folder.mkdir()
            backends.build(backend, toy_graphs.options_of(backend), graph, "fp32", folder)
        return folder

    return build


def gone(pid: int) -> bool:
    """Whether the process ends within ten seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_answers_as_the_engine_does_here(backend: str, engine: Callable[[str], Path]) -> None:
    feeds = [toy_graphs.images(2), toy_graphs.images(3, 9, 9)]
    with closing(backends.open_engine(engine(backend))) as here, EngineProcess(engine(backend)) as child:
        for feed in feeds:
            for name, value in here.run(feed).items():
                np.testing.assert_allclose(child.run(feed)[name], value, atol=1e-6)


def test_a_child_tells_what_it_runs_with(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        info = child.info()
    assert info.keys() == child.loaded.keys() == {"backend", "threads", "device", "load_s", "rss_mib"}
    assert info["backend"] == "onnxruntime"
    assert info["threads"] >= 1
    assert info["load_s"] > 0
    assert info["rss_mib"] > 10


def test_each_call_is_timed(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        seconds = child.time(toy_graphs.images(1), warmup=1, runs=7)
        path = child.keep(toy_graphs.images(1))
        assert len(child.time(path, warmup=0, runs=3)) == 3
    assert len(seconds) == 7
    assert min(seconds) > 0


def test_kept_feeds_do_not_replace_each_other(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        child.time(toy_graphs.images(1), warmup=0, runs=1)
        with pytest.raises(TlcompileError, match="found 1 on axis 3"):
            child.time({"image": np.zeros((1, 9, 9, 1), np.uint8)}, warmup=0, runs=1)


def test_errors_of_the_engine_come_back_whole_and_it_goes_on(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        with pytest.raises(TlcompileError) as caught:
            child.run({"imge": np.zeros(3)})
        assert [problem.nearest for problem in caught.value.problems] == ["image", ""]
        assert child.run(toy_graphs.images(1))["logits"].shape == (1, 4)


def test_an_engine_that_cannot_load_keeps_the_class_of_its_error(engine: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not an engine folder"), EngineProcess(tmp_path):
        pass
    if not backends._backend("tensorrt_rtx").missing() and _cuda.why_no_gpu():
        with pytest.raises(BackendMissing, match="no NVIDIA GPU"), EngineProcess(engine("tensorrt_rtx")):
            pass


def test_a_crash_names_the_signal(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        os.kill(child.pid, signal.SIGSEGV)
        with pytest.raises(TlcompileError, match=r"was ended by signal SIGSEGV \(11\)"):
            child.info()
        with pytest.raises(TlcompileError, match="SIGSEGV"):
            child.run(toy_graphs.images(1))


def test_a_bug_in_the_child_comes_with_its_last_words(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child, pytest.raises(TlcompileError) as caught:
        child.command("no-such-command")
    assert "ended with exit code 1; its last words:" in str(caught.value)
    assert str(caught.value).endswith("KeyError: 'no-such-command'")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_is_for_the_parent_to_decide(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        os.kill(child.pid, signal.SIGINT)
        assert child.info()["backend"] == "onnxruntime"


def test_nothing_is_left_behind(engine: Callable[[str], Path]) -> None:
    with EngineProcess(engine("onnxruntime")) as child:
        pid, kept = child.pid, child.keep(toy_graphs.images(1))
        assert psutil.pid_exists(pid)
    assert gone(pid)
    assert not kept.parent.exists()


_PARENT = """
import sys, toy_graphs
from pathlib import Path
from tlcompile.evaluate.isolate import EngineProcess
with EngineProcess(Path(sys.argv[1])) as child:
    print(child.pid, flush=True)
    child.time(toy_graphs.images(1), warmup=0, runs=10**9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("kind", ["killed", "interrupted"])
def test_a_child_ends_with_its_parent_even_in_the_middle_of_a_command(
    kind: str, engine: Callable[[str], Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _PARENT, str(engine("onnxruntime"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(toy_graphs.__file__).parent), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        try:
            if kind == "killed":
                parent.kill()
            else:
                os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does: to the child too
            assert gone(child)
        finally:
            parent.kill()


_LOUD = """
import os, sys
from pathlib import Path
from tlcompile.evaluate import worker

def shout(session):
    print("python's standard output")
    os.write(1, b"the runtime's own\\n")
    os.system("echo a process of the runtime")
    return {"torch": "torch" in sys.modules}

worker.COMMANDS["shout"] = shout
worker.main(Path(sys.argv[1]))
"""


def test_what_a_runtime_prints_does_not_mix_with_answers_and_torch_stays_out(engine: Callable[[str], Path]) -> None:
    command = [sys.executable, "-c", _LOUD, str(engine("onnxruntime"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert "ok" in json.loads(child.stdout.readline())
        print('{"command": "shout"}', file=child.stdin, flush=True)
        assert json.loads(child.stdout.readline()) == {"ok": {"torch": False}}
        rest, said = child.communicate()
    assert rest == ""
    for words in ("python's standard output", "the runtime's own", "a process of the runtime"):
        assert words in said
