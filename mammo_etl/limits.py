"""What a run will need, foretold before its work is sent: memory of a worker, space on the workspace's disk; what cannot fit is refused.

A film is never left out for want of either: what a run contains must not depend on where it was made. Figures are upper bounds. Those of memory
follow from the arrays that are held at once, each phase at its worst (compressed files, a breast of noise that fills its film), those of disk from real
films. `tests/test_limits.py` holds both against what is measured.
"""

import math
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mammo_etl.breast import reduction
from mammo_etl.film_work import FilmWork
from mammo_etl.places import Place
from mammo_etl.plan import PlanError
from mammo_etl.records import Finding, RoiKind, Scan
from mammo_etl.roi import chain_points
from mammo_etl.settings import BuildSettings, CleaningSettings, PatchSettings, digest
from mammo_etl.store import shard_path, shard_ranges
from mammo_etl.workspace import Workspace, entries

WORKER = 360_000_000
"""Bytes of a worker process before its first film. 253 MB were measured with all imports, 330 MB once the decoder of lossless JPEG was loaded."""

_USABLE = 0.8
"""Share of a worker's memory limit that its process may take. Above it Dask gives the worker no more work, above 0.95 it kills it (Dask's documentation,
"Worker Memory Management"); and as a worker keeps memory for its next film (`flows.clusters.WORKER_ENVIRONMENT`), it might not come below it again."""

_FILM: dict[Literal[8, 16], int] = {8: 18, 16: 26}
"""Bytes per pixel of a film, by `cleaning.bits`: its file and what decompresses it, its pixels as stored and by a window or curve, mask, cleaned image,
floats on the way to 16 bits, PNG, sums of the breast. At most 13.7 and 21.0 were measured, each with one kind of file; 9 and 15 are usual."""
_HELD = 10
"""Bytes per pixel of these that are held while masks are found and read."""
_HARD = 8
"""Bytes per pixel of the sums of grey levels (`patches.hard_normals`)."""
_REDUCED = 64
"""Bytes per pixel of the reduced film on which the breast is found: some fifteen arrays of 32-bit floats."""
_ROI = 6
"""Bytes per pixel of a ROI's box: mask, its copy, and its sums as 32-bit integers."""
_CROP = 80_000_000
"""Bytes of looking for a cut-out: eight arrays of 32-bit floats, at most 1,536 pixels square (`mammo_etl.crop_match`)."""
_APART = 2_000_000
"""Bytes of one figure for each of the places that are searched where findings lie close together (`mammo_etl.candidates`)."""
_TRY = 4_000
"""Bytes per normal patch asked for: 40 places, each with a dozen figures."""
_REST = 50_000_000
"""Bytes of all else: tables, receipts, buffers of libraries."""

_PNG: dict[Literal[8, 16], float] = {8: 0.35, 16: 1.0}
"""Bytes of a cleaned film per pixel of the whole film, by `cleaning.bits`. Of 102 films of mini-MIAS they are 0.17 and 0.31 on the average, 0.33 and 0.61 at
most; of a film of CBIS-DDSM 0.17 and 0.60 (its low bits were noise); of phantoms up to 0.21 and 0.80."""
_RECEIPT, _RECEIPT_ROI = 2_000, 4_000
"""Bytes of a film's receipt, and of each ROI in it."""
_CANDIDATE = 240
"""Bytes of a candidate."""
_BLOCK = 4_096
"""What the size of a file is rounded up to, bytes: the block of most file systems."""
_PATCH = 400
"""Bytes of a patch beside its pixels: its row in tables and receipts, its place in the shard's index."""
_OBJECT = 5_000_000_000
"""Bytes that an object store takes in one request (Amazon S3 User Guide, "Uploading objects": 5 GB)."""
_TABLES, _TABLES_FILM = 1_000_000, 2_000
"""Bytes of a run's report and tables, and of each film in these."""


def film_memory(work: FilmWork, cleaning: CleaningSettings, patches: PatchSettings) -> int:
    """Bytes that converting a film takes at most, above `WORKER`.

    A twin is read after the film itself, for the places of its findings alone: it takes no more than it would take to be converted.
    """
    films = [(work.scan, work.findings)]
    if patches.normals == "background":
        films += work.twins
    return max(_film_memory(scan, findings, cleaning, patches) for scan, findings in films)


