from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_bundle
import toy_graphs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlcompile.errors import BundleError, DataError
from tlcompile.fingerprint import file_digest
from tlcompile.package import manifest
from tlcompile.runtime import golden
from tlcompile.runtime.model import Model, load


@pytest.fixture(scope="session")
def model(built: Path) -> Iterator[Model]:
    with load(built) as opened:
        yield opened


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    work = tmp_path_factory.mktemp("text")
    graph = toy_bundle.text_graph(work / "graph")
    stored = toy_bundle.golden_of(graph, [toy_graphs.texts(3)], work / "golden.npz")
    with load(toy_bundle.package(work / "toy", work, graph, stored, ("onnxruntime",))) as opened:
        yield opened


def picture(height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.asarray(toy_graphs.images(1, height, width, seed)["image"][0])


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_an_image_is_taken_as_array_bytes_path_and_name_of_a_file(model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture()))
    given = [picture(), png(picture()), tmp_path / "a.png", str(tmp_path / "a.png")]
    assert len({str(found) for found in model.predict(given, batch_size=1)}) == 1


def test_a_prediction_names_the_most_probable_classes_best_first(model: Model) -> None:
    [found] = model.predict([picture()], top=3)
    stated = model.run({"image": picture()[None]})["probabilities"][0]
    assert found.label == model.classes[int(stated.argmax())]
    assert found.probability == pytest.approx(float(stated.max()))
    assert list(found.probabilities.values()) == pytest.approx(sorted(map(float, stated), reverse=True)[:3])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=40),
    batch_size=st.integers(1, 5),
)
def test_any_mix_of_sizes_keeps_its_order(model: Model, sizes: list[tuple[int, int]], batch_size: int) -> None:
    pictures = [picture(h, w, seed) for seed, (h, w) in enumerate(sizes)]
    alone = [model.predict([p])[0] for p in pictures]
    together = model.predict(pictures, batch_size=batch_size)
    assert [p.probability for p in together] == pytest.approx([p.probability for p in alone], abs=1e-5)


def test_a_stream_reads_a_few_batches_ahead_and_not_more(model: Model) -> None:
    read = []

    def endless() -> Iterator[np.ndarray]:
        for seed in range(10**9):
            read.append(seed)
            yield picture(seed=seed % 7)

    stream = model.stream(endless(), batch_size=2)
    next(stream)
    assert len(read) == 32


def test_every_item_that_is_not_an_image_is_named(model: Model, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(png(picture())[:60])
    items = [picture(), tmp_path / "note.txt", b"", str(tmp_path / "gone.jpg"), tmp_path / "cut.png", tmp_path]
    with pytest.raises(DataError) as caught:
        model.predict(items)
    names = [problem.where for problem in caught.value.problems]
    assert names == [
        str(tmp_path / "note.txt"),
        "item 2",
        *(str(tmp_path / n) for n in ("gone.jpg", "cut.png")),
        str(tmp_path),
    ]


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_that_is_no_rgb_image_is_refused(model: Model, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"item 0: expected a uint8 array \[height, width, 3\], found"):
        model.predict([pixels])


def test_nothing_in_gives_nothing_out_and_a_batch_of_none_is_refused(model: Model) -> None:
    assert model.predict([]) == []
    with pytest.raises(ValueError, match="must be 1 or more"):
        model.predict([picture()], batch_size=0)


def test_a_text_is_taken_as_str_bytes_and_file(text_model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a good film", encoding="utf-8")
    found = text_model.predict(["a good film", b"a good film", tmp_path / "a.txt", "bad film"])
    assert found[0] == found[1] == found[2] != found[3]
    assert text_model.kind == "text"


def test_texts_of_mixed_length_keep_their_order(text_model: Model) -> None:
    texts = ["good", "a very good film", "bad", "a very very very bad film", "film"]
    alone = [text_model.predict([text])[0].probability for text in texts]
    assert [found.probability for found in text_model.predict(texts, batch_size=2)] == pytest.approx(alone, abs=1e-6)


def test_what_is_no_text_is_refused(text_model: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        text_model.predict(["  ", b"\xff\xfe\xff", picture(), tmp_path / "gone.txt"])
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "model.onnx"])
def test_the_self_test_of_a_sound_engine_passes(built: Path, target: str) -> None:
    with load(built, target) as model:
        result = model.self_test()
    assert result.ok
    assert result.n == 3
    assert result.max_abs < 1e-4


def test_an_engine_that_answers_something_else_fails_its_self_test(bundle: Path) -> None:
    feeds, outputs = golden.load(bundle / "golden.npz")
    outputs[1]["probabilities"] = np.roll(outputs[1]["probabilities"], 1, axis=1)
    golden.save(bundle / "golden.npz", feeds, outputs)
    digests = {**toy_bundle.read_manifest(bundle)["files"]}
    sizes = {**toy_bundle.read_manifest(bundle)["sizes"]}
    digests["golden.npz"] = file_digest(bundle / "golden.npz")
    sizes["golden.npz"] = (bundle / "golden.npz").stat().st_size
    toy_bundle.rewrite_manifest(bundle, files=digests, sizes=sizes)
    with load(bundle) as model:
        result = model.self_test()
    assert not result.ok
    assert result.agreement == pytest.approx(2 / 3)


def test_a_damaged_bundle_is_refused_before_anything_is_opened(bundle: Path) -> None:
    (bundle / "engines" / "openvino" / "model.xml").write_text("<net/>")
    with pytest.raises(BundleError, match=r"model\.xml: changed"):
        load(bundle)


def test_a_model_knows_its_manifest(model: Model, built: Path) -> None:
    assert model.manifest == manifest.read(built)
    assert model.classes == ("ant", "bee", "cat", "dog")
