"""The preprocessing graph gives Pillow's pixels, in every runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlcompile.artifacts import ImageSpec
from tlcompile.export.preprocess import graph
from tlcompile.models._inputs import evaluation_view

SPECS = [ImageSpec(32, 0.875, "bicubic"), ImageSpec(48, 1.0, "bilinear"), ImageSpec(24, 0.95, "bicubic")]


def session(spec: ImageSpec) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph(spec, 18).SerializeToString())


def levels(pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Normalised pixels back to grey levels 0..255."""
    mean, std = (np.array(v).reshape(-1, 1, 1) for v in (spec.mean, spec.std))
    return (pixels * std + mean) * 255


def expected(image: np.ndarray, spec: ImageSpec) -> np.ndarray:
    return evaluation_view(spec)(Image.fromarray(image)).numpy().astype(float)


SESSIONS = [(spec, session(spec)) for spec in SPECS]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_at_most_two_grey_levels_from_pillow_at_any_size_and_hardly_ever_more_than_one(
    height: int, width: int, which: int, seed: int
) -> None:
    if height > 2 * width:  # Pillow turns the passes round, see the module's docstring
        height, width = width, height
    spec, ort = SESSIONS[which]
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = levels(ort.run(None, {"image": image[None]})[0][0], spec)
    apart = np.abs(found - expected(image, spec))
    assert apart.max() < 2.01  # a half may round to the other side in either pass
    assert (apart > 1.01).mean() < 1e-3


@pytest.mark.parametrize("shape", [(240, 320), (33, 500), (8, 8)])
def test_openvino_and_onnxruntime_give_the_same_pixels(shape: tuple[int, int], tmp_path: Path) -> None:
    spec = SPECS[0]
    onnx.save(graph(spec, 18), tmp_path / "p.onnx")
    compiled = openvino.Core().compile_model(tmp_path / "p.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    theirs = compiled(image)[0]
    ours = SESSIONS[0][1].run(None, {"image": image})[0]
    gap = np.abs(levels(theirs, spec) - levels(ours, spec))
    assert gap.max() < 1.01
    assert gap.mean() < 0.01


def test_an_image_of_the_right_size_passes_through_untouched() -> None:
    spec = ImageSpec(16, 1.0, "bicubic", (0.0,) * 3, (1.0,) * 3)
    image = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    found = session(spec).run(None, {"image": image})[0] * 255
    assert np.allclose(found, image.transpose(0, 3, 1, 2), atol=1e-3)


def test_photos_of_the_flowers_set(test_data: Path) -> None:
    spec = ImageSpec(224, 0.875)
    ort = session(spec)
    for path in sorted((test_data / "flowers" / "test").glob("*/*.jpg"))[::40]:
        image = np.asarray(Image.open(path).convert("RGB"))
        gap = np.abs(levels(ort.run(None, {"image": image[None]})[0][0], spec) - expected(image, spec))
        assert gap.max() < 1.01
        assert gap.mean() < 0.01
