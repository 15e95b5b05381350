"""Fixtures shared by all tests."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.clusters import ClusterSettings, open_client
from mammo_etl.phantom.write import write_phantoms

REPOSITORY = Path(__file__).resolve().parent.parent

Command = Callable[..., tuple[int, str, str]]
"""The fixture `mammo`."""


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


@pytest.fixture(scope="module")
def built(phantoms: Path, cluster: ClusterSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one published run, in `ws`, made of the films in `films`; not to be changed by a test."""
    from small_build import build

    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(phantoms / "cbis-ddsm", folder / "films")
    build(folder / "films", folder / "ws", cluster)
    return folder


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real public files, named by MAMMO_REALDATA; tests that need it are skipped without it."""
    folder = Path(os.environ.get("MAMMO_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MAMMO_REALDATA to a folder that has it")
    return folder


@pytest.fixture
def mammo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `mammo ARGUMENTS` in this process: exit code, standard output and standard error."""
    from flows import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mammo", *map(str, arguments)])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        # As Python has it: a sentence in the place of a code is 1.
        return 1 if isinstance(code, str) else code or 0, captured.out, captured.err

    return run
