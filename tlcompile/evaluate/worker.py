"""The child process that holds one engine: `python -m tlcompile.evaluate.worker ENGINE_FOLDER`.

One process for one engine, because the spinning thread pools of two runtimes in one process disturb each other. It
imports neither torch nor the compiler, only the engine's own runtime.

It speaks JSON lines: a command `{"command": name, ...}` on standard input is answered on standard output by
`{"ok": {...}}` or `{"error": {...}}`; the first line, unasked, says that the engine is loaded. Arrays go through .npz
files. What a runtime prints to standard output goes to standard error instead. A bug ends the process with a traceback.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from tlcompile.artifacts import Runner
from tlcompile.errors import TlcompileError

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed


class Session:
    """The opened engine, and the feeds that commands named so far."""

    def __init__(self, folder: Path) -> None:
        from tlcompile.compile import open_engine

        self.folder = folder
        start = time.perf_counter()
        self.runner: Runner = open_engine(folder)
        self.load_s = time.perf_counter() - start
        self._feeds: dict[str, Feed] = {}

    def feed(self, path: str) -> Feed:
        """The arrays in `path`, read once."""
        if path not in self._feeds:
            self._feeds[path] = read_arrays(Path(path))
        return self._feeds[path]


def read_arrays(path: Path) -> Feed:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write_arrays(path: Path, arrays: Feed) -> None:
    """Uncompressed: the file is read once, at once."""
    import numpy as np

    np.savez(path, allow_pickle=False, **arrays)


def info(session: Session) -> dict[str, Any]:
    """What `tlcompile.compile.describe` says, the seconds it took to load and the resident MiB now."""
    import psutil

    from tlcompile.compile import describe

    resident = psutil.Process().memory_info().rss / 2**20
    return {**describe(session.folder), "load_s": session.load_s, "rss_mib": resident}


def run(session: Session, feed: str, outputs: str) -> dict[str, Any]:
    """Answer the arrays of file `feed` with those of file `outputs`."""
    write_arrays(Path(outputs), session.runner.run(read_arrays(Path(feed))))
    return {}


def measure(session: Session, feed: str, warmup: int, runs: int) -> dict[str, Any]:
    """Seconds of each of `runs` calls, after `warmup` calls that are not counted."""
    arrays = session.feed(feed)
    call = session.runner.run
    for _ in range(warmup):
        call(arrays)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call(arrays)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def measure_each(session: Session, feeds: list[str], warmup: int) -> dict[str, Any]:
    """Seconds of one call on each of `feeds`, after `warmup` calls on the first; none is kept in memory."""
    seconds = []
    for index, path in enumerate(feeds):
        arrays = read_arrays(Path(path))
        for _ in range(warmup if index == 0 else 0):
            session.runner.run(arrays)
        start = time.perf_counter()
        session.runner.run(arrays)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def predict(session: Session, splits: str, split: str, batch_size: int, outputs: str) -> dict[str, Any]:
    """Scores of every example of a split into file `outputs`, see `accuracy.predict_split`."""
    from tlcompile.artifacts import Signature, read_json
    from tlcompile.data import Split
    from tlcompile.evaluate.accuracy import predict_split

    signature = Signature.from_json(read_json(session.folder / "signature.json"))
    examples = Split(Path(splits), split)
    write_arrays(Path(outputs), predict_split(session.runner, signature, session.folder, examples, batch_size))
    return {}


# A new command is a function (session, **arguments) -> JSON, and its name here.
COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "info": info,
    "predict": predict,
    "run": run,
    "time": measure,
    "time_each": measure_each,
}


def _commands() -> SimpleQueue[str]:
    """The lines of standard input. This process ends with its parent, even in the middle of a command."""
    queue: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        with open(0, encoding="utf-8", closefd=False) as stream:
            for line in stream:
                queue.put(line)
        os._exit(0)  # end of input: the parent closed it or is gone

    Thread(target=read, daemon=True).start()
    return queue


def _answer(work: Callable[[], dict[str, Any]]) -> str:
    """One line of answer; our own errors travel, with their class and all their problems."""
    try:
        return json.dumps({"ok": work()})
    except TlcompileError as error:
        problems = [asdict(problem) for problem in error.problems]
        return json.dumps({"error": {"class": type(error).__name__, "problems": problems}})


def main(folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    commands = _commands()
    opened: list[Session] = []

    def load() -> dict[str, Any]:
        opened.append(Session(folder))
        return info(opened[0])

    print(_answer(load), file=answers, flush=True)
    while opened:
        command = json.loads(commands.get())
        work = partial(COMMANDS[command.pop("command")], opened[0], **command)
        print(_answer(work), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
