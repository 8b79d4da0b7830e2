from __future__ import annotations

from pathlib import Path

import pytest
import toy_bundle

from tlcompile.errors import BundleError
from tlcompile.package.verify import verify


def problems(bundle: Path) -> list[tuple[str, str]]:
    """(path inside the bundle, what) of each problem that is found."""
    with pytest.raises(BundleError) as caught:
        verify(bundle)
    return [(str(Path(p.where).relative_to(bundle)), p.what) for p in caught.value.problems]


def test_a_sound_bundle_tells_what_it_is(built: Path) -> None:
    facts = verify(built)
    assert facts[0] == "toy: image-classification, 4 classes, format 1, written by tlcompile 0.1.0"
    assert "all there, unchanged, none besides" in facts[1]
    assert facts[2].endswith("openvino, onnxruntime")


@pytest.mark.parametrize(
    "path", ["model.onnx", "golden.npz", "engines/openvino/model.bin", "runtime/tlcompile/errors.py"]
)
def test_one_changed_byte_is_named(bundle: Path, path: str) -> None:
    content = bytearray((bundle / path).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / path).write_bytes(content)
    [(where, what)] = problems(bundle)
    assert where == path
    assert what.startswith("changed: SHA-256 ")


def test_every_missing_changed_and_extra_file_is_named_at_once(bundle: Path) -> None:
    (bundle / "labels.json").unlink()
    with (bundle / "README.md").open("a") as file:
        file.write("better than measured")
    (bundle / "engines" / "more").mkdir()
    (bundle / "engines" / "more" / "engine.bin").write_bytes(b"1")
    (bundle / ".hidden").write_bytes(b"")
    found = dict(problems(bundle))
    assert found.pop("README.md").startswith("changed: ")
    assert found == {
        "labels.json": "missing",
        "engines/more/engine.bin": "not in the manifest",
        ".hidden": "not in the manifest",
    }


def test_a_link_is_refused_even_to_equal_content(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").rename(tmp_path / "model.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "model.onnx")
    assert problems(bundle) == [("model.onnx", "expected a plain file, found a link or a device")]


def test_a_linked_folder_is_refused_and_not_entered(bundle: Path, tmp_path: Path) -> None:
    (bundle / "pictures").rename(tmp_path / "pictures")
    (bundle / "pictures").symlink_to(tmp_path / "pictures")
    assert dict(problems(bundle)) == {
        "pictures": "not in the manifest",
        "pictures/curves.png": "missing",
        "pictures/variants.png": "missing",
    }


def test_an_engine_without_files_is_named(bundle: Path) -> None:
    engines = toy_bundle.read_manifest(bundle)["engines"]
    engines[0]["folder"] = "engines/gone"
    toy_bundle.rewrite_manifest(bundle, engines=engines)
    assert problems(bundle) == [("engines/gone", "the folder of engine 'openvino': the manifest lists no file in it")]
