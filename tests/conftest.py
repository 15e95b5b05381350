"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real public files, named by MAMMO_REALDATA; tests that need it are skipped without it."""
    folder = Path(os.environ.get("MAMMO_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MAMMO_REALDATA to a folder that has it")
    return folder
