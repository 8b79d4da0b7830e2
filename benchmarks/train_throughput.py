"""How fast training is fed and run: images/s against timm's loop, texts/s against the Hugging Face Trainer, features.

    python benchmarks/train_throughput.py [--short] [--data PARQUET] [--texts TSV]

Every side is a process of its own that trains the same network on the same files with the same batch, size, optimizer
and precision; the sides take turns. A figure is the rate of the epochs after the first, which warms up: waiting for
data counts, validation does not. Ours is what `tlcompile build` runs, read from its `history.json`. Its cache is made
before the first epoch, so decoding is in no figure of `tlcompile`; `tlcompile_without_cache` decodes in every epoch, as
timm does.

timm's loop is timed once with the default flags of its `train.py` (4 workers) and once with what serves it best on a
CPU (`--channels-last`, a worker a core). Views: random resized crop and mirroring, on both sides. `--data` is a Parquet
file of images as the Hugging Face hub lays it out (column `img` or `image`), `--texts` a file with a header
`sentence label`; where they are not given and the development data is not there, pictures and texts are made up. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from train_throughput_peers import CLIP, CROP, DECAY, IMAGE_MODEL, LR, SEED, TEXT_MODEL, Work

PEERS = Path(__file__).with_name("train_throughput_peers.py")
DEVELOPMENT = Path(__file__).parents[2] / "shared" / "data"
HEAD_EPOCHS = 10
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- ours ------------------------------------------------------------------------------------------------------------


def recipe(work: Work, kind: str, train: dict[str, Any]) -> str:
    """The recipe of our side as TOML. `train` may hold tables."""
    image = kind == "image"
    model = f'library = "timm"\nname = "{IMAGE_MODEL}"\nweights = "none"\nimage_size = {work.size}\ncrop_pct = 1.0'
    text = f'library = "transformers"\nname = "{TEXT_MODEL}"\nmax_length = {work.size}'
    keys = {
        "epochs": work.epochs,
        "batch_size": work.batch,
        "lr": LR,
        "weight_decay": DECAY,
        "clip_norm": CLIP,
        **train,
    }
    return "\n".join(
        [
            f'name = "throughput"\nseed = {SEED}\n[data]\ntask = "{kind}-classification"',
            f'source = "{"folder" if image else "csv"}"\npath = {json.dumps(str(work.data))}',
            "split = { train = 0.96, val = 0.02, test = 0.02 }\ncalibration = 8",
            f"[model]\n{model if image else text}\n[train]",
            *(f"{key} = {json.dumps(value)}" for key, value in keys.items() if not isinstance(value, dict)),
            *(
                f"[train.{table}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items())
                for table, values in keys.items()
                if isinstance(values, dict)
            ),
            '[[compile]]\nbackend = "onnxruntime"\n',
        ]
    )


def prepared(work: Work, kind: str, train: dict[str, Any], place: Path) -> Any:
    """The Job of our side; its splits are made by `tlcompile build --until data`."""
    from tlcompile import recipe as recipes
    from tlcompile.artifacts import read_json
    from tlcompile.train import Job

    place.mkdir(parents=True, exist_ok=True)
    path = place / "recipe.toml"
    path.write_text(recipe(work, kind, train))
    store = place.parent / f"store-{kind}-{work.n}"
    done(sys.executable, "-m", "tlcompile", "build", str(path), "--until", "data", "--store", str(store))
    splits = next(store.rglob("train.arrow")).parent
    found, classes = recipes.load(path), tuple(read_json(splits / "data.json")["classes"])
    return Job(found.task, found.model, found.train, found.seed, splits.resolve(), classes, place.resolve())


def ours(job: Any, place: Path) -> list[dict[str, Any]]:
    """The history of one training run of `job` in a new process."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        run = Path(folder)
        for name in ("out", "work"):
            (run / name).mkdir()
        (run / "job.json").write_text(json.dumps(job.to_json()))
        done(sys.executable, "-m", "tlcompile.train.worker", *(str(run / p) for p in ("job.json", "out", "work")))
        history: list[dict[str, Any]] = json.loads((run / "out" / "history.json").read_text())
    return history


