"""Read a split back: a sequence of examples whose bytes stay on disk until one is asked for.

The Arrow file is mapped once to learn where each example lies; examples are then read at their place. Reading through
the map would be as quick, but every page touched would count as this process's memory until the whole file is resident.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from tlcompile.artifacts import Splits, Target
from tlcompile.runtime.images import decode

if TYPE_CHECKING:
    import pyarrow as pa

Item = np.ndarray | str


class Split(Sequence[Item]):
    """`split[i]` is an image, uint8 [height, width, 3], or a text. Threads, forked and spawned processes may share it.

    `labels` are what a network is taught: int64 [n] classes, float32 [n, K] 1 where a class is given, or float32 [n]
    numbers in standard deviations of the training split from its mean. `truth` are the same, but numbers float64 in
    their own unit. `target` describes the number, None of classes. `shapes` int32 [n, 2] height and width of images,
    [n, 1] length in bytes of texts. All are known without reading an example.
    """

    def __init__(self, folder: Path, name: str) -> None:
        import pyarrow as pa

        self._path, self.name = folder / f"{name}.arrow", name
        with pa.memory_map(str(self._path)) as file:
            start_of_map = file.read_buffer(1).address
            table = pa.ipc.open_file(file).read_all()
            self.kind = "image" if pa.types.is_binary(table.schema.field("example").type) else "text"
            self._start, self._length = _places(table["example"], start_of_map)
            self.target = _target(table.schema)
            self.truth = _labels(table["label"])
            self.labels = self._taught()
            columns = [table[c].to_numpy() for c in ("height", "width")] if self.kind == "image" else [self._length]
            self.shapes = np.stack(columns, axis=1)
            del table
        self._file = os.open(self._path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self.labels)

    def _taught(self) -> np.ndarray:
        if self.target is None:
            return self.truth
        return ((self.truth - self.target.mean) / self.target.std).astype(np.float32)

    @property
    def ids(self) -> list[str]:
        """Where each example came from."""
        import pyarrow as pa

        with pa.memory_map(str(self._path)) as file:
            ids: list[str] = pa.ipc.open_file(file).read_all()["id"].to_pylist()
        return ids

    @property
    def identity(self) -> tuple[object, ...]:
        """The file as it is now: its path, size in bytes and time of change in ns."""
        stat = self._path.stat()
        return str(self._path), stat.st_size, stat.st_mtime_ns

    def raw(self, index: int) -> bytes | str:
        """The example as its source held it: encoded image bytes, or the text."""
        data = os.pread(self._file, int(self._length[index]), int(self._start[index]))
        return data if self.kind == "image" else data.decode()

    def example(self, index: int) -> Item:
        """The image decoded, or the text."""
        data = self.raw(index)
        return data if isinstance(data, str) else decode(data)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.example(i) for i in range(*index.indices(len(self)))]
        return self.example(index)

    def __reduce__(self) -> tuple[type[Split], tuple[Path, str]]:
        return Split, (self._path.parent, self.name)


def open_split(splits: Splits, name: str) -> Split:
    """The split `name` ("train", "val" or "test") of a finished Splits artifact."""
    return Split(splits.folder, name)


def _target(schema: pa.Schema) -> Target | None:
    text = (schema.metadata or {}).get(b"target")
    return Target(**json.loads(text)) if text else None


def _labels(column: pa.ChunkedArray) -> np.ndarray:
    """int64 [n] of classes, float32 [n, K] of several classes, float64 [n] of numbers."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten().to_numpy()
        return np.asarray(flat.reshape(len(column), column.type.list_size).astype(np.float32))
    values = column.to_numpy()
    return np.array(values, np.float64 if pa.types.is_floating(column.type) else np.int64)


def _places(column: pa.ChunkedArray, start_of_map: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n] offset in the file, int32 [n] length) of each value of a mapped binary or string column."""
    starts, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        starts.append(ends[:-1] + np.int64(values.address - start_of_map))
        lengths.append(np.diff(ends))
    return np.concatenate(starts), np.concatenate(lengths)
