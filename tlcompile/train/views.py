"""Random views of training images, as `[train.augment]` asks for them.

    picture(s) -> random crop or fit -> policy -> rotation -> shift -> flips -> colour -> erasing -> uint8 [N, S, S, 3]

What has to look at one picture at a time (resampling, published policies) goes through Pillow and torchvision v2; the
rest works on the batch, a few microseconds an image. Every choice is a function of (seed, epoch, index), see
`chance`. The shares, ranges and orders are torchvision's where it has the same view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tlcompile.artifacts import ImageSpec
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train.chance import uniforms, words

Numbers = Callable[[str, int], np.ndarray]  # (purpose, count) -> uniform numbers float64 [N, count]
_CROP_TRIES = 10
_CROP_RATIO = (3 / 4, 4 / 3)
_ERASE_AREA, _ERASE_RATIO = (0.02, 1 / 3), (0.3, 3.3)  # Z. Zhong et al., "Random Erasing", AAAI 2020, section 4.2
_GREY = torch.tensor([0.2989, 0.587, 0.114])  # ITU-R 601-2, as torchvision has it


def fit(picture: np.ndarray, spec: ImageSpec, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [size, size, 3]: what `evaluation_view` makes of it for a network that takes this size.

    The same pixels in half of the time: most of v2's on small pictures goes into its own bookkeeping.
    """
    short, (height, width) = int(size / spec.crop_pct), picture.shape[:2]
    shape = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    if short != min(height, width):
        how = Image.Resampling[spec.interpolation.upper()]
        picture = np.asarray(Image.fromarray(picture).resize(shape[::-1], how))
    top, left = (round((length - size) / 2) for length in shape)
    return picture[top : top + size, left : left + size]


@dataclass(frozen=True)
class TrainingView:
    """Call it with pictures (uint8 [H, W, 3] of any size), their epoch and their indices in the split.

    `fitted` says that they come as `fit` makes them, so nothing is left to do where the recipe asks for no random crop.
    """

    spec: ImageSpec
    size: int
    augment: AugmentTable
    seed: int
    fitted: bool = False

    def __call__(self, pictures: Sequence[np.ndarray], epoch: int, indices: Sequence[int]) -> np.ndarray:
        """uint8 [N, size, size, 3]"""

        def numbers(purpose: str, count: int) -> np.ndarray:
            return uniforms(self.seed, epoch, indices, purpose, count)

        a = self.augment
        pictures = self._sized(pictures, numbers)
        if a.policy != "none":
            seeds = words(self.seed, epoch, indices, "policy", 1)[:, 0]
            pictures = by_policy(pictures, self.policy, seeds)
        if a.rotate_deg:
            angles = (2 * numbers("rotate", 1)[:, 0] - 1) * a.rotate_deg
            pictures = [rotated(p, angle, self.mean) for p, angle in zip(pictures, angles, strict=True)]
        batch = np.stack(pictures)
        if a.shift_px:
            batch = shifted(batch, a.shift_px, numbers("shift", 2))
        for axis, on in ((2, a.hflip), (1, a.vflip)):
            if on:
                batch = flipped(batch, axis, numbers(f"flip{axis}", 1)[:, 0])
        if a.color:
            batch = coloured(batch, 1 + a.color * (2 * numbers("color", 3) - 1))
        return erased(batch, a.erase, self.mean, numbers("erase", 5)) if a.erase else batch

    @cached_property
    def policy(self) -> v2.Transform:
        """Of a PIL image, drawing from torch's generator."""
        how, fill = v2.InterpolationMode.BILINEAR, list(self.mean)
        if self.augment.policy == "trivialaugment":
            return v2.TrivialAugmentWide(interpolation=how, fill=fill)
        operations, magnitude = self.augment.policy_operations, self.augment.policy_magnitude
        return v2.RandAugment(operations, magnitude, interpolation=how, fill=fill)

    @property
    def mean(self) -> tuple[int, ...]:
        """The network's mean colour in 0..255: what stands where a view has no pixels."""
        return tuple(round(255 * value) for value in self.spec.mean)

    def _sized(self, pictures: Sequence[np.ndarray], numbers: Numbers) -> Sequence[np.ndarray]:
        if self.augment.crop_scale_min == 1:
            return pictures if self.fitted else [fit(p, self.spec, self.size) for p in pictures]
        sizes = np.array([p.shape[:2] for p in pictures])
        boxes = crops(sizes, self.augment.crop_scale_min, numbers("crop", 2 * _CROP_TRIES + 2))
        how = Image.Resampling[self.spec.interpolation.upper()]
        return [_cropped(p, box, self.size, how) for p, box in zip(pictures, boxes.tolist(), strict=True)]


