"""Watching a training run: gradients that vanish or explode, and what is left to see after a NaN.

What is compared is the gradient's norm over the weights' norm, layer by layer: the share of a layer that a step of rate
1 would change. Vanishing and exploding are growth or decay on the way back from the output (Bengio, Simard & Frasconi
1994; Glorot & Bengio 2010, section 4), so the layer nearest the output is the yardstick.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tlcompile.artifacts import write_json

VANISHED = 2**-24  # of the ratio at the output. Networks that learn go down to 1e-7, behind norms that start at zero
EXPLODED = 1e4  # times the ratio at the output, where the gradient is also larger than the weights
HUGE = 1e3  # gradient over weights, wherever it is
SMALL_WEIGHT = 1e-3  # root mean square; layers that start at zero count as having weights of this size
LOOKS, ENOUGH = 20, 3  # how many looks back count, and from how many on there is something to say


class Gradients:
    """`look` after the backward pass, gradients unscaled and not yet clipped; every `every`-th call looks.

    A look reads each gradient and weight once and moves nothing off the device.
    """

    def __init__(self, module: nn.Module, every: int = 10) -> None:
        self.module, self.every, self.calls = module, every, 0
        self.seen: dict[str, deque[Tensor]] = {}

    @torch.no_grad()
    def look(self) -> None:
        self.calls += 1
        if (self.calls - 1) % self.every:
            return
        for name, weight in self.module.named_parameters():
            if weight.ndim > 1 and weight.grad is not None:
                floor = SMALL_WEIGHT * math.sqrt(weight.numel())
                ratio = weight.grad.norm() / weight.norm().clamp(min=floor)
                self.seen.setdefault(name, deque(maxlen=LOOKS)).append(ratio)

    def ratios(self) -> dict[str, float]:
        """Layer -> median of gradient norm / weight norm in the last looks, from input to output."""
        names = [name for name, _ in self.module.named_parameters() if len(self.seen.get(name, ())) >= ENOUGH]
        return {name.removesuffix(".weight"): float(torch.stack(list(self.seen[name])).median()) for name in names}

    def warnings(self) -> list[str]:
        """One sentence for vanishing and one for exploding gradients, naming the layer where it is worst."""
        ratios = self.ratios()
        output = next(reversed(ratios), "")
        yardstick = ratios.get(output, 0.0)
        vanished = {n: r for n, r in ratios.items() if r < VANISHED * yardstick}
        exploded = {n: r for n, r in ratios.items() if r > min(HUGE, max(1.0, EXPLODED * yardstick))}
        found = []
        if vanished:
            found.append(_sentence("vanish", min(vanished, key=vanished.__getitem__), vanished, output, yardstick))
        if exploded:
            found.append(_sentence("explode", max(exploded, key=exploded.__getitem__), exploded, output, yardstick))
        return found


def _sentence(what: str, layer: str, layers: dict[str, float], output: str, yardstick: float) -> str:
    share = layers[layer]
    text = f"the gradients of '{layer}' {what}: their norm is {share:.1e} of the weights' norm"
    if yardstick and layer != output:
        text += f", {share / yardstick:.1e} times as much as at the output, '{output}'"
    return text + (f"; so do those of {len(layers) - 1} more layers" if len(layers) > 1 else "")


def first_bad_layer(module: nn.Module, inputs: dict[str, Tensor]) -> str:
    """Where the first NaN or infinity arises when `inputs` run through `module`; '' where everything is finite.

    The innermost layer with a non-finite output is named, in the order of execution, or an input that is not finite.
    The module stays in its mode, and its buffers keep their values.
    """
    for name, value in inputs.items():
        if not _finite(value):
            return f"input '{name}'"
    found: list[str] = []

    def check(name: str, layer: nn.Module, output: Any) -> None:
        if not found and not all(_finite(tensor) for tensor in _tensors(output)):
            damaged = not all(_finite(p) for p in layer.parameters())
            found.append(f"'{name}'" + (", whose weights are not finite" if damaged else ""))

    hooks = [
        layer.register_forward_hook(lambda m, _, out, name=name: check(name or type(m).__name__, m, out))
        for name, layer in module.named_modules()
    ]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.no_grad():
            module(*inputs.values())
            for buffer, before in buffers:
                buffer.copy_(before)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an output: a tensor, or tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def save_bad_batch(folder: Path, inputs: dict[str, Tensor], targets: Tensor, facts: dict[str, Any]) -> Path:
    """`bad_batch.safetensors` (the inputs by name, and `targets`) and beside it `bad_batch.json` with `facts`.

    Returns the path of the former. Numbers in `facts` that JSON does not know (NaN, infinity) are written as text.
    """
    path = folder / "bad_batch.safetensors"
    tensors = {name: value.detach().cpu().contiguous() for name, value in {**inputs, "targets": targets}.items()}
    save_file(tensors, path)
    finite = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
    write_json(path.with_suffix(".json"), finite)
    return path
