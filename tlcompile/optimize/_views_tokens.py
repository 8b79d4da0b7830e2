"""Views of long documents as nodes: token ids of any length -> windows of at most L tokens, one below the other.

Every window keeps the first token of the document (`[CLS]`) and ends with its last one (`[SEP]`), where the tokenizer
writes such. A document that fits is one window, as long as it is; its other windows are empty or the same.
Padding is expected on the right, as the feeder writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.optimize._views import SHARES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tlcompile.artifacts import TextSpec
    from tlcompile.optimize._views import View
    from tlcompile.optimize._views_cut import Writer


@dataclass(frozen=True)
class Special:
    """Whether the tokenizer frames a text with a first and with a last token."""

    first: bool = True
    last: bool = True


@dataclass(frozen=True)
class Windows:
    """`ids` and `mask` int64 [W * N, L], the first window of every document first; `used` float32 [W, N, 1], 0 or 1."""

    ids: str
    mask: str
    used: str
    documents: str  # int64 [1], N


def special_of(tokenizer_json: Path) -> Special:
    """As the tokenizer frames a text of one letter."""
    from tokenizers import Tokenizer

    marks = Tokenizer.from_file(str(tokenizer_json)).encode("a").special_tokens_mask or [0]
    return Special(marks[0] == 1, marks[-1] == 1)


def windows(inputs: Sequence[str], views: Sequence[View], spec: TextSpec, special: Special, write: Writer) -> Windows:
    """The windows of `views` of the graph's `input_ids` and `attention_mask`, int64 [N, T]."""
    ids, mask = inputs
    documents = write("Slice", write("Shape", ids), write.whole(0), write.whole(1))
    total = write("Slice", write("Shape", ids), write.whole(1), write.whole(2))
    length = write("Min", total, write.whole(spec.max_length))  # L
    filled = write("ReduceSum", mask, write.whole(1), keepdims=1)  # [N, 1]
    framing = write.whole(int(special.first) + int(special.last))
    body = write("Sub", length, framing)
    content = write("Sub", filled, framing)
    starts, used = _starts(views, total, length, body, content, write)  # [W, N, 1]
    place = _range(length, write)  # [L]
    source = write("Add", starts, place)  # [W, N, L]
    final = write("Sub", filled, write.whole(1))
    if special.last:
        at_end = write("Equal", place, write("Sub", length, write.whole(1)))
        source = write("Where", at_end, write("Max", source, final), source)
    if special.first:
        source = write("Where", write("Equal", place, write.whole(0)), write.whole(0), source)
    inside = write("Less", source, filled)
    row = write("Unsqueeze", write("Mul", _range(documents, write), total), write.whole(1))  # [N, 1]
    flat = write("Reshape", ids, write.whole(-1))
    taken = write("Gather", flat, write("Add", write("Min", source, final), row), axis=0)
    shape = write("Concat", write.whole(-1), length, axis=0)
    kept = write("Where", inside, taken, write.whole(spec.pad_id))
    cut, seen = (write("Reshape", x, shape) for x in (kept, write("Cast", inside, to=7)))
    return Windows(cut, seen, used, documents)


def _starts(views: Sequence[View], total: str, length: str, body: str, content: str, write: Writer) -> tuple[str, str]:
    """int64 [W, N, 1] where each window starts, float32 [W, N, 1] whether it has tokens that no other has."""
    if views[0].all_windows:
        stride = write.whole(views[0].stride)
        beyond = write("Max", write("Sub", total, length), write.whole(0))
        steps = write("Div", write("Add", beyond, write.whole(views[0].stride - 1)), stride)
        index = _range(write("Add", steps, write.whole(1)), write)
        zero = write("Sub", content, content)  # [N, 1]
        starts = write("Add", write("Reshape", write("Mul", index, stride), write.whole(-1, 1, 1)), zero)
        covered = write("Add", write("Sub", starts, stride), body)  # by the window before
        used = write("Or", write("Less", covered, content), write("Equal", starts, write.whole(0)))
        return starts, write("Cast", used, to=1)
    last = write("Max", write("Sub", content, body), write.whole(0))
    shares = write.constant(np.array([view.share for view in views], np.int64).reshape(-1, 1, 1))
    starts = write("Div", write("Mul", last, shares), write.whole(SHARES))
    return starts, write("Cast", write("Equal", starts, starts), to=1)


def _range(count: str, write: Writer) -> str:
    """int64 [count] of a count [1]."""
    zero, one = (write.constant(np.array(v, np.int64)) for v in (0, 1))
    return write("Range", zero, write("Squeeze", count, write.whole(0)), one)
