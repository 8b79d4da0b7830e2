"""`[train]` and the tables below it: every key of fine-tuning, with its default. `docs/recipes.md` says what for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Strict, field_validator, model_validator

from tlcompile.options import Field, NameList, Options, RecipePath

Share = Annotated[float, Field(ge=0, lt=1)]
Pair = Annotated[tuple[Share, Share], Strict(False)]
Numbers = Annotated[tuple[float, ...], Strict(False)]


NOT_IN_KEY = ("workers", "cache_mib", "save_every_s", "trackers", "runs_dir")
"""Keys that make training quicker or watched, and its result no other."""
LATER = ("fill_masks",)
"""Keys of `[train.augment]` that came later: where they are off, what was trained before them is still found."""


class AugmentTable(Options):
    """`[train.augment]`: random views of training examples. Off by default: what is lawful depends on the data."""

    hflip: bool = Field(False, description="mirror half of the images")
    vflip: bool = Field(False, description="turn half of the images upside down")
    rotate_deg: float = Field(0.0, ge=0, le=180, description="rotate by up to this angle either way")
    crop_scale_min: float = Field(
        1.0, gt=0, le=1, description="random resized crop down to this share of the area; 1 = none"
    )
    shift_px: int = Field(0, ge=0, description="pad by this many pixels of training size and crop at random")
    color: float = Field(0.0, ge=0, le=1, description="strength of random brightness, contrast and saturation")
    policy: Literal["none", "randaugment", "trivialaugment"] = Field("none", description="a published policy of views")
    policy_magnitude: int = Field(9, ge=0, le=30, description="of randaugment")
    policy_operations: int = Field(2, ge=1, le=8, description="of randaugment, an image")
    erase: float = Field(0.0, ge=0, le=1, description="share of images that lose a random rectangle (cutout)")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup, e.g. 0.2; 0 = none")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix, e.g. 1.0; 0 = none")
    mask_tokens: Share = Field(0.0, description="share of a text's tokens replaced by the mask token")
    mask_entities: Share = Field(0.0, description="share of capitalised words and numbers replaced by the mask token")
    cut_span: Share = Field(0.0, description="share of a text's words left out, in one stretch")
    synonyms: Share = Field(0.0, description="share of a text's words replaced by a neighbour of their embedding")
    back_translation: RecipePath = Field(
        "", description="folder with two local translation models 'there' and 'back'; '' = none"
    )
    fill_masks: RecipePath = Field(
        "", description="folder with a local masked language model: its words stand where masks would; '' = masks stay"
    )

    @property
    def images_only(self) -> tuple[str, ...]:
        """Keys that are on and make sense for images alone."""
        keys = ("hflip", "vflip", "rotate_deg", "shift_px", "color", "erase", "mixup", "cutmix")
        found = [key for key in keys if getattr(self, key)]
        found += ["crop_scale_min"] if self.crop_scale_min < 1 else []
        found += ["policy"] if self.policy != "none" else []
        return tuple(found)

    @property
    def texts_only(self) -> tuple[str, ...]:
        keys = ("mask_tokens", "mask_entities", "cut_span", "synonyms", "back_translation", "fill_masks")
        return tuple(key for key in keys if getattr(self, key))


class LoraTable(Options):
    """`[train.lora]`: read where `trainable = "lora"`."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0, description="the update counts alpha / rank")
    dropout: Share = 0.0
    layers: NameList = Field((), description="names of linear or convolution layers; () = those of attention")