FEATURES = """
import json, sys, time
from pathlib import Path
from tlcompile.data._split import Split
from tlcompile.train import Job, features
folder = Path(sys.argv[1])
job = Job.from_json(json.loads((folder / "job.json").read_text()))
features.write(job, folder)
network, split = job.network(), Split(job.splits, "train")
start = time.monotonic()
features.compute(network, split, features.BATCH, folder / "again.npy")
print(json.dumps(time.monotonic() - start))
"""
THROUGH_THE_BODY = """
import json, sys
from pathlib import Path
from tlcompile.data._split import Split
from tlcompile.train import Job
from tlcompile.train.loop import Trainer
job = Job.from_json(json.loads(Path(sys.argv[1], "job.json").read_text()))
trainer = Trainer(job, job.network(), Split(job.splits, "train"), Split(job.splits, "val"), Path(sys.argv[1]))
trainer.fit()
print(json.dumps(sum(row["seconds"] for row in trainer.history)))
"""


def seconds(code: str, job: Any, folder: Path) -> float:
    """What `code` prints last, in a new process that finds `job` in `folder`."""
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job.to_json()))
    return float(json.loads(done(sys.executable, "-c", code, str(folder)).splitlines()[-1]))


def theirs(side: str, work: Work, **options: Any) -> float:
    """The rate of `side` in a new process."""
    asked = json.dumps({"side": side, "work": {**vars(work), "data": str(work.data)}, "options": options})
    rates: list[float] = json.loads(done(sys.executable, str(PEERS), asked).splitlines()[-1])
    return statistics.median(rates[1:])


def done(*command: str) -> str:
    """Standard output of a process that must succeed."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} …: exit code {run.returncode}\n{run.stderr[-2000:]}")
    return run.stdout


# ---- data ------------------------------------------------------------------------------------------------------------


def pictures(given: Path | None, n: int, root: Path) -> Path:
    """`n` JPEG files of 32 x 32 pixels as `root/CLASS/NUMBER.jpg`."""
    for index, (label, data) in enumerate(_parquet(given, n) if given else _made_up(n)):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{index}.jpg").write_bytes(data)
    return root


def _parquet(path: Path, n: int) -> list[tuple[str, bytes]]:
    import pyarrow.parquet as pq

    rows = next(pq.ParquetFile(path).iter_batches(n)).to_pylist()
    column = "img" if "img" in rows[0] else "image"
    return [(f"class{row['label']}", row[column]["bytes"]) for row in rows]


def _made_up(n: int) -> list[tuple[str, bytes]]:
    """Smooth noise: JPEG files of about the size of small photos."""
    import io

    import numpy as np
    from PIL import Image

    rng, found = np.random.default_rng(SEED), []
    for index in range(n):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((32, 32))
        file = io.BytesIO()
        image.save(file, "JPEG")
        found.append((f"class{index % 10}", file.getvalue()))
    return found


def sentences(given: Path | None, n: int, path: Path) -> Path:
    """A file with a header and `n` lines `text TAB label`."""
    lines = given.read_text(encoding="utf-8").splitlines()[1 : n + 1] if given else []
    made_up = (f"{'a very long and slow film ' * (1 + i * 7 % 5)}{i}\t{i % 2}" for i in range(n))
    path.write_text("\n".join(["sentence\tlabel", *(lines or made_up)]) + "\n", encoding="utf-8")
    return path


# ---- figures ---------------------------------------------------------------------------------------------------------


def rate(job: Any, place: Path) -> float:
    return float(statistics.median(row["items_per_s"] for row in ours(job, place)[1:]))


def in_turns(sides: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Rates of each side, one a round, told on standard error."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            found[name].append(round(sides[name](), 2))
            print(f"  round {number + 1}/{rounds}: {name} {found[name][-1]}/s", file=sys.stderr, flush=True)
    return found


def ratio(rates: dict[str, list[float]], over: str, ours: str = "tlcompile") -> float:
    """Median of the pairs `ours` / `over`."""
    return round(statistics.median(a / b for a, b in zip(rates[ours], rates[over], strict=True)), 3)


def ratios(rates: dict[str, list[float]], end: str = "") -> dict[str, float]:
    """Of images: against timm's defaults, its best flags, and its defaults without our cache."""
    return {
        f"ratio_vs_timm{end}": ratio(rates, "timm_defaults"),
        f"ratio_vs_timm_best_flags{end}": ratio(rates, "timm_best_flags"),
        f"ratio_vs_timm_without_cache{end}": ratio(rates, "timm_defaults", "tlcompile_without_cache"),
    }


