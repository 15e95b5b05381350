"""Reading a published run: all that training and analysis need of this package."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mammo_etl import store
from mammo_etl.formats import OLDEST_RUN, check_format, version_of
from mammo_etl.places import Place, place_of
from mammo_etl.schema import FORMAT_VERSION
from mammo_etl.workspace import Workspace, read_json, read_sealed

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


_BUILD_AGAIN = "build the run again"


class ReaderError(Exception):
    """No published run to read, in one sentence."""


class DamagedRunError(ReaderError):
    """A run whose manifest, or the pointer to it, is not what was written."""


@dataclass(frozen=True)
class PublishedRun:
    """A finished dataset run; its folder never changes."""

    run_id: str
    folder: Place
    manifest: dict[str, Any]

    def patches(self) -> "pd.DataFrame":
        """The patch table, sorted by row; columns as `mammo_etl.records.Patch`."""
        return read_table(self.folder / "patches.parquet").to_pandas()

    def open_patches(self) -> Any:
        """The pixels as a read-only TensorStore, (N, size, size) uint8 or uint16; row i belongs to row i of the patch table."""
        return store.open_patches(self.folder / "patches.zarr")


def read_table(path: Place, columns: list[str] | None = None) -> "pa.Table":
    """A Parquet file, or some of its columns."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        return pq.read_table(file, columns=columns)


def open_run(workspace: str | Place, run_id: str | None = None) -> PublishedRun:
    """The run that `current.json` names, or the one asked for.

    Raises ReaderError if there is none, mammo_etl.formats.FormatError if it is of a format that is not known, and DamagedRunError if it is damaged.
    """
    workspace = place_of(workspace)
    run_id = run_id or published_id(workspace)
    if run_id is None:
        raise ReaderError(f"{workspace}: no published run here; make one with `mammo build`")
    folder = Workspace(workspace).run(run_id)
    path = folder / "manifest.json"
    if not path.exists():
        raise ReaderError(f"{workspace}: no published run {run_id}")
    manifest = read_manifest(path)
    if manifest is None:
        raise DamagedRunError(f"{path}: changed since it was published; run the build again, which mends it")
    return PublishedRun(run_id, folder, manifest)


def published_id(workspace: Place) -> str | None:
    """The run that `current.json` names; None if nothing was published.

    Raises DamagedRunError if the file is damaged, and FormatError if it is of a newer format.
    """
    path = Workspace(workspace).current
    if not path.exists():
        return None
    current: Any = read_json(path)
    known = isinstance(current, dict) and version_of(current) is not None
    if known:
        check_format(path, current, FORMAT_VERSION, _BUILD_AGAIN, OLDEST_RUN)
    if not known or "run_id" not in current:
        raise DamagedRunError(f"{path}: expected the name of the published run; run the build again, which mends it")
    return str(current["run_id"])


def read_manifest(path: Place) -> dict[str, Any] | None:
    """A run's manifest; None if there is none, or if it has changed since it was written. Earlier versions did not seal theirs.

    Raises FormatError if it is of a format that is not known.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or version_of(manifest) is None:
        return None
    # Before its seal: a newer format may have another.
    check_format(path, manifest, FORMAT_VERSION, _BUILD_AGAIN, OLDEST_RUN)
    return read_sealed(path) if "seal" in manifest else manifest
