"""A published run against what it was made from: its source films, and the cleaned films that its patches were cut from."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from mammo_etl.convert import input_files
from mammo_etl.extract import cut, read_image
from mammo_etl.files import SourceFileError, fingerprint_of, read_bytes
from mammo_etl.formats import FormatError
from mammo_etl.places import Place
from mammo_etl.reader import PublishedRun, read_table
from mammo_etl.records import Finding, Scan
from mammo_etl.schema import Record, from_rows, schema_of
from mammo_etl.settings import digest
from mammo_etl.store import read_rows
from mammo_etl.workspace import DamagedFileError, Workspace, read_sealed


class Verification(BaseModel):
    """What came of verifying a run."""

    run_id: str
    files: int
    """Files of the run that were read."""
    films: int
    """Films that were compared with their sources and their patches; 0 unless asked for."""
    faults: list[str]
    """A sentence each, that begins with the file concerned."""


def verify_films(workspace: Place, run: PublishedRun) -> Iterator[list[str]]:
    """The faults of each film of a run, film by film: source files that have changed since the film was cleaned, a damaged receipt or cleaned
    film, and rows of the store that are not what is cut from it.

    Reads the run's tables, which must be whole (see `catalog.verify_run`). Raises FormatError if they lack columns that they have now.
    """
    images = Workspace(workspace).images(
        digest(run.manifest["settings"]["cleaning"], version=run.manifest["format_version"])
    )
    array = run.open_patches()
    scans = _records(run.folder / "scans.parquet", Scan)
    findings: dict[str, list[Finding]] = {}
    for finding in _records(run.folder / "findings.parquet", Finding):
        findings.setdefault(finding.image_id, []).append(finding)
    columns = ["row", "image_id", "y", "x", "size"]
    patches = read_table(run.folder / "patches.parquet", columns).to_pandas()
    rows_of = patches.groupby("image_id").indices
    for scan in scans:
        path = images / f"{scan.image_id}.json"
        receipt = read_sealed(path)
        if receipt is None:
            yield [f"{path}: missing, or changed after it was written; the next build makes it again"]
            continue
        own = sorted(findings.get(scan.image_id, []), key=lambda finding: finding.finding_id)
        rows = patches.iloc[rows_of.get(scan.image_id, [])]
        changed = list(_source_faults(input_files(scan, own), receipt))
        if changed:
            # A stamp may be the same all the same: without its receipt the film is cleaned anew.
            with suppress(OSError):
                path.unlink(missing_ok=True)
        yield [*changed, *_patch_faults(path, receipt, rows, array, run)]


def _records(path: Place, record: type[Record]) -> list[Record]:
    table = read_table(path)
    names = schema_of(record).names
    if table.column_names != names:
        differing = ", ".join(sorted({*table.column_names} ^ {*names}))
        raise FormatError(
            f"{path}: other columns than now ({differing}): made by another mammo; verify it without --deep"
        )
    return from_rows(table.to_pylist(), record)


def _source_faults(files: Sequence[str], receipt: dict[str, Any]) -> Iterator[str]:
    if len(files) != len(receipt["files"]):
        yield f"{files[0]}: cleaned with {len(receipt['files'])} source files, the run lists {len(files)}; run the build again"
        return
    for url, known in zip(files, receipt["files"], strict=True):
        try:
            if fingerprint_of(read_bytes(url)) != known["xxh3"]:
                yield f"{url}: changed since it was read; the next build makes a new run of it"
        except SourceFileError as error:
            # One that could not be read at that time either is as it was.
            if known["xxh3"]:
                yield f"{url}: {error}"


def _patch_faults(
    receipt_path: Place, receipt: dict[str, Any], patches: pd.DataFrame, array: Any, run: PublishedRun
) -> Iterator[str]:
    png = receipt_path.with_suffix(".png")
    try:
        image = read_image(png, receipt["png"], array.dtype.numpy_dtype)
    except DamagedFileError as error:
        yield str(error)
        return
    if patches.empty:
        return
    try:
        stored = read_rows(array, patches["row"].to_numpy(np.int64))
    except (DamagedFileError, ValueError) as error:
        # TensorStore's own words, for a shard that is gone or cannot be decoded.
        yield f"{run.folder / 'patches.zarr'}: patches of {receipt['image_id']} cannot be read: {error.__cause__ or error}"
        return
    box = tuple(receipt["box"])
    places = zip(patches["y"], patches["x"], patches["size"], stored, strict=True)
    wrong = [not np.array_equal(cut(image, box, y, x, size), patch) for y, x, size, patch in places]
    if any(wrong):
        first = patches["row"].to_numpy()[wrong][0]
        yield (
            f"{run.folder / 'patches.zarr'}: {sum(wrong)} of {len(wrong)} patches of {receipt['image_id']} are not what is cut from "
            f"{png}, the first of them row {first}: the film was cleaned anew since, or they are damaged"
        )
