from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import toy_bundle


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound image bundle with two engines. Not to be changed."""
    work = tmp_path_factory.mktemp("built")
    return toy_bundle.build(work / "toy", work / "made", ("openvino", "onnxruntime"))


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(built, tmp_path / "toy"))
