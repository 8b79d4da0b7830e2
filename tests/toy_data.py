"""Small real data on disk for tests of the data room, and a finished Splits folder as they look at it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tlcompile.artifacts import read_json
from tlcompile.data import Split


@dataclass(frozen=True)
class Prepared:
    """A finished Splits folder."""

    folder: Path

    @property
    def info(self) -> dict[str, Any]:
        return read_json(self.folder / "data.json")

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.info["sizes"][name] for name in ("train", "val", "test"))

    def split(self, name: str) -> Split:
        return Split(self.folder, name)


def jpeg(value: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    """A JPEG of `size` (width, height) that differs by `value`."""
    stream = io.BytesIO()
    Image.new("RGB", size, (value % 256, 90, 160)).save(stream, "JPEG")
    return stream.getvalue()


def class_folders(root: Path, counts: dict[str, int], suffix: str = ".jpg") -> Path:
    """`root/CLASS/N.jpg` for each class and its number of images."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index:03}{suffix}").write_bytes(jpeg(index))
    return root
