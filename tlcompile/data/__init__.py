"""Labelled examples, from where they lie to a `Splits` folder that every later stage reads.

A source is one file of this folder that does not begin with `_`; it brings classes, labels and a stream of examples.
`prepare` checks them, splits them and writes the folder; `Split` reads one of its files back.
Importing this package imports no numpy and no pyarrow: a recipe is checked by importing its source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlcompile.data._prepare import prepare
    from tlcompile.data._split import Split, open_split

__all__ = ["Split", "open_split", "prepare"]


def __getattr__(name: str) -> Any:
    if name == "prepare":
        from tlcompile.data import _prepare

        return _prepare.prepare
    if name in ("Split", "open_split"):
        from tlcompile.data import _split

        return getattr(_split, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
