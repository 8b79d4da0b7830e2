"""A bundle, ready to answer: `load(folder).predict(items)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlcompile.artifacts import InputKind
from tlcompile.errors import DataError, Problem
from tlcompile.package import manifest as manifests
from tlcompile.package.manifest import Manifest
from tlcompile.package.verify import check_files
from tlcompile.parity import Rung, compare
from tlcompile.runtime import golden
from tlcompile.runtime.choose import Opened, choose
from tlcompile.runtime.feeds import Example, batches, feeder
from tlcompile.runtime.prediction import AnyPrediction, prediction

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed, Signature

Item = Path | bytes | str | np.ndarray
_WINDOW = 16  # batches of items that are in memory at a time


@dataclass(frozen=True)
class SelfTest(Rung):
    """What the opened engine answers to the golden feeds, against the stored answers of its own graph in fp32."""

    def __str__(self) -> str:
        return f"{self.rung}: {'passed' if self.ok else 'FAILED'} on {self.n} golden examples: {self.found}"


@dataclass(frozen=True)
class Model:
    """A verified bundle with one opened engine. `notes` say which engines were passed over, and why."""

    bundle: Path
    manifest: Manifest
    opened: Opened = field(repr=False)

    @property
    def engine(self) -> str:
        """Name of the engine that runs."""
        return self.opened.name

    @property
    def notes(self) -> tuple[str, ...]:
        return self.opened.notes

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def kind(self) -> InputKind:
        return self.opened.signature.kind

    @property
    def signature(self) -> Signature:
        return self.opened.signature

    def run(self, feed: Feed) -> Feed:
        """The engine itself: arrays by input name -> `logits` and the answer (see `signature`), float32 [batch, K]."""
        return self.opened.runner.run(feed)

    def predict(self, items: Sequence[Item], batch_size: int = 8, top: int = 5) -> list[AnyPrediction]:
        """One prediction for each item, in order. DataError names every item that can't be read.

        An image is a path (Path or str), the bytes of an image file, or a uint8 array [height, width, 3] in RGB.
        A text is a str, a Path to a UTF-8 file or UTF-8 bytes.
        """
        return list(self.stream(items, batch_size, top))

    def stream(self, items: Iterable[Item], batch_size: int = 8, top: int = 5) -> Iterator[AnyPrediction]:
        """`predict` for any number of items: a few batches of them are in memory at a time."""
        if top < 1:
            raise ValueError("top must be 1 or more")
        return (prediction(answer, self.signature, top) for answer in self.answers(items, batch_size))

    def answers(self, items: Iterable[Item], batch_size: int = 8) -> Iterator[np.ndarray]:
        """The row of each item in the output `signature.answer`, float32 [K], in order; memory as in `stream`."""
        if batch_size < 1:
            raise ValueError("batch_size must be 1 or more")
        to_feed = feeder(self.signature, self.bundle)
        rest = iter(items)
        while window := list(islice(rest, batch_size * _WINDOW)):
            examples = read_all(window, self.kind)
            found: dict[int, np.ndarray] = {}
            for indices in batches(examples, batch_size):
                out = self.run(to_feed([examples[i] for i in indices]))
                found.update(zip(indices, out[self.signature.answer], strict=True))
            yield from (found[i] for i in range(len(window)))

    def self_test(self) -> SelfTest:
        """The engine's answers to the golden feeds against the stored ones. If not `ok`, it does not compute here
        what it was proven to."""
        feeds, stored = golden.load(self.opened.golden)
        found = [self.run(feed) for feed in feeds]
        rung = compare(self.engine, self.opened.golden.name, found, stored, self.opened.tolerance, self.signature)
        return SelfTest(**vars(rung))

    def close(self) -> None:
        self.opened.runner.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load(bundle: Path, target: str = "") -> Model:
    """The bundle in the folder `bundle`, with the engine `target`, or with '' the first engine that runs here.

    `target` is a name, target or backend of its manifest, or `model.onnx` for the portable graph in ONNX Runtime.

    BundleError where the bundle is damaged, foreign or too new, BackendMissing where no engine runs here.
    """
    manifest = manifests.read(bundle)
    check_files(bundle, manifest)
    return Model(bundle, manifest, choose(bundle, manifest, target))


def read_all(items: Sequence[Item], kind: InputKind) -> list[Example]:
    """Items -> decoded images or texts. DataError names every item that is not one."""
    read = _image if kind == "image" else _text
    examples: list[Example] = []
    problems = []
    for index, item in enumerate(items):
        try:
            examples.append(read(item))
        except (OSError, ValueError) as error:
            name = str(item) if isinstance(item, Path | str) else f"item {index}"
            problems.append(Problem(name, error.strerror or str(error) if isinstance(error, OSError) else str(error)))
    if problems:
        raise DataError(*problems)
    return examples


def _image(item: Item) -> Example:
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
            raise ValueError(f"expected a uint8 array [height, width, 3], found {item.dtype} {list(item.shape)}")
        return item
    from tlcompile.runtime import images

    return images.decode(item if isinstance(item, bytes) else Path(item).read_bytes())


def _text(item: Item) -> Example:
    if isinstance(item, np.ndarray):
        raise ValueError("expected a text, found an array")
    text = item if isinstance(item, str) else (item if isinstance(item, bytes) else item.read_bytes()).decode("utf-8")
    if not text.strip():
        raise ValueError("an empty text")
    return text
