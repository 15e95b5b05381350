"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.clusters import ClusterSettings, open_client
from mammo_etl.phantom.write import write_phantoms

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small phantom films of both sources, 16 patients: not to be changed by a test."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 16, 0, height=480, width=320, workers=2)
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterSettings]:
    """The address of a running cluster of two workers, so that not every test has to start its own."""
    with open_client(ClusterSettings(workers=2)) as client:
        yield ClusterSettings(address=client.scheduler.address)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real public files, named by MAMMO_REALDATA; tests that need it are skipped without it."""
    folder = Path(os.environ.get("MAMMO_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MAMMO_REALDATA to a folder that has it")
    return folder
