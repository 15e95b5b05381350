"""Candidates to numbered patches: split, chosen, each with its final row. Tables only, no pixels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_etl.records import Candidate, Label, Scan, Split
from mammo_etl.settings import NormalSettings, PlanSettings
from mammo_etl.split import split_patches, unit_interval

COLUMNS = [
    "row",
    "patch_id",
    "source",
    "image_id",
    "patient_id",
    "laterality",
    "view",
    "split",
    "label",
    "label_name",
    "finding_id",
    "finding_ids",
    "origin",
    "y",
    "x",
    "size",
    "roi_fraction",
    "roi_coverage",
    "breast_fraction",
    "scanner",
]
"""Columns of a plan: those of `mammo_etl.records.Patch` that are known without pixels, and the run."""


class PlanError(Exception):
    """A run that cannot be made as asked, in one sentence."""


def plan_patches(
    scans: Sequence[Scan],
    candidates: Sequence[Candidate],
    settings: PlanSettings,
    normals: NormalSettings = NormalSettings(),
) -> pd.DataFrame:
    """The patches of a run in their final order, with the columns of `COLUMNS`.

    All abnormal candidates are taken, and per split as many normal ones as `settings.normal_share` asks for (all, where there are too few):
    evenly over films, at random within a film. With `normals.match_scanner`, that many are taken per split and scanner (source, scanner and
    institution), none from a scanner without an abnormal patch; where a scanner has too few, no other makes up for it. With
    `normal_share = "all"` besides, they are the most with which every scanner has as many to an abnormal patch as any other, leaving
    aside scanners that have none in that split.

    Rows are sorted by split (train, validation, test), film, label and place. The result does not depend on the order of the arguments.

    Raises PlanError if there is no candidate at all, or if scanners are to be matched and those of the abnormal patches have no normal
    candidate.
    """
    if not candidates:
        raise PlanError("no place for a patch was found in any film: nothing to build")
    frame = pd.DataFrame(candidates)
    films = pd.DataFrame(scans).set_index("image_id")
    frame = frame.join(films[["source", "patient_id", "laterality", "view", "scanner", "institution"]], on="image_id")
    owner = frame["finding_id"].where(frame["finding_id"] != "", frame["image_id"])
    frame["patch_id"] = [
        f"{name}_y{y}_x{x}_s{size}"
        for name, y, x, size in zip(owner, frame["y"], frame["x"], frame["size"], strict=True)
    ]
    frame["split"] = split_patches(frame, scans, settings)
    frame["label_name"] = frame["label"].map({int(label): label.title for label in Label})
    # Without matching, all films count as one scanner's.
    frame["group"] = scanner_group(frame) if normals.match_scanner else ""
    frame = _choose(frame, settings, normals)
    order = pd.Categorical(frame["split"], [split.value for split in Split], ordered=True)
    frame = frame.assign(_order=order.codes).sort_values(["_order", "image_id", "label", "patch_id"], kind="stable")
    frame["row"] = np.arange(len(frame))
    return frame.reset_index(drop=True)[COLUMNS]


def scanner_group(films: pd.DataFrame) -> "pd.Series[str]":
    """What films are told apart by when scanners are matched: the columns source, scanner and institution as one text."""
    return (films["source"] + " " + films["scanner"] + " " + films["institution"]).str.split().str.join(" ")


def _choose(frame: pd.DataFrame, settings: PlanSettings, normals: NormalSettings) -> pd.DataFrame:
    """All abnormal patches, and the wanted number of normal ones per split and scanner (`group`)."""
    is_normal = frame["label"] == int(Label.NORMAL)
    abnormal, normal = frame[~is_normal], frame[is_normal]
    if abnormal.empty or (settings.normal_share == "all" and not normals.match_scanner):
        return frame
    lesions = abnormal.groupby(["split", "group"]).size()
    there = normal.groupby(["split", "group"]).size()
    if normals.match_scanner and not set(abnormal["group"]) & set(normal["group"]):
        raise PlanError(
            "normals.match_scanner: expected normal tissue from the scanners of the abnormal patches "
            f"({', '.join(sorted(set(abnormal['group'])))}), but none of them has a place for a normal patch: set "
            "patches.normals=background, which takes normal tissue from the abnormal films, or leave normals.match_scanner off"
        )
    if settings.normal_share == "all":
        wanted = lesions * (there / lesions).groupby("split").transform("min")
    else:
        wanted = lesions * (settings.normal_share / (1 - settings.normal_share))
    wanted = wanted.fillna(0).round().astype(int)
    # A split without a finding keeps the share of its normal patches that the other splits keep of theirs.
    with_lesions = set(abnormal["split"])
    wanted_of = wanted.groupby("group").sum()
    served_of = there[there.index.isin(with_lesions, level="split")].groupby("group").sum()

    draw = pd.Series([unit_interval("normal", settings.seed, name) for name in normal["patch_id"]], index=normal.index)
    turn = draw.groupby([normal["split"], normal["image_id"]]).rank(method="first")
    normal = normal.assign(_turn=turn, _draw=draw).sort_values(["_turn", "_draw"], kind="stable")
    kept = []
    for (split, group), part in normal.groupby(["split", "group"], sort=True):
        number = wanted.get((split, group), 0)
        if split not in with_lesions:
            usual, served = wanted_of.get(group, 0), served_of.get(group, 0)
            number = round(len(part) * min(1.0, usual / served)) if served else len(part) * bool(usual)
        kept.append(part.head(int(number)))
    return pd.concat([abnormal, *kept])[list(frame.columns)]


def check_memory(shard_rows: int, size: int, bits: int, limit_bytes: int) -> None:
    """Raises PlanError if a worker of that memory limit (0: none) could not hold a shard's patches, their compressed copies and the file made of
    these, were they as large as the patches.

    A worker with its libraries took 0.25 GB where measured, and a film takes up to 0.05 GB more.
    """
    needed = 3 * shard_rows * size * size * bits // 8 + 300_000_000
    if 0 < limit_bytes < needed:
        raise PlanError(
            f"extract: a shard of {shard_rows:,} patches of {size} x {size} and {bits} bits needs {needed / 1e9:.1f} GB, a worker has "
            f"{limit_bytes / 1e9:.1f} GB: set a smaller store.shard_rows or more memory per worker"
        )


def check_disk(patches: int, size: int, bits: int, free_bytes: int) -> None:
    """Raises PlanError if that many patches could not be stored in the free space even uncompressed."""
    needed = patches * size * size * bits // 8
    if needed > free_bytes:
        raise PlanError(
            f"extract: {patches:,} patches of {size} x {size} and {bits} bits need up to {needed / 1e9:.1f} GB, the workspace's disk has "
            f"{free_bytes / 1e9:.1f} GB free"
        )
