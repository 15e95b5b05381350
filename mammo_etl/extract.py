"""One shard, end to end: cut its patches from the cleaned films, write it, leave a receipt."""

import logging
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd

from mammo_etl import store
from mammo_etl.dicom import Pixels
from mammo_etl.files import digest_of
from mammo_etl.formats import version_of
from mammo_etl.places import Place
from mammo_etl.png import decode_png
from mammo_etl.reuse import Parent, copy_patches
from mammo_etl.schema import FORMAT_VERSION
from mammo_etl.settings import digest
from mammo_etl.workspace import DamagedFileError, read_sealed, write_sealed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShardWork:
    """One shard to be written."""

    shard: int
    start: int
    """First row."""
    patches: pd.DataFrame
    """The plan's rows of this shard, in order."""
    images: dict[str, tuple[str, tuple[int, int, int, int]]]
    """Per film: SHA-256 of its PNG, and its breast box (y, x, height, width) on the original scan."""
    parent: Parent | None = None
    """Where some of the patches are already."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of one shard."""

    shard: int
    skipped: bool
    rows: int


def cut(image: Pixels, box: tuple[int, int, int, int], y: int, x: int, size: int) -> Pixels:
    """The patch at (y, x) of the original scan from a cleaned film, whose pixels are those of `box`; 0 outside it."""
    top, left, height, width = box
    patch = np.zeros((size, size), image.dtype)
    y0, y1 = max(y, top), min(y + size, top + height)
    x0, x1 = max(x, left), min(x + size, left + width)
    if y0 < y1 and x0 < x1:
        patch[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0 - top : y1 - top, x0 - left : x1 - left]
    return patch


def receipt_path(run: Place, shard: int) -> Place:
    """Receipt of a shard while its run is in progress."""
    return run / "shards" / f"{shard:06d}.json"


def extract_shard(work: ShardWork, run: Place, images: Place) -> ShardResult:
    """Writes one shard of `run`/patches.zarr from its parent and the PNGs in `images`, unless its receipt holds.

    Raises DamagedFileError if a PNG that is needed is missing or damaged, or not of the array's depth.
    """
    array, path = run / "patches.zarr", receipt_path(run, work.shard)
    basis = digest(work.patches[["image_id", "y", "x", "size"]].to_dict("list"), work.images)
    if valid_receipt(run, work.shard, basis) is not None:
        return ShardResult(work.shard, True, len(work.patches))
    size = int(work.patches["size"].iloc[0])
    block = np.zeros((len(work.patches), size, size), store.layout_of(array)[0])
    copied = np.zeros(len(block), np.bool_) if work.parent is None else copy_patches(work.parent, block)
    for image_id, rows in work.patches.reset_index(drop=True)[~copied].groupby("image_id", sort=False):
        expected, box = work.images[str(image_id)]
        image = read_image(images / f"{image_id}.png", expected, block.dtype)
        for index, y, x in zip(rows.index, rows["y"], rows["x"], strict=True):
            block[index] = cut(image, box, y, x, size)
    _log.debug("%d patches cut, %d copied from the parent run", np.count_nonzero(~copied), np.count_nonzero(copied))
    sha256 = store.write_shard(array, range(work.start, work.start + len(block)), block)
    # One patch at a time: of the whole shard, NumPy would make 0.5 GB of 64-bit floats.
    moments = [cv2.meanStdDev(patch) for patch in block]
    receipt = {
        "format_version": FORMAT_VERSION,
        "basis": basis,
        "start": work.start,
        "rows": len(block),
        "sha256": sha256,
        "mean": [float(mean[0, 0]) for mean, _ in moments],
        "std": [float(std[0, 0]) for _, std in moments],
    }
    write_sealed(path, receipt)
    return ShardResult(work.shard, False, len(block))


def valid_receipt(run: Place, shard: int, basis: str | None = None) -> dict[str, Any] | None:
    """Receipt of a shard if it holds: for that `basis` (any, if None), and the shard's file is what was written."""
    receipt = read_sealed(receipt_path(run, shard))
    if receipt is None or version_of(receipt) != FORMAT_VERSION or basis not in (None, receipt["basis"]):
        return None
    try:
        content = store.shard_path(run / "patches.zarr", shard).read_bytes()
    except FileNotFoundError:
        return None
    return receipt if digest_of(content) == receipt["sha256"] else None


def read_image(path: Place, expected: str, dtype: np.dtype[Any]) -> Pixels:
    """A cleaned film; raises DamagedFileError if it is not there, or not of the SHA-256 `expected` and the depth `dtype`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path}: the cleaned film is gone; run the build again") from error
    if digest_of(content) != expected:
        raise DamagedFileError(f"{path}: the cleaned film was changed after it was written; run the build again")
    image = decode_png(content)
    if image.dtype != dtype:
        raise DamagedFileError(f"{path}: the cleaned film is {image.dtype}, the patches are to be {dtype}")
    return image
