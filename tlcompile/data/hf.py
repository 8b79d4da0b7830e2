"""A data set of the Hugging Face hub by its id, through the library `datasets` and its cache. Runs no code of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import Labels
from tlcompile.data import _tabular
from tlcompile.data._arrow import ArrowTable
from tlcompile.data._columns import ImageColumns
from tlcompile.data._source import ALL, Source, by_split, some_of
from tlcompile.errors import DataError, Problem
from tlcompile.options import Field

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("image", "text")
LABELS = ("class", "classes", "number")
PACKAGES = ("datasets", "pyarrow")
_BATCH_ROWS = 64


class Options(ImageColumns):
    """`source = "hf"`"""

    name: str = Field(min_length=1, description="id on the hub, e.g. stanfordnlp/sst2")
    config: str = Field("", description="configuration of the data set, where it has several")
    revision: str = Field("", description="branch, tag or commit; name a commit for a build that can be repeated")


def load(options: Options, kind: str, seed: int, labels: Labels = "class") -> Source:
    """Read the labels of all rows; the rest is streamed from the cache later."""
    parts = _download(options)
    splits, notes = by_split(parts, options.name)
    if not splits and len(parts) == 1:
        splits, notes = dict.fromkeys([ALL], *parts), []
    if not splits:
        raise DataError(Problem(options.name, f"none of its parts is called train: {some_of(parts)}"))
    tables = {split: [_table(f"{options.name}/{name}", parts[name])] for split, name in splits.items()}
    return _tabular.load(tables, options, kind, options.name, notes, labels)


def _table(name: str, part: Any) -> ArrowTable:
    """A `datasets.Dataset` as a table over its memory-mapped Arrow data."""

    from datasets import config

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from part.data.table.select(list(columns)).to_batches(max_chunksize=_BATCH_ROWS)

    return ArrowTable(name, part.features.arrow_schema, batches, images_below=Path(config.HF_CACHE_HOME))


def _download(options: Options) -> dict[str, Any]:
    """split name -> `datasets.Dataset`, from the cache or the hub; DataError says what else can be done."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            Problem("source 'hf'", "needs the package 'datasets'; install it with: pip install 'tlcompile[hf]'")
        ) from None
    try:
        found = datasets.load_dataset(options.name, options.config or None, revision=options.revision or None)
    except Exception as error:  # the hub, its cache and its builders raise many kinds; each means: no such data here
        advice = _advice(options, str(error), datasets.config.HF_DATASETS_CACHE)
        raise DataError(Problem(options.name, advice)) from error
    return dict(found)


def _advice(options: Options, why: str, cache: object) -> str:
    """Why the set is not here, where it was looked for, and the two ways to bring it."""
    arguments = [options.name, *([options.config] if options.config else [])]
    call = ", ".join([*map(repr, arguments), *([f"revision={options.revision!r}"] if options.revision else [])])
    return (
        f"can't be loaded: {why}. Looked in the cache {cache} and on the hub. On a machine with a network, run\n"
        f'  python -c "import datasets; datasets.load_dataset({call})"\n'
        "and copy its cache folder to this place, or set HF_HOME to the copy; or save each part there with\n"
        "  part.to_parquet('train.parquet')\n"
        'and use source = "parquet"'
    )
