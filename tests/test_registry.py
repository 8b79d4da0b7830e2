"""Finding plug-ins by room and name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tlcompile import registry
from tlcompile.errors import RecipeError
from tlcompile.options import Options

ROOM = Path(registry.__file__).parent
EVERY = [(room, name) for room in registry.ROOMS for name in registry.names(room)]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that brings a backend `abacus`, and one that would take over `openvino`."""
    (tmp_path / "abacus_backend.py").write_text("WHO = 'a third party'\n")
    info = tmp_path / "abacus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tlcompile.compile]\nabacus = abacus_backend\nopenvino = abacus_backend\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.third_party.cache_clear()
    yield
    registry.third_party.cache_clear()


def test_every_room_has_plugins_in_order() -> None:
    for room in registry.ROOMS:
        names = registry.names(room)
        assert names
        assert list(names) == sorted(names)


def test_files_that_begin_with_an_underscore_are_no_plugins() -> None:
    assert (ROOM / "compile" / "_cpu.py").exists()
    assert not [name for _, name in EVERY if name.startswith("_")]


def test_tasks_are_written_with_dashes_and_other_names_as_their_files() -> None:
    assert "image-classification" in registry.names("tasks")
    assert "tensorrt_rtx" in registry.names("compile")


@pytest.mark.parametrize(("room", "name"), EVERY)
def test_every_plugin_can_be_loaded_and_has_what_its_room_asks_for(room: str, name: str) -> None:
    module = registry.load(room, name)
    if room == "tasks":
        assert module.KIND in ("image", "text")
        return
    assert issubclass(module.Options, Options)
    assert isinstance(module.PACKAGES, tuple)
    wanted = {
        "data": ["KINDS", "load"],
        "models": ["KINDS", "check", "build"],
        "compress": ["LINE", "apply"],
        "optimize": ["ON_BY_DEFAULT", "variant", "tolerance", "apply"],
        "compile": ["dialect", "missing", "runs_here", "device", "build", "open"],
    }
    assert [part for part in wanted[room] if not hasattr(module, part)] == []


@pytest.mark.parametrize(("room", "name"), [pair for pair in EVERY if pair[0] != "tasks"])
def test_every_option_of_every_plugin_has_a_place_in_a_recipe(room: str, name: str) -> None:
    """Keys shared by a table and its plug-in would hide each other."""
    from tlcompile.recipe.tables import DataTable, TargetTable

    common = {"data": {*DataTable.model_fields}, "models": {"library"}, "compile": {*TargetTable.model_fields}}
    assert not common.get(room, set()) & {*registry.load(room, name).Options.model_fields}


def test_an_unknown_name_is_told_with_those_there_are_and_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        registry.load("models", "tim", "toy.toml:8: model.library")
    known = "'onnx', 'timm', 'torchvision' or 'transformers'"
    said = f"toy.toml:8: model.library: 'tim' is not one of {known}; did you mean 'timm'?"
    assert str(caught.value) == said


def test_without_a_place_the_room_is_named() -> None:
    with pytest.raises(RecipeError, match=r"^compile: 'x' is not one of "):
        registry.load("compile", "x")


@pytest.mark.usefixtures("elsewhere")
def test_a_package_adds_a_plugin_by_an_entry_point() -> None:
    assert registry.load("compile", "abacus").WHO == "a third party"
    with pytest.raises(RecipeError, match=r"did you mean 'abacus'\?"):
        registry.load("compile", "abakus")


@pytest.mark.usefixtures("elsewhere")
def test_a_package_can_t_take_over_a_name_of_ours() -> None:
    assert set(registry.third_party("compile")) == {"abacus"}
    assert registry.load("compile", "openvino").__name__ == "tlcompile.compile.openvino"
