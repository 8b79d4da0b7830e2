"""What the trained fp32 network says of held-out examples, through the training library's own preprocessing.

This is the reference of every later step: a graph that resizes differently, or an engine that rounds differently, is
held against these numbers on the same examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tlcompile import progress
from tlcompile.models._network import Network
from tlcompile.train.batches import evaluation_loader

if TYPE_CHECKING:
    from tlcompile.data._split import Split


def logits(network: Network, split: Split, batch_size: int = 64, label: str = "reference") -> np.ndarray:
    """float32 [len(split), classes], in the order of the split."""
    network.module.eval()
    device = next(network.module.parameters()).device
    rows = []
    with torch.inference_mode(), progress.bar(label, len(split)) as bar:
        for inputs, targets in evaluation_loader(split, network, batch_size):
            inputs = {k: v.to(device) for k, v in inputs.items()}
            rows.append(network.module(*inputs.values()).float().cpu().numpy())
            bar.step(len(targets))
    return np.concatenate(rows)