def crops(sizes: np.ndarray, smallest: float, numbers: np.ndarray) -> np.ndarray:
    """Boxes int64 [N, 4] (top, left, height, width) of `smallest` to all of the area of pictures of `sizes` [N, 2].

    C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6, as torchvision's RandomResizedCrop draws
    them: the first of ten boxes that lies inside, else the largest central one of a permitted shape.
    """
    height, width = sizes[:, :1], sizes[:, 1:]
    share = smallest + (1 - smallest) * numbers[:, :_CROP_TRIES]
    low, high = np.log(_CROP_RATIO)
    ratio = np.exp(low + (high - low) * numbers[:, _CROP_TRIES : 2 * _CROP_TRIES])
    w = np.rint(np.sqrt(share * height * width * ratio)).astype(np.int64)
    h = np.rint(np.sqrt(share * height * width / ratio)).astype(np.int64)
    inside = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    chosen = np.arange(len(sizes)), inside.argmax(axis=1)
    found, height, width = inside.any(axis=1), height[:, 0], width[:, 0]
    tallest = np.minimum(height, np.rint(width / _CROP_RATIO[0])).astype(np.int64)
    widest = np.minimum(width, np.rint(height * _CROP_RATIO[1])).astype(np.int64)
    h, w = np.where(found, h[chosen], tallest), np.where(found, w[chosen], widest)
    room = np.stack([height - h, width - w], axis=1)
    top, left = np.where(found[:, None], (numbers[:, -2:] * (room + 1)).astype(np.int64), room // 2).T
    return np.stack([top, left, h, w], axis=1)


def _cropped(picture: np.ndarray, box: list[int], size: int, how: Image.Resampling) -> np.ndarray:
    top, left, height, width = box
    part = Image.fromarray(picture[top : top + height, left : left + width])
    return np.asarray(part.resize((size, size), how))


def by_policy(pictures: Sequence[np.ndarray], policy: v2.Transform, seeds: np.ndarray) -> list[np.ndarray]:
    """Each picture through `policy` with torch's CPU generator seeded by `seeds` uint64 [N], and then put back."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for picture, seed in zip(pictures, seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(seed)
            found.append(np.asarray(policy(Image.fromarray(picture))))
    return found


def rotated(picture: np.ndarray, degrees: float, fill: tuple[int, ...]) -> np.ndarray:
    how = v2.InterpolationMode.BILINEAR
    return np.asarray(functional.rotate(Image.fromarray(picture), degrees, how, fill=list(fill)))


def shifted(batch: np.ndarray, most: int, numbers: np.ndarray) -> np.ndarray:
    """Each picture moved by up to `most` pixels along both axes; what comes in is its own reflection."""
    size = batch.shape[1]
    padded = np.pad(batch, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    moved = np.empty_like(batch)
    for i, (top, left) in enumerate((numbers * (2 * most + 1)).astype(np.int64).tolist()):
        moved[i] = padded[i, top : top + size, left : left + size]
    return moved


def flipped(batch: np.ndarray, axis: int, numbers: np.ndarray) -> np.ndarray:
    """Half of the pictures mirrored along `axis` of the batch, in place."""
    chosen = numbers < 0.5
    batch[chosen] = np.flip(batch[chosen], axis)
    return batch


def coloured(batch: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation times `factors` [N, 3], as torchvision's ColorJitter in this order."""
    x = torch.from_numpy(batch).float()
    brightness, contrast, saturation = torch.from_numpy(factors.T.astype(np.float32)).view(3, -1, 1, 1, 1)
    x = (x * brightness).clamp_(0, 255)
    x = torch.lerp((x @ _GREY).mean((1, 2))[:, None, None, None], x, contrast).clamp_(0, 255)
    x = torch.lerp((x @ _GREY)[..., None], x, saturation).clamp_(0, 255)
    return x.round_().to(torch.uint8).numpy()


def erased(batch: np.ndarray, share: float, fill: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
    """A `share` of the pictures with a random rectangle of colour `fill`, in place."""
    size = batch.shape[1]
    area = _ERASE_AREA[0] + (_ERASE_AREA[1] - _ERASE_AREA[0]) * numbers[:, 1]
    low, high = (math.log(r) for r in _ERASE_RATIO)
    ratio = np.exp(low + (high - low) * numbers[:, 2])
    sides = np.rint(size * np.sqrt(np.stack([area / ratio, area * ratio], axis=1))).astype(np.int64).clip(1, size)
    starts = (numbers[:, 3:] * (size - sides + 1)).astype(np.int64)
    for i in np.flatnonzero(numbers[:, 0] < share):
        (top, left), (height, width) = starts[i], sides[i]
        batch[i, top : top + height, left : left + width] = fill
    return batch
