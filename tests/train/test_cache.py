"""Pictures out of one file: the same pixels, memory that does not grow, nothing half done."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from tlcompile.artifacts import ImageSpec
from tlcompile.train import cache
from tlcompile.train.cache import Fitted, Kept, keep
from tlcompile.train.views import fit


class Drawn:
    """Pictures of two sizes that count how often one is decoded."""

    def __init__(self, n: int, fail_at: int = -1, times: int = 1) -> None:
        self.shapes = times * np.array([(20, 30) if i % 3 else (40, 10) for i in range(n)], dtype=np.int32)
        self.decoded, self.fail_at, self.threads = 0, fail_at, set[int]()

    def __getitem__(self, index: int) -> np.ndarray:
        if index == self.fail_at:
            raise OSError("killed here")
        self.decoded += 1
        self.threads.add(threading.get_ident())
        return np.random.default_rng(index).integers(0, 256, (*self.shapes[index], 3), dtype=np.uint8)


def test_pictures_of_any_size_come_back_as_they_were(tmp_path: Path) -> None:
    drawn = Drawn(9)
    kept = keep(drawn, tmp_path, "train", ["a"], 1)
    assert isinstance(kept, Kept)
    assert drawn.decoded == 9
    assert all(np.array_equal(kept[i], Drawn(9)[i]) for i in range(9))
    again = pickle.loads(pickle.dumps(kept))
    assert np.array_equal(again[8], Drawn(9)[8])


def test_fitted_pictures_come_back_fitted(tmp_path: Path) -> None:
    spec = ImageSpec(16, 0.9)
    kept = keep(Fitted(Drawn(5), spec, 12), tmp_path, "train", [], 1)
    assert all(np.array_equal(kept[i], fit(Drawn(5)[i], spec, 12)) for i in range(5))


@pytest.mark.parametrize(("times", "here"), [(1, True), (12, False)])
def test_only_large_pictures_are_decoded_by_other_threads(times: int, here: bool, tmp_path: Path) -> None:
    for number, of in enumerate((lambda p: p, lambda p: Fitted(p, ImageSpec(16, 0.9), 12))):
        drawn = Drawn(5, times=times)
        keep(of(drawn), tmp_path, "train", [number, times], 9)
        assert drawn.decoded == 5
        assert (threading.get_ident() in drawn.threads) is here


def test_a_finished_file_is_read_and_one_of_other_facts_is_not(tmp_path: Path) -> None:
    first, second, third = Drawn(4), Drawn(4), Drawn(4)
    keep(first, tmp_path, "train", ["size 8"], 1)
    keep(second, tmp_path, "train", ["size 8"], 1)
    keep(third, tmp_path, "train", ["size 9"], 1)
    assert (first.decoded, second.decoded, third.decoded) == (4, 0, 4)
    assert len(list(tmp_path.glob("*.u8"))) == 1


def test_what_was_left_by_a_killed_run_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PART", 2)
    with pytest.raises(OSError, match="killed here"):
        keep(Drawn(9, fail_at=5), tmp_path, "train", [], 1)
    assert not list(tmp_path.glob("*.u8"))
    kept = keep(Drawn(9), tmp_path, "train", [], 1)
    assert all(np.array_equal(kept[i], Drawn(9)[i]) for i in range(9))


def test_more_than_is_allowed_is_decoded_each_time_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = Drawn(1000)
    assert keep(drawn, tmp_path, "train", [], 1) is drawn
    told = capsys.readouterr().err
    assert "train: 2 MiB of pixels are more than 1 MiB of train.cache_mib: decoded again every epoch" in told
    assert keep(drawn, tmp_path, "train", [], 1) is drawn
    assert keep(drawn, tmp_path, "train", [], 0) is drawn
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_parts_are_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PART_BYTES", 100)
    sizes = np.array([10] * 300 + [60, 60, 500, 1])
    parts = list(cache._parts(sizes))
    assert [i for part in parts for i in part] == list(range(304))
    assert all(sizes[list(part)].sum() <= 100 or len(part) == 1 for part in parts)
    assert max(len(part) for part in parts) <= 256


def test_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    shapes = np.full((2000, 2), 128)  # 94 MiB
    np.zeros(int(shapes.prod(axis=1).sum()) * 3, np.uint8).tofile(tmp_path / "pixels.u8")
    kept, process = Kept(tmp_path / "pixels.u8", shapes), psutil.Process()
    kept[0]
    before = process.memory_info().rss
    assert sum(int(kept[i].sum()) for i in range(2000)) == 0
    assert process.memory_info().rss - before < 10 << 20
