"""Fine-tuning after a pass has changed weights, with the network before it as teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tlcompile.artifacts import Lesson, read_json, write_json
from tlcompile.compress import Context
from tlcompile.errors import Problem, RecipeError
from tlcompile.options import Field
from tlcompile.options import Options as Base

if TYPE_CHECKING:
    from tlcompile.models._network import Network


class RecoverOptions(Base):
    """What passes that fine-tune have in common."""

    epochs: int = Field(0, ge=0, description="of fine-tuning; 0 = as many as [train] has")
    lr: float = Field(0.0, ge=0, description="of fine-tuning; 0 = that of [train]")
    distill_alpha: float = Field(0.5, ge=0, lt=1, description="share of the answers of the network before in the loss")
    distill_temperature: float = Field(2.0, gt=0, description="of those answers")


def recover(
    context: Context,
    options: RecoverOptions,
    where: str,
    start: Path,
    overrides: Mapping[str, Any],
    dress: Mapping[str, Sequence[str]],
    folder: Path,
) -> None:
    """Train the Checkpoint `start` into `folder`. RecipeError where `epochs` or `lr` don't go with `[train]`."""
    changed = {"head_start": False, **overrides}
    changed |= {"epochs": options.epochs} if options.epochs else {}
    changed |= {"lr": options.lr} if options.lr else {}
    before, alpha = context.checkpoint.folder, options.distill_alpha
    teacher = Lesson(network=before, alpha=alpha, temperature=options.distill_temperature) if alpha else None
    try:
        context.train(start, changed, folder, context.work / "train", teacher, dress)
    except ValidationError as error:
        what = f"do not go with [train]: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        raise RecipeError(Problem(where, what)) from error


def start_from(network: Network, before: Path, place: Path) -> Path:
    """Write what training begins with into `place`: the tensors of `network`, described as in `before`."""
    from safetensors.torch import save_file

    place.mkdir(parents=True, exist_ok=True)
    state = network.module.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, place / "model.safetensors")
    write_json(place / "network.json", read_json(before / "network.json"))
    return place


def trainable(context: Context, where: str) -> str:
    """What is fine-tuned: as `[train]` says, all where that unfroze gradually. RecipeError where the body is frozen."""
    how = str(context.checkpoint.network["table"]["trainable"])
    if how in ("head", "lora"):
        what = f"changes the weights of the body, and train.trainable = '{how}' keeps them frozen"
        raise RecipeError(Problem(where, f"{what}; train 'all' or 'last:N', or leave this pass out"))
    return "all" if how == "gradual" else how
