"""One row of an answer in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tlcompile.artifacts import Signature, Target, TextSpec
from tlcompile.runtime.prediction import prediction

CLASSES = ("ant", "bee", "cat")


def said(labels: Any, *answer: float, top: int = 5) -> dict[str, Any]:
    target = Target("price", 50.0, 10.0) if labels == "number" else None
    classes = () if labels == "number" else CLASSES
    signature = Signature("a task", (), (), classes, TextSpec(8), labels, target)
    return asdict(prediction(np.array(answer, np.float64), signature, top))


def test_one_class_is_the_most_probable_one() -> None:
    expected = {"label": "bee", "probability": 0.7, "probabilities": {"bee": 0.7, "ant": 0.2}}
    assert said("class", 0.2, 0.7, 0.1, top=2) == expected


def test_several_classes_are_those_above_a_half_best_first_whatever_top_is() -> None:
    expected = {"labels": ("cat", "ant"), "probabilities": {"cat": 0.9}}
    assert said("classes", 0.6, 0.5, 0.9, top=1) == expected


def test_no_class_at_all_is_an_answer() -> None:
    assert said("classes", 0.2, 0.5, 0.1)["labels"] == ()


def test_a_number_is_just_that() -> None:
    assert said("number", 12.5) == {"value": 12.5}


def test_a_signature_survives_json_and_an_older_one_is_of_one_class() -> None:
    signature = Signature("t", (), (), (), TextSpec(8), "number", Target("price", 50.0, 10.0))
    assert Signature.from_json(signature.to_json()) == signature
    assert (signature.answer, signature.unit) == ("values", 10.0)
    older = {k: v for k, v in signature.to_json().items() if k not in ("labels", "target")}
    assert (Signature.from_json(older).labels, Signature.from_json(older).answer) == ("class", "probabilities")


@pytest.mark.parametrize("labels", ["class", "classes"])
def test_differences_of_probabilities_are_in_their_own_unit(labels: Any) -> None:
    assert Signature("t", (), (), CLASSES, TextSpec(8), labels).unit == 1.0
