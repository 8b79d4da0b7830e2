"""Masked words filled in by a masked language model: other names in the same sentence, with the same label.

MELM (R. Zhou et al., "MELM: Data Augmentation with Masked Entity Language Modeling", ACL 2022, section 3): each mask
becomes one of the five tokens that are likeliest there. The paper first teaches its model sentences with their labels
between the words; here it is taken as it is, so words that decide the label had better not be masked.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tlcompile.errors import Problem, RecipeError
from tlcompile.recipe.train_table import AugmentTable
from tlcompile.train.chance import uniforms
from tlcompile.train.entities import entities
from tlcompile.train.rewritten import digest, rewritten

if TYPE_CHECKING:
    from tokenizers import Encoding

LIKELIEST = 5  # section 3.3
_KEY = "train.augment.fill_masks"
_MOST = 512  # tokens, where the model has no bound of its own


def filled(texts: Sequence[Any], folder: Path, augment: AugmentTable, seed: int, work: Path | None) -> dict[str, str]:
    """Each distinct text -> the text with other words in the places that `augment` masks. Kept in `work` if given."""
    if not (folder / "config.json").is_file():
        raise RecipeError(Problem(_KEY, f"'{folder}' holds no model (no config.json)"))
    asked = f"{augment.mask_tokens}-{augment.mask_entities}-{seed}"
    path = work / f"filled-{digest([folder])}-{asked}.jsonl" if work else None
    return rewritten(texts, path, lambda: Filler(folder, augment, seed), "filling masks")


class Filler:
    """A masked language model and its tokenizer in a folder as transformers saves them (BERT, RoBERTa, …)."""

    def __init__(self, folder: Path, augment: AugmentTable, seed: int) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self.model: Any = AutoModelForMaskedLM.from_pretrained(str(folder), local_files_only=True).eval()
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0][:300]
            raise RecipeError(
                Problem(_KEY, f"'{folder}' can't be loaded as a masked language model: {reason}")
            ) from error
        if not self.tokenizer.is_fast or self.tokenizer.mask_token_id is None:
            raise RecipeError(Problem(_KEY, f"the tokenizer in '{folder}' is not a fast one with a mask token"))
        self.augment, self.seed = augment, seed
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        places = int(getattr(self.model.config, "max_position_embeddings", 0) or _MOST)
        self.most = min(int(self.tokenizer.model_max_length), places - 2)  # RoBERTa spends two on padding

    def __call__(self, texts: list[str]) -> list[str]:
        room = {"truncation": True, "max_length": self.most}
        encoded = self.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False, **room)
        chosen = [self.chosen(e, text) for e, text in zip(encoded.encodings, texts, strict=True)]
        words = [[-1 if w is None else w for w in e.word_ids] for e in encoded.encodings]
        masked = torch.tensor([[w in picked for w in row] for row, picked in zip(words, chosen, strict=True)])
        encoded["input_ids"][masked] = self.tokenizer.mask_token_id
        with torch.inference_mode():
            logits = self.model(**encoded.to(self.device)).logits.float().cpu()
            logits[..., self.tokenizer.all_special_ids] = -torch.inf
            likeliest = logits.topk(min(LIKELIEST, logits.shape[-1])).indices  # [N, L, 5]
        return [self.put(*given) for given in zip(texts, encoded.encodings, chosen, likeliest, strict=True)]

    def chosen(self, encoding: Encoding, text: str) -> set[int]:
        """Numbers of the words to be replaced: a function of the seed and the text."""
        words = sorted({w for w in encoding.word_ids if w is not None})
        drawn = dict(zip(words, self.numbers(text, "masked", len(words)), strict=True))
        named = set(entities(encoding, text))
        return {
            w for w, u in drawn.items() if u < max(self.augment.mask_tokens, self.augment.mask_entities * (w in named))
        }

    def put(self, text: str, encoding: Encoding, chosen: set[int], likeliest: torch.Tensor) -> str:
        """`text` with the words `chosen` replaced, from the last one on, by one of the likeliest [L, 5] a token."""
        places = (self.numbers(text, "filled", len(likeliest)) * likeliest.shape[1]).astype(int)
        for word in sorted(chosen, reverse=True):
            span, tokens = encoding.word_to_chars(word), encoding.word_to_tokens(word)
            if span and tokens:
                new = [int(likeliest[i, places[i]]) for i in range(*tokens)]
                text = text[: span[0]] + self.tokenizer.decode(new).strip() + text[span[1] :]
        return text

    def numbers(self, text: str, purpose: str, count: int) -> Any:
        return uniforms(self.seed, 0, [zlib.crc32(text.encode())], purpose, count)[0]
