"""What a split leaks: patients, films and overlapping patches that stand in more than one part of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.records import Scan
from mammo_etl.settings import PlanSettings
from mammo_etl.split import split_patches

AS_LISTED = "official-as-listed"
"""The official parts taken film by film, as whoever reads CBIS-DDSM's tables one by one gets them: no setting, for comparison."""


class LeakError(Exception):
    """A run whose split leaks though its method rules that out, in one sentence."""


@dataclass(frozen=True, slots=True)
class LeakRow:
    """How much of a run's patches is in more than one split under one method; patients of two sources count as two."""

    method: str
    """patient, official, patch (as the setting plan.split), or official-as-listed."""
    chosen: bool
    """True for the method by which the run was split."""
    patients: int
    """Patients with patches in more than one split."""
    films: int
    """Views of a breast (patient, side and view) with patches in more than one split; twins, films of one view for mass and for
    calcification, are one."""
    patch_pairs: int
    """Pairs of patches of one view of a breast that overlap, and lie in two splits."""


def leaks_of(scans: Sequence[Scan], patches: pd.DataFrame, settings: PlanSettings) -> list[LeakRow]:
    """One row per method, in the order patient, official, patch, official-as-listed, all on the same patches.

    `patches` has the columns source, patient_id, image_id, patch_id, laterality, view, split, y, x and size (pixels of the scan), `scans`
    every film of them. The row of the method in `settings` counts the column split as it stands; the others what their method would make
    of the patches under the same settings. Without a film that has an official split there is no official row, unless it is the chosen
    one. On films of two sizes, boxes are compared relative to the height and width of their film.
    """
    official = any(scan.official_split for scan in scans)
    columns: dict[str, pd.Series[str]] = {}
    for method in ("patient", "official", "patch"):
        if method == settings.split:
            columns[method] = patches["split"]
        elif method != "official" or official:
            columns[method] = split_patches(patches, scans, settings.model_copy(update={"split": method}))
    if official:
        part = patches["image_id"].map({scan.image_id: scan.official_split for scan in scans})
        columns[AS_LISTED] = part.where(part != "", columns["patient"])
    codes = np.array([pd.factorize(column)[0] for column in columns.values()])
    patient = patches.groupby(["source", "patient_id"], sort=False).ngroup().to_numpy()
    film = patches.groupby(["source", "patient_id", "laterality", "view"], sort=False).ngroup().to_numpy()
    pairs = _split_pairs(_boxes(scans, patches), film, codes)
    return [
        LeakRow(method, method == settings.split, _torn(patient, code), _torn(film, code), int(count))
        for method, code, count in zip(columns, codes, pairs, strict=True)
    ]


def check_leaks(rows: Sequence[LeakRow]) -> None:
    """Raises LeakError if the chosen method leaks, unless it is `patch`, which always does."""
    for row in rows:
        if row.chosen and row.method != "patch" and (row.patients or row.films or row.patch_pairs):
            raise LeakError(
                f"plan.split = {row.method}: expected no patient in two splits, found {row.patients:,} patients, {row.films:,} views and "
                f"{row.patch_pairs:,} pairs of overlapping patches: the patches were not split as the setting says, and must be planned anew"
            )


def _torn(owner: NDArray[np.integer], split: NDArray[np.integer]) -> int:
    """How many owners have patches in more than one split."""
    splits = pd.Series(split).groupby(owner).agg(["min", "max"])
    return int((splits["min"] != splits["max"]).sum())


def _boxes(scans: Sequence[Scan], patches: pd.DataFrame) -> NDArray[np.float64]:
    """Top, bottom, left and right of each patch relative to its film, (4, patches): equal quotients are equal floats, so that patches that
    only touch do not overlap."""
    sizes = pd.DataFrame([(scan.rows, scan.columns) for scan in scans], [scan.image_id for scan in scans])
    rows, columns = sizes.loc[patches["image_id"]].to_numpy().T
    y, x, size = patches["y"].to_numpy(), patches["x"].to_numpy(), patches["size"].to_numpy()
    return np.stack([y / rows, (y + size) / rows, x / columns, (x + size) / columns])


def _split_pairs(
    boxes: NDArray[np.float64], film: NDArray[np.integer], codes: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Pairs of overlapping boxes of one film with different codes, for each row of `codes` (methods, patches)."""
    order = np.lexsort((boxes[0], film))
    film, codes = film[order], codes[:, order]
    top, bottom, left, right = boxes[:, order]
    pairs = np.zeros(len(codes), np.int64)
    # Patches are sorted by film and top: each meets its next one, the one after that and so on, and drops out where rows no longer overlap.
    first, step = np.arange(len(film)), 1
    while len(first := first[: np.searchsorted(first, len(film) - step)]):
        second = first + step
        near = (film[second] == film[first]) & (top[second] < bottom[first])
        first, second = first[near], second[near]
        overlap = (left[second] < right[first]) & (left[first] < right[second])
        pairs += (codes[:, first[overlap]] != codes[:, second[overlap]]).sum(axis=1)
        step += 1
    return pairs
