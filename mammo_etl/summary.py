"""What a run came to, in numbers and in warnings."""

import pandas as pd

from mammo_etl.records import Label
from mammo_etl.settings import BuildSettings
from mammo_etl.sources import Inventory


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


def warnings_of(inventory: Inventory, patches: pd.DataFrame, settings: BuildSettings) -> list[str]:
    """What a user should know before trusting the run."""
    warnings = []
    share = float((patches["label"] == Label.NORMAL).mean())
    wanted = settings.plan.normal_share
    if wanted != "all" and abs(share - wanted) > 0.02:
        warnings.append(
            f"{share:.0%} of the patches are normal, not {wanted:.0%}: there are too "
            + ("few places for normal patches" if share < wanted else "few abnormal ones")
        )
    if settings.inventory.mixed_ddsm == "all" and {"cbis-ddsm", "ddsm"} <= {scan.source for scan in inventory.scans}:
        warnings.append(
            "abnormal DDSM cases stand beside CBIS-DDSM (inventory.mixed_ddsm = all): the same patient may be in two splits "
            "under two names"
        )
    for split in ("train", "validation", "test"):
        there = set(patches.loc[patches["split"] == split, "label"])
        missing = [label.title for label in Label if label not in there]
        if missing:
            warnings.append(f"no {', '.join(missing)} patch in {split}")
    with_patch = set(patches["finding_id"])
    unseen = sum(f.roi_kind != "none" and f.finding_id not in with_patch for f in inventory.findings)
    if unseen:
        warnings.append(f"{unseen} located findings have no patch (their ROI could not be used; see rejects)")
    return warnings
