"""Progress of long work on standard error: a bar on a terminal, a line now and then in a log, nothing when quiet.

Standard output stays free for results. `rich` is imported when the first bar is drawn.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
quiet = False
_LOG_EVERY_S = 20.0


def say(text: str) -> None:
    """One line of progress."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@cache
def say_once(text: str) -> None:
    """`say`, the first time that this process has it to say."""
    say(text)


class Bar:
    """Advance with `step(n, note)`; `note` is a short text such as `loss 0.31  52 img/s`."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self.start = self.last = time.monotonic()

    def step(self, n: int = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < _LOG_EVERY_S:
            return
        self.last = now
        left = ""
        if self.total and self.done:
            left = f", {(now - self.start) / self.done * (self.total - self.done):.0f} s left"
        say(f"  {self.label}: {self.done}/{self.total or '?'}{left}  {note}")


class _RichBar(Bar):
    def __init__(self, label: str, total: int | None) -> None:
        super().__init__(label, total)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("[bold]{task.description}", "{task.fields[note]}")
        self.rich = Progress(
            TextColumn(columns[0]),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn(columns[1]),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.rich.add_task(label, total=total, note="")

    def step(self, n: int = 1, note: str = "") -> None:
        self.rich.update(self.task, advance=n, note=note)


@contextmanager
def bar(label: str, total: int | None = None) -> Iterator[Bar]:
    """A progress bar for the work in the `with` block."""
    if quiet or not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:  # a device has no rich
        yield Bar(label, total)
        return
    drawn = _RichBar(label, total)
    with drawn.rich:
        yield drawn


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """`items`, with a bar that advances by one each."""
    with bar(label, total if total is not None else getattr(items, "__len__", lambda: None)()) as shown:
        for item in items:
            yield item
            shown.step()
