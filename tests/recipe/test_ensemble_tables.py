"""`[ensemble]`, `[tta]`, `[distill]`, `[pseudo_labels]` in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_recipe import mistake, mistakes, with_lines
from tlcompile.recipe import parse
from tlcompile.recipe.ensemble_tables import Ensemble
from tlcompile.recipe.write import toml


def ensemble(*lines: str) -> Ensemble:
    found = parse(with_lines(*lines)).extras.ensemble
    assert found is not None
    return found


def test_a_recipe_without_the_tables_has_none_of_them_and_does_not_write_them() -> None:
    recipe = parse(with_lines())
    assert recipe.extras.to_json() == {}
    assert not {"ensemble", "tta", "distill", "pseudo_labels"} & set(recipe.resolved())


def test_an_empty_table_is_the_network_and_two_more_seeds() -> None:
    recipe = parse(with_lines("[ensemble]"))
    members = ensemble("[ensemble]").members
    assert [(m.name, m.seed) for m in members] == [("member-2", 18), ("member-3", 19)]
    assert all(m.model == recipe.model and m.train == recipe.train for m in members)


def test_a_member_takes_what_it_does_not_say_from_model_and_train() -> None:
    lines = ("[train]", "epochs = 7", "lr = 0.1", "[ensemble]", "[[ensemble.member]]", 'model = { name = "resnet34" }')
    more = ("train = { lr = 0.2 }", "seed = 5", "[[ensemble.member]]", "model = { image_size = 96 }")
    first, second = ensemble(*lines, *more).members
    assert (first.name, first.seed, first.train.epochs, first.train.lr) == ("member-2", 5, 7, 0.2)
    assert first.model.to_json()["name"] == "resnet34"
    assert (second.name, second.seed, second.train.lr) == ("member-3", 19, 0.1)
    assert second.model.to_json() | {"image_size": 0} == parse(with_lines()).model.to_json() | {"image_size": 0}


def test_a_member_of_another_library_takes_nothing_of_the_model_table() -> None:
    lines = ("[ensemble]", "[[ensemble.member]]", 'model = { library = "torchvision", name = "resnet18" }')
    [member] = ensemble(*lines).members
    assert member.model.name == "torchvision"


def test_what_is_wrong_with_a_member_is_said_at_its_place() -> None:
    found = mistakes(
        with_lines(
            "[ensemble]",
            "[[ensemble.member]]",
            "sed = 3",
            "[[ensemble.member]]",
            "train = { epoch = 3 }",
            'model = { nam = "x" }',
        )
    )
    assert any("ensemble.member[0].sed: unknown key; did you mean 'seed'?" in text for text in found)
    assert any("ensemble.member[1].train.epoch: unknown key; did you mean 'epochs'?" in text for text in found)
    assert any("ensemble.member[1].model.nam: unknown key; did you mean 'name'?" in text for text in found)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("[ensemble]", "members = 5"), "5 members are more than max_members = 3"),
        (("[ensemble]", "members = 1"), "ensemble.members"),
        (("[ensemble]", "members = 3", "[[ensemble.member]]"), "how many or which, not both"),
        (("[ensemble]", 'weights = "fit"'), "did you mean 'fitted'?"),
        (("[ensemble]", "member = 3"), "expected [[ensemble.member]] tables"),
        (("[ensemble]", "[[ensemble.member]]", 'bundle = "b"', "seed = 1"), "a bundle is finished"),
        (("[tta]", "views = []"), "expected 'auto' or at least one view"),
        (("[tta]", "max_views = 1"), "tta.max_views"),
        (("[distill]",), "'ensemble' needs a table [ensemble]"),
        (("[distill]", 'teacher = "t.onnx"', "alpha = 0.0"), "distill.alpha"),
        (("[pseudo_labels]",), "pseudo_labels.path: required and not given"),
        (("[pseudo_labels]", 'path = "x"', "threshold = 1.0"), "pseudo_labels.threshold"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(lines: tuple[str, ...], says: str) -> None:
    assert says in mistake(with_lines(*lines))


def test_training_that_does_not_fit_the_task_is_told_at_its_member() -> None:
    lines = ("[ensemble]", "[[ensemble.member]]", "seed = 3", "[[ensemble.member]]", 'train = { loss = "mse" }')
    told = mistake(with_lines(*lines))
    assert "ensemble.member[1].train.loss: 'mse' does not fit image-classification" in told


def test_five_members_are_as_many_as_are_asked_for() -> None:
    assert len(ensemble("[ensemble]", "members = 5", "max_members = 5").members) == 4


def test_tasks_without_one_class_an_example_refuse_what_needs_it() -> None:
    text = with_lines("[pseudo_labels]", 'path = "x"', "[tta]", 'aggregation = "max"')
    found = mistakes(text.replace("image-classification", "image-regression"))
    assert any("pseudo_labels: needs a task of one class" in text for text in found)
    assert any("tta.aggregation" in text for text in found)


def test_all_tables_resolve_to_a_recipe_that_resolves_to_the_same() -> None:
    lines = ("[ensemble]", "[[ensemble.member]]", "seed = 3", 'model = { name = "resnet34" }', "[[ensemble.member]]")
    more = ('bundle = "b"', "[tta]", 'views = ["identity", "hflip"]', "[distill]", "[pseudo_labels]", 'path = "u"')
    resolved = parse(with_lines(*lines, *more)).resolved()
    assert parse(toml(resolved)).resolved() == resolved
    assert resolved["ensemble"]["member"][0]["model"] == {"name": "resnet34"}


def test_the_paths_of_all_tables_are_listed() -> None:
    lines = ("[ensemble]", "[[ensemble.member]]", 'bundle = "b"', "[distill]", 'teacher = "t.onnx"')
    found = parse(with_lines(*lines, "[pseudo_labels]", 'path = "u"'), Path("/r/x.toml")).extras.paths()
    wanted = [("ensemble.member[0].bundle", "/r/b"), ("distill.teacher", "/r/t.onnx"), ("pseudo_labels.path", "/r/u")]
    assert [(key, str(path.absolute)) for key, path in found] == wanted
    assert list(parse(with_lines("[ensemble]", "[distill]")).extras.paths()) == []


@pytest.mark.parametrize("table", ["tta", "ensemble"])
def test_a_number_can_not_leave_early(table: str) -> None:
    text = with_lines(f"[{table}]", "early_exit = true").replace("image-classification", "image-regression")
    assert f"{table}.early_exit: a number comes without a confidence" in mistake(text)


def test_an_early_exit_is_off_unless_it_is_asked_for() -> None:
    found = parse(with_lines("[tta]", "[ensemble]")).extras
    assert found.tta
    assert found.ensemble
    assert not found.tta.early_exit
    assert not found.ensemble.table.early_exit
