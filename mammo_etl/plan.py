"""Candidates to numbered patches: split by patient, chosen, each with its final row. Tables only, no pixels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_etl.records import Candidate, Label, Scan, Split
from mammo_etl.settings import PlanSettings
from mammo_etl.split import split_of, unit_interval

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


def plan_patches(scans: Sequence[Scan], candidates: Sequence[Candidate], settings: PlanSettings) -> pd.DataFrame:
    """The patches of a run in their final order, with the columns of `COLUMNS`.

    All abnormal candidates are taken, and per split as many normal ones as `settings.normal_share` asks for (all, where there are too few):
    evenly over films, at random within a film. Rows are sorted by split (train, validation, test), film, label and place. The result does not
    depend on the order of the arguments.

    Raises PlanError if there is no candidate at all.
    """
    if not candidates:
        raise PlanError("no place for a patch was found in any film: nothing to build")
    frame = pd.DataFrame(candidates)
    of_image = pd.DataFrame(scans).set_index("image_id")[["source", "patient_id", "laterality", "view", "scanner"]]
    frame = frame.join(of_image, on="image_id")
    patients = {
        (source, patient): split_of(source, patient, settings).value
        for source, patient in frame[["source", "patient_id"]].drop_duplicates().itertuples(index=False)
    }
    frame["split"] = [patients[key] for key in zip(frame["source"], frame["patient_id"], strict=True)]
    owner = frame["finding_id"].where(frame["finding_id"] != "", frame["image_id"])
    frame["patch_id"] = [
        f"{name}_y{y}_x{x}_s{size}"
        for name, y, x, size in zip(owner, frame["y"], frame["x"], frame["size"], strict=True)
    ]
    frame["label_name"] = frame["label"].map({int(label): label.title for label in Label})
    frame = _choose(frame, settings)
    order = pd.Categorical(frame["split"], [split.value for split in Split], ordered=True)
    frame = frame.assign(_order=order.codes).sort_values(["_order", "image_id", "label", "patch_id"], kind="stable")
    frame["row"] = np.arange(len(frame))
    return frame.reset_index(drop=True)[COLUMNS]


def _choose(frame: pd.DataFrame, settings: PlanSettings) -> pd.DataFrame:
    """All abnormal patches, and the wanted number of normal ones per split."""
    if settings.normal_share == "all":
        return frame
    is_normal = frame["label"] == int(Label.NORMAL)
    abnormal, normal = frame[~is_normal], frame[is_normal]
    if abnormal.empty:
        return frame
    ratio = settings.normal_share / (1 - settings.normal_share)
    wanted = (abnormal.groupby("split").size() * ratio).round().astype(int)
    there = normal.groupby("split").size()
    # A split without a finding keeps the share of its normal patches that the other splits keep of theirs.
    served = there[there.index.isin(wanted.index)].sum()
    usual = min(1.0, wanted.sum() / served) if served else 1.0
    draw = pd.Series([unit_interval("normal", settings.seed, name) for name in normal["patch_id"]], index=normal.index)
    turn = draw.groupby(normal["image_id"]).rank(method="first")
    normal = normal.assign(_turn=turn, _draw=draw).sort_values(["_turn", "_draw"], kind="stable")
    kept = [
        part.head(int(wanted.get(split, round(usual * len(part)))))
        for split, part in normal.groupby("split", sort=True)
    ]
    return pd.concat([abnormal, *kept])[list(frame.columns)]


def check_memory(shard_rows: int, size: int, limit_bytes: int) -> None:
    """Raises PlanError if a worker of that memory limit (0: none) could not hold a shard's patches and their compressed copy.

    A worker with its libraries took 0.25 GB where measured.
    """
    needed = 2 * shard_rows * size * size + 250_000_000
    if 0 < limit_bytes < needed:
        raise PlanError(
            f"extract: a shard of {shard_rows:,} patches of {size} x {size} needs {needed / 1e9:.1f} GB, a worker has "
            f"{limit_bytes / 1e9:.1f} GB: set a smaller store.shard_rows or more memory per worker"
        )


def check_disk(patches: int, size: int, free_bytes: int) -> None:
    """Raises PlanError if that many patches could not be stored in the free space even uncompressed."""
    needed = patches * size * size
    if needed > free_bytes:
        raise PlanError(
            f"extract: {patches:,} patches of {size} x {size} need up to {needed / 1e9:.1f} GB, the workspace's disk has "
            f"{free_bytes / 1e9:.1f} GB free"
        )
