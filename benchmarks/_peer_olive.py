"""Olive's static quantization of an ONNX file, run by the Python of a venv that has `olive-ai`, and nothing of ours.

    python _peer_olive.py MODEL.onnx CALIBRATION.npy FOLDER

The calibration array holds what the model's one input takes, example by example. The last line printed is JSON: name
of each way below -> the ONNX file that it made.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

U8S8 = {"activation_type": "uint8", "precision": "int8", "per_channel": True}
WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "u8 x s8 per channel": U8S8,
    # What ONNX Runtime's documentation advises for an x86 CPU whose int8 sums saturate in 16 bits.
    "u8 x s8 per channel, 7-bit weights": {**U8S8, "reduce_range": True},
}


def as_raw_files(calibration: Path, name: str, folder: Path) -> tuple[int, ...]:
    """Write each example as `<folder>/<name>/<number>.bin`, the layout of Olive's raw data; the shape of one."""
    examples = np.load(calibration, mmap_mode="r")
    (folder / name).mkdir(parents=True)
    for index, example in enumerate(examples):
        np.array(example).tofile(folder / name / f"{index:06}.bin")
    return (1, *examples.shape[1:])


def main(model: Path, calibration: Path, folder: Path) -> None:
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    from olive.workflows import run

    name = onnx.load(model, load_external_data=False).graph.input[0].name
    shape = as_raw_files(calibration, name, folder / "calibration")
    params = {"data_dir": str(folder / "calibration"), "input_names": [name], "input_shapes": [list(shape)]}
    data = {"name": "calibration", "type": "RawDataContainer", "load_dataset_config": {"params": params}}
    made: dict[str, str] = {}
    for way, settings in WAYS.items():
        place = folder / f"way-{len(made)}"
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(model)},
                "data_configs": [data],
                "passes": {"quantize": {"type": "OnnxStaticQuantization", "data_config": "calibration", **settings}},
                "cache_dir": str(folder / "cache"),
                "output_dir": str(place),
                "log_severity_level": 3,
            }
        )
        (made[way],) = map(str, place.rglob("*.onnx"))
    print(json.dumps(made))


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
