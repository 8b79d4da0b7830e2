"""Structured pruning to a speedup that is measured on the target: a smaller dense network, trained to recover.

What goes: channels of convolutions, FFN units, attention heads and, where asked for, whole blocks. How much: found by
timing untrained cuts on the engine. Then cut and recover, in several steps where asked for, taught by the unpruned
network as well (`distill_alpha`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlcompile import progress, registry, tasks
from tlcompile.artifacts import write_json
from tlcompile.compress import Context
from tlcompile.compress._recover import RecoverOptions, recover, start_from, trainable
from tlcompile.errors import GateError, Problem, RecipeError
from tlcompile.options import Field
from tlcompile.recipe.train_table import TrainTable

if TYPE_CHECKING:
    from torch import Tensor

    from tlcompile.compress._axes import Axis
    from tlcompile.compress._importance import Loss
    from tlcompile.compress._search import Stopwatch
    from tlcompile.models._network import Network

PACKAGES = ("torch", "torch-pruning")
LINE = "pruned"
WHERE, DONE = "compress.prune", "done.json"


class Options(RecoverOptions):
    speedup: float = Field(2.0, gt=1, description="times faster at batch 1 than the network before, on `target`")
    target: str = Field("", description="engine that is timed, e.g. 'openvino/int8'; '' = the fastest of all")
    importance: Literal["taylor", "group_norm", "magnitude"] = "taylor"
    scope: Literal["global", "per-layer"] = Field("global", description="per-layer: every layer loses the same share")
    measured_costs: bool = Field(True, description="time what each resolution costs; false = count products and memory")
    round_to: int = Field(8, ge=1, description="channels stay in multiples of this")
    max_channel_sparsity: float = Field(
        0.75, gt=0, lt=1, description="largest share of its channels that a layer loses"
    )
    heads: bool = Field(True, description="attention heads may go")
    blocks: int = Field(0, ge=0, description="residual blocks or transformer layers that go whole, before any channel")
    steps: int = Field(1, ge=1, le=10, description="cut and recover this many times, equally much each time")


def apply(context: Context, options: Options, folder: Path) -> None:
    """Fill `folder` with the pruned Checkpoint and `prune.json`."""
    from tlcompile.compress._search import Stopwatch

    begin = time.monotonic()
    trainable(context, WHERE)  # refuses before anything is measured
    whole = context.restore()
    watch = Stopwatch(context.latency, context.work / "latency.json", options.target)
    before = watch(whole)
    work = _Work(context, options, watch, before, {})
    network, steps = whole, []
    for step in range(1, options.steps + 1):
        smaller, facts = work.cut(network, before / options.speedup ** (step / options.steps), first=step == 1)
        out = folder if step == options.steps else context.work / f"prune-{step}"
        work.recover(smaller, out, context.work / f"prune-{step}-work")
        network = _trained(smaller, out)
        steps.append(facts)
    after = watch(network)
    facts = {
        "engine": watch.engine,
        "ms_before": before,
        "ms_after": after,
        "speedup_asked": options.speedup,
        "speedup_reached": round(before / after, 3),
        "parameters": [_parameters(n) for n in (whole, network)],
        "steps": steps,
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_json(folder / "prune.json", facts)
    progress.say(f"  prune: {before:.2f} -> {after:.2f} ms on {watch.engine}, {before / after:.2f} times faster")


@dataclass
class _Work:
    """One run of the pass. `whole`: the sizes of the axes before any pruning.

    `rates`: what each resolution costs on the engine, measured before the first cut: of what is left after it, half
    saves so little that the noise of a busy machine is as large.
    """

    context: Context
    options: Options
    watch: Stopwatch
    before: float
    whole: dict[str, int]
    rates: dict[int, float] = field(default_factory=dict)

    def cut(self, network: Network, goal_ms: float, first: bool) -> tuple[Network, dict[str, Any]]:
        """(`network` cut so that it runs within `goal_ms`, what was done)."""
        from tlcompile.compress import _blocks, _choose, _cost, _importance, _search
        from tlcompile.compress._axes import axes as axes_of

        options = self.options
        gone: list[str] = []
        if first and options.blocks:
            network, gone = _blocks.without_blocks(network, options.blocks, self.loss(), self.examples(network))
        axes = axes_of(network, options.heads)
        self.whole = self.whole or {axis.name: axis.size for axis in axes}
        limits = _choose.Limits(options.round_to, options.max_channel_sparsity, self.whole)
        self.check(axes, limits)
        cost = _cost.measure(network, axes)
        if options.measured_costs and options.scope == "global":
            self.rates = self.rates or _search.rates(network, axes, cost, self.watch)
            cost = cost.with_rates(self.rates)
        scores = _importance.scores(options.importance, network, axes, self.loss(), self.examples(network))

        def structure(share: float) -> Mapping[str, Tensor]:
            return _choose.choose(axes, scores, cost, limits, share, options.scope)

        try:
            kept, curve = _search.search(
                goal_ms, structure, lambda kept: self.watch(_search.pruned(network, axes, kept))
            )
        except _search.Unreachable as error:
            best = error.best * self.before / self.watch(network)
            what = f"{options.speedup:g} can't be reached on {self.watch.engine}: the best is {best:.2f}"
            raise GateError(Problem(f"{WHERE}.speedup", what)) from error
        shapes = [cost.products(cost.shapes_at({name: len(rows) for name, rows in k.items()})) for k in ({}, kept)]
        channels = {axis.name: [axis.size, len(kept[axis.name])] for axis in axes}
        rates = {str(places): round(rate, 3) for places, rate in cost.rates.items()}
        facts = {"curve": curve, "products": shapes, "channels": channels, "blocks_gone": gone, "rates": rates}
        return _search.pruned(network, axes, kept, check=True), facts

    def check(self, axes: list[Axis], limits: Any) -> None:
        """RecipeError where no layer can lose anything."""
        if not axes:
            raise RecipeError(Problem(WHERE, "finds nothing to cut in this network: no channels, FFN units or heads"))
        if not any(limits.next(axis, axis.size) for axis in axes):
            widest = max(axis.size for axis in axes)
            what = f"{limits.round_to} would empty every layer: the widest has {widest} channels"
            raise RecipeError(Problem(f"{WHERE}.round_to", what))

    def recover(self, network: Network, out: Path, work: Path) -> None:
        """Train `network` into the Checkpoint folder `out`, unless that was done before a kill."""
        if (out / DONE).exists():
            return
        start = start_from(network, self.context.checkpoint.folder, work / "start")
        norms = {"freeze_norm": False}  # the statistics of the unpruned network fit this one no longer
        overrides = {"trainable": trainable(self.context, WHERE), **norms}
        recover(replace(self.context, work=work), self.options, f"{WHERE}.epochs", start, overrides, {}, out)
        if work.parent == out.parent:  # a step between, which a resumed build takes as it is
            write_json(out / DONE, {})

    def loss(self) -> Loss:
        """The recipe's loss, plain."""
        about = self.context.checkpoint.network
        table = TrainTable.model_validate(about["table"], context={"base": Path()})
        table = table.model_copy(update={"label_smoothing": 0.0, "class_weights": "none"})
        task = registry.load("tasks", about["task"])
        found: Loss = task.loss(tasks.loss_name(table, task), table, None)
        return found

    def examples(self, network: Network) -> Any:
        """The calibration examples, in batches."""
        from tlcompile.compress._importance import batches
        from tlcompile.data import open_split

        splits = self.context.splits
        return batches(network, open_split(splits, "train"), splits.info["calibration"])


def _trained(network: Network, folder: Path) -> Network:
    """`network` with the weights of the Checkpoint `folder`."""
    import copy

    from safetensors.torch import load_file

    module = copy.deepcopy(network.module)
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return replace(network, module=module.eval())


def _parameters(network: Network) -> int:
    return sum(p.numel() for p in network.module.parameters())
