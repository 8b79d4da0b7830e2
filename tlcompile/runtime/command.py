"""What a bundle's `predict.py` does: predictions as JSON lines on standard output, all else on standard error."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import tee
from pathlib import Path

from tlcompile.errors import TlcompileError
from tlcompile.package import manifest as manifests
from tlcompile.runtime.model import Model, load


def main(bundle: Path, arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 wrong usage, 3 an item can't be read, 4 the bundle is damaged or fails, 5 finalized and too
    slow, 130 interrupted.
    """
    try:
        kind = manifests.read(bundle).kind
        asked = _parser(kind).parse_args(arguments)
        if asked.finalize:
            return _finalize(bundle, asked.target, asked.memory_mib)
        if not asked.self_test and not asked.items:
            _parser(kind).error(f"expected {kind}s, --self-test or --finalize")
        if asked.self_test:
            return _self_test(bundle, asked.target)
        for line in predict_lines(bundle, asked.items, asked.target, asked.batch_size, asked.top):
            print(line)
        return 0
    except TlcompileError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser(kind: str) -> argparse.ArgumentParser:
    item = "paths of image files" if kind == "image" else "texts"
    parser = argparse.ArgumentParser(prog="predict.py", description=f"Answer for {kind}s; one JSON line each.")
    parser.add_argument("items", nargs="*", metavar=kind.upper(), help=f"{item}; '-' reads one a line from stdin")
    parser.add_argument("--target", default="", help="engine to run; else the first of the manifest that runs here")
    parser.add_argument("--top", type=_count, default=5, help="how many classes to print (5)")
    parser.add_argument("--batch-size", type=_count, default=8, help="items that run at a time (8)")
    parser.add_argument("--self-test", action="store_true", help="compare the engine with the stored golden outputs")
    parser.add_argument("--finalize", action="store_true", help="build on this device what waits for it, and prove it")
    parser.add_argument("--memory-mib", type=_count, help="what a build of --finalize may take; no limit if not given")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found '{text}'")
    return int(text)


def _items(given: Sequence[str]) -> Iterator[str]:
    for item in given:
        if item == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        else:
            yield item


def predict_lines(
    bundle: Path, items: Sequence[str], target: str = "", batch_size: int = 8, top: int = 5
) -> Iterator[str]:
    """One JSON object for each item, as soon as its batch is done; an item `-` stands for the lines of standard input.

    Notes on engines that were passed over go to standard error.
    """
    with load(bundle, target) as model:
        _say_notes(model)
        named, fed = tee(_items(items))
        for item, found in zip(named, model.stream(fed, batch_size, top), strict=True):
            yield json.dumps({"item": item, **asdict(found)}, ensure_ascii=False)


def _say_notes(model: Model) -> None:
    for note in model.notes:
        print(note, file=sys.stderr)


def _finalize(bundle: Path, target: str, memory_mib: int | None) -> int:
    from tlcompile.runtime.finalize import failed, finalize, in_words

    result = finalize(bundle, target=target, memory_mib=memory_mib)
    for line in in_words(result):
        print(line)
    return 5 if failed(result) else 0


def _self_test(bundle: Path, target: str) -> int:
    with load(bundle, target) as model:
        _say_notes(model)
        result = model.self_test()
    print(result)
    return 0 if result.ok else 4
