"""Facts that hold for every source there is, found by its file alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from toy_data import Prepared, class_folders

from tlcompile import registry
from tlcompile.errors import DataError
from tlcompile.options import Options, PathText

NAMES = registry.names("data")
HEAVY = ("numpy", "pyarrow", "PIL", "sklearn", "datasets", "torch")


@pytest.fixture(params=NAMES)
def source(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("data", request.param)


def short(source: ModuleType) -> str:
    return source.__name__.rpartition(".")[2]


def test_the_sources_of_the_first_furnishing_are_there() -> None:
    assert set(NAMES) >= {"csv", "folder", "hf", "jsonl", "parquet", "sklearn"}


def test_it_says_what_it_brings_and_which_packages_it_uses(source: ModuleType) -> None:
    assert set(source.KINDS) <= {"image", "text"}
    assert source.KINDS
    assert isinstance(source.PACKAGES, tuple)
    assert all(version(package) for package in source.PACKAGES)
    assert callable(source.load)


def test_every_option_is_described_and_no_key_of_the_data_table_is_taken(source: ModuleType) -> None:
    from tlcompile.recipe.tables import DataTable

    assert issubclass(source.Options, Options)
    assert all(field.description for field in source.Options.model_fields.values())
    assert not set(source.Options.model_fields) & set(DataTable.model_fields)


def test_importing_it_imports_nothing_heavy(source: ModuleType) -> None:
    code = f"import sys, {source.__name__}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_path_that_is_not_there_is_told_with_its_neighbour(source: ModuleType, tmp_path: Path) -> None:
    if "path" not in source.Options.model_fields:
        pytest.skip("takes no path")
    (tmp_path / "flowers").mkdir()
    options = source.Options(path=str(tmp_path / "flower"))
    assert isinstance(options.path, PathText)
    with pytest.raises(DataError, match=re.escape("flower: no such file or folder; did you mean 'flowers'?")):
        source.load(options, source.KINDS[0], 0)


def tiny(name: str, kind: str, folder: Path) -> dict[str, Any] | None:
    """Options of a tiny set of 20 or more examples in the source's own form; None where none is known."""
    rows = [(f"word {i}", "ab"[i % 2]) for i in range(20)]
    if name == "sklearn":
        return {}
    if name == "folder":
        return {"path": class_folders(folder, {"a": 10, "b": 10})}
    if name == "csv":
        (folder / "all.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    elif name == "jsonl":
        (folder / "all.jsonl").write_text("".join(f'{{"text": "{t}", "label": "{c}"}}\n' for t, c in rows))
    elif name in ("parquet", "hf"):
        import pyarrow as pa
        import pyarrow.parquet as pq
        from toy_data import jpeg

        examples = [jpeg(i) for i in range(20)] if kind == "image" else [text for text, _ in rows]
        pq.write_table(pa.table({kind: examples, "label": [label for _, label in rows]}), folder / "all.parquet")
    else:
        return None
    return {"name": str(folder)} if name == "hf" else {"path": folder}


def test_a_tiny_set_goes_through_the_whole_stage(
    source: ModuleType, tmp_path: Path, run: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in source.KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        options = tiny(short(source), kind, folder)
        if options is None:
            pytest.skip("no tiny set is known for it")
        if short(source) == "hf":
            import datasets

            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
            datasets.disable_progress_bars()
        done = run(short(source), kind, **options)
        info = done.info
        assert info["kind"] == kind
        assert len(info["classes"]) >= 2
        for name, counts in info["counts"].items():
            split = done.split(name)
            assert len(split) == sum(counts.values())
            assert all(counts.values())
            assert len(set(split.ids)) == len(split)
            assert isinstance(split[0], str) == (kind == "text")
