"""Other quantizers, each in a virtual environment of its own that is made here once and kept.

A peer is a script `_peer_<name>.py` that imports nothing of ours. The runtime libraries have the versions of this
environment, so that what a peer writes is read by the release that it was written for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

NEEDS = {
    "olive": ("olive-ai==0.13.0", "requests", f"onnxruntime=={version('onnxruntime')}"),
    "nncf": ("nncf==3.4.0", "onnx", f"onnxruntime=={version('onnxruntime')}", f"openvino=={version('openvino')}"),
}
_LAST_LINES = 5


class PeerFailed(Exception):
    """Why a peer made nothing, in a sentence."""


def python_of(name: str, root: Path) -> Path:
    """The Python of the peer's environment below `root`, made where it is not there or needs something else."""
    place, needs = root / name, list(NEEDS[name])
    python, ready = place / "bin" / "python", place / "ready.json"
    if ready.exists() and json.loads(ready.read_text()) == needs:
        return python
    shutil.rmtree(place, ignore_errors=True)
    print(f"{name}: installing {', '.join(needs)} into {place}", file=sys.stderr, flush=True)
    venv.create(place, with_pip=True)
    _run(name, [str(python), "-m", "pip", "install", "--quiet", *needs])
    ready.write_text(json.dumps(needs))
    return python


def quantize(name: str, python: Path, model: Path, calibration: Path, folder: Path) -> dict[str, Path]:
    """What the peer makes of the ONNX file `model` with the examples in the .npy file: way -> ONNX file or IR."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = Path(__file__).with_name(f"_peer_{name}.py")
    said = _run(name, [str(python), str(script), str(model), str(calibration), str(folder)])
    return {way: Path(path) for way, path in json.loads(said.splitlines()[-1]).items()}


def versions(name: str, python: Path) -> dict[str, str]:
    """Versions of what `NEEDS` names, as installed."""
    names = [need.partition("==")[0] for need in NEEDS[name]]
    code = "import json, sys; from importlib.metadata import version; print(json.dumps([*map(version, sys.argv[1:])]))"
    return dict(zip(names, json.loads(_run(name, [str(python), "-c", code, *names])), strict=True))


def _run(name: str, command: list[str]) -> str:
    """Standard output; PeerFailed with the last words where it ends otherwise than well."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise PeerFailed(f"{name} ended with exit code {done.returncode}: {last}")
    return done.stdout
