"""Texts translated there and back by local models: a paraphrase with the same label, mostly.

R. Sennrich, B. Haddow and A. Birch, "Improving Neural Machine Translation Models with Monolingual Data", ACL 2016,
section 3, used on classifiers by Q. Xie et al., "Unsupervised Data Augmentation", NeurIPS 2020, section 2.2. Each text
is translated once in a run: what is done is appended to a file, so a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from tlcompile import progress
from tlcompile.errors import Problem, RecipeError

DIRECTIONS = ("there", "back")
_BATCH = 16
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
    if work is None:
        return dict(_translate(list(dict.fromkeys(texts)), folder, None))
    path = work / f"back-translation-{_digest(folder)}.jsonl"
    with FileLock(path.with_suffix(".lock")):
        done = _read(path)
        wanted = dict.fromkeys(texts)
        return {t: b for t, b in done.items() if t in wanted} | _translate(
            [text for text in wanted if text not in done], folder, path
        )


def _translate(texts: list[str], folder: Path, path: Path | None) -> dict[str, str]:
    """Texts of like length together; each batch is appended to `path`."""
    if not texts:
        return {}
    there, back = (Translator(folder / name) for name in DIRECTIONS)
    texts = sorted(texts, key=len)
    found: dict[str, str] = {}
    with progress.bar("back-translation", len(texts)) as bar:
        for start in range(0, len(texts), _BATCH):
            part = texts[start : start + _BATCH]
            pairs = [(text, again.strip() or text) for text, again in zip(part, back(there(part)), strict=True)]
            found.update(pairs)
            if path:
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(pair) + "\n" for pair in pairs)
            bar.step(len(part))
    return found


def _read(path: Path) -> dict[str, str]:
    """The pairs of `path`. A last line that a killed run left unfinished is cut off."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    return dict(json.loads(line) for line in whole.splitlines())


def _digest(folder: Path) -> str:
    """Of the models' files by name, size and time of change."""
    files = sorted(f for name in DIRECTIONS for f in (folder / name).iterdir() if f.is_file())
    facts = [(str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
