"""How fast the artifact that ships is: against the plain fp32 export, and against int8 artifacts of other tools.

    python benchmarks/artifact_latency.py [--short] [--data FOLDER_OR_PARQUET] [--speedup X] [--recovery-epochs N]
    python benchmarks/artifact_latency.py --text [--short] [--data FILE]

`recipes/flowers_fast.toml` is built (pruned, quantized to int8, compiled for OpenVINO and ONNX Runtime). Beside what
ships stand the fp32 export of the same trained network in ONNX Runtime, and what Olive's static quantization and NNCF's
post-training quantization make of that export with the same calibration images. Each tool runs in an environment of its
own, made once; its artifacts run in the runtimes of this one, in every runtime that takes them.

Everybody gets and is timed on the network alone (pixels -> logits, batch 1), for the other tools have no preprocessing;
the keys that end in `_whole_graph` take the raw image as a bundle does. The other tools get the export as it is and,
once more, simplified as ours is; `speedup_vs_ort_fp32_simplified` is that over the simplified fp32 graph. Accuracy is
that of the same test images. The best peer is the fastest artifact of any peer, setting and runtime that loses at most
one point against fp32. Where the recipe's speedup is out of reach on other data or another machine, less is cut.

All engines take turns in rounds, each in a process of its own. Times are medians of all calls, ratios medians over
rounds of the ratio of two engines in one round, with a bootstrap interval over rounds. `roofline_share` is the least
time that this machine's multiply-adds and bandwidth allow for the shipped network, divided by its time (`roofline.py`).
`--text` measures what `recipes/sst2_fast.toml` ships against the fp32 export of the network that it was cut from, on
test sentences of every length, one at a time. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import roofline  # noqa: E402
from benchmarks._built import Built, OutOfReach, build, variation  # noqa: E402
from benchmarks._contest import SIMPLIFIED, Contest  # noqa: E402
from benchmarks._network_part import engine  # noqa: E402
from benchmarks._pairs import ratio, summary, take_turns  # noqa: E402
from benchmarks._products import products  # noqa: E402
from tlcompile.artifacts import Feed, read_json  # noqa: E402
from tlcompile.compile import _cpu  # noqa: E402
from tlcompile.data import Split  # noqa: E402
from tlcompile.evaluate.statistics import paired_drop  # noqa: E402
from tlcompile.pipeline.facts import environment  # noqa: E402
from tlcompile.pipeline.timing import typical  # noqa: E402
from tlcompile.runtime.feeds import feeder  # noqa: E402

BASE, MARGIN_POINTS, ALPHA = "fp32 export in onnxruntime", 1.0, 0.05
BURST, WARM = 10, 2  # calls of one engine in one round of the images
SENTENCES = 20  # of one round of the texts, the same for every engine
SHARE_OF_REACH = 0.7  # of what pruning can save at most, where the recipe asks for more than that
RECOVERY_ELSEWHERE = 4  # epochs on other data, which may be large; an epoch of flowers is short
SHORT_IMAGES = {"train": {"epochs": 1, "average_last": 0, "image_size": 160}}
SHORT_PRUNING = {"steps": 1, "epochs": 2}
SHORT_TEXT = {"train": {"epochs": 1}, "compress": {"prune": {"epochs": 1}}}
Result = dict[str, Any]


def images(asked: argparse.Namespace, scratch: Path) -> Result:
    """The network alone of everybody, then the whole graph of ours."""
    changes: dict[str, Result] = dict(SHORT_IMAGES) if asked.short else {}
    recipe = tomllib.loads((asked.recipe or ROOT / "recipes" / "flowers_fast.toml").read_text(encoding="utf-8"))
    if asked.speedup or "prune" in recipe.get("compress", {}):
        epochs = asked.recovery_epochs or (RECOVERY_ELSEWHERE if asked.data else None)
        pruning = {"speedup": asked.speedup, "epochs": epochs} | (SHORT_PRUNING if asked.short else {})
        changes["compress"] = {"prune": {key: value for key, value in pruning.items() if value is not None}}
    built = within_reach(asked, changes, scratch)
    contest = Contest(built, scratch, asked.test_images)
    contest.enter_fp32(BASE)
    shipped = contest.enter_shipped()
    peers = contest.enter_peers(asked.peers)
    right = contest.outcomes()
    taken = take_turns(contest.engines, [[contest.one]] * rounds(asked, 60), WARM, BURST)
    rows = {name: {**summary(taken[name]), **accuracy(right[BASE], right[name])} for name in contest.engines}
    over_fp32, interval = ratio(taken[BASE], taken[shipped])
    whole = whole_graph(built, scratch, rounds(asked, 30))
    machine = roofline.measure(0.5 if asked.short else 2.0)
    least = roofline.bound(products(contest.network_of(shipped), contest.one), machine)
    uncut = sum(layer.macs for layer in products(onnx.load(contest.plain / "model.onnx"), contest.one))
    return {
        "speedup_vs_ort_fp32": over_fp32,
        **against_peers(contest, rows, taken, shipped),
        "accuracy_drop_points": rows[shipped]["drop_points"],
        "peers": sorted({*contest.peer_of.values()}),
        "roofline_share": round(least["bound_ms"] / rows[shipped]["p50_ms"], 3),
        "why": contest.why,
        "speedup_interval": interval,
        "speedup_vs_ort_fp32_simplified": ratio(taken[SIMPLIFIED], taken[shipped])[0],
        "drop_points_upper": rows[shipped]["drop_points_upper"],
        "ships": shipped,
        **whole,
        "engines": rows,
        "test_images": len(right[BASE]),
        "image_size": contest.size,
        "roofline": {**least, "machine": asdict(machine)},
        "peer_versions": peers,
        "pruning": pruning_of(built),
        "macs_kept": round(least["macs"] / uncut, 3),
    }


def within_reach(asked: argparse.Namespace, changes: dict[str, Result], scratch: Path) -> Built:
    """Cut less far where the recipe's speedup is out of reach: of larger photos more of the time is preprocessing."""
    try:
        return built_from(asked, "flowers_fast", "image", changes, scratch)
    except OutOfReach as error:
        speedup = round(1 + SHARE_OF_REACH * (error.best - 1), 2)
        print(f"{error}; once more with {speedup}", file=sys.stderr, flush=True)
        pruning = {**changes.get("compress", {}).get("prune", {}), "speedup": speedup}
        return built_from(asked, "flowers_fast", "image", {**changes, "compress": {"prune": pruning}}, scratch)


