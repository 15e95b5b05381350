"""Patches that the published run has already: copied from its shards into those of the next run, not cut from films once more.

A patch is the same if place, size and cleaned film are. Only what the published run's digests vouch for is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl import store
from mammo_etl.dicom import Pixels
from mammo_etl.files import digest_of, digest_of_file
from mammo_etl.places import Place
from mammo_etl.reader import PublishedRun, ReaderError, open_run, read_table
from mammo_etl.records import Scan
from mammo_etl.schema import FORMAT_VERSION

_ARRAY = "patches.zarr"
_FILM = ["image_sha256", "image_box"]
_PATCH = ["image_id", "y", "x", "size"]


@dataclass(frozen=True, slots=True)
class Parent:
    """Where patches can be copied from."""

    array: Place
    """The published run's patches.zarr."""
    digests: dict[int, str]
    """SHA-256 of its shards, by number."""
    shard_rows: int
    """Rows of a shard."""
    rows: NDArray[np.int64]
    """For each patch, in order, its row there; -1 if it is not there."""

    def part(self, rows: range) -> "Parent | None":
        """For some of the patches; None if it has none of these."""
        part = self.rows[rows.start : rows.stop]
        shards = np.unique(part[part >= 0] // self.shard_rows).tolist()
        if not shards:
            return None
        return Parent(self.array, {shard: self.digests[shard] for shard in shards}, self.shard_rows, part)


def find_parent(workspace: Place, plan: pd.DataFrame, scans: Sequence[Scan], most_rows: int) -> Parent | None:
    """What the published run has of the patches of a plan and its cleaned films; None if there is no such run, or it cannot be trusted.

    Nor are shards of more than `most_rows`, as a worker holds one at a time as a whole.
    """
    try:
        run = open_run(workspace)
    except ReaderError:
        return None
    if run.manifest["format_version"] != FORMAT_VERSION:
        return None
    if not all(_is_whole(run, name) for name in ("scans.parquet", "patches.parquet", f"{_ARRAY}/zarr.json")):
        return None
    before = read_table(run.folder / "scans.parquet").to_pandas()
    # Runs made before `scans` told of cleaned films.
    if not set(_FILM) <= set(before.columns):
        return None
    now = pd.DataFrame(
        [(scan.image_id, scan.image_sha256, scan.image_box) for scan in scans], columns=["image_id", *_FILM]
    )
    films = [frame.assign(image_box=frame["image_box"].map(tuple))[["image_id", *_FILM]] for frame in (before, now)]
    same = films[0].merge(films[1])["image_id"]
    # A place is taken once only in a film, but for abnormal and normal patches on top of each other.
    theirs = read_table(run.folder / "patches.parquet", [*_PATCH, "row"]).to_pandas().drop_duplicates(_PATCH)
    rows = plan[_PATCH].merge(theirs[theirs["image_id"].isin(same)], how="left", on=_PATCH)["row"]
    _, shard_rows = store.layout_of(run.folder / _ARRAY)
    if shard_rows > most_rows:
        return None
    count = int(run.manifest["counts"]["patches"])
    digests = run.manifest["digests"]
    shards = {shard: digests[f"{_ARRAY}/c/{shard}/0/0"] for shard in range(len(store.shard_ranges(count, shard_rows)))}
    return Parent(run.folder / _ARRAY, shards, shard_rows, rows.fillna(-1).to_numpy(np.int64))


def _is_whole(run: PublishedRun, name: str) -> bool:
    path = run.folder / name
    return path.is_file() and digest_of_file(path) == run.manifest["digests"].get(name)


def copy_patches(parent: Parent, block: Pixels) -> NDArray[np.bool_]:
    """Fills in those of the patches, (patches, size, size), that the parent has, and tells which; none from a shard that is missing or damaged."""
    copied = np.zeros(len(block), np.bool_)
    for shard, expected in parent.digests.items():
        try:
            content = store.shard_path(parent.array, shard).read_bytes()
        except FileNotFoundError:
            continue
        if digest_of(content) != expected:
            continue
        of_shard = parent.rows // parent.shard_rows == shard
        block[of_shard] = store.decode_rows(parent.array, shard, content, parent.rows[of_shard])
        copied |= of_shard
    return copied
