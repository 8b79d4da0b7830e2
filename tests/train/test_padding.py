from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from tests.train import nets
from tlcompile.train import padding


def texts(count: int, longest: int = 14) -> dict[str, torch.Tensor]:
    """Random ids [N, L] with masks of many lengths, the longest first, last or between."""
    rng = np.random.default_rng(count)
    lengths = rng.permutation(np.append(rng.integers(2, longest + 1, count - 1), longest))
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    return {
        "input_ids": torch.from_numpy(rng.integers(2, nets.WORDS, mask.shape) * mask),
        "attention_mask": torch.from_numpy(mask),
    }


class Seen(nn.Module):
    """Notes the shapes that it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.shapes = module, []

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(inputs[0].shape))
        return self.module(*inputs)


@pytest.mark.parametrize("name", nets.TEXT)
@pytest.mark.parametrize("count", [1, 7, 16, 33])
def test_logits_and_gradients_are_those_of_the_whole_batch(name: str, count: int) -> None:
    first, found = nets.network(name).module.eval(), []  # no dropout, whose draws depend on the order of texts
    for run in (lambda m, i: m(*i.values()), padding.forward):
        module = deepcopy(first)
        logits = run(module, texts(count))
        torch.nn.functional.cross_entropy(logits, torch.arange(count) % nets.CLASSES).backward()
        grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        found.append((logits.detach(), grads))
    (whole, one), (apart, other) = found
    assert torch.allclose(whole, apart, atol=1e-5)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[n], other[n], atol=1e-5) for n in one)
    assert max(float(g.abs().max()) for g in one.values()) > 1e-3


def test_parts_are_as_long_as_their_longest_text() -> None:
    module, inputs = Seen(nets.network("bert").module), texts(32)
    padding.forward(module, inputs)
    assert len(module.shapes) == padding.PARTS
    assert sum(n for n, _ in module.shapes) == 32
    lengths = sorted(inputs["attention_mask"].sum(1).tolist(), reverse=True)
    assert [long for _, long in module.shapes] == lengths[::8]


def test_a_network_with_batch_norms_sees_the_whole_batch() -> None:
    module = Seen(nets.network("bert").module)
    module.norm = nn.BatchNorm1d(3)
    padding.forward(module, texts(32))
    assert module.shapes == [(32, 14)]


def test_pictures_are_not_parted() -> None:
    module = Seen(nn.Identity())
    padding.forward(module, {"pixels": torch.zeros(32, 3, 8, 8)})
    assert module.shapes == [(32, 3, 8, 8)]
