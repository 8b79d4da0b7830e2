"""Texts translated there and back by local models: a paraphrase with the same label, mostly.

R. Sennrich, B. Haddow and A. Birch, "Improving Neural Machine Translation Models with Monolingual Data", ACL 2016,
section 3, used on classifiers by Q. Xie et al., "Unsupervised Data Augmentation", NeurIPS 2020, section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tlcompile.errors import Problem, RecipeError
from tlcompile.train.rewritten import Rewrite, digest, rewritten

DIRECTIONS = ("there", "back")
_MOST = 512  # tokens, where a model has no bound of its own
_KEY = "train.augment.back_translation"


class Translator:
    """One direction: a folder with a model and a tokenizer as transformers saves them (Marian, M2M, T5, …)."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self.model: Any = AutoModelForSeq2SeqLM.from_pretrained(str(folder), local_files_only=True).eval()
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0][:300]
            raise RecipeError(Problem(_KEY, f"'{folder}' can't be loaded as a translation model: {reason}")) from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.most = int(getattr(self.model.config, "max_position_embeddings", _MOST))

    def __call__(self, texts: list[str]) -> list[str]:
        """The likeliest translations, by the search that the model's own generation config names; nothing is drawn."""
        room = {"truncation": True, "max_length": self.most}
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, **room).to(self.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            found = self.model.generate(**inputs, do_sample=False, max_length=self.most)
        decoded: list[str] = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return decoded


def back_translated(texts: Sequence[Any], folder: Path, work: Path | None) -> dict[str, str]:
    """Each distinct text -> its back-translation, itself where the models return nothing. Kept in `work` if given."""
    missing = [name for name in DIRECTIONS if not (folder / name / "config.json").is_file()]
    if missing:
        raise RecipeError(
            *(Problem(_KEY, f"'{folder}' has no model '{name}' (no {name}/config.json)") for name in missing)
        )
    path = work / f"back-translation-{digest([folder / name for name in DIRECTIONS])}.jsonl" if work else None
    return rewritten(texts, path, lambda: _there_and_back(folder), "back-translation")


def _there_and_back(folder: Path) -> Rewrite:
    there, back = (Translator(folder / name) for name in DIRECTIONS)
    return lambda texts: back(there(texts))
