from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_training import splits_folder


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, split."""
    return splits_folder(tmp_path_factory.mktemp("train"))
