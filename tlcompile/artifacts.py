"""What flows between stages: frozen references to finished folders of the store.

Each stage returns its own type, so that the wrong order does not type-check. An artifact knows where its files are,
the digest of their content and how to read its small descriptions; it does not know how it was made.
This module imports neither torch nor any runtime, so that the runtime on a device can use it too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Feed = dict[str, "np.ndarray"]  # name of a graph input or output -> array
GOLDEN_BATCH = 8  # examples of one golden feed at most
EXIT_FILE = "exit.json"  # beside a graph whose first voice may answer alone: {"threshold": from which confidence on}
FIRST_VOICE = "early_exit/first"  # in such a graph, the logits [batch, K] of that voice, which the others are added to
InputKind = Literal["image", "text"]
Labels = Literal["class", "classes", "number"]  # what an example's label is: one of K, any of K, a number


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph. A dimension is a size or the name of a dynamic one (`batch`, `height`, …)."""

    name: str
    dtype: str  # numpy name
    shape: tuple[int | str, ...]
    meaning: str = ""  # layout and range in words: "NHWC RGB 0..255"


@dataclass(frozen=True)
class ImageSpec:
    """How pixels become the network's input; the graph does this itself. Lengths in pixels, colours in 0..1 units."""

    image_size: int
    crop_pct: float = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def resize_to(self) -> int:
        """Length of the short side before the centre crop, as timm and torchvision compute it."""
        return int(self.image_size / self.crop_pct)


@dataclass(frozen=True)
class TextSpec:
    """How text becomes token ids: by `tokenizer.json`, cut at `max_length` tokens, padded with `pad_id`."""

    max_length: int
    pad_id: int = 0


@dataclass(frozen=True)
class Target:
    """The number that is learnt: its column's name, mean and standard deviation over the training split."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class Signature:
    """What a graph or an engine takes and gives, and what its classes are called (none where it gives a number)."""

    task: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    classes: tuple[str, ...]
    spec: ImageSpec | TextSpec
    labels: Labels = "class"
    target: Target | None = None  # of a number

    @property
    def kind(self) -> InputKind:
        return "image" if isinstance(self.spec, ImageSpec) else "text"

    @property
    def answer(self) -> str:
        """The output that answers: `probabilities` [batch, K], or `values` [batch, 1] in the target's own units."""
        return "values" if self.labels == "number" else "probabilities"

    @property
    def unit(self) -> float:
        """What differences of answers are measured in: 1 of a probability, the standard deviation of a number."""
        return self.target.std if self.target else 1.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kind": self.kind}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Signature:
        tensors = {
            side: tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in value[side])
            for side in ("inputs", "outputs")
        }
        target = Target(**value["target"]) if value.get("target") else None
        classes, labels = tuple(value["classes"]), value.get("labels", "class")
        return cls(value["task"], tensors["inputs"], tensors["outputs"], classes, spec_from_json(value), labels, target)


def spec_from_json(value: dict[str, Any]) -> ImageSpec | TextSpec:
    """Read `{"kind": ..., "spec": {...}}` back."""
    spec: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["spec"].items()}
    return ImageSpec(**spec) if value["kind"] == "image" else TextSpec(**spec)


@dataclass(frozen=True)
class Lesson:
    """What a training learns beside the labels: the answers of a teacher, as `alpha` of the loss.

    The teacher is the `network` of a Checkpoint folder, or `answers`: a folder with `train.npy`, float32 [n, K], its
    logits for every training example in the split's order. `temperature` softens them.
    """

    network: Path | None = None
    answers: Path | None = None
    alpha: float = 0.5
    temperature: float = 2.0


class Runner(Protocol):
    """An opened engine. `run` takes arrays by input name and returns arrays by output name."""

    def run(self, feed: Feed) -> Feed: ...

    def close(self) -> None: ...


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """The file is there whole or not at all, whenever the process is killed."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


@dataclass(frozen=True)
class Artifact:
    """A finished folder and the SHA-256 of its content."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Splits(Artifact):
    """Labelled examples: `train.arrow`, `val.arrow`, `test.arrow` and `data.json` (see `tlcompile.data`)."""

    @cached_property
    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = read_json(self.folder / "data.json")
        return info

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @property
    def target(self) -> Target | None:
        """Of a number."""
        return Target(**self.info["target"]) if self.info.get("target") else None


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A trained network: `model.safetensors`, `network.json`, `history.jsonl`, `applied.json`, `reference.npz`."""

    @cached_property
    def network(self) -> dict[str, Any]:
        network: dict[str, Any] = read_json(self.folder / "network.json")
        return network

    @cached_property
    def applied(self) -> dict[str, Any]:
        applied: dict[str, Any] = read_json(self.folder / "applied.json")
        return applied


@dataclass(frozen=True)
class Graph(Artifact):
    """A static ONNX graph `model.onnx` with its `signature.json`, for text `tokenizer.json`, maybe `exit.json`."""

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @cached_property
    def signature(self) -> Signature:
        return Signature.from_json(read_json(self.folder / "signature.json"))


@dataclass(frozen=True)
class Engine(Artifact):
    """A compiled graph: the backend's files, `engine.json` (backend, options, versions, device), `signature.json`."""

    @cached_property
    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = read_json(self.folder / "engine.json")
        return info

    @cached_property
    def signature(self) -> Signature:
        return Signature.from_json(read_json(self.folder / "signature.json"))


@dataclass(frozen=True)
class Evaluation(Artifact):
    """What was measured of one engine: `evaluation.json` and `outputs.npz` (per-example scores)."""

    @cached_property
    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = read_json(self.folder / "evaluation.json")
        return result
