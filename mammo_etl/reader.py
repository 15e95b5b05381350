"""Reading a published run: all that training and analysis need of this package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mammo_etl import store
from mammo_etl.schema import FORMAT_VERSION
from mammo_etl.workspace import Workspace, read_json


class ReaderError(Exception):
    """No published run that this version can read, in one sentence."""


@dataclass(frozen=True)
class PublishedRun:
    """A finished dataset run; its folder never changes."""

    run_id: str
    folder: Path
    manifest: dict[str, Any]

    def patches(self) -> pd.DataFrame:
        """The patch table, sorted by row; columns as `mammo_etl.records.Patch`."""
        return pd.read_parquet(self.folder / "patches.parquet")

    def open_patches(self) -> Any:
        """The pixels as a read-only TensorStore, (N, size, size) uint8 or uint16; row i belongs to row i of the patch table."""
        return store.open_patches(self.folder / "patches.zarr")


def open_run(workspace: Path, run_id: str | None = None) -> PublishedRun:
    """The run that `current.json` names, or the one asked for.

    Raises ReaderError if there is none, or if it is of a newer format.
    """
    places = Workspace(workspace)
    if run_id is None:
        current = read_json(places.current)
        if current is None:
            raise ReaderError(f"{workspace}: no published run here; make one with `mammo build`")
        run_id = str(current["run_id"])
    folder = places.run(run_id)
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        raise ReaderError(f"{workspace}: no published run {run_id}")
    if manifest["format_version"] > FORMAT_VERSION:
        raise ReaderError(
            f"{folder}: format version {manifest['format_version']} is newer than {FORMAT_VERSION}, the newest known here"
        )
    return PublishedRun(run_id, folder, manifest)
