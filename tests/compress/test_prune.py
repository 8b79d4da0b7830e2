from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, mse_loss

from tests.toy_training import job, run, splits_folder
from tests.train import nets
from tlcompile import train
from tlcompile.artifacts import Checkpoint, Lesson, Splits, read_json
from tlcompile.compress import Context, _axes, _blocks, _choose, _cost, _importance, _search, prune
from tlcompile.errors import GateError, RecipeError
from tlcompile.models import _restore
from tlcompile.models._network import Network

CAN_BE_CUT = [name for name in nets.EVERY if name not in ("gpt2", "test_nfnet")]


def one_batch(net: Network) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    inputs = nets.inputs(net)
    return [({str(i): x for i, x in enumerate(inputs)}, torch.arange(len(inputs[0])) % nets.CLASSES)]


def clock(net: Network) -> float:
    """A time that follows from the structure: the modelled cost of `net`."""
    cost = _cost.measure(net, [])
    return cost.total(cost.shapes) / 1e5


def chosen(net: Network, share: float, how: str = "magnitude", round_to: int = 4, **options: Any) -> dict[str, Any]:
    axes = _axes.axes(net)
    limits = _choose.Limits(round_to, options.get("most", 0.9), {})
    found = _importance.scores(how, net, axes, cross_entropy, one_batch(net))
    return _choose.choose(axes, found, _cost.measure(net, axes), limits, share, options.get("scope", "global"))


@pytest.mark.parametrize("name", CAN_BE_CUT)
def test_a_cut_network_answers_like_the_whole_with_silent_channels(name: str) -> None:
    net = nets.network(name)
    axes, kept = _axes.axes(net), chosen(net, 0.5)
    cut = _search.pruned(net, axes, kept)
    state = net.module.state_dict()
    net.module.load_state_dict(_axes.silenced(state, axes, kept))
    with torch.inference_mode():
        here, there = cut.module.eval()(*nets.inputs(net)), net.module.eval()(*nets.inputs(net))
    assert cut.module.state_dict().keys() == state.keys()
    assert any(len(rows) < axis.size for axis, rows in zip(axes, kept.values(), strict=True))
    assert torch.allclose(here, there, atol=1e-4, rtol=1e-4)


def test_a_network_whose_cut_is_not_understood_is_refused() -> None:
    net = nets.network("resnet18")
    [axis] = [a for a in _axes.axes(net) if a.name == "layer1.0.conv1"]
    wrong = _axes.Axis(axis.name, "channels", axis.size, tuple(m for m in axis.members if m.side != "reads"))
    with pytest.raises(Exception, match="can't be cut"):
        _search.pruned(net, [wrong], {axis.name: torch.arange(8)}, check=True)


