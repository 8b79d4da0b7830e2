"""Whether a network takes images of the size that a recipe asks for: found out by one run, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlcompile.errors import Problem, RecipeError, first_line

if TYPE_CHECKING:
    from torch import nn


def check_size(module: nn.Module, size: int, batch: int = 1, where: str = "model.image_size") -> None:
    """RecipeError where `module` can't turn float32 [batch, 3, size, size] into [batch, classes]."""
    import torch

    training = module.training
    try:
        with torch.inference_mode():
            shape = tuple(module.eval()(torch.zeros(batch, 3, size, size)).shape)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = first_line(error)[:200]
        what = f"the network can't run on {size} × {size} pixels: {reason}"
        raise RecipeError(Problem(where, what)) from error
    finally:
        module.train(training)
    if len(shape) != 2 or shape[0] != batch:
        what = f"expected logits [{batch}, classes] for {batch} images of {size} × {size} pixels, found {list(shape)}"
        raise RecipeError(Problem(where, what))
