"""Words near a word in the network's own embedding: a stand-in for a dictionary of synonyms.

Only tokens that are a whole word of letters are replaced, and by such tokens. Nearness in an embedding is nearness of
use: opposites are neighbours too, so a high share harms tasks that turn on one word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from tlcompile.errors import Problem, RecipeError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NEAREST = 5
_STARTS = ("Ġ", "▁")  # how byte-level and sentence-piece vocabularies mark the first piece of a word


class Neighbours:
    """The nearest whole words of a vocabulary, found when a token is first met."""

    def __init__(self, vectors: np.ndarray, vocabulary: dict[str, int]) -> None:
        """`vectors` float32 [V, D] by token id."""
        self.words = np.array(sorted(whole_words(vocabulary)), dtype=np.int64)
        norms = np.linalg.norm(vectors[self.words], axis=1, keepdims=True)
        self.vectors = vectors[self.words] / np.maximum(norms, 1e-12)  # [W, D] of unit length
        self.place = np.full(max(vocabulary.values()) + 1, -1)  # token id -> its row, -1 = no whole word
        self.place[self.words] = np.arange(len(self.words))
        self.known = np.full((len(self.words), min(NEAREST, len(self.words) - 1)), -1, dtype=np.int64)

    @classmethod
    def of_network(cls, module: nn.Module, tokenizer: Tokenizer) -> Neighbours:
        """From the embedding as it is now, copied. RecipeError where there is none of the vocabulary's size."""
        vocabulary = tokenizer.get_vocab()
        for part in module.modules():
            if isinstance(part, nn.Embedding) and part.num_embeddings > max(vocabulary.values()):
                return cls(part.weight.detach().float().cpu().numpy(), vocabulary)
        what = "the network has no embedding of its tokenizer's vocabulary"
        raise RecipeError(Problem("train.augment.synonyms", what))

    def instead(self, ids: np.ndarray, chosen: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """`ids` [L] with the `chosen` (bool [L]) whole words replaced; `numbers` in [0, 1) choose the neighbour."""
        rows = self.place[ids]
        at = np.flatnonzero(chosen & (rows >= 0))
        if not len(at) or not self.known.shape[1]:
            return ids
        rows = rows[at]
        self._find(np.unique(rows[self.known[rows, 0] < 0]))
        changed = ids.copy()
        changed[at] = self.known[rows, (numbers[at] * self.known.shape[1]).astype(np.int64)]
        return changed

    def _find(self, rows: np.ndarray) -> None:
        """Fill `known[rows]` with token ids, nearest first."""
        if not len(rows):
            return
        likeness = self.vectors[rows] @ self.vectors.T  # cosine [n, W]
        likeness[np.arange(len(rows)), rows] = -np.inf
        count = self.known.shape[1]
        best = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable")
        self.known[rows] = self.words[np.take_along_axis(best, order, axis=1)]


def whole_words(vocabulary: dict[str, int]) -> list[int]:
    """Ids of the tokens that are a word of letters by themselves."""
    mark = next((m for m in _STARTS if any(token.startswith(m) for token in vocabulary)), "")
    return [i for token, i in vocabulary.items() if token.startswith(mark) and token.removeprefix(mark).isalpha()]
