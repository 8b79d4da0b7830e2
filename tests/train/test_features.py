"""What the head is fed, computed once, and the head trained on it: the same as training it in the whole network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import image
from tests.train import nets
from tlcompile.artifacts import ImageSpec
from tlcompile.errors import RecipeError
from tlcompile.models._network import Network
from tlcompile.recipe.train_table import TrainTable
from tlcompile.train import batches, features, select
from tlcompile.train.reference import logits

N = 11


class Examples:
    """A split of dark and bright pictures, or of texts of several lengths."""

    def __init__(self, network: Network, name: str = "train", n: int = N) -> None:
        rng = np.random.default_rng(n)
        self.name, self.labels = name, rng.integers(0, nets.CLASSES, n)
        words = ("good", "bad", "a", "film", "very", "not")
        is_image = isinstance(network.spec, ImageSpec)
        self.examples = [
            image(int(y) % 2, rng) if is_image else " ".join(rng.choice(words, i % 5 + 1))
            for i, y in enumerate(self.labels)
        ]
        self.shapes = np.array([e.shape[:2] if is_image else [len(e)] for e in self.examples])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> np.ndarray | str:
        return self.examples[i]


@pytest.fixture(params=nets.EVERY)
def network(request: pytest.FixtureRequest) -> Network:
    found = nets.network(request.param, drop_rate=0.3)
    select.prepare(found, TrainTable(trainable="head"))
    return found


def test_the_head_fed_with_features_answers_what_the_whole_network_answers(network: Network, tmp_path: Path) -> None:
    split = Examples(network)
    found = features.compute(network, split, 4, tmp_path / "train.npy")
    assert (found.dtype, found.ndim, len(found)) == (np.float32, 2, N)
    head = features.head_network(network).module.eval()
    torch.testing.assert_close(
        head(torch.from_numpy(found.copy())).detach(), torch.from_numpy(logits(network, split)), rtol=1e-4, atol=1e-5
    )


def test_what_is_trained_are_the_parameters_of_the_whole_network_under_their_names(network: Network) -> None:
    rest = features.head_network(network)
    whole = dict(network.module.named_parameters())
    assert all(parameter is whole[name] for name, parameter in rest.module.named_parameters())
    trained = [name for name, p in rest.module.named_parameters() if p.requires_grad]
    assert trained == [name for name, p in whole.items() if p.requires_grad]
    table = TrainTable(trainable="head", head_lr_scale=3)
    select.prepare(rest, table)
    assert select.rates(rest, table) == dict.fromkeys(trained, 3.0)


def test_one_step_on_features_is_one_step_of_the_frozen_network(network: Network, tmp_path: Path) -> None:
    split = Examples(network)
    found = features.compute(network, split, N, tmp_path / "train.npy")
    inputs, targets = next(iter(batches.evaluation_loader(split, network, N)))
    gradients = []
    for module, arguments in (
        (network.module, tuple(inputs.values())),
        (features.head_network(network).module, (torch.from_numpy(found.copy()),)),
    ):
        network.module.zero_grad()
        nn.functional.cross_entropy(module.eval()(*arguments), targets).backward()
        gradients.append({n: p.grad.clone() for n, p in network.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() != set()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*nets.TIMM, "mobilenet_v2", *nets.TEXT])
def test_dropout_in_front_of_the_head_is_kept(name: str) -> None:
    kept = nets.network(name, drop_rate=0.3)
    rates = {"mobilenet_v2": 0.2, **dict.fromkeys(nets.TEXT, 0.1)}
    module = features.head_network(kept).module
    found = {m.p for m in module.modules() if isinstance(m, nn.Dropout)}
    assert name == "gpt2" or rates.get(name, 0.3) in found
    vectors = torch.ones(64, _width(kept))
    module.train()
    torch.manual_seed(0)
    assert (module(vectors).std(0).max() > 1e-3) == (name != "gpt2")  # the one family whose head has none
    module.eval()
    assert module(vectors).std(0).max() < 1e-6


def _width(network: Network) -> int:
    parts = (m for part in network.head for m in network.module.get_submodule(part).modules())
    return next(m.in_features for m in parts if isinstance(m, nn.Linear))


def test_no_dropout_stays_none() -> None:
    module = features.head_network(nets.network("test_resnet")).module.train()
    vectors = torch.ones(8, _width(nets.network("test_resnet")))
    assert module(vectors).std(0).max() < 1e-6


def test_a_loader_of_features_has_the_order_of_a_loader_of_examples(tmp_path: Path) -> None:
    network = nets.network("test_efficientnet")
    split, table = Examples(network), TrainTable(epochs=3)
    features.compute(network, split, 4, tmp_path / "train.npy")
    rows = features.rows(tmp_path, split)
    loaders = [features.training_loader(part, network, nets.SIZE, table, 4, seed=5) for part in (split, rows)]
    for loader, order in loaders:
        assert type(loader.dataset) is (features.Rows if loader is loaders[1][0] else batches.Images)
        order.begin(2)
    targets = [[y.tolist() for _, y in loader] for loader, _ in loaders]
    assert targets[0] == targets[1]
    assert [len(y) for y in targets[1]] == [4, 4]
    order = loaders[1][1]
    order.begin(2, start=4)
    assert [y.tolist() for _, y in loaders[1][0]] == targets[1][1:]


def test_rows_are_the_features_and_labels_of_the_examples_asked_for(tmp_path: Path) -> None:
    network = nets.network("bert")
    first, second = Examples(network, "train"), Examples(network, "val", 5)
    for split in (first, second):
        features.compute(network, split, 4, tmp_path / f"{split.name}.npy")
    both = features.rows(tmp_path, first, second)
    whole = list(features.evaluation_loader(both, network, 6))
    vectors = torch.cat([inputs["features"] for inputs, _ in whole])
    stored = [np.load(tmp_path / f"{name}.npy") for name in ("train", "val")]
    assert np.array_equal(vectors.numpy(), np.concatenate(stored))
    assert torch.cat([y for _, y in whole]).tolist() == [*first.labels, *second.labels]
    inputs, targets = both.__getitems__([(3, 12), (3, 0)])
    assert np.array_equal(inputs["features"], [stored[1][1], stored[0][0]])
    assert targets.tolist() == [second.labels[1], first.labels[0]]


def test_a_trained_head_stands_in_the_whole_network(tmp_path: Path) -> None:
    network = nets.network("test_efficientnet")
    select.prepare(network, TrainTable(trainable="head"))
    split = Examples(network, n=16)
    split.labels = np.array([int(e.mean() > 110) for e in split.examples])
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    features.compute(network, split, 8, tmp_path / "train.npy")
    head = features.head_network(network).module
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05)
    rows = features.rows(tmp_path, split)
    for _ in range(40):
        for inputs, targets in features.evaluation_loader(rows, network, 16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head.train()(*inputs.values()), targets).backward()
            optimizer.step()
    assert (logits(network, split).argmax(1) == split.labels).mean() == 1
    after = network.module.state_dict()
    assert {k for k in before if not torch.equal(before[k], after[k])} == {"classifier.weight", "classifier.bias"}


def test_a_file_of_features_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    network = nets.network("test_efficientnet")
    split = Examples(network)
    split.examples.pop()  # the last example can't be read
    with pytest.raises(IndexError):
        features.compute(network, split, 4, tmp_path / "train.npy")
    assert [f.name for f in tmp_path.iterdir()] == ["train.unfinished"]
    features.compute(network, Examples(network), 4, tmp_path / "train.npy")
    assert [f.name for f in tmp_path.iterdir()] == ["train.npy"]


class Twice(nn.Module):
    """A network whose answer is more than its head's."""

    def __init__(self, maps: bool) -> None:
        super().__init__()
        self.maps, self.fc = maps, nn.Linear(nets.SIZE if maps else 3, nets.CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.maps:
            return self.fc(pixels.mean(1)).mean(1)
        return 2 * self.fc(pixels.mean((2, 3)))


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (
            True,
            r"train\.trainable: the head 'fc' is fed \[4, 64, 64\] for 4 examples, not one vector each; use 'last:1'",
        ),
        (False, r"train\.trainable: the head 'fc' on its own does not answer as the whole network does; use 'last:1'"),
    ],
)
def test_a_head_that_can_not_be_trained_on_vectors_is_refused(maps: bool, said: str, tmp_path: Path) -> None:
    network = Network(Twice(maps), ImageSpec(nets.SIZE), ("fc",))
    with pytest.raises(RecipeError, match=said):
        features.compute(network, Examples(network), 4, tmp_path / "train.npy")


def test_a_head_of_two_parts_of_an_image_network_is_refused() -> None:
    network = nets.network("test_vit")
    network.head = ("norm", "head")
    with pytest.raises(RecipeError, match=r"a head of one part, this network's are 'norm', 'head'; use 'last:1'"):
        features.head_network(network)
