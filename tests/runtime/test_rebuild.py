"""An engine that this machine can't open is built anew from the bundle's graph, where its recipe allows that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import toy_bundle

from tlcompile.artifacts import read_json, write_json
from tlcompile.errors import BackendMissing
from tlcompile.fingerprint import file_digest
from tlcompile.runtime import rebuild
from tlcompile.runtime.model import load


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tlcompile" / "engines"


def foreign(bundle: Path, backend: str, variant: str = "fp32", **options: object) -> Path:
    """A sound bundle whose engine `backend` no runtime here can open: half of its file, as its manifest has it."""
    manifest = toy_bundle.read_manifest(bundle)
    name = {"openvino": "model.xml", "onnxruntime": "model.onnx"}[backend]
    entry = next(e for e in manifest["engines"] if e["backend"] == backend)
    entry["variant"] = variant
    entry["options"] |= options
    folder = bundle / entry["folder"]
    info = read_json(folder / "engine.json")
    write_json(folder / "engine.json", {**info, "options": entry["options"]})
    (folder / name).write_bytes((folder / name).read_bytes()[:400])
    for file in (folder / name, folder / "engine.json"):
        path = str(file.relative_to(bundle))
        manifest["files"][path], manifest["sizes"][path] = file_digest(file), file.stat().st_size
    toy_bundle.rewrite_manifest(bundle, **manifest)
    return bundle


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_it_is_built_once_kept_and_said(
    backend: str, bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(bundle, backend)
    for _ in range(2):
        with load(bundle, backend) as model:
            assert model.engine == backend
            assert model.notes[0].startswith(f"{backend}: can't be opened here (")
            assert "built anew from its graph, kept in " in model.notes[0]
            assert model.self_test().ok
        (kept,) = cache.iterdir()
        assert "engine.json" in {f.name for f in kept.iterdir()}
        monkeypatch.delattr(rebuild, "build", raising=False)  # the second time nothing is built


def test_a_kept_engine_that_is_damaged_is_made_again(bundle: Path, cache: Path) -> None:
    foreign(bundle, "openvino")
    load(bundle, "openvino").close()
    (kept,) = cache.iterdir()
    (kept / "model.xml").write_bytes(b"<damaged")
    with load(bundle, "openvino") as model:
        assert model.self_test().ok


def test_another_graph_or_option_is_another_kept_engine(bundle: Path, cache: Path) -> None:
    foreign(bundle, "openvino")
    load(bundle, "openvino").close()
    foreign(bundle, "openvino", threads=1)
    load(bundle, "openvino").close()
    assert len(list(cache.iterdir())) == 2


def test_the_recipe_may_want_the_next_engine_instead(bundle: Path, cache: Path) -> None:
    foreign(bundle, "openvino", fallback="portable")
    with load(bundle) as model:
        assert model.engine == "onnxruntime"
        assert model.notes[0].startswith("openvino: does not run here: ")
    assert not cache.exists()


def test_the_recipe_may_allow_no_fallback(bundle: Path, cache: Path) -> None:
    foreign(bundle, "openvino", fallback="none")
    with pytest.raises(BackendMissing, match="its recipe allows no fallback"):
        load(bundle)
    with load(bundle, "onnxruntime") as model:  # asked for by name
        assert model.engine == "onnxruntime"


def test_without_its_graph_an_engine_is_passed_over(bundle: Path, cache: Path) -> None:
    foreign(bundle, "openvino", variant="int8")
    with load(bundle) as model:
        assert model.engine == "onnxruntime"
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_a_reason_not_a_crash(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(bundle, "openvino")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with load(bundle) as model:
        assert model.engine == "onnxruntime"
        assert "is not writable" in model.notes[0]


def test_an_optimized_graph_of_another_machine_is_left_aside_with_a_note(tmp_path: Path) -> None:
    bundle = toy_bundle.build(tmp_path / "toy", tmp_path / "made", ("onnxruntime",), optimized=True)
    manifest = toy_bundle.read_manifest(bundle)
    made_by = bundle / "engines" / "onnxruntime" / "optimized.json"
    write_json(made_by, {**read_json(made_by), "onnxruntime": "1.0"})
    path = str(made_by.relative_to(bundle))
    manifest["files"][path], manifest["sizes"][path] = file_digest(made_by), made_by.stat().st_size
    toy_bundle.rewrite_manifest(bundle, **manifest)
    with load(bundle) as model:
        assert model.engine == "onnxruntime"
        assert "the optimized graph is of another machine (onnxruntime was '1.0'" in model.notes[0]
        assert model.self_test().ok


LOAD = """
import sys
import subprocess
import sys
from pathlib import Path
from tlcompile.runtime.model import load
print("ready", flush=True)
sys.stdin.readline()
with load(Path(sys.argv[1]), "openvino") as model:
    print(model.self_test().ok)
"""


def test_two_processes_that_build_it_at_once_both_answer_and_keep_one(bundle: Path, cache: Path) -> None:
    foreign(bundle, "openvino")
    command = [sys.executable, "-c", LOAD, str(bundle)]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in pair:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in pair:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [child.communicate()[0].strip() for child in pair] == ["True", "True"]
    assert len(list(cache.iterdir())) == 1
