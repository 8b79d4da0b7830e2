from __future__ import annotations

from pathlib import Path

import tlcompile
from tlcompile.package.carry import carry, needed

ROOMS = {"", "runtime", "compile", "package"}


def test_only_the_shipped_backends_are_carried() -> None:
    assert "tlcompile.compile.openvino" in needed(["openvino"])
    assert not {"tlcompile.compile.onnxruntime", "tlcompile.compile.tensorrt_rtx"} & set(needed(["openvino"]))


def test_helpers_of_a_backend_come_with_it() -> None:
    assert {"tlcompile.compile._nvidia", "tlcompile.compile._nvidia_runner"} <= set(needed(["tensorrt_rtx"]))


def test_no_stage_of_the_compiler_is_carried() -> None:
    modules = needed(["openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"])
    rooms = {name.split(".")[1] for name in modules if name.count(".") > 1}
    assert rooms <= ROOMS
    assert not {"tlcompile.package.bundle", "tlcompile.package.publish", "tlcompile.store"} & set(modules)


def test_the_files_are_carried_unchanged(tmp_path: Path) -> None:
    carry(["openvino"], tmp_path)
    ours = Path(tlcompile.__file__).parent
    carried = [path.relative_to(tmp_path / "tlcompile") for path in tmp_path.rglob("*.py")]
    assert Path("runtime/model.py") in carried
    assert all((tmp_path / "tlcompile" / path).read_bytes() == (ours / path).read_bytes() for path in carried)
