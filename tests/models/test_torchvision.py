"""torchvision's networks by name: head, preprocessing, weights from its own files and from ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights, list_models

from tlcompile.errors import RecipeError
from tlcompile.models import torchvision


def options(base: Path = Path(), **changed: object) -> torchvision.Options:
    values = {"name": "shufflenet_v2_x0_5", "weights": "none", **changed}
    return torchvision.Options.model_validate(values, context={"base": base})


def test_mistakes_are_all_told_before_any_work_with_the_nearest_name() -> None:
    (problem,) = torchvision.check(options(name="resnet81"))
    assert problem.nearest == "resnet18"
    found = torchvision.check(options(name="resnet50", weights_name="IMAGENET1K_V3", weights="no.pth"))
    assert [p.where for p in found] == ["model.weights_name", "model.weights"]
    assert found[0].nearest in ("IMAGENET1K_V1", "IMAGENET1K_V2")
    assert torchvision.check(options(name="fcn_resnet50"))[0].where == "model.name"  # it segments


def test_the_preprocessing_of_every_model_is_that_of_its_weights_to_the_pixel() -> None:
    import torchvision as library

    names = list_models(module=library.models)
    assert len(names) > 70
    for name in names:
        for weights in get_model_weights(name):
            spec = torchvision._spec(options(name=name, weights_name=weights.name))
            how = weights.transforms()
            assert ([spec.image_size], [spec.resize_to]) == (how.crop_size, how.resize_size), name
            assert (list(spec.mean), list(spec.std)) == (list(how.mean), list(how.std))
            assert spec.interpolation == how.interpolation.value


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("shufflenet_v2_x0_5", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("regnet_y_400mf", "fc"),
        ("densenet121", "classifier"),
        ("googlenet", "fc"),
    ],
)
def test_the_head_is_what_differs_between_two_numbers_of_classes(name: str, head: str) -> None:
    few, many = (torchvision.build(options(name=name), classes).module.state_dict() for classes in (3, 5))
    assert list(few) == list(many)
    changed = {key.rpartition(".")[0] for key in few if few[key].shape != many[key].shape}
    network = torchvision.build(options(name=name, image_size=64), 3, pretrained=False)
    assert network.head == (head,)
    assert changed == {head}
    assert network.module.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_torchvisions_own_weights_are_read_from_its_cache_and_old_names_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    published = get_model("densenet121", weights=None).state_dict()
    old = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in published.items()}
    assert old.keys() != published.keys()
    torch.save(old, cache / Path(get_model_weights("densenet121").DEFAULT.url).name)
    network = torchvision.build(options(name="densenet121", weights="hub"), 3)
    own = network.module.state_dict()
    assert all(torch.equal(own[k], v) for k, v in published.items() if not k.startswith("classifier"))


def test_weights_that_can_not_be_had_are_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(RecipeError, match=r"model\.weights: torchvision's weights of shufflenet_v2_x0_5 can't be had"):
        torchvision.build(options(weights="hub"), 3)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(get_model("squeezenet1_1", weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(RecipeError, match=r"model\.weights: w\.pth lacks \d+ of \d+ tensors"):
        torchvision.build(options(tmp_path, weights="w.pth"), 3)


def test_a_vision_transformer_is_built_for_the_size_of_the_recipe_and_its_positions_are_stretched() -> None:
    state = {
        "encoder.pos_embedding": torch.arange(50.0).view(1, 50, 1),
        "features.denseblock1.denselayer1.norm.1.weight": torch.zeros(1),
    }

    class Small:
        image_size, patch_size = 96, 32
        encoder = type("Encoder", (), {"pos_embedding": torch.zeros(1, 10, 1)})

    found = torchvision._fitted(state, Small, "vit_b_32")
    assert found["encoder.pos_embedding"].shape == (1, 10, 1)
    assert found["encoder.pos_embedding"][0, 0] == 0  # the class token is no place in the image
    assert "features.denseblock1.denselayer1.norm1.weight" in found


def test_a_picture_that_is_too_small_for_the_network_is_told_before_training() -> None:
    with pytest.raises(RecipeError, match=r"model\.image_size: the network can't run on 16 × 16 pixels"):
        torchvision.build(options(name="alexnet", image_size=16), 3)


def test_dropout_and_stochastic_depth_are_those_of_the_recipe() -> None:
    chosen = options(name="efficientnet_b0", drop_rate=0.3, drop_path_rate=0.2)
    module = torchvision.build(chosen, 3, pretrained=False).module
    from torchvision.ops import StochasticDepth

    assert [m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)] == [0.3]
    depths = [m.p for m in module.modules() if isinstance(m, StochasticDepth)]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0, 0.2)
