"""Reading a recipe: defaults, and what is said of every kind of mistake."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_recipe import SMALLEST, mistake, mistakes, replaced, with_lines

from tlcompile import registry
from tlcompile.errors import RecipeError, one_of
from tlcompile.options import PathText
from tlcompile.recipe import load, parse


def there_are(room: str) -> str:
    return one_of(registry.names(room))


def test_the_smallest_recipe_gets_every_default() -> None:
    recipe = parse(SMALLEST)
    assert (recipe.name, recipe.seed, recipe.task) == ("toy", 17, "image-classification")
    assert recipe.train.epochs == 5
    assert [p.name for p in recipe.passes] == ["simplify"]
    assert [(t.name, t.backend.name, t.variants) for t in recipe.targets] == [("onnxruntime", "onnxruntime", ())]
    assert recipe.gates.model_dump(exclude_none=True) == {}


def test_options_of_a_plugin_stand_beside_the_common_keys_of_its_table() -> None:
    recipe = parse(with_lines("image_size = 64", "[[compile]]", 'backend = "openvino"', 'name = "fast"', "threads = 2"))
    assert recipe.model.options.image_size == 64  # type: ignore[attr-defined]
    [target] = recipe.targets
    assert (target.name, target.backend.name, target.backend.options.threads) == ("fast", "openvino", 2)  # type: ignore[attr-defined]


def test_passes_that_are_on_by_default_come_before_those_that_the_recipe_names() -> None:
    assert [p.name for p in parse(with_lines("[optimize.quantize]")).passes] == ["simplify", "quantize"]
    in_order = with_lines("[optimize.quantize]", "[optimize.simplify]")
    assert [p.name for p in parse(in_order).passes] == ["quantize", "simplify"]


def test_an_integer_is_a_number() -> None:
    assert parse(with_lines("[train]", "lr = 1")).train.lr == 1.0


def test_what_is_not_toml_is_told_with_its_line() -> None:
    said = mistake('name = "toy"\nseed =\n')
    assert said.startswith("toy.toml: not valid TOML: ")
    assert "at line 2" in said


@given(st.text())
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with suppress(RecipeError):
        parse(text)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("[trian]",), "toy.toml:10: trian: unknown key; did you mean 'train'?"),
        (("[train]", "epoch = 3"), "toy.toml:11: train.epoch: unknown key; did you mean 'epochs'?"),
        (("[train.augment]", "hflp = true"), "toy.toml:11: train.augment.hflp: unknown key; did you mean 'hflip'?"),
        (
            ("[train]", "augment = { hflp = true }"),
            "toy.toml:11: train.augment.hflp: unknown key; did you mean 'hflip'?",
        ),
        (("[data.split]", "tran = 0.7"), "toy.toml:11: data.split.tran: unknown key; did you mean 'train'?"),
        (("[export]", "opsets = 18"), "toy.toml:11: export.opsets: unknown key; did you mean 'opset'?"),
        (("[evaluate]", "alhpa = 0.1"), "toy.toml:11: evaluate.alhpa: unknown key; did you mean 'alpha'?"),
        (("[gates]", "min_acuracy = 0.9"), "toy.toml:11: gates.min_acuracy: unknown key; did you mean 'min_accuracy'?"),
        (("wieghts = 'hub'",), "toy.toml:10: model.wieghts: unknown key; did you mean 'weights'?"),
        (
            ("[optimize.quantize]", "shceme = 'int8'"),
            "toy.toml:11: optimize.quantize.shceme: unknown key; did you mean 'scheme'?",
        ),
        (
            ("[[compile]]", "backend = 'openvino'", "thread = 2"),
            "toy.toml:12: compile[0].thread: unknown key; did you mean 'threads'?",
        ),
        (
            ("[[compile]]", "backend = 'openvino'", "varients = []"),
            "toy.toml:12: compile[0].varients: unknown key; did you mean 'variants'?",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_right_one(lines: tuple[str, ...], said: str) -> None:
    assert mistake(with_lines(*lines)) == said


def test_an_unknown_key_above_the_tables_may_have_meant_a_table() -> None:
    assert mistake(f"sede = 3\n{SMALLEST}") == "toy.toml:1: sede: unknown key; did you mean 'seed'?"
    assert mistake(f"gate = 3\n{SMALLEST}") == "toy.toml:1: gate: unknown key; did you mean 'gates'?"


def test_an_unknown_key_of_the_data_table_may_have_meant_a_common_one() -> None:
    assert mistake(replaced('source = "sklearn"', 'source = "sklearn"\non_brokn = "skip"')) == (
        "toy.toml:6: data.on_brokn: unknown key; did you mean 'on_broken'?"
    )


def test_an_unknown_key_that_is_like_no_other_gets_no_suggestion() -> None:
    assert mistake(with_lines("[train]", "zzz = 3")) == "toy.toml:11: train.zzz: unknown key"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('epochs = "5"', "train.epochs: expected an integer, found a string '5'"),
        ("epochs = true", "train.epochs: expected an integer, found a boolean true"),
        ("epochs = 2.5", "train.epochs: expected an integer, found a number 2.5"),
        ("epochs = [5]", "train.epochs: expected an integer, found an array [5]"),
        ("epochs = {}", "train.epochs: expected an integer, found a table {}"),
        ("lr = '0.1'", "train.lr: expected a number, 'auto' or 'find', found a string '0.1'"),
        ("lr = 'fnd'", "train.lr: expected a number, 'auto' or 'find', found a string 'fnd'; did you mean 'find'?"),
        ("lr = true", "train.lr: expected a number, 'auto' or 'find', found a boolean true"),
        ("class_weights = [1, 'a']", "train.class_weights[1]: expected a number, found a string 'a'"),
        ("augment.hflip = 1", "train.augment.hflip: expected a boolean (true or false), found an integer 1"),
        ("augment = [1]", "train.augment: expected a table, found an array [1]"),
        ("augment = 'flip'", "train.augment: expected a table, found a string 'flip'"),
        ("keep = 3", "train.keep: expected 'last', 'best' or 'soup', found an integer 3"),
        (
            "keep = 'bst'",
            "train.keep: expected 'last', 'best' or 'soup', found a string 'bst'; did you mean 'best'?",
        ),
        (
            "precision = 'fp23'",
            "train.precision: expected 'auto', 'fp32', 'fp16' or 'bf16', found a string 'fp23'; did you mean 'fp32'?",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_told_as_expected_and_found(line: str, said: str) -> None:
    assert mistake(with_lines("[train]", line)) == f"toy.toml:11: {said}"


def test_a_string_where_an_array_is_expected_and_an_element_of_the_wrong_type() -> None:
    target = ("[[compile]]", "backend = 'openvino'")
    said = "toy.toml:12: compile[0].variants: expected an array, found a string 'fp32'"
    assert mistake(with_lines(*target, "variants = 'fp32'")) == said
    said = "toy.toml:12: compile[0].variants[1]: expected a string, found an integer 8"
    assert mistake(with_lines(*target, "variants = ['fp32', 8]")) == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train = [1]", "train: expected a table [train], found an array [1]"),
        ("gates = 0.9", "gates: expected a table [gates], found a number 0.9"),
        ("optimize = 'quantize'", "optimize: expected a table [optimize], found a string 'quantize'"),
        ("compile = 'openvino'", "compile: expected [[compile]] tables, found a string 'openvino'"),
        ("compile = ['openvino']", "compile: expected [[compile]] tables, found an array ['openvino']"),
        ("compile = []", "compile: expected [[compile]] tables, found an array []"),
        ("compile = {}", "compile: expected [[compile]] tables, found a table {}"),
    ],
)
def test_something_else_where_a_table_is_expected(line: str, said: str) -> None:
    assert mistake(f"{line}\n{SMALLEST}") == f"toy.toml:1: {said}"


def test_one_table_where_an_array_of_tables_is_expected_and_the_other_way_round() -> None:
    said = "toy.toml:10: compile: expected [[compile]] tables, found a table {'backend': 'openvino'}"
    assert mistake(with_lines("[compile]", "backend = 'openvino'")) == said
    said = "toy.toml:10: train: expected a table [train], found an array [{'epochs': 1}]"
    assert mistake(with_lines("[[train]]", "epochs = 1")) == said
    said = "toy.toml:11: optimize.quantize: expected a table [optimize.quantize], found a string 'int8'"
    assert mistake(with_lines("[optimize]", "quantize = 'int8'")) == said


def test_a_required_table_that_is_no_table_is_one_mistake() -> None:
    text = 'data = "digits"\nname = "toy"\n[model]\nlibrary = "timm"\nname = "resnet18"\n'
    assert mistakes(text) == ["toy.toml:1: data: expected a table [data], found a string 'digits'"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'source = "sklearn"',
            'source = "foldr"',
            f"toy.toml:5: data.source: 'foldr' is not one of {there_are('data')}; did you mean 'folder'?",
        ),
        (
            'task = "image-classification"',
            'task = "image_classification"',
            f"toy.toml:4: data.task: 'image_classification' is not one of {there_are('tasks')}; "
            "did you mean 'image-classification'?",
        ),
        (
            'library = "timm"',
            'library = "tim"',
            f"toy.toml:8: model.library: 'tim' is not one of {there_are('models')}; did you mean 'timm'?",
        ),
    ],
)
def test_an_unknown_source_task_or_library_is_told_with_those_there_are(old: str, new: str, said: str) -> None:
    assert mistake(replaced(old, new)) == said


def test_an_unknown_backend_or_pass_is_told_with_those_there_are() -> None:
    assert mistake(with_lines("[[compile]]", "backend = 'onnx_runtime'")) == (
        f"toy.toml:11: compile[0].backend: 'onnx_runtime' is not one of {there_are('compile')}; "
        "did you mean 'onnxruntime'?"
    )
    assert mistake(with_lines("[optimize.quantise]")) == (
        f"toy.toml:10: optimize.quantise: 'quantise' is not one of {there_are('optimize')}; did you mean 'quantize'?"
    )


def test_the_name_of_a_plugin_must_be_a_string() -> None:
    assert mistake(replaced('library = "timm"', "library = 3")) == (
        "toy.toml:8: model.library: expected a name in quotes, found an integer 3"
    )


def test_required_tables_and_keys_that_are_missing_are_named() -> None:
    assert mistakes("") == [
        "toy.toml: name: required and not given",
        "toy.toml: table [data] is required and not given",
        "toy.toml: table [model] is required and not given",
    ]
    assert mistake(replaced('name = "toy"', "")) == "toy.toml: name: required and not given"
    assert mistake(replaced('task = "image-classification"', "")) == "toy.toml:3: data.task: required and not given"
    assert mistake(replaced('source = "sklearn"', "")) == "toy.toml:3: data.source: required and not given"
    assert mistake(replaced('library = "timm"', "")) == "toy.toml:7: model.library: required and not given"
    assert mistake(replaced('name = "resnet18"', "")) == "toy.toml:7: model.name: required and not given"
    assert (
        mistake(replaced('source = "sklearn"', 'source = "folder"')) == "toy.toml:3: data.path: required and not given"
    )
    assert mistake(with_lines("[[compile]]")) == "toy.toml:10: compile[0].backend: required and not given"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("[train]", "epochs = 0"), "train.epochs: input should be greater than or equal to 1, found an integer 0"),
        (("[train]", "lr = 0"), "train.lr: input should be greater than 0, found an integer 0"),
        (("[train]", "lr = inf"), "train.lr: input should be a finite number, found a number inf"),
        (("[train]", "lr = nan"), "train.lr: input should be a finite number, found a number nan"),
        (
            ("[gates]", "min_accuracy = 97"),
            "gates.min_accuracy: input should be less than or equal to 1, found an integer 97",
        ),
        (("[export]", "opset = 9"), "export.opset: input should be greater than or equal to 17, found an integer 9"),
    ],
)
def test_a_number_out_of_range_is_told_with_the_range(lines: tuple[str, ...], said: str) -> None:
    assert mistake(with_lines(*lines)) == f"toy.toml:11: {said}"


def test_shares_of_a_split_must_sum_to_one() -> None:
    said = "toy.toml:10: data.split: train + val + test must be 1, found 0.8"
    assert mistake(with_lines("[data.split]", "train = 0.5")) == said


def test_a_name_that_is_no_folder_name_or_that_a_failed_gate_uses_is_refused() -> None:
    assert mistake(replaced('name = "toy"', 'name = "../toy"')) == (
        "toy.toml:1: name: string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$', found a string '../toy'"
    )
    assert mistake(replaced('name = "toy"', 'name = "toy.failed"')) == (
        "toy.toml:1: name: must not end in '.failed': that is where the report of a failed gate is kept"
    )


def test_the_name_of_a_target_is_a_folder_in_the_bundle_so_it_must_be_one_name() -> None:
    said = mistake(with_lines("[[compile]]", "backend = 'openvino'", "name = '../up'"))
    assert said.startswith("toy.toml:12: compile[0].name: string should match pattern ")


def test_two_targets_with_one_name_are_told_at_the_second() -> None:
    same = ("[[compile]]", "backend = 'openvino'")
    said = "toy.toml:12: compile[1].name: a second target is called 'openvino'; give each a name of its own"
    assert mistake(with_lines(*same, *same)) == said
    said = "toy.toml:14: compile[1].name: a second target is called 'openvino'; give each a name of its own"
    assert mistake(with_lines(*same, "[[compile]]", "backend = 'onnxruntime'", "name = 'openvino'")) == said
    assert len(parse(with_lines(*same, *same, "name = 'again'")).targets) == 2


def test_seven_mistakes_are_told_at_once_each_with_its_line() -> None:
    text = """\
