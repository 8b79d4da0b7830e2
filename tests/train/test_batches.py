"""What the network really receives, in which order, whoever loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from tests.tiny import folder
from tlcompile.artifacts import ImageSpec
from tlcompile.data import prepare
from tlcompile.data._split import Split
from tlcompile.models._inputs import Collate, evaluation_view
from tlcompile.models._network import Network
from tlcompile.recipe.tables import DataTable
from tlcompile.recipe.train_table import AugmentTable, TrainTable
from tlcompile.train.batches import Shuffled, evaluation_loader, sizes, training_loader
from tlcompile.train.views import TrainingView

SPEC = ImageSpec(32, 0.875, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
NETWORK = Network(torch.nn.Identity(), SPEC, ())


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    from tlcompile.data import folder as source

    root = tmp_path_factory.mktemp("batches")
    options = source.Options.model_validate({"path": str(folder(root / "data"))}, context={"base": root})
    (root / "splits").mkdir()
    table = DataTable(task="image-classification", source="folder", calibration=8)
    prepare(source, options, table, "image", 17, root / "splits")
    return Split(root / "splits", "train")


def table(**values: Any) -> TrainTable:
    return TrainTable(**{"epochs": 3, "augment": AugmentTable(hflip=True, shift_px=2), **values})


def batches(split: Split, epoch: int = 0, start: int = 0, work: Path | None = None, **values: Any) -> list[Any]:
    loader, order = training_loader(split, NETWORK, 24, table(**values), 8, seed=5, work=work)
    order.begin(epoch, start)
    return list(loader)


def same(ours: list[Any], theirs: list[Any]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(torch.equal(a[0]["pixels"], b[0]["pixels"]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_the_evaluation_view_is_timms_own() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    timms = create_transform(
        (3, 32, 32), is_training=False, interpolation="bicubic", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1)
    )
    ours = evaluation_view(SPEC)(picture).float() / 255
    assert torch.equal(ours, timms(picture))


def test_evaluation_batches_are_the_evaluation_view_normalised_in_order(split: Split) -> None:
    view, found = evaluation_view(SPEC), list(evaluation_loader(split, NETWORK, 8))
    pixels = torch.cat([inputs["pixels"] for inputs, _ in found])
    assert pixels.shape == (len(split), 3, 32, 32)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    for i in (0, 5, len(split) - 1):
        expected = (view(Image.fromarray(split[i])).float() / 255 - mean) / std  # type: ignore[arg-type]
        assert torch.allclose(pixels[i], expected, atol=1e-5)
    assert torch.cat([targets for _, targets in found]).tolist() == split.labels.tolist()


VIEWS = pytest.mark.parametrize(
    "augment", [{"hflip": True, "shift_px": 2}, {"crop_scale_min": 0.5, "policy": "randaugment"}]
)


@VIEWS
def test_training_batches_are_random_views_of_the_whole_pictures(split: Split, augment: dict[str, Any]) -> None:
    asked = AugmentTable(**augment)
    pixels, targets = batches(split, epoch=2, augment=asked)[1]
    order = Shuffled(len(split), seed=5)
    order.begin(2)
    indices = [i for _, i in order][8:16]
    pictures = [np.asarray(split[i]) for i in indices]
    expected = TrainingView(SPEC, 24, asked, seed=5)(pictures, 2, indices)
    assert torch.equal(pixels["pixels"], Collate(NETWORK).pixels(torch.from_numpy(expected)))
    assert targets.tolist() == split.labels[indices].tolist()


@VIEWS
def test_workers_and_the_cache_change_nothing(split: Split, tmp_path: Path, augment: dict[str, Any]) -> None:
    views = AugmentTable(**augment)
    plain = batches(split, epoch=1, augment=views)
    assert same(plain, batches(split, epoch=1, augment=views, workers=2))
    assert same(plain, batches(split, epoch=1, augment=views, work=tmp_path))
    assert same(plain, batches(split, epoch=1, augment=views, work=tmp_path, workers=2))
    assert len(list(tmp_path.glob("pixels-train-*.u8"))) == 1


def test_epochs_differ_in_order_and_in_views(split: Split) -> None:
    first, second = batches(split), batches(split, epoch=1)
    assert len(first) == len(split) // 8
    assert not same(first, second)


def test_an_epoch_goes_on_exactly_where_it_was_left(split: Split) -> None:
    whole = batches(split, epoch=1)
    assert same(whole[2:], batches(split, epoch=1, start=16))


def test_persistent_workers_follow_the_epoch(split: Split) -> None:
    loader, order = training_loader(split, NETWORK, 24, table(workers=1), 8, seed=5)
    for epoch in (0, 2):
        order.begin(epoch)
        assert same(list(loader), batches(split, epoch=epoch))


def test_loading_leaves_torchs_random_state_alone(split: Split) -> None:
    before = torch.get_rng_state()
    batches(split)
    list(evaluation_loader(split, NETWORK, 8))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("crop", [1.0, 0.5])
def test_images_grow_from_epoch_to_epoch(split: Split, tmp_path: Path, crop: float) -> None:
    values = {"image_size_start": 8, "augment": AugmentTable(crop_scale_min=crop)}
    for work in (None, tmp_path):
        found = [batches(split, epoch, work=work, **values)[0][0]["pixels"].shape[2] for epoch in range(3)]
        assert found == [8, 16, 24]


@pytest.mark.parametrize(
    ("start", "size", "epochs", "expected"),
    [(0, 64, 3, (64, 64, 64)), (32, 64, 5, (32, 40, 48, 56, 64)), (30, 50, 3, (30, 40, 50)), (32, 64, 1, (64,))],
)
def test_sizes_rise_in_even_steps_and_end_at_full_size(start: int, size: int, epochs: int, expected: object) -> None:
    assert sizes(TrainTable(image_size_start=start, image_size=size, epochs=epochs), size) == expected


def test_every_epoch_has_its_own_order_of_all_examples() -> None:
    order = Shuffled(20, seed=4)
    first = list(order)
    order.begin(1)
    second = list(order)
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(20))
    assert [i for _, i in first] != [i for _, i in second]
    order.begin(1, start=15)
    assert (list(order), len(order)) == (second[15:], 5)
