"""Networks become graphs that answer like torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.tiny import MODEL, bert
from tlcompile.artifacts import Target
from tlcompile.errors import TlcompileError
from tlcompile.export.golden import choose
from tlcompile.export.graph import assemble, save, torch_outputs
from tlcompile.export.network import to_onnx
from tlcompile.models import timm, transformers
from tlcompile.models._network import Network


def image_network() -> Network:
    torch.manual_seed(0)
    network = timm.build(timm.Options(**{k: v for k, v in MODEL.items() if k != "library"}), 3)
    network.module.eval()
    return network


def session(network: Network, exporter: str, path: Path) -> onnxruntime.InferenceSession:
    save(assemble(to_onnx(network, exporter, 18, path), network, 18), path)
    return onnxruntime.InferenceSession(path)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_raw_image_gives_the_answer_of_torch_at_any_size_and_batch(exporter: str, tmp_path: Path) -> None:
    network = image_network()
    found = session(network, exporter, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    for shape in [(1, 24, 32, 3), (5, 60, 41, 3)]:
        feed = {"image": rng.integers(0, 256, shape, dtype=np.uint8)}
        expected = torch_outputs(network, list(feed["image"]), [feed])[0]
        logits, probabilities = found.run(["logits", "probabilities"], feed)
        assert np.abs(logits - expected["logits"]).max() < 1e-3
        assert np.allclose(probabilities.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_texts_of_any_length_give_the_answer_of_torch_and_padding_changes_nothing(
    exporter: str, tmp_path: Path
) -> None:
    network = transformers.build(transformers.Options.model_validate({"name": str(bert(tmp_path / "bert"))}), 2)
    network.module.eval()
    found = session(network, exporter, tmp_path / "m.onnx")
    ids = np.array([[2, 4, 7, 3]])
    short = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    long = {"input_ids": np.pad(ids, ((0, 2), (0, 9))), "attention_mask": np.pad(np.ones_like(ids), ((0, 2), (0, 9)))}
    long["attention_mask"][1:] = 1
    expected = torch_outputs(network, [], [short])[0]["logits"]
    assert np.abs(found.run(["logits"], short)[0] - expected).max() < 1e-4
    assert np.abs(found.run(["logits"], long)[0][:1] - expected).max() < 1e-4


class Unexportable(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(pixels.mean((2, 3)) @ torch.ones(3, 3), full_matrices=False)[1]


def test_a_network_that_can_not_be_exported_is_told_in_a_sentence_with_the_way_out(tmp_path: Path) -> None:
    network = image_network()
    network.module = Unexportable()
    with pytest.raises(
        TlcompileError, match=r"export\.exporter: the torchscript exporter .* try exporter = \"dynamo\""
    ):
        to_onnx(network, "torchscript", 18, tmp_path / "m.onnx")


def test_golden_examples_go_round_the_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    assert [int(labels[i]) for i in choose(labels, 6)] == [0, 1, 2, 0, 1, 0]
    assert len(choose(labels, 100)) == 7


@pytest.mark.parametrize(
    ("activation", "target", "answer"),
    [("sigmoid", None, "probabilities"), ("identity", Target("price", 5000.0, 20.0), "values")],
)
def test_the_answer_is_computed_in_the_graph_as_the_task_says(
    activation: str, target: Target | None, answer: str, tmp_path: Path
) -> None:
    network, path = image_network(), tmp_path / "m.onnx"
    save(assemble(to_onnx(network, "torchscript", 18, path), network, 18, activation, target), path)
    found = onnxruntime.InferenceSession(path)
    feed = {"image": np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)}
    expected = torch_outputs(network, list(feed["image"]), [feed], activation, target)[0]
    logits, answers = found.run(["logits", answer], feed)
    assert set(expected) == {"logits", answer}
    assert np.abs(answers - expected[answer]).max() < 5e-2
    wanted = 1 / (1 + np.exp(-logits)) if target is None else logits * target.std + target.mean
    assert answers == pytest.approx(wanted, rel=1e-5)
    assert [tuple(o.shape) for o in found.get_outputs()] == [("batch", 3)] * 2
