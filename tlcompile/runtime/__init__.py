"""Runs a bundle with numpy, the engine's backend, Pillow or tokenizers, and pydantic. Never torch.

The modules that a bundle needs are copied into it with the same import paths:

    from tlcompile.runtime import load

    model = load(Path("dist/flowers"))
    print(model.predict([Path("tulip.jpg")])[0].label)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlcompile.runtime.model import Model


def load(bundle: Path, target: str = "") -> Model:
    """The bundle in the folder `bundle`, checked, with the engine `target` or the first one that runs here.

    See `tlcompile.runtime.model.load`; this one keeps the import of the package free.
    """
    from tlcompile.runtime import model

    return model.load(bundle, target)