def _film_memory(scan: Scan, findings: Sequence[Finding], cleaning: CleaningSettings, patches: PatchSettings) -> int:
    pixels = scan.rows * scan.columns
    reduced = pixels // reduction(scan.rows, cleaning) ** 2
    phases = [
        pixels * (_FILM[cleaning.bits] + (_HARD if patches.hard_normals else 0)),
        pixels * _HELD + reduced * _REDUCED,
        *(pixels * _HELD + _roi_memory(scan, finding) for finding in findings),
    ]
    regions = _ROI * _roi_pixels(scan, findings)
    places = _APART * (20 + 6 * len(findings)) if len(findings) > 1 else 0
    return max(phases) + regions + places + _TRY * patches.normals_per_film + _REST


def _roi_memory(scan: Scan, finding: Finding) -> int:
    """Bytes of reading one ROI."""
    if finding.roi_kind is RoiKind.MASK:
        rows, columns = finding.mask_rows or scan.rows, finding.mask_columns or scan.columns
        # The file, two copies of it if it is compressed, its pixels; where these are above 0, as booleans and as the mask.
        depth = (finding.mask_bits or 16) // 8
        return rows * columns * (4 * depth + 2) + (_CROP if finding.crop_path else 0)
    # The outline's mask with its margin, and the same again to fill it.
    return 2 * (scan.rows + 1000) * (scan.columns + 1000)


def _roi_pixels(scan: Scan, findings: Iterable[Finding]) -> int:
    """Pixels in the boxes of a film's ROIs, at most. Masks tell nothing until they are read: ROIs are taken to fill their film no more than once."""
    pixels = scan.rows * scan.columns
    return min(pixels, sum(_box_pixels(finding, pixels) for finding in findings))


def _box_pixels(finding: Finding, film: int) -> int:
    match finding.roi_kind:
        case RoiKind.NONE:
            return 0
        case RoiKind.CIRCLE:
            return (2 * round(finding.roi_radius or 0) + 3) ** 2
        case RoiKind.OUTLINE:
            points = np.concatenate([chain_points(chain) for chain in finding.roi_outlines])
            width, height = np.ptp(points, axis=0).tolist()
            return int((width + 1) * (height + 1))
        case RoiKind.MASK:
            return film


def shard_memory(rows: int, size: int, bits: int, film_pixels: int) -> int:
    """Bytes that extracting a shard takes at most, above `WORKER`; `film_pixels`: of the largest cleaned film.

    Patches, their compressed copies, the file made of these and its copy on the way out, were they as large as the patches; a film's PNG, its
    pixels and a copy.
    """
    return (4 * rows * size * size + 3 * film_pixels) * bits // 8 + _REST


def check_workers(workers: Iterable[tuple[int, int]]) -> None:
    """Raises PlanError if a worker could not even hold its libraries; `workers` as of `check_film_memory`."""
    _check_memory("inventory: a worker needs", 0, "", workers)


def check_film_memory(
    films: Sequence[FilmWork], cleaning: CleaningSettings, patches: PatchSettings, workers: Iterable[tuple[int, int]]
) -> None:
    """Raises PlanError if a worker could not hold the film that takes most, on each of its threads.

    `workers`: memory limit in bytes (0: none) and threads of each.
    Films that are converted already count too: were one changed since, it would be converted again.
    """
    if not films:
        return
    needed, name, scan = max((film_memory(work, cleaning, patches), work.scan.image_id, work.scan) for work in films)
    _check_memory(f"convert: {name} of {scan.rows:,} x {scan.columns:,} pixels needs", needed, "", workers)


def check_shard_memory(rows: int, size: int, bits: int, film_pixels: int, workers: Iterable[tuple[int, int]]) -> None:
    """Raises PlanError if a worker could not hold a shard on each of its threads; arguments as of `shard_memory`."""
    what = f"extract: a shard of {rows:,} patches of {size} x {size} and {bits} bits needs"
    _check_memory(what, shard_memory(rows, size, bits, film_pixels), ", or set a smaller store.shard_rows", workers)


def _check_memory(what: str, task: int, remedy: str, workers: Iterable[tuple[int, int]]) -> None:
    needed = {(limit, threads): WORKER + threads * task for limit, threads in workers if limit}
    short = [worker for worker, memory in needed.items() if memory > _USABLE * worker[0]]
    if not short:
        return
    limit, threads = worst = max(short, key=lambda worker: needed[worker] / worker[0])
    at_once = f" on each of {threads} threads" if threads > 1 else ""
    raise PlanError(
        f"{what}{at_once} about {_gb(needed[worst])} with the libraries, the worker with the least memory gives {_gb(_USABLE * limit)} "
        f"(80% of its limit): give each worker at least {math.ceil(max(needed.values()) / _USABLE / 1e8) / 10:.1f} GB (of a local cluster: fewer "
        f"cluster.workers, or a larger cluster.memory_gb){remedy}"
    )


