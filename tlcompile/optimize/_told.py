"""Errors of onnx, protobuf and onnxruntime, which share no base, in a sentence of ours; their advice left unsaid."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tlcompile.errors import Problem, TlcompileError, first_line


@contextmanager
def told(where: str, done: str) -> Iterator[None]:
    """TlcompileError: at `where`, this graph can't be `done` (a participle)."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # ONNX Runtime's quantizer advises there to do what is done already
    try:
        yield
    except TlcompileError:
        raise
    except Exception as error:  # of onnx, protobuf and onnxruntime, which share no base
        reason = first_line(error)[:300]
        raise TlcompileError(Problem(where, f"this graph can't be {done}: {reason}")) from error
    finally:
        root.setLevel(level)
