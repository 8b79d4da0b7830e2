"""What bounds an engine on this CPU: multiply-adds against the highest rate measured here, bytes against bandwidth.

    python benchmarks/roofline.py [GRAPH.onnx ...] [--seconds S]

Peak rates are those of a chain of 1 x 1 convolutions of a good shape, in fp32 and int8, in ONNX Runtime and OpenVINO on
all cores, the better of the two. Bandwidth is what is read and written by copying arrays as large as what the network
touches. A product (Conv, Gemm, MatMul) takes at least max(multiply-adds / peak, bytes / bandwidth); everything else is
counted as free, for a good engine fuses it. So the sum is a lower bound, and the share of it in the measured time
says how far the engine is from what the machine can do. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks._products import Layer, products  # noqa: E402
from tlcompile.compile import _cpu  # noqa: E402

CHANNELS, SIDE, LAYERS = 512, 28, 8  # one layer: 206 million multiply-adds; weights 256 KiB in int8, they stay in L2


@dataclass(frozen=True)
class Machine:
    """Highest rates measured; `bandwidth` is (bytes of the arrays copied, bytes read and written in a second)."""

    isa: str
    cores: int
    int8_macs: float
    fp32_macs: float
    int8_in: str
    fp32_in: str
    bandwidth: list[tuple[int, float]]

    def bytes_per_s(self, touched: float) -> float:
        """Of the measured size nearest to `touched`."""
        return min(self.bandwidth, key=lambda pair: abs(math.log(pair[0] / touched)))[1]


def chain(int8: bool) -> onnx.ModelProto:
    """`LAYERS` 1 x 1 convolutions, each on the result of the one before; with `int8` all Q/DQ, 7-bit weights."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    if int8:
        constant("scale", np.float32(0.02))
        constant("zero", np.uint8(128))

    def requantized(x: str) -> str:
        if not int8:
            return x
        nodes.append(helper.make_node("QuantizeLinear", [x, "scale", "zero"], [f"{x}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{x}.q", "scale", "zero"], [f"{x}.dq"]))
        return f"{x}.dq"

    x = requantized("x")
    for index in range(LAYERS):
        shape = (CHANNELS, CHANNELS, 1, 1)
        if int8:
            weight = constant(f"w{index}.q", rng.integers(-63, 64, shape).astype(np.int8))
            scale = constant(f"w{index}.scale", np.full(CHANNELS, 1e-3, np.float32))
            zeros = constant(f"w{index}.zero", np.zeros(CHANNELS, np.int8))
            nodes.append(helper.make_node("DequantizeLinear", [weight, scale, zeros], [f"w{index}"], axis=0))
        else:
            constant(f"w{index}", (0.02 * rng.normal(size=shape)).astype(np.float32))
        nodes.append(helper.make_node("Conv", [x, f"w{index}"], [f"y{index}"]))
        x = requantized(f"y{index}")
    shape = (1, CHANNELS, SIDE, SIDE)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", x)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def in_onnxruntime(model: onnx.ModelProto) -> Callable[[np.ndarray], Any]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = _cpu.cores()
    session = ort.InferenceSession(model.SerializeToString(), settings)
    return lambda x: session.run(None, {"x": x})


def in_openvino(model: onnx.ModelProto) -> Callable[[np.ndarray], Any]:
    from tlcompile.compile import openvino

    core = openvino._library().Core()
    settings = {"INFERENCE_NUM_THREADS": str(_cpu.cores()), "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings).create_infer_request()
    return lambda x: request.infer({"x": x}, share_inputs=True, share_outputs=True)


def best_seconds(call: Callable[[], Any], seconds: float) -> float:
    """The quickest of the calls made in about `seconds`, after two that are not counted: a peak is asked for."""
    call()
    call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak(int8: bool, seconds: float) -> tuple[float, str]:
    """(multiply-adds a second, the runtime that reaches it)."""
    work = LAYERS * CHANNELS * CHANNELS * SIDE * SIDE
    x = np.random.default_rng(1).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    found = {}
    for name, opened in (("onnxruntime", in_onnxruntime), ("openvino", in_openvino)):
        run = opened(chain(int8))
        found[name] = work / best_seconds(partial(run, x), seconds)
    best = max(found, key=lambda name: found[name])
    return found[best], best


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], None], parts: list[Any]) -> None:
    list(pool.map(work, parts))