def pruning_of(built: Built) -> Result | None:
    """What pruning was asked for and reached, whole artifacts; None where the recipe prunes nothing."""
    if "compress/prune" not in built.folders:
        return None
    facts = read_json(built.folders["compress/prune"] / "prune.json")
    known = {key: facts[key] for key in ("engine", "speedup_asked", "speedup_reached", "parameters")}
    return {**known, "blocks_gone": facts["steps"][0]["blocks_gone"]}


def against_peers(contest: Contest, rows: Result, taken: dict[str, np.ndarray], shipped: str) -> Result:
    """What ships against the fastest artifact of a peer that is accurate enough; says why where there is none."""
    able = [name for name in contest.peer_of if rows[name]["drop_points"] <= MARGIN_POINTS]
    best = min(able, key=lambda name: rows[name]["p50_ms"], default=None)
    if best is None:
        contest.why["speedup_vs_best_peer_int8"] = f"no peer's artifact is within {MARGIN_POINTS:g} point of fp32"
    over, interval = ratio(taken[best], taken[shipped]) if best else (None, None)
    return {"speedup_vs_best_peer_int8": over, "speedup_vs_best_peer_interval": interval, "best_peer": best}


def whole_graph(built: Built, scratch: Path, count: int) -> Result:
    """What ships against the fp32 export, both from a raw image of median size, uint8."""
    row = built.shipped[0]
    graph = built.plain
    feed = feeder(graph.signature, graph.folder)([typical(Split(built.splits.folder, "test"))])
    engines = {BASE: plain_engine(built, scratch), "ships": built.folders[row["engine"]]}
    taken = take_turns(engines, [[feed]] * count, WARM, BURST)
    over, interval = ratio(taken[BASE], taken["ships"])
    return {
        "speedup_vs_ort_fp32_whole_graph": over,
        "speedup_whole_graph_interval": interval,
        "whole_graph": {name: summary(taken[name]) for name in engines},
        "drop_points_vs_torch_whole_graph": round(100 * row["drop"], 3),
    }


