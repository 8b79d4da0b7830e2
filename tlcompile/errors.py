"""The tree of our errors. Each kind is one exit code; each error lists every problem that was found, not the first.

    TlcompileError        4   a stage failed
    ├── RecipeError       2   the recipe or the command line is wrong
    ├── DataError         3   the data is wrong
    ├── BackendMissing    4   a library or a device that a backend needs is not there
    ├── ParityError       4   a step changed the numbers by more than its tolerance
    ├── BundleError       4   a bundle is damaged, foreign or too new
    └── GateError         5   the artifact was built and is not good enough

A problem says where it is, what was found, what was expected and, where a name was misspelt, the nearest right one.
Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: `where` it is (a file and line, a key, a path), `what` is wrong, the `nearest` right name if any."""

    where: str
    what: str
    nearest: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; did you mean '{self.nearest}'?" if self.nearest else text


class TlcompileError(Exception):
    """Base of every error that is told to the user in sentences. `problems` holds all of them."""

    exit_code = 4

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(p if isinstance(p, Problem) else Problem("", p) for p in problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class RecipeError(TlcompileError):
    exit_code = 2


class DataError(TlcompileError):
    exit_code = 3


class BackendMissing(TlcompileError):
    pass


class ParityError(TlcompileError):
    pass


class BundleError(TlcompileError):
    pass


class GateError(TlcompileError):
    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that `name` was most likely meant to be, or '' where none is close."""
    import difflib

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else ""


def one_of(known: Iterable[str]) -> str:
    """`'a', 'b' or 'c'`: how an error lists what would have been right."""
    names = [f"'{name}'" for name in known]
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def first_line(error: BaseException) -> str:
    """What `error` of a library says first; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
