"""The only Parquet writer: a run's tables, the catalog, and the publishing of a run."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mammo_etl import extract, store
from mammo_etl.files import digest_of_file
from mammo_etl.formats import METRICS_VERSION, MODEL_VERSION, OLDEST_METRICS, OLDEST_MODEL, OLDEST_RUN, check_format
from mammo_etl.places import Place, files_below, name_below, read_each, remove_tree
from mammo_etl.reader import DamagedRunError, PublishedRun, open_run, published_id, read_manifest, read_table
from mammo_etl.records import Finding, Rejection, Scan
from mammo_etl.schema import FORMAT_VERSION, PATCHES, to_table
from mammo_etl.versions import package_versions
from mammo_etl.workspace import UNFINISHED, Workspace, entries, read_json, replacing, write_json, write_sealed

CATALOG = pa.schema(
    [  # type: ignore[arg-type]  # the stubs do not know a list of fields of several types
        pa.field("kind", pa.string(), False, {"description": "run or model."}),
        pa.field("id", pa.string(), False, {"description": "run_id or model_id: the folder's name."}),
        pa.field("created", pa.timestamp("us", tz="UTC"), False, {"description": "When it was finished."}),
        pa.field("parent", pa.string(), True, {"description": "For a model, the run it was trained on."}),
        pa.field("sources", pa.list_(pa.string()), True, {"description": "Kinds of source of a run."}),
        pa.field("scans", pa.int64(), True, {"description": "Films of a run."}),
        pa.field("findings", pa.int64(), True, {"description": "Findings of a run."}),
        pa.field("patches", pa.int64(), True, {"description": "Patches of a run."}),
        pa.field("rejects", pa.int64(), True, {"description": "Rows of a run's rejects."}),
        pa.field("accuracy", pa.float64(), True, {"description": "Accuracy of a model on its test split."}),
    ],
    metadata={"format_version": str(FORMAT_VERSION)},
)


class IncompleteRunError(Exception):
    """A run that lacks shards, or whose shards are not what their receipts say."""


def versioned(table: pa.Table, version: int) -> pa.Table:
    """A table that says of which format it is."""
    metadata = table.schema.metadata or {}
    return table.replace_schema_metadata({**metadata, b"format_version": str(version).encode()})


def write_table(path: Place, table: pa.Table, row_group: int | None = None) -> None:
    """Writes a Parquet file, whole or not at all; equal tables give equal bytes."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group)


def write_parts(path: Place, schema: pa.Schema, parts: Iterable[pa.Table]) -> int:
    """Writes a Parquet file of one row group per part, whole or not at all, without holding more than one; returns its rows."""
    rows = 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part, row_group_size=max(1, len(part)))
            rows += len(part)
    return rows


def write_rejects(workspace: Place, rejects: Iterable[Rejection]) -> None:
    """Writes what a build under way has left out so far, for those whose build then fails."""
    write_table(Workspace(workspace).rejects, to_table(rejects, Rejection))


def write_run_tables(
    run: Place,
    run_id: str,
    scans: Iterable[Scan],
    findings: Iterable[Finding],
    rejects: Iterable[Rejection],
    plan: pd.DataFrame,
    shard_rows: int,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Writes the four tables of a run whose shards are all there; returns the patch table, and the SHA-256 of each shard's file by its name in the run.

    Raises IncompleteRunError naming the shards that are missing or damaged.
    """
    shards = store.shard_ranges(len(plan), shard_rows)
    receipts = list(read_each(lambda shard: extract.valid_receipt(run, shard), range(len(shards))))
    gaps = [shard for shard, receipt in enumerate(receipts) if receipt is None]
    if gaps:
        raise IncompleteRunError(f"{run}: shards not written or damaged: {gaps}; run the build again")
    patches = plan.assign(
        run_id=run_id,
        mean=np.concatenate([receipt["mean"] for receipt in receipts if receipt]),
        std=np.concatenate([receipt["std"] for receipt in receipts if receipt]),
    )[PATCHES.names]
    write_table(run / "scans.parquet", to_table(scans, Scan))
    write_table(run / "findings.parquet", to_table(findings, Finding))
    write_table(run / "rejects.parquet", to_table(rejects, Rejection))
    table = pa.Table.from_pandas(patches, PATCHES, preserve_index=False).replace_schema_metadata(PATCHES.metadata)
    write_table(run / "patches.parquet", table, row_group=65536)
    array = run / "patches.zarr"
    files = [name_below(store.shard_path(array, shard), run) for shard in range(len(shards))]
    return patches, {name: receipt["sha256"] for name, receipt in zip(files, receipts, strict=True) if receipt}


def run_files(folder: Place) -> list[str]:
    """Every file below a run's folder but the manifest and receipts, by relative path, sorted."""
    names = (name_below(entry.place, folder) for entry in files_below(folder))
    return sorted(name for name in names if name != "manifest.json" and not name.startswith("shards/"))


def publish(workspace: Place, run_id: str, manifest: dict[str, Any], shards: Mapping[str, str]) -> PublishedRun:
    """Finishes a run whose tables, shards and report are written: its manifest, then catalog and `current.json`.

    `shards` are the digests of the shards' files, as `write_run_tables` has found them; all other files are read once more.
    A run that was published before, and damaged since, stays the child of the same parent.
    """
    folder = Workspace(workspace).run(run_id)
    before = read_manifest(folder / "manifest.json") or {}
    history: dict[str, Any] = {key: before[key] for key in ("created", "parent") if key in before}
    for entry in files_below(folder):
        if entry.place.name.startswith(UNFINISHED):
            entry.place.unlink()
    full = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **manifest,
        **history,
        "versions": package_versions(),
        "digests": {name: shards.get(name) or digest_of_file(folder / name) for name in run_files(folder)},
    }
    write_sealed(folder / "manifest.json", full)
    run = open_run(workspace, run_id)
    announce(workspace, run)
    return run


