"""Which parameters move, at which rate, and that LoRA leaves plain weights behind."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.train import nets
from tlcompile.errors import RecipeError
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import LoraTable, TrainTable
from tlcompile.train import select
from tlcompile.train.depth import blocks, inside

LORA = ("test_vit", *nets.TEXT)


def trained(network: Network) -> list[str]:
    return [name for name, p in network.module.named_parameters() if p.requires_grad]


def step(network: Network) -> dict[str, bool]:
    """One step of plain gradient descent in training mode: name in the state dict -> whether it changed."""
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    network.module.train()
    select.frozen_norms(network)
    (network.module(*nets.inputs(network)) - 1).square().sum().backward()
    with torch.no_grad():
        for parameter in network.module.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()
    return {k: not torch.equal(v, before[k]) for k, v in network.module.state_dict().items()}


@pytest.mark.parametrize("name", nets.EVERY)
def test_head_trains_the_head_and_nothing_else_moves_not_even_the_statistics_of_norms(name: str) -> None:
    network = nets.network(name)
    select.prepare(network, TrainTable(trainable="head"))
    for key, moved in step(network).items():
        assert moved == inside(key, network.head)


@pytest.mark.parametrize("name", ["test_efficientnet", "densenet", "bert"])
def test_last_trains_so_many_blocks_and_the_head(name: str) -> None:
    network = nets.network(name)
    select.prepare(network, TrainTable(trainable="last:2"))
    opened = [prefix for prefixes in blocks(network)[-3:] for prefix in prefixes]
    assert trained(network) == [n for n, _ in network.module.named_parameters() if inside(n, opened)]
    moved = step(network)
    assert not any(hit for key, hit in moved.items() if not inside(key, opened))
    statistics = [hit for key, hit in moved.items() if key.endswith("running_mean") and inside(key, opened)]
    assert all(statistics)
    assert name == "bert" or statistics


def test_all_leaves_every_parameter_and_every_norm_open() -> None:
    network = nets.network("test_efficientnet")
    select.prepare(network, TrainTable(trainable="all"))
    network.module.train()
    select.frozen_norms(network)
    assert all(p.requires_grad for p in network.module.parameters())
    assert all(m.training for m in network.module.modules())


def test_a_norm_without_parameters_is_frozen_with_the_part_it_stands_in() -> None:
    parts = {"body": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), "fc": nn.Linear(4, 2)}
    network = Network(nn.ModuleDict(parts), nets.network("test_vit").spec, ("fc",))
    select.prepare(network, TrainTable(trainable="head"))
    network.module.train()
    select.frozen_norms(network)
    assert [m.training for m in parts["body"]] == [True, False]


@given(st.integers(2, 12))
@settings(max_examples=8, deadline=None)
def test_gradual_opens_from_the_head_down_at_least_a_block_an_epoch_and_all_in_the_last(epochs: int) -> None:
    network = nets.network("test_vit")
    table = TrainTable(trainable="gradual", epochs=epochs)
    select.prepare(network, table)
    depth = len(blocks(network))
    opened = [_first_open(network)]
    assert opened == [depth - 1]
    for epoch in range(1, epochs):
        before = trained(network)
        assert select.unfreeze(network, table, epoch) == (trained(network) != before)
        assert not select.unfreeze(network, table, epoch)
        opened.append(_first_open(network))
    assert opened[-1] == 0
    steps = [a - b for a, b in pairwise(opened)]
    even = -(-(depth - 1) // (epochs - 1))
    assert all(even - 1 <= s <= max(1, even) for s in steps)


def _first_open(network: Network) -> int:
    """The lowest block that is trained; all above it must be too."""
    found = [any(inside(name, prefixes) for name in trained(network)) for prefixes in blocks(network)]
    assert all(found[found.index(True) :])
    return found.index(True)


def test_a_resumed_epoch_opens_what_a_run_that_was_never_killed_has_open() -> None:
    table = TrainTable(trainable="gradual", epochs=5)
    whole, resumed = nets.network("test_resnet"), nets.network("test_resnet")
    for network in (whole, resumed):
        select.prepare(network, table)
    for epoch in range(4):
        select.unfreeze(whole, table, epoch)
    select.unfreeze(resumed, table, 3)
    assert trained(whole) == trained(resumed)


def test_nothing_is_unfrozen_where_the_recipe_does_not_ask_for_it() -> None:
    network = nets.network("test_vit")
    table = TrainTable(trainable="last:1", epochs=3)
    select.prepare(network, table)
    before = trained(network)
    assert not select.unfreeze(network, table, 2)
    assert trained(network) == before


@given(st.floats(0.1, 1), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_each_block_learns_at_layer_decay_times_the_rate_of_the_next_and_the_head_at_its_own(
    decay: float, head: float
) -> None:
    network = nets.network("gpt2")
    found = select.rates(network, TrainTable(layer_decay=decay, head_lr_scale=head))
    assert list(found) == [name for name, _ in network.module.named_parameters()]
    assert found["model.score.weight"] == head
    assert found["model.transformer.h.1.attn.c_attn.weight"] == found["model.transformer.ln_f.bias"] == decay
    assert found["model.transformer.h.0.attn.c_attn.weight"] == pytest.approx(decay**2)
    assert found["model.transformer.wte.weight"] == pytest.approx(decay**3)


def test_rates_name_what_is_or_will_be_trained() -> None:
    for trainable, all_of_them in (("head", False), ("last:1", False), ("gradual", True)):
        network = nets.network("test_vit")
        table = TrainTable(trainable=trainable)
        select.prepare(network, table)
        names = [name for name, _ in network.module.named_parameters()] if all_of_them else trained(network)
        assert list(select.rates(network, table)) == names


@pytest.mark.parametrize("name", LORA)
def test_lora_starts_as_the_network_was_trains_a_few_numbers_and_merges_into_its_old_structure(name: str) -> None:
    network, plain = nets.network(name), nets.network(name)
    table = TrainTable(trainable="lora", layer_decay=0.5, lora=LoraTable(rank=2, alpha=4))
    arguments = nets.inputs(network)
    network.module.eval()
    keys, first = list(network.module.state_dict()), network.module(*arguments)
    select.prepare(network, table)
    assert torch.equal(network.module(*arguments), first)
    assert set(select.rates(network, table)) == set(trained(network))
    assert all("lora_" in n or inside(n, network.head) for n in trained(network))
    for _ in range(2):  # of the two factors one is zero at first, so the other moves in the second step
        moved = step(network)
        assert not any(hit for key, hit in moved.items() if key not in trained(network))
    network.module.eval()
    unmerged = network.module(*arguments)
    select.merge(network)
    torch.testing.assert_close(network.module(*arguments), unmerged, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unmerged, first, atol=1e-2)
    assert list(network.module.state_dict()) == keys
    plain.module.load_state_dict(network.module.state_dict())
    plain.module.eval()
    torch.testing.assert_close(plain.module(*arguments), unmerged, rtol=1e-5, atol=1e-5)


def test_lora_takes_the_layers_that_the_recipe_names() -> None:
    network = nets.network("test_efficientnet")
    select.prepare(network, TrainTable(trainable="lora", lora=LoraTable(layers=("conv_pw", "blocks.1.0.conv_exp"))))
    layers = {name.partition(".lora_")[0] for name in trained(network) if ".lora_" in name}
    modules = [name for name, _ in network.module.named_modules()]
    assert layers == {n for n in modules if n.endswith(".conv_pw")} | {"blocks.1.0.conv_exp"}


def test_a_merge_without_lora_changes_nothing() -> None:
    network = nets.network("test_vit")
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    select.merge(network)
    assert all(torch.equal(v, before[k]) for k, v in network.module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        (
            "test_efficientnet",
            TrainTable(trainable="last:99"),
            r"train\.trainable: found 'last:99', the network has 6 blocks below its head: at most 'last:6'",
        ),
        (
            "test_efficientnet",
            TrainTable(trainable="lora"),
            r"train\.lora\.layers: this network has no layers of attention to adapt; name some of its layers: "
            r"'conv_pwl', .*'conv_stem'",
        ),
        (
            "test_vit",
            TrainTable(trainable="lora", lora=LoraTable(layers=("kqv", "attn.qkv", "fc3"))),
            r"no linear layer or ungrouped convolution 'kqv', only .*did you mean 'qkv'\?\n"
            r"train\.lora\.layers: no linear layer or ungrouped convolution 'fc3', only .*did you mean 'fc\d'\?",
        ),
    ],
)
def test_what_can_not_be_is_said(name: str, table: TrainTable, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        select.prepare(nets.network(name), table)


def test_a_network_without_a_head_has_nothing_to_train() -> None:
    network = nets.network("test_vit")
    network.head = ("fc",)
    with pytest.raises(RecipeError, match=r"train\.trainable: 'head' leaves nothing to train: .*\('fc'\)"):
        select.prepare(network, TrainTable(trainable="head"))


def test_lora_leaves_grouped_convolutions_out_because_they_can_not_be_merged() -> None:
    with pytest.raises(RecipeError, match="no linear layer or ungrouped convolution 'conv_dw'"):
        select.prepare(
            nets.network("test_efficientnet"), TrainTable(trainable="lora", lora=LoraTable(layers=("conv_dw",)))
        )
