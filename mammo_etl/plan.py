"""Candidates to numbered patches: split, chosen, each with its final row. Tables only, no pixels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.records import Candidate, Label, Scan, Split
from mammo_etl.schema import to_columns
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

    With `settings.patches`, abnormal ones are taken evenly over findings, as many as that total leaves for them: the best patch of each
    finding (`_best`), then at random another of each, and so on. Splits make up for one that has too few normal ones. Where places are too
    few of either kind, the total is less and the share is kept.

    Rows are sorted by split (train, validation, test), film, label and place. The result does not depend on the order of the arguments.

    Raises PlanError if there is no candidate at all, if there is none of either kind for a total by shares, or if scanners are to be matched
    and those of the abnormal patches have no normal candidate.
    """
    if not candidates:
        raise PlanError("no place for a patch was found in any film: nothing to build")
    frame = pd.DataFrame(to_columns(candidates, Candidate))
    films = pd.DataFrame(to_columns(scans, Scan)).set_index("image_id")
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
    """The abnormal patches, and the wanted number of normal ones per split and scanner (`group`)."""
    is_normal = frame["label"] == int(Label.NORMAL)
    abnormal, normal = frame[~is_normal], frame[is_normal]
    if settings.patches is None and (abnormal.empty or (settings.normal_share == "all" and not normals.match_scanner)):
        return frame
    if normals.match_scanner and not abnormal.empty and not set(abnormal["group"]) & set(normal["group"]):
        raise PlanError(
            "normals.match_scanner: expected normal tissue from the scanners of the abnormal patches "
            f"({', '.join(sorted(set(abnormal['group'])))}), but none of them has a place for a normal patch: set "
            "patches.normals=background, which takes normal tissue from the abnormal films, or leave normals.match_scanner off"
        )
    total = None
    if settings.patches is not None:
        number, total = _numbers(len(abnormal), int(normal["group"].isin(abnormal["group"]).sum()), settings)
        abnormal = _in_turn(abnormal, ["finding_id"], settings.seed, "abnormal", _best(abnormal)).head(number)
    there = normal.groupby(["split", "group"]).size()
    wanted = _wanted(abnormal.groupby(["split", "group"]).size(), there, settings.normal_share)
    there = there.reindex(wanted.index, fill_value=0)
    numbers = wanted.round() if total is None else _divided(total, wanted, there)
    normal = _in_turn(normal, ["split", "image_id"], settings.seed, "normal")
    kept = [part.head(int(numbers[key])) for key, part in normal.groupby(["split", "group"], sort=True)]  # type: ignore[index]
    return pd.concat([abnormal, *kept])[list(frame.columns)]


def _numbers(abnormal: int, normal: int, settings: PlanSettings) -> tuple[int, int]:
    """How many abnormal and normal patches are `settings.patches` in all, or as many as so many places for either allow at the same share."""
    share = settings.normal_share
    assert settings.patches is not None
    assert share != "all"
    if not abnormal or not normal:
        raise PlanError(
            f"plan.patches = {settings.patches:,}: expected places for normal and abnormal patches, found {abnormal:,} for abnormal and "
            f"{normal:,} for normal ones: add a source that has the others (patches.normals=background takes normal tissue from abnormal films), "
            "or leave plan.patches unset"
        )
    total = min(settings.patches, round(abnormal / (1 - share)), round(normal / share))
    of_abnormal = min(max(total - round(total * share), 1), abnormal)
    return of_abnormal, total - of_abnormal