def announce(workspace: Place, run: PublishedRun) -> None:
    """Enters a finished run in the catalog and makes it the published one, last and in one atomic change.

    May be repeated, as after a build that was killed between its last steps.
    """
    receipts = run.folder / "shards"
    if receipts.is_dir():
        remove_tree(receipts)
    write_catalog(workspace)
    current = Workspace(workspace).current
    pointer = {"format_version": FORMAT_VERSION, "run_id": run.run_id}
    if read_json(current) != pointer:
        write_json(current, pointer)


def finished_run(workspace: Place, run_id: str) -> PublishedRun | None:
    """The run if it is finished and whole, else None: it is then to be extracted and published, again if it was damaged since.

    Readers may be at it meanwhile: each of its files is replaced as a whole, by one of the same content as the file was published with, and the
    manifest, which may name another report, last. What does not belong to the run is taken away.
    """
    if not (Workspace(workspace).run(run_id) / "manifest.json").exists():
        return None
    try:
        run = open_run(workspace, run_id)
    except DamagedRunError:
        return None
    if not verify_run(run):
        return run
    for name in set(run_files(run.folder)) - run.manifest["digests"].keys():
        (run.folder / name).unlink()
    return None


def write_catalog(workspace: Place) -> None:
    """Writes the catalog anew from the manifests of all finished runs and models, so that writers at the same time lose nothing for long.

    Raises FormatError if one of them is of a format that is not known.
    """
    path, table = Workspace(workspace).catalog, _catalog(workspace)
    if not _holds(path, table):
        write_table(path, table)


def check_formats(workspace: Place) -> None:
    """Raises FormatError if a newer mammo has worked in a workspace, before an older one publishes anything in it; names the file."""
    # One that is damaged is mended.
    with suppress(DamagedRunError):
        published_id(workspace)
    path = Workspace(workspace).catalog
    try:
        metadata = read_table(path).schema.metadata or {}
    except (OSError, pa.ArrowInvalid):
        metadata = {}
    found = metadata.get(b"format_version", b"").decode()
    if found.isdecimal():
        check_format(path, {"format_version": int(found)}, FORMAT_VERSION, "", OLDEST_RUN)
    _catalog(workspace)


def _catalog(workspace: Place) -> pa.Table:
    places = Workspace(workspace)
    rows = [_run_row(manifest) for run in entries(places.runs) if (manifest := read_manifest(run / "manifest.json"))]
    for model in entries(places.models):
        paths = model / "manifest.json", model / "metrics.json"
        manifest, metrics = map(read_json, paths)
        if manifest and metrics:
            check_format(paths[0], manifest, MODEL_VERSION, "train the model again", OLDEST_MODEL)
            check_format(paths[1], metrics, METRICS_VERSION, "train the model again", OLDEST_METRICS)
            rows.append(_model_row(manifest, metrics))
    rows.sort(key=lambda row: (row["created"], row["kind"], row["id"]))
    blank = dict.fromkeys(CATALOG.names)
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=CATALOG)


def _holds(path: Place, table: pa.Table) -> bool:
    try:
        return bool(read_table(path).equals(table))
    except (OSError, pa.ArrowInvalid):
        return False


def _run_row(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "run",
        "id": manifest["run_id"],
        "created": datetime.fromisoformat(manifest["created"]),
        "sources": sorted({source["kind"] for source in manifest["sources"]}),
        **{name: manifest["counts"][name] for name in ("scans", "findings", "patches", "rejects")},
    }


def _model_row(manifest: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "model",
        "id": manifest["model_id"],
        "created": datetime.fromisoformat(manifest["finished"]),
        "parent": manifest["run_id"],
        "accuracy": metrics["splits"]["test"]["accuracy"]["value"],
    }


def verify_run(run: PublishedRun) -> list[str]:
    """Reads every file of a run against the manifest's digests; returns a sentence per fault, none if all is well."""
    return [fault for fault in verify_files(run) if fault is not None]


def verify_files(run: PublishedRun) -> Iterator[str | None]:
    """The fault of each file of a run, None for one that is what the manifest's digest says."""
    digests: dict[str, str] = run.manifest["digests"]

    def fault_of(name: str) -> str | None:
        path = run.folder / name
        try:
            found = digest_of_file(path)
        except (FileNotFoundError, IsADirectoryError):
            return f"{path}: missing"
        return None if found == digests[name] else f"{path}: changed since it was published"

    yield from read_each(fault_of, list(digests))
    yield from (f"{run.folder / name}: not part of the run" for name in run_files(run.folder) if name not in digests)
