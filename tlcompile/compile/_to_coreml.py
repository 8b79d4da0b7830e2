"""A network of fixed shapes -> Core ML's package, read back and checked: what can be proven where it can't run."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tlcompile.errors import Problem, TlcompileError


def convert(network: Path, target: Path, half: bool) -> dict[str, int]:
    """Write the package to `target`; returns its operators, counted. TlcompileError: it is not what was asked for."""
    import onnx
    import torch

    from ._to_torch import example, module

    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    import coremltools as ct

    values, inputs = example(network), onnx.load(network).graph
    names = [f"input_{index}" for index in range(len(values))]
    outputs = [value.name for value in inputs.output]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module(network), values)
        types = [ct.TensorType(name, v.shape, _dtype(v)) for name, v in zip(names, values, strict=True)]
        precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
        asked: dict[str, Any] = {"convert_to": "mlprogram", "compute_precision": precision, "skip_model_load": True}
        model = ct.convert(traced, inputs=types, outputs=[ct.TensorType(name) for name in outputs], **asked)
    model.save(str(target))
    return read_back(target, {n: tuple(v.shape) for n, v in zip(names, values, strict=True)}, outputs)


def _dtype(value: Any) -> Any:
    import numpy as np

    return np.float32 if value.is_floating_point() else np.int32


def read_back(package: Path, inputs: dict[str, tuple[int, ...]], outputs: list[str]) -> dict[str, int]:
    """The operators of the program in `package`, counted; its weights must be there and its interface the given one."""
    import coremltools as ct

    spec = ct.utils.load_spec(str(package))
    found = {v.name: tuple(v.type.multiArrayType.shape) for v in spec.description.input}
    named = [v.name for v in spec.description.output]
    if found != inputs or named != outputs:
        what = f"found inputs {found} and outputs {named}, expected {inputs} and {outputs}"
        raise TlcompileError(Problem("coreml", what))
    blocks = (b for f in spec.mlProgram.functions.values() for b in f.block_specializations.values())
    kinds = Counter(operation.type for block in blocks for operation in block.operations)
    kinds.pop("const", None)
    return dict(kinds.most_common())
