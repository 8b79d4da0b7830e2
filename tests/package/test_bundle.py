from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import toy_bundle
import toy_graphs
from PIL import Image

from tlcompile.errors import BundleError
from tlcompile.package import manifest
from tlcompile.package.bundle import write
from tlcompile.package.verify import verify


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("text")
    graph = toy_bundle.text_graph(work / "graph")
    stored = toy_bundle.golden_of(graph, [toy_graphs.texts(3)], work / "golden.npz")
    return toy_bundle.package(work / "toy", work, graph, stored, ("onnxruntime",))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(toy_graphs.images(1)["image"][0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def site_of(requirements: Path, folder: Path) -> Path:
    """A folder of packages with what `requirements` names and what that depends on, and nothing else: not tlcompile."""
    waiting = [line.split("==")[0] for line in requirements.read_text().splitlines()]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        waiting += [m.group() for r in found.requires or () if ";" not in r and (m := re.match(r"[\w.-]+", r))]
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            target = Path(str(found.locate_file(top)))
            if target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    return folder


def alone(bundle: Path, site: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that sees the standard library and `site` only."""
    site.mkdir(exist_ok=True)
    start = f"import sys; sys.path.append({str(site_of(bundle / 'requirements.txt', site))!r}); "
    command = [sys.executable, "-I", "-S", "-c", start + code, *arguments]
    return subprocess.run(command, cwd=bundle, capture_output=True, text=True, timeout=60)


RUN = "import runpy; sys.argv[0] = 'predict.py'; runpy.run_path('predict.py', run_name='__main__')"
ASK = (
    "import atexit; atexit.register(lambda: print(sorted(m for m in sys.modules if m in "
    "('torch', 'onnx', 'transformers', 'tlcompile')), sys.modules['tlcompile'].__file__, file=sys.stderr)); "
)


def test_a_bundle_has_the_layout_of_the_design(built: Path) -> None:
    top = {path.name for path in built.iterdir()}
    assert top == {
        *("manifest.json", "model.onnx", "engines", "labels.json", "signature.json", "golden.npz", "report.json"),
        *("report.md", "pictures", "README.md", "predict.py", "requirements.txt", "runtime"),
    }
    assert json.loads((built / "labels.json").read_text()) == ["ant", "bee", "cat", "dog"]
    assert {path.name for path in (built / "engines").iterdir()} == {"openvino", "onnxruntime"}


def test_predict_runs_with_its_requirements_alone_and_without_torch(built: Path, tmp_path: Path, photo: Path) -> None:
    done = alone(built, tmp_path / "site", ASK + RUN, str(photo), str(photo))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["item"] for line in lines] == [str(photo)] * 2
    assert lines[0]["probability"] == pytest.approx(max(lines[0]["probabilities"].values()))
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert done.stderr.split("\n")[-2] == f"['tlcompile'] {built / 'runtime' / 'tlcompile' / '__init__.py'}"
    verify(built)  # running it left nothing behind


def test_the_self_test_passes_and_fails_by_its_exit_code(bundle: Path, tmp_path: Path) -> None:
    done = alone(bundle, tmp_path / "site", RUN, "--self-test")
    assert (done.returncode, done.stdout.split(":")[1]) == (0, " passed on 3 golden examples")
    engines = toy_bundle.read_manifest(bundle)["engines"]
    engines[0]["tolerance"] = {"max_abs": 0.0, "agreement": 1.0}
    toy_bundle.rewrite_manifest(bundle, engines=engines)
    done = alone(bundle, tmp_path / "site", RUN, "--self-test")
    assert (done.returncode, done.stdout.split(":")[1]) == (4, " FAILED on 3 golden examples")


def test_a_text_bundle_takes_texts(text_bundle: Path, tmp_path: Path) -> None:
    done = alone(text_bundle, tmp_path / "site", RUN, "a good film", "bad")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["item"] for line in done.stdout.splitlines()] == ["a good film", "bad"]
    assert "tokenizers==" in (text_bundle / "requirements.txt").read_text()
    assert "pillow" not in (text_bundle / "requirements.txt").read_text()


def test_a_spoilt_bundle_ends_in_a_sentence_and_exit_code_4(bundle: Path, tmp_path: Path, photo: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"")
    done = alone(bundle, tmp_path / "site", RUN, str(photo))
    assert done.returncode == 4
    assert done.stderr.startswith(f"{bundle / 'model.onnx'}: changed: 0 bytes")
    assert "Traceback" not in done.stderr


def test_what_the_readme_shows_in_python_runs(built: Path, tmp_path: Path, photo: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (built / "README.md").read_text(), re.DOTALL)
    done = alone(built, tmp_path / "site", code.replace('"photo.jpg"', repr(str(photo))))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Prediction(label=")


def test_the_readme_has_the_numbers_with_their_interval_and_the_gates(built: Path) -> None:
    text = (built / "README.md").read_text()
    assert "accuracy 0.9000 (0.8000 to 0.9500) on 20 examples, latency p50 1.50 ms" in text
    assert "9500) on 20 examples, latency p50 1.50 ms, p99 2.00 ms, 0.0 MB (engines/openvino). **Preferred.**" in text
    assert text.count("**Preferred.**") == 1
    assert "- openvino: `min_accuracy = 0.8`: 0.9, passed" in text
    assert "Sorts images into 4 classes: `ant`, `bee`, `cat`, `dog`." in text


def test_the_requirements_are_exact_and_without_torch(built: Path) -> None:
    lines = (built / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in lines] == ["numpy", "pydantic", "pillow", "openvino", "onnxruntime"]
    assert f"numpy=={np.__version__}" in lines


def test_equal_input_gives_an_equal_bundle(built: Path, tmp_path: Path) -> None:
    again = toy_bundle.build(tmp_path / "toy", tmp_path / "made", ("openvino", "onnxruntime"))
    mine, theirs = manifest.read(built).files, manifest.read(again).files
    assert mine.keys() == theirs.keys()
    numbered = {"engines/openvino/model.xml"}  # OpenVINO counts its nodes through the whole process
    assert {path for path in mine if mine[path] != theirs[path]} <= numbered


def test_a_bundle_without_engines_or_with_a_name_that_escapes_is_refused(tmp_path: Path) -> None:
    graph = toy_graphs.image_graph(tmp_path / "graph")
    stored = toy_bundle.golden_of(graph, [toy_graphs.images(1)], tmp_path / "golden.npz")
    engine = toy_bundle.engine_of("onnxruntime", graph, tmp_path / "engine")
    (tmp_path / "report").mkdir()

    def packaged(*names: str) -> None:
        (folder := tmp_path / f"out{len(names)}").mkdir()
        engines = [(name, engine, {}, toy_bundle.TOLERANCE) for name in names]
        given = {"name": "toy", "recipe_text": "", "resolved": {}, "facts": {}}
        write(folder, graph=graph, engines=engines, golden=stored, report=tmp_path / "report", **given)  # type: ignore[arg-type]

    with pytest.raises(BundleError, match="engines: Tuple should have at least 1 item"):
        packaged()
    with pytest.raises(ValueError, match="must be a relative path inside"):
        packaged("../up")


def test_facts_may_all_be_absent(tmp_path: Path) -> None:
    graph = toy_graphs.image_graph(tmp_path / "graph")
    stored = toy_bundle.golden_of(graph, [toy_graphs.images(1)], tmp_path / "golden.npz")
    engine = toy_bundle.engine_of("onnxruntime", graph, tmp_path / "engine")
    (tmp_path / "report").mkdir()
    (tmp_path / "toy").mkdir()
    write(
        tmp_path / "toy",
        name="toy",
        recipe_text="",
        resolved={},
        graph=graph,
        engines=[("a", engine, {}, toy_bundle.TOLERANCE)],
        golden=stored,
        report=tmp_path / "report",
        facts={},
    )
    verify(tmp_path / "toy")
