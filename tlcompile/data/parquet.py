"""Images or texts in Parquet: one file, or a folder with files named after train, val (or validation, dev) and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tlcompile.artifacts import Labels
from tlcompile.data import _tabular
from tlcompile.data._arrow import ArrowTable
from tlcompile.data._columns import ImageColumns
from tlcompile.data._files import name_of, split_files
from tlcompile.data._source import Problems, Source, located
from tlcompile.options import Field, RecipePath

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("image", "text")
LABELS = ("class", "classes", "number")
PACKAGES = ("pyarrow",)
SUFFIXES = (".parquet", ".pq")
_BATCH_ROWS = 64
_READ_BYTES = 1 << 20


class Options(ImageColumns):
    """`source = "parquet"`"""

    path: RecipePath = Field(description="a .parquet file, or a folder with files named after train, val and test")


def load(options: Options, kind: str, seed: int, labels: Labels = "class") -> Source:
    """Read the labels of all rows; the rest is streamed later."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = located(options.path)
    files, notes = split_files(options.path, SUFFIXES)
    problems = Problems()
    tables: dict[str, list[_tabular.Table]] = {split: [] for split in files}
    for split, paths in files.items():
        for path in paths:
            name = name_of(path, root)
            try:
                tables[split].append(ArrowTable(name, pq.read_schema(path), partial(_batches, path)))
            except (pa.ArrowException, OSError) as error:
                problems.add(name, f"can't be read as Parquet: {error}")
    problems.check()
    return _tabular.load(tables, options, kind, str(root), notes, labels)


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    # By default whole column chunks are read ahead and kept, in the end the whole file.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns))
