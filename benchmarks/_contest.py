"""The networks that are compared, each an engine of its own, all on the same pixels."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from benchmarks import _network_part, _peers
from benchmarks._built import Built
from tlcompile.artifacts import Feed
from tlcompile.data import Split
from tlcompile.errors import TlcompileError
from tlcompile.evaluate.isolate import EngineProcess
from tlcompile.pipeline.timing import typical
from tlcompile.recipe.tables import Target
from tlcompile.runtime.feeds import batches, image_feed

PIXELS = _network_part.PIXELS
SIMPLIFIED = "fp32 simplified in onnxruntime"
_BATCH = 32


class Contest:
    """Collects engine folders by name; what can't take part is in `why`, with the reason.

    `peer_of` is engine -> peer, for those that are a peer's. `one` is the feed that all are timed on: the pixels of the
    test image of median size.
    """

    def __init__(self, built: Built, scratch: Path, most: int) -> None:
        self.built, self.scratch, self.most = built, scratch, most
        self.engines: dict[str, Path] = {}
        self.peer_of: dict[str, str] = {}
        self.why: dict[str, str] = {}
        self._networks: dict[str, Path] = {}

    def enter_fp32(self, name: str) -> None:
        """The plain export, in ONNX Runtime as `name` and in OpenVINO too; in ONNX Runtime also simplified."""
        before = self.scratch / "preprocess.onnx"
        self.plain, self.simplified = self.scratch / "plain", self.scratch / "simplified"
        _network_part.split(self.built.plain, before, self.plain)
        runtime = self.built.onnxruntime
        simplified = self.built.graph_of(f"compile/{runtime.name}/fp32")
        _network_part.split(simplified, self.scratch / "unused.onnx", self.simplified)
        self.size = _network_part.size_of(self.plain)
        self._open_preprocessing(before)
        for target in self.built.recipe.targets:
            label = name if target.backend.name == "onnxruntime" else f"fp32 export in {target.name}"
            self._enter(label, self.plain / "model.onnx", target, "fp32")
        self._enter(SIMPLIFIED, self.simplified / "model.onnx", runtime, "fp32")

    def _open_preprocessing(self, before: Path) -> None:
        import onnxruntime as ort

        session = ort.InferenceSession(before)
        self.pixels = lambda images: session.run(None, image_feed(images))[0]
        self.one: Feed = {PIXELS: self.pixels([typical(Split(self.built.splits.folder, "test"))])}

    def enter_shipped(self) -> str:
        """What ships for each target; the name of the fastest."""
        names = []
        for row in self.built.shipped:
            name = f"tlcompile: {row['target']}, {row['variant']}"
            folder = self.scratch / f"network-{len(names)}"
            _network_part.split(self.built.graph_of(row["engine"]), self.scratch / "unused.onnx", folder)
            self._networks[name] = folder / "model.onnx"
            self._enter(name, folder / "model.onnx", self.built.target(row["target"]), row["variant"])
            names.append(name)
        return names[0]

    def network_of(self, name: str) -> onnx.ModelProto:
        """The graph that the shipped engine `name` was compiled from, without its preprocessing."""
        return onnx.load(self._networks[name])

    def enter_peers(self, environments: Path) -> dict[str, dict[str, str]]:
        """Every artifact of every peer, in each runtime that takes it; versions of the installed peers.

        A peer gets the export, and the same network after the passes that ours gets too: there the padding that this
        family of networks computes at run time is folded, which no peer does by itself.
        """
        calibration = self.scratch / "calibration.npy"
        self._write_calibration(calibration)
        found = {}
        for peer in _peers.NEEDS:
            print(f"  {peer} …", file=sys.stderr, flush=True)
            try:
                python = _peers.python_of(peer, environments.resolve())
                found[peer] = _peers.versions(peer, python)
            except _peers.PeerFailed as failure:
                self.why[peer] = str(failure)
                continue
            for folder in (self.plain, self.simplified):
                self._enter_made(peer, python, folder, calibration)
        return found

    def _enter_made(self, peer: str, python: Path, graph: Path, calibration: Path) -> None:
        """What the peer makes of the network in the folder `graph`."""
        suffix = " of the simplified graph" if graph == self.simplified else ""
        place = self.scratch / f"{peer}-{graph.name}"
        try:
            made = _peers.quantize(peer, python, graph / "model.onnx", calibration, place)
        except _peers.PeerFailed as failure:
            self.why[f"{peer}{suffix}"] = str(failure)
            return
        for way, artifact in made.items():
            self._enter_peer(peer, f"{way}{suffix}", artifact)

    def _enter_peer(self, peer: str, way: str, artifact: Path) -> None:
        for target in self.built.recipe.targets:
            if artifact.suffix == ".xml" and target.backend.name != "openvino":
                continue
            name = f"{peer}: {way}, in {target.name}"
            if self._enter(name, artifact, target, "int8"):
                self.peer_of[name] = peer

    def _write_calibration(self, path: Path) -> None:
        """float32 [n, 3, S, S]: the pixels of the images that the build calibrated with."""
        split, chosen = Split(self.built.splits.folder, "train"), self.built.splits.info["calibration"]
        shape = (len(chosen), 3, self.size, self.size)
        pixels = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for place, index in enumerate(chosen):
            pixels[place] = self.pixels([split[index]])[0]
        pixels.flush()

    def _enter(self, name: str, model: Path, target: Target, variant: str) -> bool:
        """Whether the engine could be built and gives an answer."""
        folder = self.scratch / f"engine-{len(self.engines) + len(self.why)}"
        try:
            _network_part.engine(model, self.plain / "signature.json", target, variant, folder)
            with EngineProcess(folder) as process:
                process.run(self.one)
        except TlcompileError as error:
            self.why[name] = str(error).splitlines()[0]
            return False
        self.engines[name] = folder
        return True

    def outcomes(self) -> dict[str, np.ndarray]:
        """bool [n] of each engine: which of the same test images it answers right."""
        split = Split(self.built.splits.folder, "test")
        count = min(self.most, len(split))
        chosen = set(np.linspace(0, len(split) - 1, count).round().astype(int).tolist())
        right: dict[str, list[np.ndarray]] = {name: [] for name in self.engines}
        with ExitStack() as stack:
            children = {name: stack.enter_context(EngineProcess(folder)) for name, folder in self.engines.items()}
            for indices in batches(split, _BATCH):
                if not (wanted := [i for i in indices if i in chosen]):
                    continue
                feed = {PIXELS: self.pixels([split[i] for i in wanted])}
                for name, child in children.items():
                    right[name].append(child.run(feed)["logits"].argmax(1) == split.truth[wanted])
        return {name: np.concatenate(parts) for name, parts in right.items()}
