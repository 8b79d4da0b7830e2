"""Write one split as an Arrow IPC file, in record batches of bounded size. Equal examples give equal bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import Target
from tlcompile.data._source import Example

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 1024
_BATCH_BYTES = 8 << 20


def schema(kind: str, classes: int = 0, target: Target | None = None) -> pa.Schema:
    """`id`, `example`, `label` and, for images, `height` and `width` in pixels as they decode.

    A label is the int32 index of a class; with `classes`, int8 [classes] 1 where a class is given; with `target`, a
    float64 in its own unit, and the metadata keep the target's mean and standard deviation.
    """
    import pyarrow as pa

    sizes = {"height": pa.int32(), "width": pa.int32()} if kind == "image" else {}
    example = pa.binary() if kind == "image" else pa.string()
    label = pa.float64() if target else pa.list_(pa.int8(), classes) if classes else pa.int32()
    metadata = {"target": json.dumps(asdict(target))} if target else None
    return pa.schema({"id": pa.string(), "example": example, "label": label, **sizes}, metadata)


class SplitWriter:
    """`with SplitWriter(path, kind) as writer: writer.add(example, height, width)`; other arguments as in `schema`."""

    def __init__(self, path: Path, kind: str, classes: int = 0, target: Target | None = None) -> None:
        import pyarrow as pa

        self._schema = schema(kind, classes, target)
        self._file = pa.ipc.new_file(str(path), self._schema)
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, example: Example, height: int, width: int) -> None:
        """Append one example; a text has no height and width."""
        row = (example.id, example.data, example.label, height, width)
        self._rows.append(row[: len(self._schema)])
        self._bytes += len(example.data)
        if len(self._rows) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
            self._file.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()
