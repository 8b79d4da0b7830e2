"""Texts of a batch run in parts of like length, so that less padding is computed.

The logits of the parts are put together before the loss, so a step has the gradients of the whole batch, whichever loss
it is, and no batch holds other texts than without this. For CPUs: small parts would leave a GPU idle.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARTS, LEAST = 4, 8
"""Most parts of a batch, fewest texts of a part."""
MASK = "attention_mask"


def forward(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits [N, K] of `module(*inputs.values())`; texts, each input [N, L] with padding on the right, in parts."""
    if not _apart(module, inputs):
        logits: Tensor = module(*inputs.values())
        return logits
    lengths = (inputs[MASK] * torch.arange(1, inputs[MASK].shape[1] + 1)).amax(1)
    order = lengths.argsort(descending=True, stable=True)
    parts = order.chunk(min(PARTS, max(1, len(order) // LEAST)))
    answers = [module(*(value[rows, : int(lengths[rows[0]])] for value in inputs.values())) for rows in parts]
    return torch.cat(answers)[order.argsort()]


def _apart(module: nn.Module, inputs: dict[str, Tensor]) -> bool:
    """Whether parts of a batch can be run one by one: texts on a CPU, no layer that sees the whole batch.

    Batch norms do; so do the wrappers that exchange gradients between processes or compile a shape at a time.
    """
    whole = (nn.modules.batchnorm._BatchNorm, nn.parallel.DistributedDataParallel)
    mask = inputs.get(MASK)
    texts = mask is not None and mask.device.type == "cpu"
    return texts and not any(isinstance(part, whole) or hasattr(part, "_orig_mod") for part in module.modules())
