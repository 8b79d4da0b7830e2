"""Quantization-aware training: the weights learn to bear the rounding that int8 brings.

The network before is fine-tuned with its weights and activations rounded in the forward pass as the Q/DQ dialects of
the targets round them (train/fake_quant.py), taught by its own answers in fp32 as well. Batch norms keep their
statistics. The result is an ordinary network: the pass `quantize` calibrates and quantizes it like any other, and finds
weights that are on its grid already. For where quantizing alone costs too much accuracy; a network that int8 does not
hurt gains nothing. A line for int8 only.
"""

from __future__ import annotations

from pathlib import Path

from tlcompile.artifacts import read_json
from tlcompile.compress import Context
from tlcompile.compress._recover import RecoverOptions
from tlcompile.options import Field

PACKAGES = ("torch",)
LINE = "qat"
PRECISIONS = ("int8",)
WHERE = "compress.qat"


class Options(RecoverOptions):
    epochs: int = Field(2, ge=1, description="of fine-tuning")
    lr: float = Field(0.0, ge=0, description="peak rate of fine-tuning; 0 = a tenth of that of [train]")


def apply(context: Context, options: Options, folder: Path) -> None:
    """Fill `folder` with the Checkpoint. RecipeError where the network's body is frozen."""
    from tlcompile.compress._recover import recover, trainable

    overrides = {"trainable": trainable(context, WHERE), "freeze_norm": True, "lr": 0.1 * peak_rate(context)}
    dress = {"dialects": context.dialects, "keep_zeros": sparse_layers(context)}
    recover(context, options, WHERE, context.checkpoint.folder, overrides, dress, folder)


def peak_rate(context: Context) -> float:
    """Of the training before, as it was applied. A group's name tells its factor: `head_decay_x10`."""
    group = context.checkpoint.applied["groups"][0]
    factor = group["name"].rpartition("_x")[2] if "_x" in group["name"] else 1
    return float(group["peak_lr"]) / float(factor)


def sparse_layers(context: Context) -> list[str]:
    """Names of the layers that a pass before made sparse."""
    path = context.checkpoint.folder / "sparse.json"
    return list(read_json(path)["density"]) if path.exists() else []
