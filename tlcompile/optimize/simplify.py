"""Fold constants, fuse batch norms into convolutions, drop what does nothing: onnxslim.

After this pass shapes that depend on nodes only (timm's "same" padding, exporters' Shape/Gather chains) are constants,
which builders that see no GPU insist on.
"""

from __future__ import annotations

from pathlib import Path

from tlcompile.errors import Problem, TlcompileError
from tlcompile.optimize import Context
from tlcompile.options import Options as Base
from tlcompile.parity import REWRITTEN, Tolerance

PACKAGES = ("onnx", "onnxslim")
ON_BY_DEFAULT = True


class Options(Base):
    """No choices."""


def variant(options: Options) -> str:
    return ""


def tolerance(options: Options) -> Tolerance:
    return REWRITTEN


def apply(model: Path, options: Options, context: Context, target: Path) -> None:
    import onnx
    import onnxslim

    slim = onnxslim.slim(onnx.load(model))
    if slim is None:
        raise TlcompileError(Problem("optimize.simplify", "onnxslim gave no graph back"))
    onnx.checker.check_model(slim, full_check=True)
    onnx.save(slim, target)
