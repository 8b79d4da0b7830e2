"""What is to be trained survives the way through JSON, and its network begins without an opinion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.toy_training import job
from tests.train import nets
from tlcompile.recipe.train_table import AugmentTable, TrainTable
from tlcompile.train import Job
from tlcompile.train.job import zero_head


def test_a_job_comes_back_from_json_as_it_was(splits: Path) -> None:
    asked = job(splits, lr=0.02, betas=(0.8, 0.9), trainable="lora", lora={"rank": 2})
    again = Job.from_json(json.loads(json.dumps(asked.to_json())))
    assert again == asked
    assert again.identity() == asked.identity()


def test_what_only_makes_training_quicker_is_no_part_of_its_identity(splits: Path) -> None:
    assert job(splits, workers=2, cache_mib=0, trackers=("mlflow",)).identity() == job(splits).identity()
    assert job(splits, lr=0.1).identity() != job(splits).identity()


@pytest.mark.parametrize("name", nets.EVERY)
def test_a_new_head_answers_zero(name: str) -> None:
    network = nets.network(name)
    before = {k: v.clone() for k, v in network.module.state_dict().items()}
    zero_head(network)
    changed = {k for k, v in network.module.state_dict().items() if not torch.equal(v, before[k])}
    assert all(k.startswith(network.head) for k in changed)
    last = network.module.get_submodule(network.head[-1])
    linear = [m for m in last.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert not linear.weight.any()


def test_a_key_that_came_later_and_is_off_changes_no_key_of_the_store() -> None:
    assert "fill_masks" not in TrainTable().key()["augment"]
    assert "mask_tokens" in TrainTable().key()["augment"]
    assert TrainTable(augment=AugmentTable(fill_masks="somewhere")).key()["augment"]["fill_masks"] == "somewhere"
