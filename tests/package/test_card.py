"""The model card of each kind of label."""

from __future__ import annotations

from typing import Any

import pytest

from tlcompile.package.card import card


def manifest(labels: str, **signature: Any) -> dict[str, Any]:
    classes = [] if labels == "number" else ["ant", "bee"]
    variant = {"engine": "e", "target": "ort", "backend": "onnxruntime", "precision": "fp32", "shipped": True}
    figures = {"accuracy": 0.875, "accuracy_low": 0.8, "accuracy_high": 0.9, "n": 64, "size_mb": 1.0}
    return {
        "name": "toy",
        "task": "a task",
        "kind": "text",
        "tlcompile": "1",
        "classes": classes,
        "signature": {"labels": labels, "inputs": [], "outputs": [], **signature},
        "variants": [{**variant, **figures, "executed": True, "latency_p50_ms": None, "latency_p99_ms": None}],
        "chosen": "ort",
        "engines": [],
        "gates": [],
        "resolved": {"data": {"source": "csv"}},
        "provenance": {},
    }


def test_several_labels() -> None:
    text = card(manifest("classes"), {"metric": "label accuracy", "data": {"sizes": {"train": 70}, "counts": {}}})
    assert "Finds in texts any of 2 classes: `ant`, `bee`." in text
    assert "label accuracy 0.8750 (0.8000 to 0.9000) on 64 examples" in text
    assert "one is given where its probability is above 1/2" in text
    assert "Probabilities are the sigmoid of the network" in text
    assert "csv (70 train examples)" in text


def test_a_number() -> None:
    text = card(manifest("number", target={"name": "price", "mean": 1.0, "std": 2.0}), {"metric": "R²"})
    assert "Says a number for each text: `price`." in text
    assert "R² 0.8750 (0.8000 to 0.9000)" in text
    assert "Every input gets a number" in text
    assert "robabilit" not in text


@pytest.mark.parametrize("signature", [{}, {"labels": "class"}])
def test_one_class_as_ever_also_in_signatures_that_do_not_say_so(signature: dict[str, str]) -> None:
    about = manifest("class")
    about["signature"] = {"inputs": [], "outputs": [], **signature}
    text = card(about, {})
    assert "Sorts texts into 2 classes: `ant`, `bee`." in text
    assert "accuracy 0.8750" in text
    assert "softmax" in text
