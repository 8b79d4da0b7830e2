"""Every feed of every backend is checked here, in one place, before it reaches a runtime.

Runtimes differ in what they say about a wrong feed, and some read past its end instead. All mistakes of a feed are told
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcompile.artifacts import Runner, Signature, Tensor
from tlcompile.compile._told import told
from tlcompile.errors import Problem, TlcompileError, nearest, one_of

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed


def _spell(shape: tuple[Any, ...]) -> str:
    return f"[{','.join(str(size) for size in shape)}]"


def _tensor_mistakes(tensor: Tensor, value: Any, sizes: dict[str, tuple[int, str]]) -> list[str]:
    """What is wrong with `value`. `sizes` holds the dynamic dimensions seen so far: name -> (size, input)."""
    if not isinstance(value, np.ndarray):
        return [f"found {type(value).__name__}, expected a numpy array of {tensor.dtype} {_spell(tensor.shape)}"]
    found = []
    if value.dtype != np.dtype(tensor.dtype):
        found.append(f"found dtype {value.dtype}, expected {tensor.dtype}")
    if value.ndim != len(tensor.shape):
        return [*found, f"found shape {_spell(value.shape)}, expected {len(tensor.shape)} axes {_spell(tensor.shape)}"]
    for axis, (size, wanted) in enumerate(zip(value.shape, tensor.shape, strict=True)):
        if isinstance(wanted, int):
            if size != wanted:
                found.append(f"found {size} on axis {axis} of {_spell(value.shape)}, expected {wanted}")
            continue
        first, where = sizes.setdefault(wanted, (size, tensor.name))
        if size == 0:
            found.append(f"found 0 on axis {axis} ({wanted}), expected at least 1")
        elif size != first:
            found.append(f"found {size} on axis {axis} ({wanted}), expected {first} as in '{where}'")
    return found


def mistakes(feed: Feed, signature: Signature) -> list[Problem]:
    """Everything that is wrong with `feed`; empty where it fits `signature`."""
    known = [tensor.name for tensor in signature.inputs]
    problems = [
        Problem("feed", f"found an input '{name}', expected {one_of(known)}", nearest(str(name), known))
        for name in feed
        if name not in known
    ]
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in signature.inputs:
        if tensor.name not in feed:
            what = f"'{tensor.name}' is missing, expected {tensor.dtype} {_spell(tensor.shape)}"
            problems.append(Problem("feed", what))
            continue
        found = _tensor_mistakes(tensor, feed[tensor.name], sizes)
        problems += [Problem(f"feed '{tensor.name}'", what) for what in found]
    return problems


def in_pieces(run: Callable[[Feed], Feed], feed: Feed, counts: Iterable[int]) -> Feed:
    """The answers to `feed` of an engine that takes `counts` of its examples, one number a call."""
    answers, start = [], 0
    for count in counts:
        answers.append(run({name: value[start : start + count] for name, value in feed.items()}))
        start += count
    return answers[0] if len(answers) == 1 else {n: np.concatenate([part[n] for part in answers]) for n in answers[0]}


class Checked:
    """A runner whose feeds are checked and whose errors are ours. `close` may be called twice."""

    def __init__(self, runner: Runner, signature: Signature, backend: str) -> None:
        self._runner: Runner | None = runner
        self.signature = signature
        self.backend = backend

    @property
    def notes(self) -> tuple[str, ...]:
        """What the backend says is not as it was built; a backend need not say anything."""
        return tuple(getattr(self._runner, "notes", ()))

    def run(self, feed: Feed) -> Feed:
        if self._runner is None:
            raise TlcompileError(Problem(self.backend, "this engine was closed"))
        if problems := mistakes(feed, self.signature):
            raise TlcompileError(*problems)
        try:
            return self._runner.run({name: np.ascontiguousarray(value) for name, value in feed.items()})
        except TlcompileError:
            raise
        except Exception as error:  # runtimes raise classes of their own
            raise TlcompileError(Problem(self.backend, f"the run failed: {told(error)}")) from error

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