@pytest.mark.parametrize("name", ["gpt2", "test_nfnet"])
def test_layers_of_unknown_kinds_are_left_alone(name: str) -> None:
    net = nets.network(name)
    axes = _axes.axes(net)
    kept = {axis.name: torch.arange(axis.size // 2) for axis in axes}
    _search.pruned(net, axes, kept, check=True)


def test_heads_go_whole_and_keep_their_size() -> None:
    net = nets.network("bert")
    axes = [axis for axis in _axes.axes(net) if axis.kind == "heads"]
    cut = _search.pruned(net, axes, {axis.name: torch.tensor([1]) for axis in axes}, check=True)
    attention = cut.module.get_submodule("model.bert.encoder.layer.0.attention.self")
    assert (attention.num_attention_heads, attention.attention_head_size, attention.query.out_features) == (1, 8, 8)
    assert not any(axis.kind == "heads" for axis in _axes.axes(net, heads=False))


@pytest.mark.parametrize("name", CAN_BE_CUT)
@pytest.mark.parametrize("scope", ["global", "per-layer"])
def test_no_layer_is_emptied_whatever_is_asked(name: str, scope: str) -> None:
    net = nets.network(name)
    for axis, kept in zip(_axes.axes(net), chosen(net, 1.0, round_to=8, scope=scope, most=0.99).values(), strict=True):
        assert len(kept) >= min(axis.size, 1 if axis.kind == "heads" else 8)
        assert axis.kind == "heads" or len(kept) == axis.size or len(kept) % 8 == 0


@cache
def resnet() -> tuple[Network, list[_axes.Axis], _cost.Cost, dict[str, torch.Tensor]]:
    net = nets.network("resnet18")
    axes = _axes.axes(net)
    return net, axes, _cost.measure(net, axes), _importance.scores("magnitude", net, axes, cross_entropy, [])


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.sampled_from([1, 4, 8, 16]), st.floats(0.1, 0.95), st.sampled_from(["global", "per-layer"]))
def test_a_larger_share_never_keeps_more(share: float, round_to: int, most: float, scope: str) -> None:
    _, axes, cost, found = resnet()
    limits = _choose.Limits(round_to, most, {})
    less, more = (_choose.choose(axes, found, cost, limits, s, scope) for s in (share, min(1.0, share + 0.2)))
    assert all(set(more[name].tolist()) <= set(less[name].tolist()) for name in less)
    assert all(len(more[a.name]) >= min(a.size, (1 - most) * a.size) for a in axes)


@pytest.mark.parametrize("how", ["magnitude", "group_norm", "taylor"])
def test_channels_that_do_nothing_go_first(how: str) -> None:
    net = nets.network("resnet18")
    axes = [axis for axis in _axes.axes(net) if axis.name == "layer2.0.conv1"]
    idle = [3, 17, 40, 99]
    with torch.no_grad():
        for member in axes[0].members:
            if member.side != "scales":
                net.module.get_parameter(member.tensor).index_fill_(member.dim, torch.tensor(idle), 0)
    found = _importance.scores(how, net, axes, cross_entropy, one_batch(net))[axes[0].name]
    assert found[idle].max() <= found.min() < found.max()
    assert set(idle) <= set(found.argsort(stable=True)[: int((found == 0).sum())].tolist())


def test_taylor_is_the_slope_of_the_loss_when_a_channel_fades() -> None:
    net = nets.network("mobilenet_v2")
    net.module.double().eval()
    torch.manual_seed(3)
    for norm in (m for m in net.module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias)  # so that what a channel makes and what is read of it fade unlike
    [(inputs, targets)] = one_batch(net)
    inputs = {name: x.double() for name, x in inputs.items()}
    axes = _axes_in_fp32("mobilenet_v2")
    found = _importance.taylor(net, axes, cross_entropy, [(inputs, targets)])
    for axis in axes[2:6]:
        faded = []
        for factor in (1 - 1e-5, 1 + 1e-5):
            state = {k: v.clone() for k, v in net.module.state_dict().items()}
            for member in axis.members:
                if member.side == "reads":
                    state[member.tensor].index_select(member.dim, member.places[5])
                    rows = state[member.tensor].movedim(member.dim, 0)
                    rows[member.places[5]] *= factor
            other = nets.network("mobilenet_v2").module.double().eval()
            other.load_state_dict(state)
            with torch.inference_mode():
                faded.append(float(cross_entropy(other(*inputs.values()), targets)))
        assert float(found[axis.name][5]) ** 0.5 == pytest.approx(abs(faded[1] - faded[0]) / 2e-5, rel=1e-3, abs=1e-9)


def _axes_in_fp32(name: str) -> list[_axes.Axis]:
    return _axes.axes(nets.network(name))


def test_of_equally_important_channels_the_dear_ones_go_first() -> None:
    net = nets.network("resnet18")
    axes = [axis for axis in _axes.axes(net) if "layer2" in axis.name]
    even = {axis.name: torch.ones(axis.size, dtype=torch.float64) for axis in axes}
    cost = _cost.measure(net, axes)
    shapes = cost.shapes_at({})
    price = {axis.name: cost.saved(shapes, axis, 8) / 8 for axis in axes}
    dearest = max(price, key=lambda name: price[name])
    assert dearest != min(price)  # of equal prices the first by name would go
    kept = _choose.choose(axes, even, cost, _choose.Limits(8, 0.9, {}), 0.005, "global")
    assert [axis.name for axis in axes if len(kept[axis.name]) < axis.size] == [dearest]


def test_the_modelled_cost_of_a_cut_is_that_of_the_cut_network() -> None:
    net = nets.network("densenet")
    axes, kept = _axes.axes(net), chosen(net, 0.4)
    cost = _cost.measure(net, axes)
    after = _cost.measure(_search.pruned(net, axes, kept), axes)
    shapes = cost.shapes_at({name: len(rows) for name, rows in kept.items()})
    assert {name: tuple(shape) for name, shape in shapes.items()} == after.shapes
    assert cost.products(shapes) == after.products(after.shapes)


def test_a_resolution_that_takes_three_times_its_share_is_rated_so(tmp_path: Path) -> None:
    net = nets.network("resnet18")
    axes = _axes.axes(net)
    cost = _cost.measure(net, axes)
    slow = max(cost.resolution(axis) for axis in axes)

    def latency(n: Network, only: str) -> dict[str, float]:
        now = _cost.measure(n, [])
        return {"a/fp32": now.with_rates({slow: 3.0}).total(now.shapes)}

    found = _search.rates(net, axes, cost, _search.Stopwatch(latency, tmp_path / "latency.json"))
    assert set(found) == {cost.resolution(axis) for axis in axes}
    assert 2 < found.pop(slow) / max(found.values()) < 3.5


def test_what_is_too_small_to_be_timed_is_not_and_one_resolution_alone_needs_no_rate(tmp_path: Path) -> None:
    net = nets.network("bert")
    axes = _axes.axes(net)
    cost = _cost.measure(net, axes)
    assert len({cost.resolution(axis) for axis in axes}) == 2, "the tokens, and the pooler once"

    def latency(n: Network, only: str) -> dict[str, float]:
        raise AssertionError

    assert _search.rates(net, axes, cost, _search.Stopwatch(latency, tmp_path / "latency.json")) == {}


def test_the_search_ends_close_to_the_goal_and_measures_each_structure_once(tmp_path: Path) -> None:
    net = nets.network("resnet18")
    axes = _axes.axes(net)
    timed: list[float] = []
    asked: list[str] = []

    def latency(n: Network, only: str) -> dict[str, float]:
        timed.append(clock(n))
        asked.append(only)
        return {"a/fp32": 3 * timed[-1], "a/int8": timed[-1]}

    def structure(share: float) -> dict[str, torch.Tensor]:
        return chosen(net, share)

    def once() -> tuple[Any, Any, str]:
        watch = _search.Stopwatch(latency, tmp_path / "latency.json")
        goal = watch(net) / 2
        return *_search.search(goal, structure, lambda kept: watch(_search.pruned(net, axes, kept))), watch.engine

    kept, curve, engine = once()
    assert engine == "a/int8"
    assert 2 <= clock(net) / clock(_search.pruned(net, axes, kept)) < 2.2
    assert len(curve) <= _search.TRIES + 2
    assert asked == ["", *["a/int8"] * (len(asked) - 1)], "the fastest of all at first, then that one alone"
    before = len(timed)
    again, same, _ = once()
    assert (len(timed), same) == (before, curve)
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_an_engine_that_does_not_run_here_is_named_with_the_nearest(tmp_path: Path) -> None:
    watch = _search.Stopwatch(lambda net, only: {"openvino/int8": 1.0}, tmp_path / "latency.json", "openvino/int4")
    with pytest.raises(RecipeError, match=r"compress.prune.target: no engine 'openvino/int4'.*mean 'openvino/int8'"):
        watch(resnet()[0])


def test_blocks_go_where_they_are_missed_least() -> None:
    net = nets.network("resnet18")
    before = set(_blocks.candidates(net))
    assert before == {"layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"}
    with torch.no_grad():  # this one adds nothing
        net.module.get_parameter("layer3.1.bn2.weight").zero_()
        net.module.get_parameter("layer3.1.bn2.bias").zero_()
    batches = one_batch(net)
    with torch.inference_mode():
        same = net.module.eval()(*batches[0][0].values())
    smaller, gone = _blocks.without_blocks(net, 1, lambda y, t: mse_loss(y, same), batches)
    assert gone == ["layer3.1"]
    assert set(_blocks.candidates(smaller)) == before - set(gone)
    assert not any(key.startswith(f"{gone[0]}.") for key in smaller.module.state_dict())
    with pytest.raises(RecipeError, match=r"compress\.prune\.blocks: 9 can't go: only 4"):
        _blocks.without_blocks(net, 9, cross_entropy, one_batch(net))


@dataclass
class World:
    """A trained Checkpoint and what the pass may ask of it."""

    splits: Path
    folder: Path
    work: Path
    timed: list[float] = field(default_factory=list)
    lessons: list[Lesson | None] = field(default_factory=list)
    killed_at: int = 0

    @property
    def context(self) -> Context:
        trained = job(self.splits)

        def restore() -> Network:
            return _restore.restore(self.folder, trained.model.module, trained.model.options)

        def again(
            start: Path, overrides: Any, folder: Path, work: Path, teacher: Lesson | None = None, dress: Any = None
        ) -> None:
            for place in (folder, work):
                place.mkdir(parents=True, exist_ok=True)
            self.lessons.append(teacher)
            if len(self.lessons) == self.killed_at:
                raise KeyboardInterrupt
            table = trained.table.model_validate({**trained.table.model_dump(), **overrides})
            train.run(replace(trained, table=table, start=start, teacher=teacher), folder, work)

        def latency(net: Network, only: str) -> dict[str, float]:
            self.timed.append(clock(net))
            return {"here/fp32": self.timed[-1]}

        return Context(Checkpoint(self.folder, ""), Splits(self.splits, ""), restore, again, latency, self.work)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("prune")
    splits = splits_folder(root)
    return splits, run(job(splits, epochs=2), root)


@pytest.fixture
def world(trained: tuple[Path, Path], tmp_path: Path) -> World:
    (tmp_path / "work").mkdir()
    return World(*trained, tmp_path / "work")


def options(**values: Any) -> prune.Options:
    return prune.Options(**{"speedup": 1.5, "epochs": 1, "round_to": 4, **values})


def test_the_pruned_checkpoint_is_smaller_fast_enough_and_comes_back(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rated, rates_of = tmp_path / "out", [], _search.rates
    folder.mkdir()
    monkeypatch.setattr(_search, "rates", lambda *given: rated.append(rates_of(*given)) or rated[0])
    prune.apply(world.context, options(steps=2), folder)
    facts = read_json(folder / "prune.json")
    assert facts["speedup_reached"] >= 1.5
    assert facts["parameters"][1] < facts["parameters"][0]
    assert [len(step["curve"]) > 2 for step in facts["steps"]] == [True, True]
    assert len(rated) == 1, "before the first cut: later half the width saves less than the noise"
    assert [len(step["rates"]) for step in facts["steps"]] == [len(rated[0])] * 2
    assert rated[0]
    model = job(world.splits).model
    network = _restore.restore(folder, model.module, model.options)
    assert clock(network) == facts["ms_after"]
    assert network.module.classifier.out_features == 2
    assert [lesson.network for lesson in world.lessons if lesson] == [world.folder] * 2
    assert {p.name for p in folder.iterdir()} >= {"network.json", "applied.json", "history.json", "reference.npz"}


def test_a_killed_pass_measures_and_trains_only_what_was_left(world: World, tmp_path: Path) -> None:
    whole, folder = World(world.splits, world.folder, tmp_path / "whole-work"), tmp_path / "out"
    for place in (whole.work, tmp_path / "whole", folder):
        place.mkdir()
    prune.apply(whole.context, options(steps=2, distill_alpha=0.0), tmp_path / "whole")
    world.killed_at = 2
    with pytest.raises(KeyboardInterrupt):
        prune.apply(world.context, options(steps=2, distill_alpha=0.0), folder)
    prune.apply(world.context, options(steps=2, distill_alpha=0.0), folder)
    assert world.timed == whole.timed
    assert (len(world.lessons), len(whole.lessons)) == (3, 2)
    facts = [read_json(place / "prune.json") for place in (folder, tmp_path / "whole")]
    assert {k: v for k, v in facts[0].items() if k != "seconds"} == {
        k: v for k, v in facts[1].items() if k != "seconds"
    }
    a, b = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_speedup_out_of_reach_ends_with_the_best_that_is_not(world: World, tmp_path: Path) -> None:
    with pytest.raises(
        GateError, match=r"compress.prune.speedup: 1000 can't be reached on here/fp32: the best is \d"
    ) as e:
        prune.apply(world.context, options(speedup=1000.0), tmp_path)
    assert e.value.exit_code == 5
    assert not world.lessons


def test_rounding_that_would_empty_every_layer_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"compress.prune.round_to: 4096 would empty every layer: the widest has \d+"):
        prune.apply(world.context, options(round_to=4096), tmp_path)
    with pytest.raises(ValueError, match="less than 1"):
        prune.Options(max_channel_sparsity=1.0)


def test_recovery_that_does_not_go_with_the_recipe_is_told(world: World, tmp_path: Path) -> None:
    base = world.context
    table = job(world.splits, epochs=3, average_last=3).table

    def again(start: Path, overrides: Any, *others: Any) -> None:
        table.model_validate({**table.model_dump(), **overrides})

    context = Context(base.checkpoint, base.splits, base.restore, again, base.latency, base.work)
    with pytest.raises(RecipeError, match=r"compress.prune.epochs: do not go with \[train\].*average_last = 3 of 1"):
        prune.apply(context, options(), tmp_path)
