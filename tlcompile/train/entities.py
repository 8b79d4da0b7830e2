"""Words that look like names or numbers.

A stand-in for the named entities of MELM (R. Zhou et al., "MELM: Data Augmentation with Masked Entity Language
Modeling", ACL 2022, section 3.1), which come from a labelled NER data set; it finds nothing in lower-case texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding


def entities(encoding: Encoding, text: str) -> list[int]:
    """Numbers of the words of `text` that are an entity."""
    spans = [(word, encoding.word_to_chars(word)) for word in sorted({w for w in encoding.word_ids if w is not None})]
    return [word for word, span in spans if span and is_entity(text, *span)]


def is_entity(text: str, start: int, end: int) -> bool:
    """Whether the word `text[start:end]` is a number, is in capitals, or begins with one inside a sentence."""
    word, before = text[start:end].strip(), text[:start].rstrip()
    if word[:1].isdigit() or (len(word) > 1 and word.isupper()):
        return True
    return word[:1].isupper() and bool(before) and before[-1] not in ".!?"


def has_entity(text: str) -> bool:
    """`is_entity` of any word between spaces."""
    start, found = 0, False
    for word in text.split():
        start = text.index(word, start)
        found = found or is_entity(text, start, start + len(word))
        start += len(word)
    return found
