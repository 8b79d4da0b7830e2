"""What the network really receives."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform

from tlcompile.artifacts import ImageSpec
from tlcompile.models._inputs import evaluation_view
from tlcompile.recipe.tables import AugmentTable
from tlcompile.train.batches import Examples, Shuffled, training_view


class Pictures:
    """A split of random pictures."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.pictures = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(n)]
        self.labels = np.zeros(n, np.int64)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.pictures[i]


SPEC = ImageSpec(32, 0.875)


def test_the_evaluation_view_is_timms_own() -> None:
    picture = Image.fromarray(Pictures(1)[0])
    timms = create_transform(
        (3, 32, 32), is_training=False, interpolation="bicubic", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1)
    )
    ours = evaluation_view(SPEC)(picture).float() / 255
    assert torch.equal(ours, timms(picture))


def test_a_random_view_depends_on_seed_epoch_and_index_alone() -> None:
    view = training_view(SPEC, 24, AugmentTable(hflip=True, crop_scale_min=0.3, shift_px=2))
    first, second = (Examples(Pictures(4), view, seed=1) for _ in range(2))
    torch.manual_seed(5)
    seen = [first[0, i][0] for i in range(4)]
    torch.manual_seed(6)
    assert all(torch.equal(seen[i], second[0, i][0]) for i in (3, 1, 2, 0))
    assert not torch.equal(seen[0], first[1, 0][0])
    assert seen[0].shape == (3, 24, 24)


def test_drawing_a_view_leaves_the_networks_random_state_alone() -> None:
    examples = Examples(Pictures(1), training_view(SPEC, 24, AugmentTable(hflip=True)), seed=1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    examples[0, 0]
    assert torch.equal(torch.rand(1), expected)


def test_every_epoch_has_its_own_order_of_all_examples() -> None:
    order = Shuffled(20, seed=4)
    first = list(order)
    order.epoch = 1
    second = list(order)
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(20))
    assert [i for _, i in first] != [i for _, i in second]
