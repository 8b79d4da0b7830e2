"""A network of fixed shapes -> `model.tflite`: python -m converter._to_litert NETWORK TARGET, see `litert`."""

from __future__ import annotations

import sys
from pathlib import Path


def main(network: Path, target: Path) -> None:
    import litert_torch

    from ._to_torch import example, module

    litert_torch.convert(module(network), example(network)).export(str(target))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
