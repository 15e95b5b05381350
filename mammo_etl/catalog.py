"""The only Parquet writer: a run's tables, the catalog, and the publishing of a run."""

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mammo_etl import extract, store
from mammo_etl.files import digest_of
from mammo_etl.reader import PublishedRun, open_run
from mammo_etl.records import Finding, Rejection, Scan
from mammo_etl.schema import FORMAT_VERSION, PATCHES, to_table
from mammo_etl.workspace import UNFINISHED, Workspace, read_json, replacing, write_json

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
    """A run that lacks shards, or whose files are not what its receipts or manifest say."""


def write_table(path: Path, table: pa.Table, row_group: int | None = None) -> None:
    """Writes a Parquet file, whole or not at all; equal tables give equal bytes."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group)


def write_rejects(workspace: Path, rejects: Iterable[Rejection]) -> None:
    """Writes what a build under way has left out so far, for those whose build then fails."""
    write_table(Workspace(workspace).rejects, to_table(rejects, Rejection))


def package_versions() -> dict[str, str]:
    """Versions of what decides a run's bytes."""
    names = ["mammo", "numpy", "opencv-python-headless", "pydicom", "pyarrow", "tensorstore", "zarr"]
    return {name: version(name) for name in names}


def write_run_tables(
    run: Path,
    run_id: str,
    scans: Iterable[Scan],
    findings: Iterable[Finding],
    rejects: Iterable[Rejection],
    plan: pd.DataFrame,
    shard_rows: int,
) -> pd.DataFrame:
    """Writes the four tables of a run whose shards are all there; returns the patch table.

    Raises IncompleteRunError naming the shards that are missing or damaged.
    """
    shards = store.shard_ranges(len(plan), shard_rows)
    receipts = [extract.valid_receipt(run, shard) for shard in range(len(shards))]
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
    return patches


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a run's folder but the manifest and receipts, by relative path."""
    return {
        path.relative_to(folder).as_posix(): digest_of(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and path.relative_to(folder).parts[0] != "shards"
    }


def publish(workspace: Path, run_id: str, manifest: dict[str, Any]) -> PublishedRun:
    """Finishes a run whose tables, shards and report are written: its manifest, then catalog and `current.json`."""
    folder = Workspace(workspace).run(run_id)
    for leftover in (*folder.rglob(f"{UNFINISHED}*"), *folder.rglob(f"*{store.LOCK_SUFFIX}")):
        leftover.unlink()
    full = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **manifest,
        "versions": package_versions(),
        "digests": file_digests(folder),
    }
    write_json(folder / "manifest.json", full)
    run = open_run(workspace, run_id)
    announce(workspace, run)
    return run


def announce(workspace: Path, run: PublishedRun) -> None:
    """Enters a finished run in the catalog and makes it the published one, last and in one atomic change.

    May be repeated, as after a build that was killed between its last steps.
    """
    receipts = run.folder / "shards"
    if receipts.exists():
        shutil.rmtree(receipts)
    write_catalog(workspace)
    places = Workspace(workspace)
    current = read_json(places.current)
    if current is None or current["run_id"] != run.run_id:
        write_json(places.current, {"format_version": FORMAT_VERSION, "run_id": run.run_id})


def finished_run(workspace: Path, run_id: str) -> PublishedRun | None:
    """The run if it is finished, else None; raises IncompleteRunError if its files were changed since."""
    folder = Workspace(workspace).run(run_id)
    if not (folder / "manifest.json").exists():
        return None
    run = open_run(workspace, run_id)
    if faults := verify_run(run):
        raise IncompleteRunError(f"{faults[0]} ({len(faults)} faults in all): remove {folder} and run the build again")
    return run


def write_catalog(workspace: Path) -> None:
    """Writes the catalog anew from the manifests of all finished runs and models, so that writers at the same time lose nothing for long."""
    root = Workspace(workspace).root
    rows = [_run_row(manifest) for path in root.glob("runs/*/manifest.json") if (manifest := read_json(path))]
    rows += [
        _model_row(manifest, metrics)
        for path in root.glob("models/*/manifest.json")
        if (manifest := read_json(path)) and (metrics := read_json(path.with_name("metrics.json")))
    ]
    rows.sort(key=lambda row: (row["created"], row["kind"], row["id"]))
    blank = dict.fromkeys(CATALOG.names)
    table = pa.Table.from_pylist([{**blank, **row} for row in rows], schema=CATALOG)
    path = Workspace(workspace).catalog
    if not path.exists() or not pq.read_table(path).equals(table):
        write_table(path, table)


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
    faults = []
    there = file_digests(run.folder)
    for name, expected in run.manifest["digests"].items():
        found = there.pop(name, None)
        if found is None:
            faults.append(f"{run.folder / name}: missing")
        elif found != expected:
            faults.append(f"{run.folder / name}: changed since it was published")
    return faults + [f"{run.folder / name}: not part of the run" for name in there]