def films_disk(
    films: Iterable[FilmWork],
    cleaning: CleaningSettings,
    patches: PatchSettings,
    cleaned: Collection[str] = (),
    searched: Collection[str] = (),
) -> int:
    """Bytes that the cleaned films, receipts and candidates will take that are not there yet.

    `cleaned`, `searched`: image_ids of the films that have a cleaned image, and of those that have candidates, under these settings.
    """
    needed = 0
    for work in films:
        pixels = work.scan.rows * work.scan.columns
        if work.scan.image_id not in cleaned:
            png = int(_PNG[cleaning.bits] * pixels)
            needed += png + _RECEIPT + _RECEIPT_ROI * len(work.findings) + 2 * _BLOCK
        if work.scan.image_id not in searched:
            # A grid lies over what is larger than a patch.
            step = min(patches.stride, patches.size)
            grid = _roi_pixels(work.scan, work.findings) // step**2
            normal = patches.normals_per_film if work.scan.normal or patches.normals == "background" else 0
            needed += _CANDIDATE * (normal + (1 + patches.around) * len(work.findings) + grid) + _BLOCK
    return needed


def run_disk(patches: int, films: int, settings: BuildSettings, written: int = 0) -> int:
    """Bytes that a run's shards and tables will take, were no patch smaller for being compressed; `written` of its shards are there."""
    left = max(0, patches - written * settings.store.shard_rows)
    pixels = settings.patches.size**2 * settings.cleaning.bits // 8
    return left * pixels + patches * _PATCH + films * _TABLES_FILM + _TABLES


def check_films_disk(films: Iterable[FilmWork], settings: BuildSettings, workspace: Place) -> None:
    """Raises PlanError if the workspace's disk has no room for the films that are still to be converted. An object store always has."""
    if not isinstance(workspace, Path):
        return
    places = Workspace(workspace)
    images = places.images(digest(settings.cleaning))
    candidates = places.candidates(digest(settings.cleaning, settings.patches))
    needed = films_disk(
        films, settings.cleaning, settings.patches, _names_in(images, ".png"), _names_in(candidates, ".json")
    )
    _check_disk("convert: cleaned films and candidates", needed, workspace)


def check_run_disk(patches: int, films: int, settings: BuildSettings, workspace: Place, run_id: str) -> None:
    """Raises PlanError if the workspace's disk has no room for what is still to be written of a run. An object store always has."""
    size, bits = settings.patches.size, settings.cleaning.bits
    if not isinstance(workspace, Path):
        shard = min(patches, settings.store.shard_rows) * size * size * bits // 8
        if shard > _OBJECT:
            raise PlanError(
                f"extract: a shard of {settings.store.shard_rows:,} patches may take {_gb(shard)}, an object store takes no more than "
                f"{_gb(_OBJECT)} at a time: set a smaller store.shard_rows"
            )
        return
    array = Workspace(workspace).run(run_id) / "patches.zarr"
    shards = range(len(shard_ranges(patches, settings.store.shard_rows)))
    written = sum(shard_path(array, shard).exists() for shard in shards)
    needed = run_disk(patches, films, settings, written)
    _check_disk(f"extract: {patches:,} patches of {size} x {size} and {bits} bits", needed, workspace)


def _check_disk(what: str, needed: int, workspace: Path) -> None:
    free = shutil.disk_usage(workspace).free
    if needed > free:
        raise PlanError(
            f"{what} need up to {_gb(needed)}, the workspace's disk has {_gb(free)} free: make room (mammo gc lists what no run needs), or "
            "take a workspace on another disk"
        )


def _names_in(folder: Place, suffix: str) -> set[str]:
    """Names of the files in a folder that have the suffix, without it; none if there is no such folder."""
    return {path.stem for path in entries(folder) if path.suffix == suffix}


def _gb(number: float) -> str:
    """Bytes as a text; below a tenth of a gigabyte as megabytes."""
    return f"{number / 1e9:,.1f} GB" if number >= 0.1e9 else f"{number / 1e6:,.1f} MB"
