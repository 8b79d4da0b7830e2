"""A trained network out of its Checkpoint folder. Knows no training, so that the export can use it too."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from tlcompile.artifacts import read_json
from tlcompile.models._network import Network


def restore(folder: Path, library: ModuleType, options: Any) -> Network:
    """The network in eval mode with the tensors of `folder`, in the shapes that they have."""
    from safetensors.torch import load_file

    from tlcompile.models import _structure

    outputs = len(read_json(folder / "network.json")["classes"]) or 1  # a number has no classes
    network: Network = library.build(options, outputs, pretrained=False)
    state = load_file(folder / "model.safetensors")
    _structure.adopt(network.module, state)
    network.module.load_state_dict(state)
    network.module.eval()
    return network