class TrainTable(Options):
    """`[train]`"""

    # what is trained
    trainable: str = Field(
        "all",
        description="'all', 'head' (on features computed once), 'last:N' blocks and the head, 'gradual' (one more "
        "block an epoch, from the head down), or 'lora'",
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="a block learns at this share of the rate of the next")
    head_lr_scale: float = Field(1.0, gt=0, description="the new head learns at lr times this")
    head_start: bool = Field(False, description="fit the head on frozen features first, then fine-tune everything")
    freeze_norm: bool = Field(False, description="batch norms keep the statistics that they were pretrained with")
    lora: LoraTable = LoraTable()

    # how long, how much at once
    epochs: int = Field(5, ge=1)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        32, description="examples a step; 'auto' = the largest power of two that fits into memory"
    )
    accumulate: int = Field(1, ge=1, description="batches whose gradients are summed into one step")
    image_size: int = Field(0, ge=0, description="pixels while training; 0 = as deployed")
    image_size_start: int = Field(
        0, ge=0, description="pixels in the first epoch, rising to image_size; 0 = image_size"
    )

    # loss
    loss: Literal["auto", "cross-entropy", "focal", "hinge", "bce", "mse", "huber", "kl", "cosine"] = Field(
        "auto", description="auto = the first of its task's"
    )
    label_smoothing: Share = 0.0
    class_weights: Literal["none", "balanced"] | Numbers = Field(
        "none", description="'balanced' = inverse to a class's count; or a number a class"
    )
    focal_gamma: float = Field(2.0, ge=0)
    huber_delta: float = Field(1.0, gt=0, description="in standard deviations of the target")

    # optimizer
    optimizer: Literal["adamw", "adam", "sgd", "lion", "muon", "schedulefree"] = "adamw"
    lr: Annotated[float, Field(gt=0)] | Literal["auto", "find"] = Field(
        "auto", description="peak rate; auto = 1e-3, for sgd 1e-2, for lion 1e-4; 'find' = range test"
    )
    betas: Pair | Literal["auto"] = Field(
        "auto", description="of all but sgd; auto = the optimizer's own: 0.9, 0.999 and for lion 0.9, 0.99"
    )
    eps: float = Field(1e-8, gt=0, description="of adamw, adam, schedulefree and the adamw in muon")
    momentum: Share | Literal["auto"] = Field(
        "auto", description="of sgd and muon; auto = the optimizer's own: 0.9 and for muon 0.95"
    )
    nesterov: bool = Field(True, description="of sgd and muon")
    weight_decay: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="not of biases and norms; auto = 0.05, for sgd and adam, where it is part of the gradient, 5e-4",
    )
    l1: float = Field(0.0, ge=0, description="times the sum of absolute weights, biases and norms left out")
    clip_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this L2 norm")

    # schedule
    schedule: Literal["auto", "cosine", "constant", "linear", "step", "one-cycle", "plateau"] = Field(
        "auto", description="auto: constant for texts of 3 epochs or fewer and for schedulefree, else cosine"
    )
    warmup_share: Share | Literal["auto"] = Field(
        "auto", description="share of all steps with rising learning rate; auto: 0.05, for one-cycle 0.3"
    )
    step_epochs: int = Field(2, ge=1, description="of step: epochs between two falls")
    step_factor: float = Field(0.1, gt=0, lt=1, description="of step and plateau: what the rate is multiplied by")
    plateau_patience: int = Field(1, ge=0, description="epochs without a better validation loss before a fall")

    # averages, choosing, stopping
    ema_decay: Share = Field(0.0, description="moving average of the weights is what is kept; 0 = none")
    average_last: int = Field(0, ge=0, description="mean of the weights after each of the last epochs (SWA); 0 = none")
    keep: Literal["last", "best", "soup"] = Field(
        "last", description="best = lowest validation loss; soup = the mean of epochs that a greedy choice on val picks"
    )
    early_stopping: int = Field(
        0, ge=0, description="epochs without a better validation loss before the end; 0 = never"
    )
    retrain_full: bool = Field(False, description="train on train + val; no validation number exists then")
    monitor_gradients: bool = Field(True, description="warn of layers whose gradients vanish or explode")

    # the machine
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, fp16 on another GPU, fp32 on a CPU"
    )
    tf32: bool = Field(True, description="NVIDIA GPUs since Ampere multiply fp32 with 10-bit mantissas")
    channels_last: bool = Field(True, description="memory layout of image networks")
    compile: bool = Field(False, description="torch.compile: quicker steps after a minute or two")
    fused: bool = Field(True, description="fused kernel where there is one: adamw, adam, sgd, the adamw in muon")
    gradient_checkpointing: bool = Field(False, description="less memory, about a third more time")
    processes: int = Field(1, ge=1, description="training processes on this machine, one a GPU; gloo on CPUs")
    workers: int = Field(0, ge=0, description="processes that decode images; 0 = in the training process")
    cache_mib: int = Field(
        2048, ge=0, description="decoded images are kept in a mapped file up to this size; 0 = never"
    )
    save_every_s: float = Field(60.0, gt=0, description="seconds between checkpoints within an epoch")
    trackers: NameList = Field(
        (), description="of tensorboard, mlflow, wandb, trackio; a local JSONL is always written"
    )
    runs_dir: str = Field("runs", description="folder of trackers that write files, from where the command is run")
    augment: AugmentTable = AugmentTable()

    def key(self) -> dict[str, Any]:
        """What decides the outcome, as plain values."""
        found = self.model_dump(mode="json", exclude=set(NOT_IN_KEY))
        augment = {name: value for name, value in found["augment"].items() if name not in LATER or value}
        return {**found, "augment": augment}

    @field_validator("trainable")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("all", "head", "gradual", "lora") and not re.fullmatch(r"last:[1-9]\d*", value):
            raise ValueError(f"expected 'all', 'head', 'last:N', 'gradual' or 'lora', found '{value}'")
        return value

    @field_validator("trackers")
    @classmethod
    def _trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = ("tensorboard", "mlflow", "wandb", "trackio")
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"expected names of {', '.join(known)}, found '{unknown[0]}'")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TrainTable:
        mistakes = list(_contradictions(self))
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


