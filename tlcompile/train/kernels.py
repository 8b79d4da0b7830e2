"""Quicker CPU kernels than torch's for what small networks of depthwise convolutions and ReLU6 do in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tlcompile.train import clamped, depthwise, pointwise


class _Mode(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.conv2d and not given and len(args) == 7:  # as modules call it
            x, weight, _, stride, padding = args[:5]
            if depthwise.is_small(*args):
                return depthwise.conv2d(x, weight, stride, padding)
            if pointwise.is_small(*args):
                return pointwise.conv2d(x, weight)
        if func is functional.hardtanh and given.get("inplace") and len(args) == 1 and args[0].requires_grad:
            return clamped.hardtanh_in_place(args[0], given["min_val"], given["max_val"])
        return func(*args, **given)


@contextmanager
def quick_gradients() -> Iterator[None]:
    """Within it, gradients are those of torch: equal but for rounding, and sooner."""
    with _Mode():
        yield
