"""Arrow tables as rows: what Parquet files and Hugging Face data sets have in common.

The layout is Hugging Face's: an image is a struct {bytes, path} or plain binary, the names of integer labels stand in
the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.data._columns import ColumnKind
from tlcompile.data._source import Problems

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ArrowTable:
    """A `_tabular.Table` over record batches, which `batches(columns)` streams from the start."""

    name: str
    schema: pa.Schema
    batches: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    images_below: Path | None = None  # the one folder in which an image without bytes may be read from its path

    @cached_property
    def columns(self) -> dict[str, ColumnKind]:
        return {field.name: _kind(field.type) for field in self.schema}

    @cached_property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of Hugging Face's type ClassLabel, and of lists of them."""
        metadata = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(metadata).get("info", {}).get("features", {})
        return {
            name: tuple(found["names"])
            for name, feature in features.items()
            if isinstance(feature, dict)
            for found in [feature.get("feature", feature)]  # of a list, what its elements are
            if isinstance(found, dict) and found.get("_type") == "ClassLabel" and found.get("names")
        }

    def rows(self, columns: Sequence[str], problems: Problems) -> Iterator[tuple[int, tuple[Any, ...]]]:
        import pyarrow as pa

        images = [self.columns[column] == "image" for column in columns]
        row = 0
        try:
            for batch in self.batches(columns):
                for values in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    row += 1
                    yield row, tuple(self._bytes(v) if image else v for v, image in zip(values, images, strict=True))
        except (pa.ArrowException, OSError) as error:
            problems.add(self.name, f"can't be read after row {row}: {error}")

    def _bytes(self, value: Any) -> bytes:
        """The encoded image; no bytes where there is none, which the audit then finds broken."""
        if not isinstance(value, dict):
            return value or b""
        data: bytes = value.get("bytes") or b""
        if not data and self.images_below and value.get("path"):
            path = Path(value["path"]).resolve()
            if path.is_relative_to(self.images_below.resolve()) and path.is_file():
                data = path.read_bytes()
        return data


def _kind(kind: pa.DataType) -> ColumnKind:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_struct(kind):
        return "image" if kind.get_field_index("bytes") >= 0 and _kind(kind.field("bytes").type) == "image" else "other"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return "image"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list"
    return "integer" if types.is_integer(kind) or types.is_boolean(kind) else "other"