def _of_schedulefree(table: TrainTable) -> list[tuple[bool, str]]:
    """Schedule-Free is its own schedule and its own average, and has one count of steps for all parameters."""
    on = table.optimizer == "schedulefree"
    averages = bool(table.ema_decay or table.average_last or table.keep == "soup")
    return [
        (on and table.schedule not in ("auto", "constant"), f"schedulefree needs no schedule '{table.schedule}'"),
        (on and averages, "schedulefree averages the weights itself: no ema_decay, average_last or soup beside it"),
        (
            on and table.trainable == "gradual",
            "schedulefree can't take in parameters later, as gradual unfreezing does",
        ),
        (on and table.betas != "auto" and table.betas[0] == 0, "schedulefree needs a first beta above 0"),
    ]


def _contradictions(table: TrainTable) -> list[str]:
    """What two keys ask for that can't both be."""
    choosing = [k for k, on in (("early_stopping", table.early_stopping), ("keep", table.keep != "last")) if on]
    pairs = [
        (table.retrain_full and choosing, f"retrain_full leaves no validation set for {' and '.join(choosing)}"),
        (table.retrain_full and table.schedule == "plateau", "retrain_full leaves no validation set for plateau"),
        (table.average_last > table.epochs, f"average_last = {table.average_last} of {table.epochs} epochs"),
        (
            table.average_last and table.early_stopping,
            "average_last counts from the end of the run, which early_stopping moves",
        ),
        (
            table.schedule == "step" and table.step_epochs >= table.epochs,
            f"schedule 'step' falls first after step_epochs = {table.step_epochs}, the run has {table.epochs} epochs",
        ),
        (
            bool(table.ema_decay) + bool(table.average_last) + (table.keep == "soup") > 1,
            "one of ema_decay, average_last and keep = 'soup' can decide what is kept",
        ),
        (table.average_last and table.keep == "best", "average_last averages epochs, keep = 'best' takes one of them"),
        (
            table.schedule == "plateau" and table.plateau_patience + 2 >= table.epochs,
            f"schedule 'plateau' falls first after {table.plateau_patience + 2} epochs, the run has {table.epochs}",
        ),
        *_of_schedulefree(table),
        (table.optimizer == "muon" and table.trainable == "head", "muon moves matrices of the body, not the head"),
        (table.trainable == "head" and table.head_start, "trainable = 'head' already fits the head alone"),
        (table.trainable == "gradual" and table.epochs < 2, "gradual unfreezing needs 2 epochs or more"),
        (table.image_size_start > table.image_size > 0, "image_size_start is larger than image_size"),
    ]
    return [str(what) for wrong, what in pairs if wrong]