def bandwidths(seconds: float) -> list[tuple[int, float]]:
    """Bytes read and written in a second by a copy, on one thread for each core, by size of what is touched."""
    cores, found = _cpu.cores(), []
    with ThreadPoolExecutor(cores) as pool:
        for touched in (2**20, 2**22, 2**24, 2**26, 2**28):
            pairs = [(np.ones(touched // (8 * cores), np.float32), np.ones(touched // (8 * cores), np.float32))]
            pairs += [(a.copy(), b.copy()) for a, b in pairs * (cores - 1)]
            rounds = max(1, 2**24 // touched)  # a task long enough that handing it out does not count

            def copy(pair: tuple[np.ndarray, np.ndarray], rounds: int = rounds) -> None:
                for _ in range(rounds):
                    np.copyto(pair[1], pair[0])

            taken = best_seconds(partial(_all, pool, copy, pairs), seconds)
            found.append((touched, rounds * touched / taken))
    return found


def measure(seconds: float) -> Machine:
    """The rates of this machine; nine small measurements, each for about `seconds`."""
    int8, int8_in = peak(True, seconds)
    fp32, fp32_in = peak(False, seconds)
    return Machine(_cpu.isa(), _cpu.cores(), int8, fp32, int8_in, fp32_in, bandwidths(seconds))


def bound(found: list[Layer], machine: Machine) -> dict[str, Any]:
    """The lower bound of one run in milliseconds, and what it is made of."""
    touched = sum(x.weight_bytes for x in found) + max(x.activation_bytes for x in found)
    rate = machine.bytes_per_s(touched)
    arithmetic = [x.macs / (machine.int8_macs if x.int8 else machine.fp32_macs) for x in found]
    traffic = [(x.weight_bytes + x.activation_bytes) / rate for x in found]
    macs = sum(x.macs for x in found)
    return {
        "bound_ms": 1000 * sum(map(max, arithmetic, traffic)),
        "arithmetic_ms": 1000 * sum(arithmetic),
        "traffic_ms": 1000 * sum(traffic),
        "layers": len(found),
        "layers_bound_by_bytes": sum(t > a for t, a in zip(traffic, arithmetic, strict=True)),
        "macs": macs,
        "int8_macs_share": sum(x.macs for x in found if x.int8) / macs,
        "depthwise_macs_share": sum(x.macs for x in found if x.depthwise) / macs,
        "depthwise_bytes_share": sum(t for t, x in zip(traffic, found, strict=True) if x.depthwise) / sum(traffic),
        "weight_bytes": sum(x.weight_bytes for x in found),
        "activation_bytes": sum(x.activation_bytes for x in found),
        "bytes_per_s": rate,
    }


def ones(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """A feed of ones; dynamic dimensions are 1."""
    tensors = {value.name: value.type.tensor_type for value in model.graph.input}
    return {
        name: np.ones([d.dim_value or 1 for d in t.shape.dim], helper.tensor_dtype_to_np_dtype(t.elem_type))
        for name, t in tensors.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="*", type=Path, metavar="GRAPH.onnx", help="of fixed sizes but for the batch")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each of the small measurements")
    asked = parser.parse_args()
    machine = measure(asked.seconds)
    models = {str(path): onnx.load(path) for path in asked.graphs}
    bounds = {path: bound(products(model, ones(model)), machine) for path, model in models.items()}
    print(json.dumps({"machine": asdict(machine), "bounds": bounds, "load_1min": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