def images(work: Work, rounds: int, place: Path) -> dict[str, list[float]]:
    augment = {"hflip": True, "crop_scale_min": CROP}
    job = prepared(work, "image", {"augment": augment}, place / f"image-{work.size}")
    plain = replace(job, table=job.table.model_copy(update={"cache_mib": 0}))
    sides = {
        "timm_defaults": lambda: theirs("timm", work, channels_last=False, workers=4),
        "tlcompile": lambda: rate(job, place),
        "timm_best_flags": lambda: theirs("timm", work, channels_last=True, workers=CORES),
        "tlcompile_without_cache": lambda: rate(plain, place),
    }
    return in_turns(sides, rounds)


def texts(work: Work, rounds: int, place: Path) -> dict[str, list[float]]:
    job = prepared(work, "text", {}, place / "text")
    return in_turns({"hf_trainer": lambda: theirs("hf", work), "tlcompile": lambda: rate(job, place)}, rounds)


def head_only(work: Work, rounds: int, place: Path) -> dict[str, Any]:
    """Seconds of all epochs with a frozen body: through the whole network, and on features (their making counts)."""
    job = prepared(work, "image", {"trainable": "head"}, place / "head")
    found: dict[str, list[float]] = {"without": [], "features": [], "on_features": []}
    for number in range(rounds):
        found["without"].append(seconds(THROUGH_THE_BODY, job, place / f"without-{number}"))
        folder = place / f"features-{number}"
        found["features"].append(seconds(FEATURES, job, folder))
        found["on_features"].append(sum(row["seconds"] for row in ours(replace(job, features=folder), place)))
    each = zip(*found.values(), strict=True)
    speedup = statistics.median(without / (made + on) for without, made, on in each)
    later = statistics.median(a / b for a, b in zip(found["without"], found["on_features"], strict=True))
    return {
        "head_only_speedup": round(speedup, 2),
        "head_only_speedup_of_later_epochs": round(later, 2),
        "head_only_s": found,
        "head_only_epochs": work.epochs,
    }


def measured(short: bool, data: Path | None, lines: Path | None, place: Path) -> dict[str, Any]:
    rounds, epochs = (3, 2) if short else (5, 3)
    small, large, words = (768, 256, 512) if short else (4096, 1024, 4096)
    root = pictures(data, small, place / "pictures")
    few = pictures(data, large, place / "few")
    tsv = sentences(lines, words, place / "texts.tsv")
    found: dict[str, Any] = {"ratio_vs_timm": None, "ratio_vs_hf_trainer": None, "head_only_speedup": None, "why": {}}

    def at_64() -> dict[str, Any]:
        rates = images(Work(root, small, 64, 64, epochs), rounds, place)
        return {"images_per_s_64px": rates, **ratios(rates)}

    def at_128() -> dict[str, Any]:
        rates = images(Work(few, large, 32, 128, epochs), max(1, rounds - 2), place)
        return {"images_per_s_128px": rates, **ratios(rates, "_128px")}

    def of_texts() -> dict[str, Any]:
        rates = texts(Work(tsv, words, 32, 64, epochs), rounds, place)
        return {"texts_per_s": rates, "ratio_vs_hf_trainer": ratio(rates, "hf_trainer")}

    parts = {
        "ratio_vs_timm": at_64,
        "ratio_vs_hf_trainer": of_texts,
        "head_only_speedup": lambda: head_only(Work(root, small, 64, 64, HEAD_EPOCHS), max(1, rounds - 2), place),
        "ratio_vs_timm_128px": at_128,
    }
    for key, part in parts.items():
        try:
            found |= part()
        except (RuntimeError, ImportError) as error:
            found["why"][key] = str(error)[-600:]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer examples and rounds")
    parser.add_argument("--data", type=Path, help="Parquet file of images")
    parser.add_argument("--texts", type=Path, help="file of sentences and labels")
    asked = parser.parse_args()
    data = asked.data or next(iter(sorted(DEVELOPMENT.glob("cifar10_small/data/train*.parquet"))), None)
    lines = asked.texts or next(iter(DEVELOPMENT.glob("sst2/train.tsv")), None)
    with tempfile.TemporaryDirectory() as scratch:
        found = measured(asked.short, data, lines, Path(scratch))
    packages = ("torch", "torchvision", "timm", "transformers", "accelerate", "pillow")
    about = {
        "n": {"data": data.name if data else "made up", "texts": lines.name if lines else "made up"},
        "machine": {"cores": CORES, "load_1min": os.getloadavg()[0], "processor": platform.processor()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
    print(json.dumps({**found, **about}))


if __name__ == "__main__":
    main()
