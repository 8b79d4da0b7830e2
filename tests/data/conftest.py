"""One call from a source to its finished splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_data import Prepared

from tlcompile import progress, registry
from tlcompile.artifacts import Labels
from tlcompile.data import prepare
from tlcompile.errors import DataError
from tlcompile.recipe.tables import DataTable


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "quiet", True)


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prepared]:
    """`run(source, kind, seed=…, table={…}, learns=…, **options)`: the data stage as the pipeline calls it."""

    def call(
        source: str,
        kind: str,
        *,
        seed: int = 17,
        table: dict[str, Any] | None = None,
        learns: Labels = "class",
        **options: Any,
    ) -> Prepared:
        module = registry.load("data", source)
        folder = tmp_path_factory.mktemp("splits")
        task = DataTable(task=f"{kind}-classification", source=source, **(table or {}))
        options = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
        prepare(module, module.Options(**options), task, kind, seed, folder, learns)
        return Prepared(folder)

    return call


@pytest.fixture
def told(run: Callable[..., Prepared]) -> Callable[..., str]:
    """The sentences of the DataError that `run` must raise."""

    def call(*arguments: Any, **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            run(*arguments, **options)
        return str(caught.value)

    return call
