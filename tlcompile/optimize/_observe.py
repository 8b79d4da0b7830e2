"""The values of a graph's tensors while it runs, one example at a time, and their least and largest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tlcompile.artifacts import Feed
from tlcompile.errors import Problem, TlcompileError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime


def observe(model: onnx.ModelProto, names: Iterable[str], feeds: Iterable[Feed]) -> Iterator[Feed]:
    """For each feed the fp32 tensors among `names`, by name. Nothing is fused, so every tensor exists.

    TlcompileError where a value is NaN or infinite, or where there is no feed at all.
    """
    import numpy as np
    import onnx

    names = list(dict.fromkeys(names))
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    fed = {value.name for value in exposed.graph.input}
    known = fed | {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = plain_session(exposed)
    shown = [o.name for o in session.get_outputs() if o.type == "tensor(float)" and o.name in set(names)]
    count = 0
    for feed in feeds:
        values = dict(zip(shown, session.run(shown, feed), strict=True)) if shown else {}
        values |= {name: feed[name] for name in names if name in fed and feed[name].dtype == np.float32}
        for name, value in values.items():
            _check(name, value, count)
        yield values
        count += 1
    if not count:
        raise TlcompileError(Problem("calibration", "there is no example to look at"))


def plain_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """`model` on the CPU as it is written: no fusion, Q/DQ in fp32."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def _check(name: str, value: np.ndarray, index: int) -> None:
    import numpy as np

    if not np.isfinite(value).all():
        what = "NaN" if np.isnan(value).any() else "infinite"
        raise TlcompileError(Problem(name, f"is {what} on calibration example {index}: no range can be found for it"))
