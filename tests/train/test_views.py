"""Each random view does what torchvision's view of that name does, or what its paper says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tlcompile.artifacts import ImageSpec
from tlcompile.models._inputs import evaluation_view
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train import views
from tlcompile.train.views import TrainingView, crops, fit

SPEC = ImageSpec(32, 0.875)
N = 400
ALL = {
    "hflip": True,
    "vflip": True,
    "rotate_deg": 20.0,
    "crop_scale_min": 0.3,
    "shift_px": 3,
    "color": 0.4,
    "policy": "randaugment",
    "erase": 0.5,
}


def picture(seed: int = 0, height: int = 24, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seen(n: int = N, size: int = 24, image: np.ndarray | None = None, **augment: object) -> np.ndarray:
    """`n` views uint8 [n, size, size, 3] of one fitted picture."""
    view = TrainingView(SPEC, size, AugmentTable(**augment), seed=3, fitted=True)  # type: ignore[arg-type]
    image = picture(height=size, width=size) if image is None else image
    return view([image] * n, 0, range(n))


@given(
    st.integers(4, 90), st.integers(4, 90), st.integers(4, 40), st.sampled_from([1.0, 0.95, 0.875, 0.7]),
    st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
def test_a_fitted_picture_is_the_evaluation_view(height: int, width: int, size: int, crop: float, how: str) -> None:
    spec = ImageSpec(64, crop, how)  # type: ignore[arg-type]
    image = picture(1, height, width)
    expected = evaluation_view(dataclasses.replace(spec, image_size=size))(Image.fromarray(image))
    assert np.array_equal(fit(image, spec, size), expected.permute(1, 2, 0).numpy())


def test_without_a_key_nothing_is_changed() -> None:
    images = [picture(i, 30, 50) for i in range(3)]
    batch = TrainingView(SPEC, 16, AugmentTable(), seed=0)(images, 0, [0, 1, 2])
    assert np.array_equal(batch, np.stack([fit(image, SPEC, 16) for image in images]))


@pytest.mark.parametrize("key", ALL)
def test_every_key_changes_some_pictures_and_keeps_shape_and_type(key: str) -> None:
    size, plain = 24, picture()
    batch = seen(64, **{key: ALL[key]})
    assert (batch.shape, batch.dtype) == ((64, size, size, 3), np.uint8)
    changed = (batch != plain).any(axis=(1, 2, 3)).mean()
    assert changed == pytest.approx(0.5, abs=0.25) if key in ("hflip", "vflip", "erase") else changed > 0.8


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_a_view_depends_on_seed_epoch_and_index_alone(policy: str) -> None:
    view = TrainingView(SPEC, 24, AugmentTable(**{**ALL, "policy": policy}), seed=1)  # type: ignore[arg-type]
    images = [picture(i, 40, 50) for i in range(4)]
    torch.manual_seed(5)
    together = view(images, 2, [10, 11, 12, 13])
    torch.manual_seed(6)
    alone = [view([images[i]], 2, [10 + i])[0] for i in (3, 1, 2, 0)]
    assert all(np.array_equal(together[i], one) for i, one in zip((3, 1, 2, 0), alone, strict=True))
    for other in (view(images, 3, [10, 11, 12, 13]), dataclasses.replace(view, seed=2)(images, 2, [10, 11, 12, 13])):
        assert not np.array_equal(together, other)


def test_drawing_a_view_leaves_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    seen(4, **ALL)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("key", "axis"), [("hflip", 1), ("vflip", 0)])
def test_half_of_the_pictures_are_mirrored(key: str, axis: int) -> None:
    plain = picture()
    batch = seen(**{key: True})
    mirrored = (batch == np.flip(plain, axis)).all(axis=(1, 2, 3))
    assert (mirrored | (batch == plain).all(axis=(1, 2, 3))).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.1)


def test_shifts_are_crops_of_the_reflected_picture_at_every_place() -> None:
    plain, most = picture(), 2
    padded = np.pad(plain, ((most, most), (most, most), (0, 0)), mode="reflect")
    places = {(y, x): padded[y : y + 24, x : x + 24].tobytes() for y in range(5) for x in range(5)}
    assert {view.tobytes() for view in seen(shift_px=most)} == set(places.values())


def test_random_crops_lie_inside_and_have_torchvisions_shares() -> None:
    numbers = np.random.default_rng(0).random((4000, 22))
    top, left, height, width = crops(np.tile([[60, 40]], (4000, 1)), 0.3, numbers).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 60).all()
    assert (left + width <= 40).all()
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(10, (0.3, 1.0))
    image = torch.zeros(3, 60, 40)
    found = [theirs.make_params([image]) for _ in range(4000)]
    for ours, key in ((top, "top"), (left, "left"), (height, "height"), (width, "width")):
        other = np.array([p[key] for p in found])
        error = np.hypot(ours.std(), other.std()) / 4000**0.5
        assert abs(ours.mean() - other.mean()) < 4 * error
        assert np.quantile(ours, 0.9) == pytest.approx(np.quantile(other, 0.9), abs=2)


def test_a_picture_too_long_for_any_crop_gives_its_central_one() -> None:
    boxes = crops(np.array([[10, 1000], [1000, 10]]), 0.9, np.random.default_rng(0).random((2, 22)))
    assert boxes.tolist() == [[0, 493, 10, 13], [493, 0, 13, 10]]


def test_a_random_crop_is_cut_out_then_resized_as_torchvision_does() -> None:
    image = picture(4, 40, 50)
    view = TrainingView(SPEC, 24, AugmentTable(crop_scale_min=0.3), seed=1)
    top, left, height, width = crops(np.array([[40, 50]]), 0.3, views.uniforms(1, 0, [7], "crop", 22))[0].tolist()
    how = v2.InterpolationMode.BICUBIC
    expected = functional.resized_crop(Image.fromarray(image), top, left, height, width, [24, 24], how)
    assert np.array_equal(view([image], 0, [7])[0], np.asarray(expected))


@given(st.tuples(*[st.floats(0, 2)] * 3), st.integers(0, 5))
def test_colour_is_torchvisions_brightness_then_contrast_then_saturation(factors: tuple[float, ...], seed: int) -> None:
    image = picture(seed, 8, 8)
    expected = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    expected = functional.adjust_brightness(expected, factors[0])
    expected = functional.adjust_contrast(expected, factors[1])
    expected = functional.adjust_saturation(expected, factors[2])
    found = views.coloured(image[None], np.array([factors]))[0]
    assert np.abs(found - expected.permute(1, 2, 0).numpy() * 255).max() < 0.51  # rounding


def test_rotation_stays_within_its_angle_and_fills_with_the_mean_colour() -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    assert (seen(50, image=white, rotate_deg=0.01) == 255).all()
    batch = seen(50, image=white, rotate_deg=30.0)
    assert (batch[:, 12, 12] == 255).all()
    assert (batch[:, 0, 0] == 128).any()  # a mean of 0.5
    halves = white.copy()
    halves[:, :12] = 0
    batch = seen(image=halves, rotate_deg=30.0)[..., 0]
    assert (batch[:, 12, :6] == 0).all()
    assert (batch[:, 12, 18:] == 255).all()
    assert 0.3 < (batch[:, 3, 11] > 200).mean() < 0.7  # turned to one side, where not to the other


def test_erasing_puts_one_rectangle_of_the_mean_colour_into_its_share_of_the_pictures() -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    batch = seen(image=white, erase=0.3)
    lost = (batch == 128).all(axis=3)
    assert lost.any(axis=(1, 2)).mean() == pytest.approx(0.3, abs=0.08)
    for mask in lost[lost.any(axis=(1, 2))]:
        height, width = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert mask.sum() == height * width
        assert 0.01 < mask.mean() < 0.4
    areas = lost.mean(axis=(1, 2))[lost.any(axis=(1, 2))]
    assert np.quantile(areas, [0.1, 0.9]) == pytest.approx([0.05, 0.3], abs=0.05)


def test_the_policies_are_torchvisions_with_the_recipes_numbers() -> None:
    randaugment = TrainingView(SPEC, 8, AugmentTable(policy="randaugment", policy_magnitude=5, policy_operations=3), 0)
    assert isinstance(randaugment.policy, v2.RandAugment)
    assert (randaugment.policy.magnitude, randaugment.policy.num_ops) == (5, 3)
    assert isinstance(TrainingView(SPEC, 8, AugmentTable(policy="trivialaugment"), 0).policy, v2.TrivialAugmentWide)
