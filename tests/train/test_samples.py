"""What is saved is what the network receives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from tests.tiny import bert
from tlcompile.artifacts import ImageSpec, TextSpec
from tlcompile.models._inputs import Collate
from tlcompile.models._network import Network
from tlcompile.train.samples import caption, pixels, save

SPEC = ImageSpec(8, 1.0, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_images_are_the_raw_pixels_again_as_a_grid(tmp_path: Path) -> None:
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    normalised = Collate(Network(torch.nn.Identity(), SPEC, ())).pixels(raw)
    assert np.array_equal(pixels(normalised, SPEC), raw.numpy())
    save({"pixels": normalised}, torch.tensor([0, 1, 1, 0, 1]), ("cat", "dog"), SPEC, tmp_path, n=4)
    page = np.asarray(Image.open(tmp_path / "views.png"))
    assert page.shape[:2] == (2 * (128 + 14 + 4) + 4, 2 * (128 + 4) + 4)
    assert np.array_equal(page[4:132:16, 4:132:16], raw[0].numpy())
    below = page[132:146, 4:132]
    assert (below < 128).any()  # a caption is written there


def test_texts_are_decoded_with_their_special_tokens_and_without_padding(tmp_path: Path) -> None:
    path = bert(tmp_path) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(["a good film", "bad"])
    inputs = {"input_ids": torch.tensor([e.ids for e in encoded])}
    inputs["attention_mask"] = torch.tensor([e.attention_mask for e in encoded])
    save(inputs, torch.tensor([1, 0]), ("no", "yes"), TextSpec(8), tmp_path, tokenizer=path.read_text())
    assert (tmp_path / "views.txt").read_text() == "yes\t[CLS] a good film [SEP]\nno\t[CLS] bad [SEP]\n"
    save(inputs, torch.tensor([1, 0]), ("no", "yes"), TextSpec(8), tmp_path)
    assert (tmp_path / "views.txt").read_text().splitlines()[1] == "no\t2 5 3"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (torch.tensor(1), "dog"),
        (torch.tensor([0.25, 0.75, 0.0]), "dog 0.75, cat 0.25"),
        (torch.tensor([0.0, 0.0, 1.0]), "cow 1.00"),
        (torch.tensor([0.0, 0.0, 0.0]), "none"),
        (torch.tensor(3.14159), "3.14"),
    ],
)
def test_a_caption_says_the_class_the_shares_or_the_number(target: torch.Tensor, expected: str) -> None:
    assert caption(target, ("cat", "dog", "cow")) == expected
