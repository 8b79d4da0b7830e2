"""A network of fixed shapes -> ExecuTorch's program, with every layer that XNNPACK knows given to XNNPACK."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any


def lower(network: Path, target: Path) -> dict[str, Any]:
    """Write the program to `target`; returns the calls that are left, by operator."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from ._to_torch import example, module

    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module(network), example(network))
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        calls = [node.target for node in edge.exported_program().graph.nodes if node.op == "call_function"]
        target.write_bytes(edge.to_executorch().buffer)
    counted = Counter(getattr(call, "__name__", str(call)) for call in calls)
    counted.pop("getitem", None)
    return {"operators": dict(counted.most_common())}
