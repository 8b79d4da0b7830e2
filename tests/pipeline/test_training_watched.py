"""What goes wrong in training, told by a whole build."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.tiny import folder, recipe
from tlcompile.errors import TlcompileError
from tlcompile.pipeline.build import build
from tlcompile.recipe import load
from tlcompile.store import Store


def built(root: Path, **changed: Any) -> Path:
    """The bundle of a tiny recipe in `root`."""
    folder(root / "data")
    path = recipe(root / "recipe.toml", quantize=False, **changed)
    build(load(path), Store(root / "store"), root / "dist" / "tiny", "package")
    return root / "dist" / "tiny"


def test_nan_ends_the_build_and_the_batch_is_there_to_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(TlcompileError) as caught:
        built(tmp_path, train="lr = 1e30\nclip_norm = 1e30")
    told = re.search(r"the loss of step (\d+) became NaN.*first at '(.+?)'.*the batch is in (\S+);", str(caught.value))
    assert told
    batch = load_file(told[3])
    assert batch["pixels"].shape == (8, 3, 32, 32)
    assert batch["pixels"].isfinite().all()
    assert batch["targets"].tolist() == [int(label) for label in batch["targets"]]
    facts = json.loads(Path(told[3]).with_suffix(".json").read_text())
    assert (facts["step"], facts["first"].startswith(f"'{told[2]}'")) == (int(told[1]), True)


def test_layers_whose_gradients_vanish_are_named_in_the_report(tmp_path: Path) -> None:
    """Behind a head that stays at zero no gradient arrives."""
    bundle = built(tmp_path, epochs=6, train="lr = 1e-12")
    notes = json.loads((bundle / "report.json").read_text())["notes"]
    [note] = [note for note in notes if "gradients" in note]
    assert re.match(r"the gradients of '\w.*' vanish: .* at the output, 'classifier'", note)
    assert note in (bundle / "report.md").read_text()
