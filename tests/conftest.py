"""Fixtures for every room."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # how long one example takes says nothing here
settings.load_profile("shared machine")

# A shell's background ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data sets: $TLCOMPILE_TEST_DATA, else `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("TLCOMPILE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir() and os.environ.get("CI"):
        pytest.fail(f"real data sets must be at {folder} in CI")
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}; set TLCOMPILE_TEST_DATA")
    return folder
