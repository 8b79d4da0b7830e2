from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from tests.toy_compress import context, trained
from tests.toy_recipe import mistake, with_lines
from tests.toy_training import splits_folder
from tlcompile.artifacts import Checkpoint, read_json
from tlcompile.compress import _zeros, qat, sparsity
from tlcompile.compress.sparsity import Options
from tlcompile.errors import RecipeError
from tlcompile.train import Job

Trained = tuple[Job, Checkpoint]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("sparse")
    return trained(splits_folder(root), root / "trained", epochs=2)


def sparse(of: Trained, root: Path, **options: object) -> Path:
    folder = root / "sparse"
    folder.mkdir()
    sparsity.apply(context(*of, root / "work"), Options(epochs=1, **options), folder)
    return folder


def refused(of: Trained, root: Path, **options: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        sparse(of, root, **options)
    return [str(problem) for problem in caught.value.problems]


def fours(weight: torch.Tensor) -> torch.Tensor:
    """Weights that are not zero, in each four along the input channels."""
    return (weight.movedim(1, -1).reshape(-1, 4) != 0).sum(-1)


def test_two_of_four_stay_after_training_where_the_channels_come_in_fours(network: Trained, tmp_path: Path) -> None:
    folder = sparse(network, tmp_path)
    state, before = load_file(folder / "model.safetensors"), load_file(network[1].folder / "model.safetensors")
    facts = read_json(folder / "sparse.json")
    assert state.keys() == before.keys()
    assert len(facts["density"]) > 5
    assert all((fours(state[f"{name}.weight"]) == 2).all() for name in facts["density"])
    assert set(facts["density"].values()) == {0.5}
    assert all(torch.count_nonzero(state[f"{n}.weight"]) == state[f"{n}.weight"].numel() for n in facts["dense"])
    assert facts["dense"]["conv_stem"] == "3 input channels to a filter, not a multiple of 4"
    moved = [
        not torch.equal(state[f"{n}.weight"], before[f"{n}.weight"] * (state[f"{n}.weight"] != 0))
        for n in facts["density"]
    ]
    assert all(moved)
    notes = read_json(folder / "applied.json")["notes"]
    assert sum("2:4" in note for note in notes) == 1


def test_unstructured_zeros_make_the_compressed_weights_smaller_and_say_that_nothing_gets_faster(
    network: Trained, tmp_path: Path
) -> None:
    folder = sparse(network, tmp_path, pattern="unstructured", amount=0.8)
    facts, state = read_json(folder / "sparse.json"), load_file(folder / "model.safetensors")
    weights = [state[f"{name}.weight"] for name in facts["density"]]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert zeros == pytest.approx(0.8, abs=1e-3)
    assert facts["compressed_bytes"]["after"] < 0.5 * facts["compressed_bytes"]["before"]
    assert min(facts["density"].values()) > 0
    assert sparsity.SIZE_ONLY in read_json(folder / "applied.json")["notes"]


def test_quantization_aware_training_after_it_keeps_the_zeros(network: Trained, tmp_path: Path) -> None:
    folder = sparse(network, tmp_path)
    after = tmp_path / "qat"
    after.mkdir()
    lined = context(network[0], Checkpoint(folder, "sparse"), tmp_path / "again", ("x86",))
    qat.apply(lined, qat.Options(epochs=1, lr=1e-3), after)
    state = load_file(after / "model.safetensors")
    assert all((fours(state[f"{n}.weight"]) <= 2).all() for n in read_json(folder / "sparse.json")["density"])


def test_a_named_layer_whose_channels_do_not_come_in_fours_is_refused(network: Trained, tmp_path: Path) -> None:
    assert refused(network, tmp_path, layers=("conv_stem", "blocks.*")) == [
        "compress.sparsity.layers: 'conv_stem' can't be 2:4 sparse: 3 input channels to a filter, not a multiple of 4"
    ]


def test_a_misspelt_layer_is_told_with_the_nearest(network: Trained, tmp_path: Path) -> None:
    [told] = refused(network, tmp_path, layers=("conv_haed",))
    assert told.endswith("no linear or convolution layer 'conv_haed' in this network; did you mean 'conv_head'?")


def test_a_network_without_a_layer_that_fits_is_refused(network: Trained, tmp_path: Path) -> None:
    assert refused(network, tmp_path, layers=("*conv_dw",)) == [
        "compress.sparsity: no layer of this network fits the pattern 2:4"
    ]


def test_an_amount_that_leaves_nothing_of_a_layer_is_refused(network: Trained, tmp_path: Path) -> None:
    [told] = refused(network, tmp_path, pattern="unstructured", amount=0.99999)
    assert told.startswith("compress.sparsity.amount: 0.99999 leaves nothing of '")


@pytest.mark.parametrize("how", ["head", "lora"])
def test_a_frozen_body_is_refused(network: Trained, tmp_path: Path, how: str) -> None:
    asked, checkpoint = network
    frozen = Checkpoint(checkpoint.folder, "frozen")
    frozen.network["table"]["trainable"] = how
    [told] = refused((asked, frozen), tmp_path)
    assert f"train.trainable = '{how}' keeps them frozen" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("amount = 1.0", "input should be less than 1"),
        ("amount = 0.0", "input should be greater than 0"),
        ('pattern = "2:4"\namount = 0.5', "amount goes with pattern = 'unstructured': 2:4 is a half by itself"),
        ('pattern = "1:4"', "expected '2:4' or 'unstructured'"),
    ],
)
def test_what_a_recipe_may_not_ask(line: str, told: str) -> None:
    assert told in mistake(with_lines("[compress.sparsity]", line))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9999), st.booleans())
def test_the_two_largest_of_four_stay(outputs: int, inputs: int, side: int, seed: int, linear: bool) -> None:
    torch.manual_seed(seed)
    layer: nn.Module = nn.Linear(4 * inputs, outputs) if linear else nn.Conv2d(4 * inputs, outputs, side)
    before = layer.get_parameter("weight").detach().clone()
    _zeros.two_of_four({"layer": layer})
    after = layer.get_parameter("weight").detach()
    rows = [w.movedim(1, -1).reshape(-1, 4) for w in (before, after)]
    assert torch.equal(rows[1].abs().sort(-1)[0][:, 2:], rows[0].abs().sort(-1)[0][:, 2:])
    assert (fours(after) == 2).all()
    assert torch.equal(after, before * (after != 0))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 0.97), st.integers(0, 9999), st.floats(1e-3, 1e3))
def test_unstructured_zeros_are_as_many_as_asked_and_blind_to_the_scale_of_a_layer(
    amount: float, seed: int, scale: float
) -> None:
    def masks(factor: float) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        layers = {"a": nn.Linear(16, 20), "b": nn.Conv2d(2, 5, 3)}
        with torch.no_grad():
            layers["a"].weight.mul_(factor)
        _zeros.unstructured(layers, amount)
        return [layer.get_parameter("weight") != 0 for layer in layers.values()]

    found = masks(1.0)
    assert sum(int((~m).sum()) for m in found) == round(amount * 410)
    assert all(m.any() for m in found)
    apart = [int((a != b).sum()) for a, b in zip(found, masks(scale), strict=True)]
    assert sum(apart) <= 2  # scores a rounding apart
