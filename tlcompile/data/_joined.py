"""Two splits as one: what the last training of a release learns from."""

from __future__ import annotations

import numpy as np

from tlcompile.data._split import Split


class Joined(Split):
    """The examples of `first`, then those of `second`."""

    def __init__(self, first: Split, second: Split) -> None:
        self.parts = (first, second)
        self.name, self.kind = f"{first.name}+{second.name}", first.kind
        self.labels = np.concatenate([first.labels, second.labels])
        self.shapes = np.concatenate([first.shapes, second.shapes])

    @property
    def ids(self) -> list[str]:
        return [name for part in self.parts for name in part.ids]

    @property
    def identity(self) -> tuple[object, ...]:
        return tuple(part.identity for part in self.parts)

    def raw(self, index: int) -> bytes | str:
        first, second = self.parts
        return first.raw(index) if index < len(first) else second.raw(index - len(first))

    def __reduce__(self) -> tuple[type[Joined], tuple[Split, Split]]:  # type: ignore[override]
        return Joined, self.parts
