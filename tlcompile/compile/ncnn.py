"""ncnn: the network as its two files (`model.param`, `model.bin`), converted from the graph by pnnx.

Images in fp32 only: ncnn has no layer for what token ids are cast to, and quantizes with a table of its own in place of
Q/DQ nodes. It takes one shape; see `_fixed` for how images of any size and batches reach it.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlcompile.compile import _cpu
from tlcompile.compile._fixed import FixedOptions, FixedRunner, prepare
from tlcompile.errors import BackendMissing, Problem, TlcompileError
from tlcompile.options import Field

if TYPE_CHECKING:
    import numpy as np

    from tlcompile.artifacts import Graph

PACKAGES = ("ncnn", "pnnx")
INPUTS_ONLY = True
CONVERTERS = ("pnnx",)
INSTALL = "pip install ncnn pnnx"
_FILES = ("model.param", "model.bin")


class Options(FixedOptions):
    threads: int = Field(0, ge=0, description="CPU threads of one run; 0 = one a physical core")
    weights: Literal["f32", "f16"] = Field("f32", description="how weights are stored; f16: half the size")


def dialect(options: Options) -> str:
    return "arm"


def refuses(variant: str, kind: str) -> str:
    if kind != "image":
        return "ncnn has no layer for the cast of token ids; it takes images here"
    return "" if variant == "fp32" else f"ncnn reads no Q/DQ nodes and no fp16 tensors; it is fp32 here, not {variant}"


def missing() -> str:
    return f"ncnn is not installed: {INSTALL}" if importlib.util.find_spec("ncnn") is None else ""


def runs_here(options: Options) -> str:
    return missing()


def device(options: Options) -> dict[str, str]:
    return _cpu.device()


def build(graph: Graph, options: Options, folder: Path) -> dict[str, Any]:
    """Convert with pnnx, and refuse a network with a layer that ncnn lacks."""
    import tempfile
    from importlib import metadata

    if why := refuses("fp32", graph.signature.kind):
        raise TlcompileError(Problem("ncnn", why))
    with tempfile.TemporaryDirectory() as scratch:
        _convert(prepare(graph, options, folder, Path(scratch), int8=False), options, Path(scratch))
        for name in _FILES:
            shutil.copyfile(Path(scratch) / name, folder / name)
    _network(folder, options)
    return {"pnnx": metadata.version("pnnx")}


def _convert(network: Path, options: Options, scratch: Path) -> None:
    import subprocess

    spec = importlib.util.find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise BackendMissing(Problem("ncnn", f"its converter pnnx is not installed: {INSTALL}"))
    written = [f"ncnn{Path(name).suffix[1:]}={scratch / name}" for name in _FILES]
    command = [
        str(Path(spec.origin).with_name("pnnx")),
        str(network),
        *written,
        f"fp16={int(options.weights == 'f16')}",
    ]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode or not all((scratch / name).is_file() for name in _FILES):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TlcompileError(Problem("ncnn", f"pnnx can't convert this graph: {last}"))


def _network(folder: Path, options: Options) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = options.threads or _cpu.cores()
    net.opt.use_vulkan_compute = False
    for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, half, False)  # precision is the graph's
    if net.load_param(str(folder / _FILES[0])) or net.load_model(str(folder / _FILES[1])):
        raise ValueError("it has a layer that ncnn lacks, or a file is damaged")
    return net


def open(folder: Path, options: Options) -> FixedRunner:
    import ncnn

    net = _network(folder, options)

    def call(inputs: list[np.ndarray]) -> list[np.ndarray]:
        import numpy as np

        extractor = net.create_extractor()
        for name, value in zip(net.input_names(), inputs, strict=True):
            extractor.input(name, ncnn.Mat(value[0]).clone())  # a Mat of an array does not keep it alive
        answers = [extractor.extract(name) for name in net.output_names()]
        if any(code for code, _ in answers):
            raise TlcompileError(Problem("ncnn", "the run failed; ncnn says no more"))
        return [np.array(mat) for _, mat in answers]

    return FixedRunner(folder, call, alone=False)
