"""Commands that only look import no library that does the work: each is run in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "accelerate",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "numpy",
    "PIL",
    "pyarrow",
    "sklearn",
    "matplotlib",
)
TELL = """
import json, sys
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""
COMMAND = """
import sys
from tlcompile.cli import app
app(sys.argv[1:], standalone_mode=False)
"""


def imported(code: str, *arguments: str, folder: Path) -> list[str]:
    """Top-level names of all modules that a process has imported after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code + TELL, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    names: list[str] = json.loads(done.stderr.splitlines()[-1])
    return names


def test_the_package(tmp_path: Path) -> None:
    names = imported("import tlcompile", folder=tmp_path)
    assert "tlcompile" in names
    assert not {*HEAVY, "pydantic", "typer", "rich"} & set(names)


def test_help(tmp_path: Path) -> None:
    names = imported(COMMAND, "--help", folder=tmp_path)
    assert "tlcompile" in names
    assert not {*HEAVY, "pydantic", "rich"} & set(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", str(ROOT / "recipes" / "quickstart.toml")),
        ("why", str(ROOT / "recipes" / "quickstart.toml")),
        ("list",),
        ("schema",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_only_looks(arguments: tuple[str, ...], tmp_path: Path) -> None:
    names = imported(COMMAND, *arguments, folder=tmp_path)
    assert "tlcompile" in names
    assert not {*HEAVY, "rich"} & set(names)