name = "toy"
sead = 3

[data]
task = "image-clasification"
source = "sklearn"

[model]
library = "timm"

[train]
epochs = "five"
augment = { hflip = 1 }

[optimize.prune]

[[compile]]
backend = "openvno"
"""
    assert sorted(mistakes(text), key=lambda said: int(said.split(":")[1])) == [
        "toy.toml:2: sead: unknown key; did you mean 'seed'?",
        f"toy.toml:5: data.task: 'image-clasification' is not one of {there_are('tasks')}; "
        "did you mean 'image-classification'?",
        "toy.toml:8: model.name: required and not given",
        "toy.toml:12: train.epochs: expected an integer, found a string 'five'",
        "toy.toml:13: train.augment.hflip: expected a boolean (true or false), found an integer 1",
        f"toy.toml:15: optimize.prune: 'prune' is not one of {there_are('optimize')}",
        f"toy.toml:18: compile[0].backend: 'openvno' is not one of {there_are('compile')}; did you mean 'openvino'?",
    ]


def test_paths_start_at_the_folder_of_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(replaced('source = "sklearn"', 'source = "folder"\npath = "../images"'))
    path = load(file).source.options.path  # type: ignore[attr-defined]
    assert isinstance(path, PathText)
    assert (path, path.absolute) == ("../images", tmp_path.parent / "images")


def test_a_data_path_given_beside_the_recipe_replaces_its_own(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(replaced('source = "sklearn"', 'source = "folder"\npath = "../images"'))
    assert load(file, tmp_path / "other").source.options.path == str(tmp_path / "other")  # type: ignore[attr-defined]


def test_a_recipe_that_is_not_there_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "flowers.toml").write_text(SMALLEST)
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "flower.toml")
    said = f"{tmp_path / 'flower.toml'}: no such recipe; did you mean '{tmp_path / 'flowers.toml'}'?"
    assert str(caught.value) == said


def test_a_recipe_that_can_t_be_read_is_a_recipe_error(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"\n')
    for place in (tmp_path / "latin.toml", tmp_path, tmp_path / "latin.toml" / "below"):
        with pytest.raises(RecipeError, match=r"can't be read as UTF-8 text: "):
            load(place)
