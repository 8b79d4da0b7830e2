"""What torch does by itself in eval mode and no exporter knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from tlcompile.artifacts import ImageSpec
from tlcompile.export.network import to_onnx
from tlcompile.models._network import Network


class Attends(torch.nn.Module):
    """Attention over the rows of a picture by torch's own module, as in torchvision's transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(24, 2, batch_first=True)
        self.head = torch.nn.Linear(24, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.transpose(1, 2).flatten(2)
        logits: torch.Tensor = self.head(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))
        return logits


def test_attention_that_torch_would_fuse_is_exported_and_its_switch_is_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(Attends().eval(), ImageSpec(8), ("head",))
    before = torch.backends.mha.get_fastpath_enabled()
    to_onnx(network, "torchscript", 18, tmp_path / "m.onnx")
    assert torch.backends.mha.get_fastpath_enabled() == before
    pixels = torch.randn(3, 3, 8, 8)
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"pixels": pixels.numpy()})[0]
    with torch.inference_mode():
        assert np.abs(found - network.module(pixels).numpy()).max() < 1e-5
