"""The last resort: the bundle's `model.onnx` in ONNX Runtime on the CPU, with nothing compiled ahead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.errors import BackendMissing, Problem

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed


class Portable:
    """`model.onnx` as a Runner. BackendMissing where ONNX Runtime is absent or refuses the graph."""

    def __init__(self, model: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendMissing(Problem("onnxruntime", f"not installed: {error}")) from error
        try:
            self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base but this
            raise BackendMissing(Problem(str(model), f"ONNX Runtime can't open it: {error}")) from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> Feed:
        return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))

    def close(self) -> None:
        del self._session
