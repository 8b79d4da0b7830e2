"""Random views of training texts, as `[train.augment]` asks for them.

    text -> back-translation -> words that a language model puts instead -> tokens -> span cut -> synonyms
         -> entities masked -> tokens masked -> ids int64 [N, L]

A word is what the tokenizer's own splitting makes one: in scripts without spaces a character, elsewhere a word. Every
choice is a function of (seed, epoch, index), see `chance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tlcompile import progress
from tlcompile.artifacts import TextSpec
from tlcompile.errors import Problem, RecipeError
from tlcompile.models._network import Network
from tlcompile.options import PathText
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.runtime.feeds import open_tokenizer
from tlcompile.train import mask_filling
from tlcompile.train.back_translation import back_translated
from tlcompile.train.chance import uniforms
from tlcompile.train.entities import entities, has_entity
from tlcompile.train.synonyms import Neighbours

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_LOOK_AT = 1000  # texts, to see whether there are entities
_REWRITTEN = 0.5  # share of the texts that are seen back-translated, or with other words, in an epoch


class TextView:
    """Call it with texts, their epoch and their indices in the split: the network's inputs, int64 [N, L] each.

    `translations` maps a text to its back-translation, `filled` to itself with other words where it would be masked;
    `mask_id` and `neighbours` are there where a key needs them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        spec: TextSpec,
        augment: AugmentTable,
        seed: int,
        neighbours: Neighbours | None = None,
        translations: dict[str, str] | None = None,
        filled: dict[str, str] | None = None,
    ) -> None:
        tokenizer.no_padding()
        self.tokenizer, self.pad_id, self.augment, self.seed = tokenizer, spec.pad_id, augment, seed
        self.neighbours, self.translations, self.filled = neighbours, translations or {}, filled or {}
        self.mask_id = _mask_id(tokenizer, augment)

    def __call__(self, texts: Sequence[str], epoch: int, indices: Sequence[int]) -> dict[str, Tensor]:
        def numbers(purpose: str, count: int) -> np.ndarray:
            return uniforms(self.seed, epoch, indices, purpose, count)

        for purpose, others in (("translate", self.translations), ("fill", self.filled)):
            if others:
                chosen = numbers(purpose, 1)[:, 0] < _REWRITTEN
                texts = [others.get(t, t) if c else t for t, c in zip(texts, chosen, strict=True)]
        encoded = self.tokenizer.encode_batch(list(texts))
        most = max(len(e.ids) for e in encoded)
        drawn = [numbers("cut", 1), *(numbers(p, most) for p in ("synonym", "near", "entity", "mask"))]
        rows = [self._row(e, t, [d[i] for d in drawn]) for i, (e, t) in enumerate(zip(encoded, texts, strict=True))]
        return self._padded(rows)

    def _row(self, encoding: Encoding, text: str, drawn: Sequence[np.ndarray]) -> np.ndarray:
        """The ids of one text. Of `drawn` the first holds one number, the others one a token."""
        cut, synonym, near, entity, mask = drawn
        ids = np.array(encoding.ids, dtype=np.int64)
        words = np.array([-1 if w is None else w for w in encoding.word_ids])
        a = self.augment
        if a.cut_span:
            kept = ~in_span(words, a.cut_span, float(cut[0]))
            ids, words = ids[kept], words[kept]
        if self.neighbours:
            ids = self.neighbours.instead(ids, alone(words) & (synonym[: len(ids)] < a.synonyms), near[: len(ids)])
        if a.mask_entities and not self.filled:
            chosen = [w for w in entities(encoding, text) if entity[w] < a.mask_entities]
            ids[np.isin(words, chosen)] = self.mask_id
        if a.mask_tokens and not self.filled:
            ids[(words >= 0) & (mask[: len(ids)] < a.mask_tokens)] = self.mask_id
        return ids

    def _padded(self, rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
        ids = np.full((len(rows), max(len(row) for row in rows)), self.pad_id, dtype=np.int64)
        attention = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], attention[i, : len(row)] = row, 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(attention)}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tokenizer": self.tokenizer.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        vars(self).update(state, tokenizer=Tokenizer.from_str(state["tokenizer"]))


def text_view(
    network: Network, augment: AugmentTable, seed: int, texts: Sequence[Any], work: Path | None
) -> TextView | None:
    """The random views that `augment` asks for, or None where it asks for none.

    What models make of all `texts` is made now and kept in `work`. RecipeError where the network or the folder of such
    a model lacks what a key needs.
    """
    if not augment.texts_only:
        return None
    assert isinstance(network.spec, TextSpec)
    assert network.tokenizer is not None
    tokenizer = open_tokenizer(network.tokenizer, network.spec)
    neighbours = Neighbours.of_network(network.module, tokenizer) if augment.synonyms else None
    translations, filled = None, None
    if augment.back_translation:
        translations = back_translated(texts, _folder(augment.back_translation), work)
    if augment.fill_masks:
        filled = mask_filling.filled(texts, _folder(augment.fill_masks), augment, seed, work)
    if augment.mask_entities and not any(has_entity(text) for text in islice(texts, _LOOK_AT)):
        what = "no capitalised word and no number in the training texts: train.augment.mask_entities does nothing"
        progress.say_once(f"  {what}")
    return TextView(tokenizer, network.spec, augment, seed, neighbours, translations, filled)


def _folder(where: str) -> Path:
    return where.absolute if isinstance(where, PathText) else Path(where)


def in_span(words: np.ndarray, share: float, number: float) -> np.ndarray:
    """bool [L]: which tokens belong to one stretch of `share` of the words, never all of them. -1 is no word."""
    known = np.unique(words[words >= 0])
    length = min(round(share * len(known)), len(known) - 1)
    if length < 1:
        return np.zeros(len(words), bool)
    start = int(number * (len(known) - length + 1))
    return np.isin(words, known[start : start + length])


def alone(words: np.ndarray) -> np.ndarray:
    """bool [L]: which tokens are a whole word each."""
    _, inverse, counts = np.unique(words, return_inverse=True, return_counts=True)
    found: np.ndarray = (counts[inverse] == 1) & (words >= 0)
    return found


def _mask_id(tokenizer: Tokenizer, augment: AugmentTable) -> int:
    """The id of the tokenizer's mask token; -1 where no key needs one. RecipeError if it has none."""
    keys = [key for key in ("mask_tokens", "mask_entities") if getattr(augment, key) and not augment.fill_masks]
    if not keys:
        return -1
    special = tokenizer.get_added_tokens_decoder().items()
    masks = [number for number, token in special if token.special and "mask" in token.content.lower()]
    if not masks:
        what = "the tokenizer of this model has no mask token"
        raise RecipeError(*(Problem(f"train.augment.{key}", what) for key in keys))
    return masks[0]
