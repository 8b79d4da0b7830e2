"""Networks as blocks: complete, in order, the head last."""

from __future__ import annotations

import pytest
from timm.optim import param_groups_layer_decay
from torch import nn

from tests.train import nets
from tlcompile.artifacts import ImageSpec
from tlcompile.models._network import Network
from tlcompile.train.depth import blocks, inside


@pytest.mark.parametrize("name", nets.EVERY)
def test_every_parameter_is_in_exactly_one_block_and_the_head_alone_in_the_last(name: str) -> None:
    network = nets.network(name)
    found = blocks(network)
    assert len(found) > 3
    for parameter, _ in network.module.named_parameters():
        places = [i for i, prefixes in enumerate(found) if inside(parameter, prefixes)]
        assert len(places) == 1
        assert (places == [len(found) - 1]) == inside(parameter, network.head)


@pytest.mark.parametrize("name", nets.EVERY)
def test_blocks_are_in_the_order_in_which_the_network_uses_them(name: str) -> None:
    network = nets.network(name)
    found = blocks(network)
    seen: list[int] = []

    def note(block: int) -> None:
        seen.append(block)

    for module_name, module in network.module.named_modules():
        weight = f"{module_name}.weight"
        if not list(module.children()) and hasattr(module, "weight"):
            block = next(i for i, prefixes in enumerate(found) if inside(weight, prefixes))
            module.register_forward_pre_hook(lambda *_, block=block: note(block))
    network.module.eval()
    network.module(*nets.inputs(network))
    relative = name == "deberta-v2"  # its relative positions count as embeddings and are used by every layer
    assert relative or seen == sorted(seen)
    assert sorted(set(seen)) == list(range(len(found)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier"]),
        ("gpt2", ["transformer.wte", "transformer.h.0", "transformer.h.1", "score"]),
        (
            "distilbert",
            [
                "distilbert.embeddings",
                "distilbert.transformer.layer.0",
                "distilbert.transformer.layer.1",
                "pre_classifier",
            ],
        ),
    ],
)
def test_encoders_are_embeddings_layers_pooler_and_head(name: str, expected: list[str]) -> None:
    assert [prefixes[0] for prefixes in blocks(nets.network(name))] == [f"model.{part}" for part in expected]


def test_what_all_layers_of_deberta_share_counts_as_embeddings() -> None:
    first = blocks(nets.network("deberta-v2"))[0]
    assert {"model.deberta.encoder.rel_embeddings", "model.deberta.encoder.LayerNorm"} <= set(first)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet"])
def test_timm_networks_have_the_depths_of_timms_layer_decay(name: str) -> None:
    network = nets.network(name)
    found, names = blocks(network), {id(p): n for n, p in network.module.named_parameters()}
    for group in param_groups_layer_decay(network.module, layer_decay=0.5):
        depths = {i for p in group["params"] for i, prefixes in enumerate(found) if inside(names[id(p)], prefixes)}
        assert [0.5 ** (len(found) - 1 - depth) for depth in depths] == [group["lr_scale"]]


def test_norms_alone_are_no_block() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
    module.append(nn.Linear(4, 2))
    assert blocks(Network(module, ImageSpec(5), ("5",))) == [("0", "1"), ("3",), ("5",)]
