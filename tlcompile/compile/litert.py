"""LiteRT (TensorFlow Lite): the network as `model.tflite`, run by its interpreter and XNNPACK.

Google's converter reads torch programs, and `litert-torch` 0.10 asks for a torch older than ours. So it may live in an
environment of its own, named by `python`, where copies of three files of ours run it. The device needs the interpreter
only. It takes one shape; see `_fixed` for how images of any size, batches and texts reach it.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.compile import _cpu
from tlcompile.compile._fixed import FixedOptions, FixedRunner, prepare
from tlcompile.errors import BackendMissing, Problem, TlcompileError
from tlcompile.options import Field, RecipePath

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.artifacts import Graph

PACKAGES = ("ai-edge-litert", "litert-torch")
INPUTS_ONLY = True
CONVERTERS = ("litert-torch",)
INSTALL = "pip install ai-edge-litert"
CONVERTER = (
    "the converter litert-torch is not installed: it wants an older torch, so give it an environment of its own, "
    "`python -m venv litert && litert/bin/pip install litert-torch onnx`, and say python = 'litert/bin/python'"
)
_MODEL = "model.tflite"
COPIED = ("_to_litert.py", "_to_torch.py", "_torch_operators.py")


class Options(FixedOptions):
    threads: int = Field(0, ge=0, description="CPU threads of one run; 0 = one a physical core")
    python: RecipePath | None = Field(
        None, description="the Python of the environment that has litert-torch; none: the one that builds"
    )


def dialect(options: Options) -> str:
    return "arm"


def refuses(variant: str, kind: str) -> str:
    return "" if variant == "fp32" else f"LiteRT's engines are fp32 here, not {variant}"


def missing() -> str:
    return f"ai-edge-litert is not installed: {INSTALL}" if importlib.util.find_spec("ai_edge_litert") is None else ""


def runs_here(options: Options) -> str:
    return missing()


def device(options: Options) -> dict[str, str]:
    return _cpu.device()


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    import tempfile

    if options.python is None and importlib.util.find_spec("litert_torch") is None:
        raise BackendMissing(Problem("litert", CONVERTER))
    with tempfile.TemporaryDirectory() as scratch:
        network = prepare(graph, options, folder, Path(scratch), int8=False)
        _convert(network, folder.absolute() / _MODEL, options, Path(scratch))
    _interpreter(folder, options)
    return {}


def _convert(network: Path, target: Path, options: Options, scratch: Path) -> None:
    """In a process of its own: its libraries print, keep hundreds of megabytes, and may be another environment's."""
    import subprocess

    from tlcompile.compile import _to_litert  # imported, so that a bundle carries what is copied here

    python = sys.executable if options.python is None else _python(options.python)
    package = scratch / "converter"
    package.mkdir()
    for name in COPIED:
        shutil.copyfile(Path(_to_litert.__file__).with_name(name), package / name)
    command = [python, "-m", "converter._to_litert", str(network), str(target)]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    except OSError as error:
        raise TlcompileError(Problem("compile.litert.python", f"can't start '{python}': {error.strerror}")) from error
    if done.returncode or not target.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TlcompileError(Problem("litert", f"the converter failed: {last[:300]}"))


def _python(path: str) -> str:
    """The path as it is written, not what it links to: a Python knows its environment by its place."""
    return str((getattr(path, "base", Path()) / Path(path).expanduser()).absolute())


def _interpreter(folder: Path, options: Options) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / _MODEL), num_threads=options.threads or _cpu.cores())
    interpreter.allocate_tensors()
    return interpreter


def open(folder: Path, options: Options) -> FixedRunner:
    interpreter = _interpreter(folder, options)
    inputs = sorted(interpreter.get_input_details(), key=lambda tensor: str(tensor["name"]))
    outputs = sorted(interpreter.get_output_details(), key=lambda tensor: str(tensor["name"]))

    def call(arrays: list[np.ndarray]) -> list[np.ndarray]:
        for tensor, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(tensor["index"], array.astype(tensor["dtype"], copy=False))  # ids become int32
        interpreter.invoke()
        return [interpreter.get_tensor(tensor["index"]) for tensor in outputs]

    return FixedRunner(folder, call)
