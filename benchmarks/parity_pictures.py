"""Pictures of many sizes and modes through the graph's preprocessing, against the training library's own view."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parity_ladder import BACKENDS, network, photos


def encoded(image: Any, kind: str, rng: np.random.Generator) -> bytes:
    """A Pillow image as a file of mode `kind`."""
    from PIL import Image

    out = io.BytesIO()
    if kind == "jpeg":
        image.save(out, "JPEG", quality=90)
    elif kind == "turned jpeg":
        exif = Image.Exif()
        exif[274] = int(rng.integers(2, 9))
        image.save(out, "JPEG", exif=exif, quality=90)
    elif kind == "CMYK":
        image.convert("CMYK").save(out, "JPEG")
    elif kind == "I;16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(out, "PNG")
    elif kind == "RGBA":
        image.putalpha(image.convert("L").point(lambda v: 255 - v // 3))
        image.save(out, "PNG")
    else:
        image.convert(kind).save(out, "PNG")
    return out.getvalue()


KINDS = ("jpeg", "turned jpeg", "CMYK", "I;16", "RGBA", "RGB", "L", "LA", "P", "1")


def many(data: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """(mode, file) of pictures of 17 to 1,000 pixels a side, upright, wide and tall."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for index, array in enumerate(photos(data, count)):
        width, height = (int(v) for v in np.exp(rng.uniform(np.log(17), np.log(1000), 2)))
        how = Image.Resampling.BICUBIC
        size = (width, height) if index % 4 < 3 else (array.shape[1], array.shape[0])
        kind = KINDS[index % len(KINDS)]
        yield kind, encoded(Image.fromarray(array).resize(size, how), kind, rng)


def agreement(data: Path, count: int, root: Path) -> dict[str, Any]:
    """Labels of the graph in two runtimes and of torch behind the training library's own view."""
    import torch
    from PIL import Image

    from tests.families import exported
    from tlcompile import compile as backends
    from tlcompile import registry
    from tlcompile.models._inputs import Collate, evaluation_view
    from tlcompile.runtime.images import decode

    made = network(224)
    view, collate = evaluation_view(made.spec), Collate(made)
    graph = exported(made, [{"image": image[None]} for image in photos(data, 4)], root / "agreement")
    runners = {}
    for backend in BACKENDS:
        (root / backend).mkdir()
        backends.build(backend, registry.load("compile", backend).Options(), graph, "fp32", root / backend)
        runners[backend] = backends.open_engine(root / backend)
    same: dict[str, list[bool]] = {backend: [] for backend in BACKENDS}
    modes: dict[str, int] = {}
    for kind, file in many(data, count):
        image = decode(file)
        modes[kind] = modes.get(kind, 0) + 1
        with torch.inference_mode():
            inputs, _ = collate([(view(Image.fromarray(image)), 0)])
            label = int(made.module(*inputs.values()).argmax())
        for backend, runner in runners.items():
            same[backend].append(int(runner.run({"image": image[None]})["logits"].argmax()) == label)
    names = {"onnxruntime": "ort", "openvino": "openvino"}
    shares = {f"top1_agreement_{names[backend]}": round(float(np.mean(found)), 5) for backend, found in same.items()}
    return {**shares, "images": len(same["onnxruntime"]), "modes": modes, "top1_agreement_tensorrt": None}
