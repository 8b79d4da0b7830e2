from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train import nets
from tlcompile.compress import _axes, _search
from tlcompile.errors import TlcompileError
from tlcompile.models import _structure

CUT = [name for name in nets.EVERY if name not in ("alexnet", "gpt2", "test_nfnet")]


@pytest.mark.parametrize("name", CUT)
def test_a_cut_network_comes_back_bit_for_bit_from_its_tensors_and_its_config(name: str, tmp_path: Path) -> None:
    whole = nets.network(name)
    axes = _axes.axes(whole)
    assert axes
    pruned = _search.pruned(whole, axes, {axis.name: torch.arange(axis.size - axis.size // 2) for axis in axes})
    save_file({k: v.contiguous() for k, v in pruned.module.state_dict().items()}, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert sum(v.numel() for v in state.values()) < sum(v.numel() for v in whole.module.state_dict().values())
    restored = nets.network(name)
    _structure.adopt(restored.module, state)
    restored.module.load_state_dict(state)
    with torch.inference_mode():
        expected = pruned.module.eval()(*nets.inputs(whole))
        assert torch.equal(restored.module.eval()(*nets.inputs(whole)), expected)


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "bert", "distilbert"])
def test_a_block_without_tensors_lets_its_input_through(name: str) -> None:
    whole = nets.network(name)
    block = next(iter(reversed(_structure.removable(whole.module))))
    _structure.remove(whole.module, block)
    state = whole.module.state_dict()
    restored = nets.network(name)
    _structure.adopt(restored.module, state)
    restored.module.load_state_dict(state)
    assert isinstance(restored.module.get_submodule(block), _structure.Removed)
    with torch.inference_mode():
        expected = whole.module.eval()(*nets.inputs(whole))
        assert torch.equal(restored.module.eval()(*nets.inputs(whole)), expected)


@pytest.mark.parametrize("name", nets.EVERY)
def test_a_whole_network_stays_as_it_is(name: str) -> None:
    net = nets.network(name)
    before = repr(net.module)
    _structure.adopt(net.module, net.module.state_dict())
    assert repr(net.module) == before


def test_a_tensor_that_no_layer_can_take_is_refused_by_name() -> None:
    net = nets.network("test_vit")
    state = net.module.state_dict()
    state["pos_embed"] = state["pos_embed"][:, :, :8]
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"][:, :8]
    with pytest.raises(
        TlcompileError, match=r"pos_embed: a VisionTransformer can't change its shape: \[1, .*8\] there"
    ):
        _structure.adopt(net.module, state)


def test_another_kernel_is_refused() -> None:
    net = nets.network("resnet18")
    state = net.module.state_dict()
    state["conv1.weight"] = state["conv1.weight"][..., :3, :3]
    with pytest.raises(TlcompileError, match=r"conv1\.weight"):
        _structure.adopt(net.module, state)
