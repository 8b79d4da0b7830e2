"""A mixed batch has the loss that the papers give it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train.mixing import Mix

K, N, S = 5, 8, 16
SWAPPED = [1, 0, 3, 2, 5, 4, 7, 6]


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(N, 3, S, S, generator=generator).contiguous(memory_format=torch.channels_last)
    return {"pixels": pixels}, torch.arange(N) % K


def share(soft: torch.Tensor, targets: torch.Tensor) -> float:
    """Lambda: what the first example kept of its own class."""
    return float(soft[1, targets[1]])


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
@pytest.mark.parametrize("number", range(5))
def test_the_loss_of_a_mixed_batch_is_that_of_both_targets_by_their_shares(way: str, number: int) -> None:
    inputs, targets = batch()
    mixed, soft = Mix(AugmentTable(**{way: 1.0}), K, seed=3)(inputs, targets, 0, number)  # type: ignore[arg-type]
    assert (soft.shape, soft.dtype) == ((N, K), torch.float32)
    weight, other = share(soft, targets), targets[SWAPPED]
    logits = mixed["pixels"].flatten(1)[:, :K] * 4
    expected = weight * cross_entropy(logits, targets) + (1 - weight) * cross_entropy(logits, other)
    assert cross_entropy(logits, soft) == pytest.approx(float(expected), rel=1e-5)
    assert mixed["pixels"].is_contiguous(memory_format=torch.channels_last)


def test_mixup_mixes_pixels_by_the_share_of_the_targets() -> None:
    inputs, targets = batch()
    mixed, soft = Mix(AugmentTable(mixup=1.0), K, seed=3)(inputs, targets, 0, 0)
    weight, pixels = share(soft, targets), inputs["pixels"]
    assert 0 < weight < 1
    assert torch.allclose(mixed["pixels"], weight * pixels + (1 - weight) * pixels[SWAPPED], atol=1e-6)


def test_cutmix_takes_one_box_from_the_other_of_its_pair_and_counts_its_area() -> None:
    inputs, targets = batch()
    mixed, soft = Mix(AugmentTable(cutmix=1.0), K, seed=3)(inputs, targets, 0, 0)
    foreign = (mixed["pixels"] != inputs["pixels"]).all(dim=1)
    assert foreign.sum() > 0
    assert torch.equal(
        mixed["pixels"].permute(0, 2, 3, 1)[foreign], inputs["pixels"][SWAPPED].permute(0, 2, 3, 1)[foreign]
    )
    rows, columns = foreign[0].any(1).sum(), foreign[0].any(0).sum()
    assert foreign[0].sum() == rows * columns
    assert share(soft, targets) == pytest.approx(1 - float(rows * columns) / S**2)


def test_the_mix_is_a_function_of_seed_epoch_and_batch_and_leaves_torch_alone() -> None:
    inputs, targets = batch()
    augment = AugmentTable(mixup=0.4, cutmix=1.0)

    def lam(seed: int, epoch: int, number: int) -> float:
        return share(Mix(augment, K, seed)(inputs, targets, epoch, number)[1], targets)

    before = torch.get_rng_state()
    first = lam(1, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert lam(1, 0, 0) == first
    assert len({first, lam(2, 0, 0), lam(1, 1, 0), lam(1, 0, 1)}) == 4


def test_both_ways_are_used_evenly() -> None:
    inputs, targets = batch()
    mix, cut = Mix(AugmentTable(mixup=0.4, cutmix=1.0), K, seed=1), 0
    for number in range(300):
        mixed, _ = mix(inputs, targets, 0, number)
        own = mixed["pixels"] == inputs["pixels"]
        cut += bool((own | (mixed["pixels"] == inputs["pixels"][SWAPPED])).all())
    assert cut / 300 == pytest.approx(0.5, abs=0.1)


def test_labels_that_are_numbers_or_several_are_mixed_in_their_own_shape() -> None:
    inputs, targets = batch()
    mix = Mix(AugmentTable(mixup=1.0), K, seed=3)
    weight = share(mix(inputs, targets, 0, 0)[1], targets)
    for soft in (torch.linspace(-1, 1, N), one_hot(targets, K).float()):
        mixed = mix(inputs, soft, 0, 0)[1]
        assert torch.allclose(mixed, weight * soft + (1 - weight) * soft[SWAPPED], atol=1e-6)


def test_without_a_key_the_batch_is_left_as_it_is() -> None:
    inputs, targets = batch()
    mixed, same = Mix(AugmentTable(hflip=True), K, seed=3)(inputs, targets, 0, 0)
    assert mixed is inputs
    assert same is targets


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_halves_of_a_batch_are_mixed_as_the_whole(way: str) -> None:
    inputs, targets = batch()
    mix = Mix(AugmentTable(**{way: 1.0}), K, seed=3)
    whole = mix(inputs, targets, 0, 0)
    halves = [mix({"pixels": inputs["pixels"][part]}, targets[part], 0, 0) for part in (slice(4), slice(4, 8))]
    assert torch.equal(whole[0]["pixels"], torch.cat([half[0]["pixels"] for half in halves]))
    assert torch.equal(whole[1], torch.cat([half[1] for half in halves]))


def test_the_last_of_an_odd_number_stays_whole() -> None:
    inputs, targets = batch()
    mixed, soft = Mix(AugmentTable(mixup=1.0), K, seed=3)({"pixels": inputs["pixels"][:5]}, targets[:5], 0, 0)
    assert torch.equal(mixed["pixels"][4], inputs["pixels"][4])
    assert torch.equal(soft[4], one_hot(targets[4], K).float())
