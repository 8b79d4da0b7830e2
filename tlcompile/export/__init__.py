"""Checkpoint -> Graph: a static ONNX file that takes raw input.

    network.py      the trained module -> ONNX, from normalised pixels or token ids to logits
    preprocess.py   resize, crop and normalise as graph nodes, from raw uint8 images
    golden.py       the golden feeds and the reference answers of torch
    graph.py        the stage: puts them together and checks the result against torch

Knows no training and no backends. `export` is the door; it imports torch only when called.
"""

from __future__ import annotations

from pathlib import Path

from tlcompile.artifacts import Checkpoint, Splits
from tlcompile.recipe.tables import ExportTable, Plugin

__all__ = ["export"]


def export(checkpoint: Checkpoint, splits: Splits, model: Plugin, table: ExportTable, folder: Path) -> None:
    """Fill `folder`: model.onnx, signature.json, golden.npz, parity.json, exporter.json, tokenizer.json of texts."""
    from tlcompile.export.graph import write

    write(checkpoint, splits, model, table, folder)