def _best(abnormal: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether a patch is the one of its finding that shows the largest share of it, or of several such the one at its centre."""
    off_centre = abnormal["origin"] != "centre"
    first = abnormal.assign(_off=off_centre).sort_values(
        ["roi_fraction", "_off", "patch_id"], ascending=[False, True, True]
    )
    return np.asarray(abnormal.index.isin(first.drop_duplicates("finding_id").index))


def _wanted(lesions: "pd.Series[int]", there: "pd.Series[int]", share: float | Literal["all"]) -> "pd.Series[float]":
    """How many normal patches each split and group should have, by its abnormal patches (`lesions`) and normal candidates (`there`)."""
    if share == "all":
        wanted = lesions * (there / lesions).groupby("split").transform("min")
    else:
        wanted = lesions * (share / (1 - share))
    cells = lesions.index.union(there.index)
    wanted, there = wanted.reindex(cells).fillna(0.0), there.reindex(cells, fill_value=0)
    # A split without a finding keeps the share of its normal patches that the other splits keep of theirs.
    bare = ~cells.isin(set(lesions.index.get_level_values("split")), level="split")
    usual = (wanted.groupby("group").sum() / there[~bare].groupby("group").sum()).clip(upper=1.0)
    return wanted.where(~bare, there * usual.reindex(cells, level="group").fillna(0.0))


def _divided(total: int, wanted: "pd.Series[float]", there: "pd.Series[int]") -> "pd.Series[float]":
    """That many normal patches over splits and groups in proportion to `wanted`; in a group, splits make up for one that has too few `there`."""
    groups = wanted.groupby("group").sum()
    of_group = apportion(total, groups, pd.Series(total, groups.index))
    parts = [apportion(int(of_group[name]), part, there) for name, part in wanted.groupby("group")]
    return pd.concat(parts)


def apportion(
    total: int, weights: "pd.Series[float]", limits: "pd.Series[int] | pd.Series[float]"
) -> "pd.Series[float]":
    """Whole numbers in proportion to the weights with that sum, by largest remainders (Hamilton), none above its limit.

    What one cannot take goes to the others; the sum is less where all that have a weight are at their limits.
    """
    numbers, limits = weights * 0.0, limits.astype(float)
    rest = weights[weights > 0]
    while len(rest):
        left = total - numbers.sum()
        exact = rest * (left / rest.sum())
        full = exact >= limits[rest.index]
        if not full.any():
            whole = exact // 1
            largest = (whole - exact).sort_values(kind="stable").index[: int(left - whole.sum())]
            numbers[rest.index] = whole + whole.index.isin(largest)
            break
        numbers[rest.index[full]] = limits[rest.index[full]]
        rest = rest[~full]
    return numbers


def _in_turn(
    patches: pd.DataFrame, owner: list[str], seed: int, kind: str, first: NDArray[np.bool_] | None = None
) -> pd.DataFrame:
    """Sorted so that any beginning is even over owners: one patch of each, then another of each, and so on, at random but for the `first` ones."""
    draw = pd.Series([unit_interval(kind, seed, name) for name in patches["patch_id"]], patches.index, dtype=float)
    turn = (draw if first is None else draw - first).groupby([patches[name] for name in owner]).rank(method="first")
    return patches.assign(_turn=turn, _draw=draw).sort_values(["_turn", "_draw"], kind="stable")


def total_warnings(candidates: Sequence[Candidate], plan: pd.DataFrame, settings: PlanSettings) -> list[str]:
    """Where a plan falls short of `settings.patches`, and what is missing; none without such a total."""
    if settings.patches is None:
        return []
    warnings = []
    normal = sum(candidate.label == Label.NORMAL for candidate in candidates)
    of_normal = round(settings.patches * float(settings.normal_share))
    if len(plan) < settings.patches:
        warnings.append(
            f"the run has {len(plan):,} patches, not {settings.patches:,} (plan.patches): expected places for {settings.patches - of_normal:,} "
            f"abnormal and {of_normal:,} normal ones, found {len(candidates) - normal:,} and {normal:,} (patches.around and patches.stride "
            "give more of the former, patches.normals_per_film, patches.min_distance and patches.normals more of the latter)"
        )
    findings = {candidate.finding_id for candidate in candidates} - {""}
    if left := len(findings - set(plan["finding_id"])):
        without = f"{left:,} of {len(findings):,} findings have no patch of their own"
        taken = int((plan["label"] != int(Label.NORMAL)).sum())
        if len(plan) < settings.patches:
            warnings.append(
                f"{without}: only {taken:,} abnormal patches go with {len(plan) - taken:,} normal ones at plan.normal_share = "
                f"{settings.normal_share}; a smaller share, or more places for normal patches, leaves room for them"
            )
        else:
            warnings.append(
                f"{without}: plan.patches = {settings.patches:,} at plan.normal_share = {settings.normal_share} has room for {taken:,} abnormal "
                "patches"
            )
    return warnings