def text(asked: argparse.Namespace, scratch: Path) -> Result:
    """Whole graphs (token ids -> probabilities), a sentence at a time, at its own length."""
    built = built_from(asked, "sst2_fast", "text", SHORT_TEXT if asked.short else {}, scratch)
    row = built.shipped[0]
    ours = {r["engine"]: built.folders[r["engine"]] for r in built.shipped}
    drawn = sentences(built, rounds(asked, 30) * SENTENCES)
    lengths = [tokens(feed) for feed in drawn]
    bursts = [drawn[start : start + SENTENCES] for start in range(0, len(drawn), SENTENCES)]
    taken = take_turns({BASE: plain_engine(built, scratch), **ours}, bursts, 0, 1)
    over, interval = ratio(taken[BASE], taken[row["engine"]], np.sum)
    fp32 = f"compile/{built.onnxruntime.name}/fp32"  # of the export, after the passes that every target shares
    dropped = accuracy(outcomes_of(built, fp32), outcomes_of(built, row["engine"]))
    machine = roofline.measure(0.5 if asked.short else 2.0)
    middle = sorted(drawn, key=tokens)[len(drawn) // 2]
    least = roofline.bound(products(onnx.load(built.graph_of(row["engine"]).model), middle), machine)
    return {
        "speedup_vs_ort_fp32": over,
        "accuracy_drop_points": dropped["drop_points"],
        "roofline_share": round(least["bound_ms"] / float(np.median(taken[row["engine"]])), 3),
        "why": {},
        "speedup_interval": interval,
        "drop_points_upper": dropped["drop_points_upper"],
        "ships": row["engine"],
        "variants": [
            {k: r[k] for k in ("engine", "accuracy", "drop", "chosen", "why")} for r in built.report["variants"]
        ],
        "engines": {name: summary(times) for name, times in taken.items()},
        "tokens": {"median": float(np.median(lengths)), "longest": max(lengths)},
        "roofline": {**least, "machine": asdict(machine)},
    }


def sentences(built: Built, count: int) -> list[Feed]:
    """Test sentences drawn without order, each a feed of its own length; again from the first where there are fewer."""
    split, graph = Split(built.splits.folder, "test"), built.plain
    feed = feeder(graph.signature, graph.folder)
    order = np.random.default_rng(0).permutation(len(split))
    return [feed([split[int(order[i % len(order)])]]) for i in range(count)]


def tokens(feed: Feed) -> int:
    return feed["input_ids"].shape[1]


def outcomes_of(built: Built, engine: str) -> np.ndarray:
    """bool [n]: which test examples the build found this engine to answer right."""
    row = next(row for row in built.report["variants"] if row["engine"] == engine)
    with np.load(built.folders[row["evaluation"]] / "outputs.npz", allow_pickle=False) as outputs:
        return np.asarray(outputs["logits"].argmax(1) == outputs["labels"])


def plain_engine(built: Built, scratch: Path) -> Path:
    """The whole fp32 export as an engine in ONNX Runtime."""
    signature = built.plain.folder / "signature.json"
    return engine(built.plain.model, signature, built.onnxruntime, "fp32", scratch / "plain-engine")


def accuracy(reference: np.ndarray, candidate: np.ndarray) -> Result:
    """Points that `candidate` loses against `reference` on the same examples, and a 95 % upper limit of that."""
    drop = paired_drop(reference, candidate, ALPHA)
    return {
        "accuracy": round(float(candidate.mean()), 4),
        "drop_points": round(100 * drop.drop, 3),
        "drop_points_upper": round(100 * drop.upper, 3),
    }


def built_from(asked: argparse.Namespace, name: str, kind: str, changes: dict[str, Result], scratch: Path) -> Built:
    recipe = asked.recipe or ROOT / "recipes" / f"{name}.toml"
    return build(variation(recipe, asked.data, kind, changes), asked.store.resolve(), scratch)


def rounds(asked: argparse.Namespace, full: int) -> int:
    return full // 3 if asked.short else full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one epoch, small pictures, a third of the rounds")
    parser.add_argument("--text", action="store_true", help="MiniLM on sentences in place of images")
    parser.add_argument("--data", type=Path, help="labelled examples in place of the recipe's")
    parser.add_argument("--recipe", type=Path, help="in place of the fast ones; recipes/flowers.toml prunes nothing")
    parser.add_argument("--speedup", type=float, help="what pruning aims at, in place of the recipe's; above 1")
    parser.add_argument("--recovery-epochs", type=int, help="after each cut; 4 with --data, else the recipe's")
    parser.add_argument("--test-images", type=int, default=2000, help="at most so many, evenly taken")
    parser.add_argument("--store", type=Path, default=ROOT / ".tlcompile", help="where builds are kept")
    parser.add_argument("--peers", type=Path, default=ROOT / ".tlcompile" / "peers", help="their environments")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = (text if asked.text else images)(asked, Path(scratch))
    machine = {**environment(), "vnni": _cpu.isa() == "vnni", "load_1min": os.getloadavg()[0]}
    print(json.dumps({**result, "short": asked.short, "machine": machine}))


if __name__ == "__main__":
    main()
