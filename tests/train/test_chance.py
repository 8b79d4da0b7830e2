"""Numbers that depend on where they are used and on nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.train.chance import uniforms, words

SMALL = st.integers(0, 2**32 - 1)


@given(SMALL, SMALL, st.lists(SMALL, min_size=1, max_size=8), st.integers(1, 5))
def test_a_number_does_not_depend_on_its_neighbours_in_the_batch(
    seed: int, epoch: int, indices: list[int], count: int
) -> None:
    together = uniforms(seed, epoch, indices, "crop", count)
    alone = [uniforms(seed, epoch, [i], "crop", count + 3)[0, :count] for i in indices]
    assert np.array_equal(together, np.array(alone))
    assert (together >= 0).all()
    assert (together < 1).all()


@given(SMALL, SMALL, SMALL)
def test_seed_epoch_index_and_purpose_each_change_it(seed: int, epoch: int, index: int) -> None:
    def number(*where: int, purpose: str = "crop") -> int:
        return int(words(where[0], where[1], [where[2]], purpose, 1)[0, 0])

    here = number(seed, epoch, index)
    others = [number(seed + 1, epoch, index), number(seed, epoch + 1, index), number(seed, epoch, index + 1)]
    assert len({here, *others, number(seed, epoch, index, purpose="flip")}) == 5


def test_they_are_uniform_and_independent() -> None:
    n = 200_000
    numbers = uniforms(1, 0, range(n), "flip", 2)
    counts = np.histogram(numbers[:, 0], bins=100, range=(0, 1))[0]
    chi_squared = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert 50 < chi_squared < 160  # 99 degrees of freedom: outside by chance less than once in ten thousand
    later = uniforms(1, 1, range(n), "flip", 1)[:, 0]
    for other in (numbers[:, 1], np.roll(numbers[:, 0], 1), later):
        assert abs(np.corrcoef(numbers[:, 0], other)[0, 1]) < 4 / n**0.5
