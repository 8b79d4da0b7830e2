"""NNCF's post-training quantization of an ONNX file, run by the Python of a venv that has `nncf`, and nothing of ours.

    python _peer_nncf.py MODEL.onnx CALIBRATION.npy FOLDER

The calibration array holds what the model's one input takes, example by example. Each way below is tried on the ONNX
file itself and on OpenVINO's reading of it. The last line printed is JSON: name of the way -> the file that it made.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino as ov
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    # What NNCF's documentation advises for a CPU whose int8 sums saturate in 16 bits: 7-bit weights everywhere.
    "7-bit weights": {"advanced_parameters": AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE)},
}


def main(model: Path, calibration: Path, folder: Path) -> None:
    examples = np.load(calibration, mmap_mode="r")
    graph = onnx.load(model)
    name = graph.graph.input[0].name
    data = nncf.Dataset(range(len(examples)), lambda i: {name: np.array(examples[i : i + 1])})
    made: dict[str, str] = {}
    for way, settings in WAYS.items():
        asked = {"subset_size": len(examples), **settings}
        place = folder / f"{way.replace(' ', '-')}"
        onnx.save(nncf.quantize(onnx.load(model), data, **asked), f"{place}.onnx")
        quantized = nncf.quantize(ov.Core().read_model(model), data, **asked)
        ov.save_model(quantized, f"{place}.xml", compress_to_fp16=False)
        made |= {f"{way}, ONNX": f"{place}.onnx", f"{way}, IR": f"{place}.xml"}
    print(json.dumps(made))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
