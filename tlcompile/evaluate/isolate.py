"""An engine in a process of its own, used as if it were here.

    with EngineProcess(folder) as engine:
        outputs = engine.run(feed)

The engine's errors come back as they are. A crash of a runtime ends the child only, and becomes an error that says how
it ended and what it said last.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tlcompile import errors
from tlcompile.errors import Problem, TlcompileError
from tlcompile.evaluate.worker import read_arrays, write_arrays

if TYPE_CHECKING:
    from tlcompile.artifacts import Feed

_LAST_LINES = 8


class EngineProcess:
    """A context manager around the child that holds the engine in `folder`. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> EngineProcess:
        self._scratch = tempfile.TemporaryDirectory(prefix="tlcompile-")
        self._files = Path(self._scratch.name)
        self._said = self._files / "stderr"
        with self._said.open("wb") as said:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tlcompile.evaluate.worker", str(self.folder.resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                encoding="utf-8",
            )
        try:
            self.loaded = self._read()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()  # it holds nothing that must be saved
        self._child.communicate()
        self._scratch.cleanup()

    @property
    def pid(self) -> int:
        return self._child.pid

    def run(self, feed: Feed) -> Feed:
        """What the engine answers."""
        outputs = self._files / "outputs.npz"
        asked = self._files / "feed.npz"
        write_arrays(asked, feed)
        self.command("run", feed=str(asked), outputs=str(outputs))
        return read_arrays(outputs)

    def time(self, feed: Feed | Path, warmup: int, runs: int) -> list[float]:
        """Seconds of each of `runs` calls after `warmup` calls. A feed that `keep` wrote is sent once only."""
        path = feed if isinstance(feed, Path) else self.keep(feed)
        seconds: list[float] = self.command("time", feed=str(path), warmup=warmup, runs=runs)["seconds"]
        return seconds

    def time_each(self, feeds: list[Path], warmup: int) -> list[float]:
        """Seconds of one call on each of `feeds`, which `keep` wrote, after `warmup` calls on the first."""
        seconds: list[float] = self.command("time_each", feeds=[str(f) for f in feeds], warmup=warmup)["seconds"]
        return seconds

    def info(self) -> dict[str, Any]:
        """`backend`, `threads`, `device`, `load_s` and `rss_mib`, resident memory now."""
        return self.command("info")

    def keep(self, feed: Feed) -> Path:
        """Write `feed` into a new file that the child reads once and remembers, until this process ends."""
        path = self._files / f"kept-{len(list(self._files.glob('kept-*')))}.npz"
        write_arrays(path, feed)
        return path

    def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Any command of the worker."""
        assert self._child.stdin is not None
        try:
            print(json.dumps({"command": name, **arguments}), file=self._child.stdin, flush=True)
        except OSError:
            raise self._crash() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._crash()
        answer: dict[str, Any] = json.loads(line)
        if "ok" in answer:
            ok: dict[str, Any] = answer["ok"]
            return ok
        raise getattr(errors, answer["error"]["class"])(*(Problem(**p) for p in answer["error"]["problems"]))

    def _crash(self) -> TlcompileError:
        """How the child ended, and the last that it said."""
        code = self._child.wait()
        how = f"was ended by signal {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        lines = self._said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:]
        said = "; its last words:\n" + "\n".join(lines) if lines else " without a word"
        return TlcompileError(Problem(str(self.folder), f"the process of this engine {how}{said}"))


def _signal(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return str(number)
