"""`manifest.json`: what a bundle is, what it was made of, and the SHA-256 of every file in it.

A reader refuses a newer format by name, because it can't know what it would overlook; keys that it does not know in its
own format it leaves alone, so that a later version may add some. Every path is relative to the bundle and stays in it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

import tlcompile
from tlcompile.artifacts import Signature
from tlcompile.errors import BundleError, Problem, nearest
from tlcompile.parity import Tolerance

FORMAT = 1
NAME = "manifest.json"


def inside(path: str) -> str:
    """`path` if it is a plain relative path with `/` that can't leave its folder; ValueError if not."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\x00-\x1f]", path):
        raise ValueError("must be a relative path inside the bundle")
    return path


InsidePath = Annotated[str, AfterValidator(inside)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class EngineEntry(_Part):
    """One compiled engine. `runs_here` and `why_not` are about the machine that built it."""

    name: InsidePath
    target: str
    variant: str
    backend: str
    options: dict[str, Any] = {}
    folder: InsidePath
    versions: dict[str, str] = {}
    device: dict[str, Any] = {}
    runs_here: bool
    why_not: str = ""
    reproducible: bool = Field(True, description="another build of the same gives the same bytes")
    measured: dict[str, Any] = {}
    tolerance: Tolerance = Field(description="how far it may be from the golden outputs")
    golden: InsidePath = Field("golden.npz", description="feeds and answers of its self-test")


class Variant(_Part):
    """One engine that was built and measured, shipped or not. `executed`: it ran on the machine that built it."""

    engine: str
    target: str
    backend: str
    precision: str
    shipped: bool = Field(description="it is the engine of its target in this bundle")
    executed: bool
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    n: int | None = Field(None, description="test examples")
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    size_mb: float | None = None
    why: str = ""


class Gate(_Part):
    """What the recipe asked of an engine. `deferred`: it can be shown on the engine's device only."""

    name: str
    target: str = ""
    limit: float
    value: float | None
    verdict: Literal["passed", "failed", "deferred"]
    why: str = ""


class Manifest(_Part):
    """The whole manifest. `engines` stand in order of preference; `chosen` is the first of them."""

    format: int
    tlcompile: str = Field(description="version that wrote the bundle")
    name: str
    task: str
    kind: str
    classes: tuple[str, ...]
    signature: dict[str, Any]
    chosen: str
    engines: tuple[EngineEntry, ...] = Field(min_length=1)
    variants: tuple[Variant, ...] = ()
    gates: tuple[Gate, ...] = ()
    explored: dict[str, Any] = Field({}, description="what was tried, and what of it was left out and why")
    metrics: dict[str, Any] = {}
    versions: dict[str, str] = Field({}, description="distributions that the build used")
    provenance: dict[str, Any] = Field({}, description="digests and seed; nothing of the machine")
    recipe: str = Field(description="text as it was given")
    resolved: dict[str, Any] = Field({}, description="the recipe with every default")
    files: dict[InsidePath, Sha256] = Field(description="every file of the bundle but the manifest")
    sizes: dict[InsidePath, Annotated[int, Field(ge=0)]] = Field(description="bytes of each of `files`")

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        if set(self.files) != set(self.sizes):
            raise ValueError("`files` and `sizes` name different files")
        names = [engine.name for engine in self.engines]
        if len(set(names)) != len(names):
            raise ValueError("two engines have one name")
        try:
            Signature.from_json(self.signature)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"`signature` is not one: {type(error).__name__} {error}") from error
        return self

    def to_text(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read(bundle: Path) -> Manifest:
    """The manifest of the bundle in the folder `bundle`; BundleError with every mistake that it has."""
    path = bundle / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(_no_manifest(bundle)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(Problem(str(path), f"can't be read as UTF-8 text: {error}")) from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Manifest:
    """`text` as a manifest; `where` names it in messages."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(Problem(where, f"not whole JSON, the file is cut off or damaged: {error}")) from error
    if not isinstance(raw, dict) or type(raw.get("format")) is not int:
        raise BundleError(Problem(where, "not a manifest of tlcompile: it has no whole number `format`"))
    if raw["format"] > FORMAT:
        theirs = raw.get("tlcompile", "of a later version")
        what = f"bundle format {raw['format']}, this is tlcompile {tlcompile.__version__}, which reads up to {FORMAT}"
        raise BundleError(Problem(where, f"{what}; it needs tlcompile {theirs} or newer"))
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = [_problem(where, m["loc"], m["msg"]) for m in error.errors(include_url=False, include_input=False)]
        raise BundleError(*problems) from error


def _problem(where: str, place: tuple[int | str, ...], what: str) -> Problem:
    key = ".".join(str(part) for part in place if part != "[key]")
    return Problem(f"{where}: {key}" if key else where, what.removeprefix("Value error, "))


def _no_manifest(bundle: Path) -> Problem:
    if not bundle.exists():
        siblings = [str(found.parent) for found in bundle.parent.glob(f"*/{NAME}")]
        return Problem(str(bundle), "no such bundle", nearest(str(bundle), siblings))
    kind = "a folder without a manifest.json" if bundle.is_dir() else "a file"
    return Problem(str(bundle), f"expected the folder of a bundle, found {kind}")
