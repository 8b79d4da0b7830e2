"""Groups hold the parameters they should, and each optimizer does what its paper or library says."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from schedulefree import AdamWScheduleFree
from timm import create_model
from torch import nn

from tests.tiny import bert
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import optim
from tlcompile.train.lion import Lion
from tlcompile.train.muon import MuonAdamW
from tlcompile.train.schedules import Schedule

ALL = ("adamw", "adam", "sgd", "lion", "muon", "schedulefree")
RATES = {"adamw": 3e-2, "adam": 3e-2, "sgd": 1e-1, "lion": 3e-3, "muon": 3e-2, "schedulefree": 3e-2}


def network() -> nn.Module:
    """Convolution, batch norm, depthwise convolution, linear head; float32 [N, 3, 8, 8] -> [N, 2]."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
    )
    return nn.Sequential(OrderedDict(body=body, flat=nn.Flatten(), head=nn.Linear(8, 2)))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """16 pictures of two classes that differ in brightness."""
    generator, labels = torch.Generator().manual_seed(seed), torch.arange(16) % 2
    return torch.randn(16, 3, 8, 8, generator=generator) + labels[:, None, None, None], labels


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> list[float]:
    """One step for each seed; the losses."""
    losses = []
    for seed in seeds:
        pixels, labels = batch(seed)
        loss = nn.functional.cross_entropy(module(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def on_cpu() -> Accelerator:
    """Leaves modules and optimizers where they are, on machines with a GPU too; no precision of an earlier training."""
    AcceleratorState._reset_state()
    gpu = torch.cuda.is_available()
    return Accelerator(cpu=not gpu, device_placement=not gpu)


def names(module: nn.Module, groups: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Group -> names of its parameters."""
    of = {parameter: name for name, parameter in module.named_parameters()}
    return {g["name"]: {of[p] for p in g["params"]} for g in groups}


def test_biases_and_norms_are_not_decayed_and_the_head_has_its_own_rate() -> None:
    module = nn.ModuleDict({"body": nn.Linear(3, 4), "norm": nn.LayerNorm([2, 4]), "head": nn.Linear(4, 2)})
    table = TrainTable(lr=1e-3, weight_decay=0.1)
    rates = {"head.weight": 10.0, "head.bias": 10.0}
    groups = {g["name"]: g for g in optim.groups(module, ("head",), table, rates)}
    assert {n: (g["lr"], g["weight_decay"], len(g["params"])) for n, g in groups.items()} == {
        "body_decay": (1e-3, 0.1, 1),
        "body_no_decay": (1e-3, 0.0, 3),
        "head_decay_x10": (1e-2, 0.1, 1),
        "head_no_decay_x10": (1e-2, 0.0, 1),
    }


def test_each_factor_of_the_rate_has_its_groups() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    rates = {"0.weight": 0.25, "0.bias": 0.25, "1.weight": 0.5, "1.bias": 0.5}
    groups = optim.groups(module, ("2",), TrainTable(lr=1e-2), rates)
    rate_of = {name: g["lr"] for g in groups for name in names(module, [g])[g["name"]]}
    assert rate_of == {
        "0.weight": 2.5e-3,
        "0.bias": 2.5e-3,
        "1.weight": 5e-3,
        "1.bias": 5e-3,
        "2.weight": 1e-2,
        "2.bias": 1e-2,
    }


def test_frozen_parameters_are_in_no_group_unless_they_are_unfrozen_later() -> None:
    module = network()
    module.body.requires_grad_(False)
    now = names(module, optim.groups(module, ("head",), TrainTable(), {}))
    assert now == {"head_decay": {"head.weight"}, "head_no_decay": {"head.bias"}}
    later = names(module, optim.groups(module, ("head",), TrainTable(trainable="gradual"), {}))
    assert set().union(*later.values()) == {name for name, _ in module.named_parameters()}


def test_the_scale_of_a_layer_is_a_vector_and_does_not_decay() -> None:
    module = create_model("test_convnext", num_classes=2)
    groups = names(module, optim.groups(module, ("head.fc",), TrainTable(), {}))
    assert "stages.0.blocks.0.gamma" in groups["body_no_decay"]


def test_what_a_vit_excludes_is_not_decayed() -> None:
    module = create_model("test_vit", num_classes=2)
    groups = names(module, optim.groups(module, ("head",), TrainTable(), {}))
    assert {"pos_embed", "cls_token"} <= groups["body_no_decay"]
    assert "blocks.0.attn.qkv.weight" in groups["body_decay"]


def test_the_output_of_a_regression_is_a_matrix_of_one_row_and_decays() -> None:
    module = nn.Sequential(nn.Linear(3, 1))
    assert names(module, optim.groups(module, ("0",), TrainTable(), {}))["head_decay"] == {"0.weight"}


def test_muon_takes_the_matrices_of_the_body_and_nothing_else(tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    table = TrainTable(optimizer="muon")
    found = names(module := network(), optim.groups(module, ("head",), table, {}))
    assert found["body_decay_matrices"] == {"body.0.weight"}
    assert found["body_decay"] == {"body.3.weight"}, "a depthwise convolution is no linear map of channels"
    module = BertForSequenceClassification.from_pretrained(bert(tmp_path))
    found = names(module, optim.groups(module, ("classifier",), table, {}))
    assert "bert.encoder.layer.0.attention.self.query.weight" in found["body_decay_matrices"]
    assert "bert.embeddings.word_embeddings.weight" in found["body_decay"]
    assert found["head_decay"] == {"classifier.weight"}


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_learns_and_has_the_values_of_the_recipe(name: str) -> None:
    module = network()
    table = TrainTable(optimizer=name, lr=RATES[name], weight_decay=1e-3)
    optimizer = optim.optimizer(module, ("head",), table, {"head.weight": 0.5})
    assert {
        g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups if g["name"].startswith("head")
    } == {
        "head_decay_x0.5": (RATES[name] / 2, 1e-3),
        "head_no_decay": (RATES[name], 0.0),
    }
    losses = steps(module, optimizer, range(30))
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.parametrize("name", ALL)
def test_a_state_that_was_saved_goes_on_bit_for_bit(name: str) -> None:
    table = TrainTable(optimizer=name, lr=RATES[name])
    whole, again = network(), network()
    first = optim.optimizer(whole, ("head",), table, {})
    steps(whole, first, range(3))
    kept = io.BytesIO()
    torch.save((whole.state_dict(), first.state_dict()), kept)
    steps(whole, first, range(3, 6))
    second = optim.optimizer(again, ("head",), table, {})
    kept.seek(0)
    weights, state = torch.load(kept, weights_only=True)
    again.load_state_dict(weights)
    second.load_state_dict(state)
    steps(again, second, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize("name", ALL)
def test_it_works_through_accelerate_with_a_schedule(name: str) -> None:
    table = TrainTable(optimizer=name, lr=RATES[name], schedule="constant", warmup_share=0.5)
    plain, wrapped = network(), network()
    results = []
    for module, prepare in ((plain, False), (wrapped, True)):
        optimizer = optim.optimizer(module, ("head",), table, {})
        schedule = Schedule(optimizer, table, 8, 1)
        if prepare:
            module, optimizer = on_cpu().prepare(module, optimizer)
        for seed in range(8):
            steps(module, optimizer, range(seed, seed + 1))
            schedule.step()
        results.append(module.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert not torch.equal(results[0]["head.weight"], network().state_dict()["head.weight"])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_a_fused_kernel_gives_the_same_numbers(name: str) -> None:
    ends = []
    for fused in (False, True):
        module = network()
        table = TrainTable(optimizer=name, lr=RATES[name], fused=fused)
        optimizer = optim.optimizer(module, ("head",), table, {})
        assert any(g.get("fused") is True for g in optimizer.param_groups) == fused
        steps(module, optimizer, range(5))
        ends.append(module.state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-4, atol=1e-5)


def test_the_optimizers_own_betas_and_momentum_hold_where_the_recipe_says_nothing() -> None:
    def own(name: str) -> dict[str, Any]:
        return optim.optimizer(network(), ("head",), TrainTable(optimizer=name), {}).param_groups[0]

    assert own("adamw")["betas"] == own("adam")["betas"] == own("schedulefree")["betas"] == (0.9, 0.999)
    assert own("lion")["betas"] == (0.9, 0.99)
    assert (own("sgd")["momentum"], own("sgd")["nesterov"]) == (0.9, True)
    assert (own("muon")["momentum"], own("muon")["matrices"]) == (0.95, True)


def test_rate_and_decay_suit_the_optimizer_where_the_recipe_says_nothing() -> None:
    def own(name: str) -> tuple[float, float]:
        group = optim.optimizer(network(), ("head",), TrainTable(optimizer=name), {}).param_groups[0]
        return group["lr"], group["weight_decay"]

    assert own("adamw") == own("muon") == own("schedulefree") == (1e-3, 0.05)
    assert own("adam") == (1e-3, 5e-4)
    assert own("sgd") == (1e-2, 5e-4)
    assert own("lion") == (1e-4, 0.05)


def test_betas_eps_and_momentum_of_the_recipe_arrive() -> None:
    module = network()
    adam = TrainTable(optimizer="adam", betas=(0.8, 0.95), eps=1e-6)
    for group in optim.optimizer(module, ("head",), adam, {}).param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)
    plain = optim.optimizer(module, ("head",), TrainTable(optimizer="sgd", momentum=0.0), {})
    assert {(g["momentum"], g["nesterov"]) for g in plain.param_groups} == {(0.0, False)}
    muon = TrainTable(optimizer="muon", momentum=0.8, nesterov=False, betas=(0.7, 0.9), eps=1e-5)
    for group in optim.optimizer(module, ("head",), muon, {}).param_groups:
        if group["matrices"]:
            assert (group["momentum"], group["nesterov"]) == (0.8, False)
        else:
            assert (group["betas"], group["eps"]) == ((0.7, 0.9), 1e-5)


floats = st.floats(-10, 10, allow_subnormal=False)


@given(
    st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=6),
    st.tuples(floats, floats, floats),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    st.floats(1e-5, 1.0),
    st.floats(0, 1),
)
def test_lion_is_algorithm_2_of_its_paper(
    gradients: list[tuple[float, ...]],
    start: tuple[float, ...],
    betas: tuple[float, float],
    lr: float,
    decay: float,
) -> None:
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = Lion([{"params": [weight]}], lr, betas, decay)
    w, m = np.array(start), np.zeros(3)
    for g in map(np.array, gradients):
        weight.grad = torch.tensor(g)
        optimizer.step()
        c = betas[0] * m + (1 - betas[0]) * g
        if (np.abs(c) < 1e-9).any() and (c != 0).any():
            return  # the sign of a sum that nearly cancels is a matter of rounding
        w = w - lr * (np.sign(c) + decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-9, atol=1e-9)


def test_muon_moves_a_matrix_by_an_orthogonal_one_as_long_as_a_step_of_adamw() -> None:
    weight = nn.Parameter(torch.randn(16, 4, 3, 3))
    before = weight.detach().clone()
    group = {"params": [weight], "weight_decay": 0.0, "matrices": True, "lr": 0.1, "name": ""}
    optimizer = MuonAdamW([group], 0.1, (0.9, 0.999), 1e-8, 0.95, True)
    weight.grad = torch.randn(16, 4, 3, 3)
    optimizer.step()
    step = (before - weight.detach()).flatten(1)
    values = torch.linalg.svdvals(step) / (0.1 * 0.2 * 36**0.5)  # lr * 0.2 * sqrt(longer side)
    assert 0.5 < values.min() <= values.max() < 1.5  # what five Newton-Schulz iterations reach
    assert float(step.pow(2).mean().sqrt()) == pytest.approx(0.1 * 0.2 * (16 / 16) ** 0.5, rel=0.3)


def test_muon_is_torchs_on_linear_layers_and_adamw_is_torchs_on_the_rest() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    torchs = copy.deepcopy(ours)
    table = TrainTable(optimizer="muon", lr=1e-2, weight_decay=0.1, fused=False)
    both = optim.optimizer(ours, ("2",), table, {})
    muon = torch.optim.Muon([torchs[0].weight], 1e-2, 0.1, 0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [torchs[2].weight], "weight_decay": 0.1}, {"params": [torchs[0].bias, torchs[2].bias]}],
        1e-2,
        weight_decay=0.0,
    )
    for seed in range(5):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        for module, optimizers in ((ours, [both]), (torchs, [muon, adamw])):
            module.zero_grad()
            module(x).pow(2).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), torchs.parameters(), strict=True))


def test_muon_gives_the_same_in_channels_last_memory() -> None:
    ends = []
    for memory in (torch.contiguous_format, torch.channels_last):
        module = network().to(memory_format=memory)
        optimizer = optim.optimizer(module, ("head",), TrainTable(optimizer="muon", lr=1e-2), {})
        steps(module, optimizer, range(5))
        ends.append(module.state_dict())
    assert not torch.equal(ends[0]["body.0.weight"], network().state_dict()["body.0.weight"])
    for key, value in ends[0].items():  # Newton-Schulz runs in bfloat16
        torch.testing.assert_close(value, ends[1][key], rtol=1e-2, atol=1e-3)


def test_schedule_free_with_our_warm_up_is_the_librarys_own() -> None:
    ours, theirs = network(), network()
    table = TrainTable(optimizer="schedulefree", lr=1e-2, weight_decay=0.0, schedule="constant", warmup_share=0.5)
    optimizer = optim.optimizer(ours, ("head",), table, {})
    schedule = Schedule(optimizer, table, 10, 1)
    library = AdamWScheduleFree(theirs.parameters(), lr=1e-2, warmup_steps=5)
    library.train()
    for seed in range(10):
        steps(ours, optimizer, range(seed, seed + 1))
        schedule.step()
        steps(theirs, library, range(seed, seed + 1))
    optim.to_eval(optimizer)
    library.eval()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_schedule_free_has_other_weights_for_judging_than_for_learning() -> None:
    module = network()
    optimizer = optim.optimizer(module, ("head",), TrainTable(optimizer="schedulefree", lr=1e-2), {})
    steps(module, optimizer, range(5))
    learning = copy.deepcopy(module.state_dict())
    optim.to_eval(optimizer)
    assert not torch.equal(module.state_dict()["head.weight"], learning["head.weight"])
    optim.to_train(optimizer)
    torch.testing.assert_close(module.state_dict()["head.weight"], learning["head.weight"])


def test_to_train_and_to_eval_leave_other_optimizers_alone() -> None:
    module = network()
    optimizer = on_cpu().prepare(optim.optimizer(module, ("head",), TrainTable(), {}))
    steps(module, optimizer, range(2))
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()["param_groups"]))
    optim.to_eval(optimizer)
    optim.to_train(optimizer)
    assert all(torch.equal(value, before[0][key]) for key, value in module.state_dict().items())
    assert optimizer.state_dict()["param_groups"] == before[1]


def test_l1_is_the_sum_of_absolute_trained_weights_without_biases_and_norms() -> None:
    module = network()
    module.body[3].requires_grad_(False)
    expected = 0.1 * float(module.body[0].weight.detach().abs().sum() + module.head.weight.detach().abs().sum())
    penalty = optim.penalty(module, TrainTable(l1=0.1))
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    penalty.backward()
    assert torch.equal(module.head.weight.grad, 0.1 * module.head.weight.detach().sign())
    assert module.head.bias.grad is None
    assert optim.penalty(module, TrainTable()) is None


def test_a_shared_weight_counts_once_for_l1() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    penalty = optim.penalty(module, TrainTable(l1=1.0))
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(float(module[0].weight.detach().abs().sum()))


def test_a_rate_that_is_still_to_be_found_makes_no_groups() -> None:
    with pytest.raises(ValueError, match="still to be found"):
        optim.groups(network(), ("head",), TrainTable(lr="find"), {})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"schedule": "cosine"}, "schedulefree needs no schedule 'cosine'"),
        ({"ema_decay": 0.9}, "schedulefree averages the weights itself"),
        ({"keep": "soup"}, "schedulefree averages the weights itself"),
        ({"trainable": "gradual"}, "schedulefree can't take in parameters later"),
        ({"betas": (0.0, 0.9)}, "schedulefree needs a first beta above 0"),
    ],
)
def test_what_schedule_free_can_not_do_is_said(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainTable(optimizer="schedulefree", **keys)
    TrainTable(optimizer="schedulefree")


def test_betas_of_one_or_more_are_refused() -> None:
    with pytest.raises(ValidationError, match="less than 1"):
        TrainTable(betas=(0.9, 1.0))


def test_muon_for_the_head_alone_is_refused() -> None:
    with pytest.raises(ValidationError, match="muon moves matrices of the body, not the head"):
        TrainTable(optimizer="muon", trainable="head")
