"""What a run came to, in numbers and in warnings."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from mammo_etl.density import has_curve
from mammo_etl.plan import scanner_group
from mammo_etl.records import Label, Reason
from mammo_etl.settings import BuildSettings, PlanSettings, SourceSettings
from mammo_etl.sources import Inventory

TOLERANCE = 0.02
"""Difference between two shares of normal patches that is worth a warning."""


def counts_of(inventory: Inventory, patches: pd.DataFrame) -> dict[str, int]:
    """How much a run holds; `patches` has the columns of `mammo_etl.records.Patch`."""
    return {
        "scans": len(inventory.scans),
        "patients": len({(scan.source, scan.patient_id) for scan in inventory.scans}),
        "findings": len(inventory.findings),
        "patches": len(patches),
        "abnormal_patches": int((patches["label"] != Label.NORMAL).sum()),
        "rejects": len(inventory.rejects),
    }


def empty_sources(inventory: Inventory, sources: Sequence[SourceSettings]) -> list[str]:
    """A warning for each kind of source that holds none of its files, with where they were looked for."""
    return [
        f"source {row.source}={' and '.join(source.path for source in sources if source.kind == row.source)}: {row.message}"
        for row in inventory.rejects
        if row.code is Reason.EMPTY_SOURCE
    ]


def warnings_of(inventory: Inventory, patches: pd.DataFrame, settings: BuildSettings) -> list[str]:
    """What a user should know before trusting the run."""
    warnings = [*_split_warnings(inventory, patches, settings.plan)]
    share = float((patches["label"] == Label.NORMAL).mean())
    wanted = settings.plan.normal_share
    if wanted != "all" and abs(share - wanted) > TOLERANCE:
        few = "few places for normal patches" if share < wanted else "few abnormal ones"
        where = " on the scanners of the abnormal ones" if settings.normals.match_scanner and share < wanted else ""
        warnings.append(f"{share:.0%} of the patches are normal, not {wanted:.0%}: there are too {few}{where}")
    if settings.normals.match_scanner:
        warnings += _scanner_warnings(inventory, patches)
    if settings.inventory.mixed_ddsm == "all" and {"cbis-ddsm", "ddsm"} <= {scan.source for scan in inventory.scans}:
        warnings.append(
            "abnormal DDSM cases stand beside CBIS-DDSM (inventory.mixed_ddsm = all): the same patient may be in two splits "
            "under two names"
        )
    if settings.cleaning.density_scale == "cbis":
        warnings += _density_warnings(inventory)
    for split in ("train", "validation", "test"):
        there = set(patches.loc[patches["split"] == split, "label"])
        missing = [label.title for label in Label if label not in there]
        if missing:
            warnings.append(f"no {', '.join(missing)} patch in {split}")
    with_patch = {finding_id for finding_ids in patches["finding_ids"] for finding_id in finding_ids}
    unseen = sum(f.roi_kind != "none" and f.finding_id not in with_patch for f in inventory.findings)
    if unseen and settings.plan.patches is None:
        warnings.append(f"{unseen} located findings have no patch (their ROI could not be used; see rejects)")
    return warnings


def _split_warnings(inventory: Inventory, patches: pd.DataFrame, settings: PlanSettings) -> Iterator[str]:
    if settings.split == "patch":
        torn = (patches.groupby(["source", "patient_id"])["split"].nunique() > 1).sum()
        yield (
            f"patches were split one by one (plan.split = patch): {torn:,} patients, and patches that overlap, are in more than one split; "
            "a model's figures will be too good and are for comparison only"
        )
    if settings.split == "official" and not any(scan.official_split for scan in inventory.scans):
        yield "no film has an official split (plan.split = official): all were split by patient"


def _density_warnings(inventory: Inventory) -> Iterator[str]:
    """Which DDSM films could not be brought to CBIS-DDSM's scale."""
    raw = Counter(
        f"{scan.scanner or 'unknown scanner'} of {scan.institution or 'unknown institution'}"
        for scan in inventory.scans
        if scan.source == "ddsm" and not has_curve(scan.scanner, scan.institution)
    )
    if raw:
        yield (
            f"{raw.total():,} films of ddsm have no density curve and kept the grey levels of their scanner (cleaning.density_scale = cbis): "
            + ", ".join(f"{name} ({count:,})" for name, count in sorted(raw.items()))
        )


def _scanner_warnings(inventory: Inventory, patches: pd.DataFrame) -> Iterator[str]:
    """Where matching found too few normal patches, so that the scanner still tells something of the class."""
    films = pd.DataFrame(inventory.scans).set_index("image_id")
    group = patches["image_id"].map(scanner_group(films))
    normal = patches["label"] == Label.NORMAL
    shares = normal.groupby(group[group.isin(group[~normal])]).mean()
    short = [f"{name} ({share:.0%})" for name, share in shares.items() if share < shares.max() - TOLERANCE]
    if short:
        yield (
            "the scanner still tells the class (normals.match_scanner): fewer patches are normal than elsewhere, for want of places, on "
            + ", ".join(short)
        )
