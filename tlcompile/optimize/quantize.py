"""Static int8 post-training quantization as explicit Q/DQ nodes, in the dialect of the target.

    x86-vnni   u8 activations × s8 weights per channel
    x86        the same with 7-bit weights: without VNNI the 16-bit sums of vpmaddubsw saturate
    arm        s8 × s8 per channel
    tensorrt   s8 × s8 per channel, symmetric activations, biases left in fp32

Precision lives in the graph, so every runtime that reads it computes the same thing. Ranges are the least and
largest values seen on the calibration examples. Preprocessing and softmax stay in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tlcompile.artifacts import Feed
from tlcompile.errors import Problem, TlcompileError
from tlcompile.optimize import Context
from tlcompile.options import Field, NameList
from tlcompile.options import Options as Base
from tlcompile.parity import Tolerance

PACKAGES = ("onnx", "onnxruntime")
ON_BY_DEFAULT = False
PRODUCTS = ("Conv", "MatMul", "Gemm")
AROUND_CONVOLUTIONS = ("Add", "Clip", "Relu", "GlobalAveragePool", "AveragePool", "MaxPool")
"""Quantized too in convolutional networks: Clip and Relu so that the range of a convolution is taken behind them, where
it is narrow; Add and pools so that a block stays in int8. In a transformer the sums carry a few very large values, and
the products of activations with activations (attention) little work: there only products with weights are quantized."""


class Options(Base):
    scheme: Literal["int8"] = "int8"
    exclude: NameList = Field((), description="nodes that stay in fp32, by name or pattern ('*' any text, '[0-9]')")
    min_agreement: float = Field(0.8, ge=0, le=1, description="least share of golden examples that keep their label")


def variant(options: Options) -> str:
    return options.scheme


def tolerance(options: Options) -> Tolerance:
    """int8 moves probabilities; whether that matters is decided on the test split. This catches a broken graph."""
    return Tolerance(max_abs=1.0, agreement=options.min_agreement)


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import logging
    import tempfile

    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds: Iterator[Feed] = context.calibration()

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        try:
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
            excluded = kept_in_fp32(prepared, options)
            chosen = arguments(context.dialect, kinds(prepared))
            quantize_static(prepared, target, Reader(), nodes_to_exclude=excluded, **chosen)
        except TlcompileError:
            raise
        except Exception as error:  # of onnx, protobuf and onnxruntime, which share no base
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise TlcompileError(Problem("optimize.quantize", f"this graph can't be quantized: {reason}")) from error


def kinds(model: Path) -> tuple[str, ...]:
    """The operators to quantize: more of them where convolutions do most of the work."""
    import onnx

    nodes = [n.op_type for n in onnx.load(model).graph.node if not n.name.startswith("preprocess/")]
    convolutional = nodes.count("Conv") > nodes.count("MatMul") + nodes.count("Gemm")
    return PRODUCTS + AROUND_CONVOLUTIONS if convolutional else PRODUCTS


def arguments(dialect: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The dialect in the words of ONNX Runtime's quantizer."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

    signed = dialect in ("arm", "tensorrt")
    return {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QInt8 if signed else QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "reduce_range": dialect == "x86",
        "calibrate_method": CalibrationMethod.MinMax,
        "op_types_to_quantize": list(kinds),
        "extra_options": {
            "ActivationSymmetric": dialect == "tensorrt",
            "WeightSymmetric": True,
            "QuantizeBias": dialect != "tensorrt",
            "DedicatedQDQPair": dialect == "tensorrt",
        },
    }


def kept_in_fp32(model: Path, options: Options) -> list[str]:
    """Nodes of the preprocessing, products of activations, and what the recipe names; RecipeError: no such node.

    ONNX Runtime's quantizer has a switch for products without a constant, which it does not heed where it writes Q/DQ.
    """
    from fnmatch import fnmatchcase

    import onnx

    from tlcompile.errors import RecipeError, nearest

    graph = onnx.load(model, load_external_data=False).graph
    names = [n.name for n in graph.node]
    constants = {i.name for i in graph.initializer}
    inner = {n.name for n in graph.node if n.op_type in ("MatMul", "Gemm") and not constants & set(n.input)}
    matched = {pattern: [n for n in names if n == pattern or fnmatchcase(n, pattern)] for pattern in options.exclude}
    unknown = [pattern for pattern, found in matched.items() if not found]
    if unknown:
        where = "optimize.quantize.exclude"
        raise RecipeError(*(Problem(where, f"the graph has no node '{n}'", nearest(n, names)) for n in unknown))
    named = inner.union(*matched.values())
    return [n for n in names if n.startswith("preprocess/") or n in named]
