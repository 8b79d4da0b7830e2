"""The trained module -> ONNX, from the network's own input to `logits`, with a dynamic batch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import ImageSpec
from tlcompile.errors import Problem, TlcompileError, first_line
from tlcompile.models._network import Network

if TYPE_CHECKING:
    import onnx
    import torch


FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What the modules of others raise while they are traced."""


def example_inputs(network: Network) -> dict[str, torch.Tensor]:
    """Two inputs of the network in a batch: with one, an exporter may take the batch for a constant."""
    import torch

    if isinstance(network.spec, ImageSpec):
        return {"pixels": torch.zeros(2, 3, network.spec.image_size, network.spec.image_size)}
    tokens = min(8, network.spec.max_length)
    return {
        "input_ids": torch.ones(2, tokens, dtype=torch.int64),
        "attention_mask": torch.ones(2, tokens, dtype=torch.int64),
    }


@contextmanager
def _plain_attention() -> Iterator[None]:
    """In eval mode torch takes a fused operator for attention that no exporter knows."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def to_onnx(network: Network, exporter: str, opset: int, file: Path) -> onnx.ModelProto:
    """Export through torch's TorchScript exporter (seconds) or its dynamo exporter; TlcompileError where it fails."""
    import onnx
    import torch

    module = network.module.eval().cpu().to(memory_format=torch.contiguous_format)
    inputs = example_inputs(network)
    axes = {name: {0: "batch", 1: "tokens"} if value.ndim == 2 else {0: "batch"} for name, value in inputs.items()}
    common: dict[str, Any] = {"input_names": list(inputs), "output_names": ["logits"], "opset_version": opset}
    arguments = tuple(inputs.values())
    try:
        with warnings.catch_warnings(), torch.inference_mode(), _plain_attention():
            warnings.simplefilter("ignore")  # tracer warnings about Python ints; parity is checked on real examples
            if exporter == "dynamo":
                shapes = tuple({d: torch.export.Dim(a) for d, a in dims.items()} for dims in axes.values())
                common |= {"dynamo": True, "dynamic_shapes": shapes, "external_data": False, "verbose": False}
            else:
                common |= {"dynamo": False, "dynamic_axes": {**axes, "logits": {0: "batch"}}}
            torch.onnx.export(module, arguments, str(file), **common)
    except (torch.onnx.OnnxExporterError, *FAILURES) as error:
        other = "dynamo" if exporter == "torchscript" else "torchscript"
        first = first_line(error)
        reason = re.sub(r"\x1b\[\d*m", "", first)[:300]
        what = f'the {exporter} exporter can\'t export this network: {reason}; try exporter = "{other}"'
        raise TlcompileError(Problem("export.exporter", what)) from error
    model = onnx.load(file)
    written = next(i.version for i in model.opset_import if i.domain in ("", "ai.onnx"))
    if written != opset:  # the dynamo exporter keeps its own where it can't convert
        raise TlcompileError(Problem("export.exporter", f"the {exporter} exporter wrote opset {written}, not {opset}"))
    return model
