from __future__ import annotations

from typing import Any

import pytest


def _variant(engine: str, accuracy: float, p50: float | None, **more: Any) -> dict[str, Any]:
    latency = {"p50_ms": p50, "p90_ms": 1.1, "p99_ms": 1.2, "n": 200}
    return {
        "engine": engine,
        "target": engine,
        "backend": engine.split("-")[0],
        "variant": engine.split("-")[-1],
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.02, accuracy + 0.01],
        "drop": 0.01,
        "drop_upper": 0.014,
        "measured_in": engine.split("-")[0],
        "latency": {"load_s": 0.1, "batch_1": latency, "batch_8": {**latency, "throughput_per_s": 1234.5}}
        if p50
        else {},
        "size_mb": 3.7,
        "chosen": False,
        "why": "slower",
        **more,
    }


@pytest.fixture
def facts() -> dict[str, Any]:
    """Facts of a whole build with three classes; a test may change its copy."""
    classes = ["ant", "bee", "cat"]
    return {
        "name": "insects",
        "task": "image-classification",
        "classes": classes,
        "recipe": {"name": "insects", "data": {"source": "folder", "split": {"train": 0.7}}},
        "data": {
            "classes": classes,
            "counts": {"train": dict.fromkeys(classes, 70), "test": dict.fromkeys(classes, 10)},
            "split_by": {"train": "source", "test": "seeded share"},
            "calibration": list(range(32)),
            "notes": ["folders are classes"],
            "skipped": [{"id": "bee/7.jpg", "why": "is empty (0 bytes)"}],
        },
        "applied": {"optimizer": "AdamW", "groups": [{"name": "head", "peak_lr": 0.001}], "dropout": [0.2]},
        "history": [
            {
                "epoch": e,
                "train_loss": 1 / e,
                "val_loss": 1.1 / e,
                "val_accuracy": 1 - 0.3 / e,
                "lr": 1e-3,
                "seconds": 9.0,
            }
            for e in (1, 2, 3)
        ],
        "parity": [
            {
                "rung": "export",
                "against": "torch",
                "max_abs": 3e-6,
                "agreement": 1.0,
                "tolerance": {"max_abs": 0.001, "agreement": 1.0},
                "ok": True,
            }
        ],
        "variants": [
            _variant("openvino-int8", 0.93, 6.3, chosen=True, why="The fastest within the gates."),
            _variant("onnxruntime-fp32", 0.94, 14.1),
            _variant("tensorrt_rtx-int8", 0.93, None, measured_in="onnxruntime: no GPU is here"),
        ],
        "per_class": [{"class": c, "n": 10, "recall": 0.9} for c in classes],
        "confusion": [[9, 1, 0], [0, 10, 0], [3, 0, 7]],
        "gates": [
            {"gate": "min_accuracy", "limit": 0.9, "value": 0.93, "passed": True, "why": ""},
            {"gate": "max_latency_p50_ms", "limit": 10, "value": 6.3, "passed": True, "why": ""},
        ],
        "stages": [{"step": "data", "seconds": 1.5, "cached": False}, {"step": "train", "seconds": 99, "cached": True}],
        "environment": {"python": "3.11", "cpu": "a CPU", "cores": 2, "versions": {"numpy": "2.4.6"}},
        "notes": ["The GPU engine was not run."],
    }
