"""The page of a dataset run: one self-contained HTML file that says what is in the run and shows some of its films."""

import itertools
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mammo_etl.confounds import CLUES, TASKS, scanner_of
from mammo_etl.files import name_of
from mammo_etl.film_pictures import choose_films, doubtful_masks, draw_film
from mammo_etl.places import Place, read_each
from mammo_etl.reader import read_table
from mammo_etl.records import (
    REASONS,
    ROI_FLAGS,
    VERDICTS,
    Finding,
    Label,
    Laterality,
    Rejection,
    RoiKind,
    Scan,
    Split,
    View,
)
from mammo_etl.schema import from_rows
from mammo_etl.workspace import write_bytes

_EXAMPLES = 5
"""Examples per reason of rejection."""
_MESSAGE = 300
"""Longest message quoted, characters."""
_DIAMETERS = [0, 16, 32, 64, 128, 256, 512, 1024, math.inf]
"""Bins of the ROI sizes, pixels: octaves, since they range from single calcifications to half a breast."""
_METHODS = {
    "patient": "A patient goes by a stable hash, with all films of both breasts.",
    "official": "CBIS-DDSM's test set is the test; patients whom it lists in both parts go to one of them.",
    "patch": "Every patch goes by itself, as is often done: for comparison only.",
    "official-as-listed": "CBIS-DDSM's parts film by film, as its tables have them.",
}
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+")
"""The folders of an absolute path within a sentence."""


@dataclass(frozen=True, slots=True)
class Located:
    """A finding with a ROI on its film."""

    finding_id: str
    image_id: str
    label: int
    pixels: float
    """Diameter of the circle of the ROI's area, pixels."""
    millimetres: float | None
    """The same, where the pixel pitch is known."""
    patches: int
    """Patches that show most of it."""


def write_report(folder: Place, images: Place, manifest: Mapping[str, Any]) -> None:
    """Writes `folder`/report.html, whole or not at all.

    `folder` holds the four tables of the run, `images` the cleaned films and receipts of the run's cleaning settings.
    `manifest` has `run_id`, `parent`, `sources`, `settings`, `timings`, `phantom` and `warnings`, `leaks` as rows of
    `mammo_etl.leaks.LeakRow`, and `confounds` as `mammo_etl.confounds.audit` gives them. Equal arguments give equal bytes. Raises FileNotFoundError if a table, a receipt or the PNG of a film that is shown is missing.
    """
    scans = from_rows(read_table(folder / "scans.parquet").to_pylist(), Scan)
    findings = from_rows(read_table(folder / "findings.parquet").to_pylist(), Finding)
    rejects = from_rows(read_table(folder / "rejects.parquet").to_pylist(), Rejection)
    columns = ["source", "image_id", "patient_id", "split", "label", "finding_id", "y", "x", "size"]
    patches = read_table(folder / "patches.parquet", columns).to_pandas()
    names = [scan.image_id for scan in scans]
    read = read_each(lambda name: json.loads((images / f"{name}.json").read_text(encoding="utf-8")), names)
    receipts = dict(zip(names, read, strict=True))
    located = _located(scans, receipts, patches)
    doubtful = doubtful_masks({image_id: receipt["quality"] for image_id, receipt in receipts.items()})
    samples = choose_films(scans, _classes_of_films(patches, located), doubtful)
    pictures = {
        scan.image_id: draw_film(
            scan,
            receipts[scan.image_id],
            (images / f"{scan.image_id}.png").read_bytes(),
            [finding for finding in findings if finding.image_id == scan.image_id],
            patches[patches["image_id"] == scan.image_id],
        )
        for scan in scans
        if scan.image_id in samples or scan.image_id in doubtful
    }
    page = _template().render(
        manifest=manifest,
        sources=[
            {**source, "name": ", ".join(name_of(path) or path for path in source["paths"])}
            for source in manifest["sources"]
        ],
        warnings=[without_folders(text) for text in manifest["warnings"]],
        counts={
            "films": len(scans),
            "patients": len({(scan.source, scan.patient_id) for scan in scans}),
            "findings": len(findings),
            "patches": len(patches),
            "rejects": len(rejects),
        },
        labels=list(Label),
        balance=_balance(patches),
        normal_share=manifest["settings"]["plan"]["normal_share"],
        in_two_splits=_patients_in_two_splits(patches),
        views=[(side, view) for side in Laterality for view in View],
        films=_film_groups(scans),
        samples=[pictures[image_id] for image_id in sorted(samples)],
        doubtful=[(pictures[image_id], note) for image_id, note in doubtful.items()],
        leaks=[{**row, "meaning": _METHODS[row["method"]]} for row in manifest["leaks"]],
        confounds=manifest["confounds"],
        confounded=_by_class(manifest["confounds"]["tables"]),
        clues=CLUES,
        tasks=TASKS,
        kinds=list(RoiKind),
        verdicts=VERDICTS,
        flags=_flag_rows(findings),
        scores=[finding.match_score for finding in findings if finding.match_score is not None],
        findings=_finding_rows(findings, located),
        diameters=_diameter_bins(located),
        without_patch=sorted(item.finding_id for item in located if item.patches == 0),
        rejects=_reject_groups(rejects),
    )
    write_bytes(folder / "report.html", page.encode())


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("mammo_etl"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"span": _span, "thousands": "{:,}".format}
    return environment.get_template("report.html.j2")


def _span(values: Iterable[float], digits: int = 0) -> str:
    """Smallest, median and largest of some numbers, as `1 / 2 / 3`; empty if there are none."""
    known = sorted(values)
    if not known:
        return ""
    return " / ".join(f"{value:,.{digits}f}" for value in (known[0], statistics.median(known), known[-1]))


def without_folders(text: str) -> str:
    """A sentence in which absolute paths are cut to the file's name: where the data lie concerns their machine alone."""
    return _FOLDERS.sub("", text)


def _located(scans: Iterable[Scan], receipts: Mapping[str, Any], patches: pd.DataFrame) -> list[Located]:
    of_finding = Counter(patches["finding_id"])
    found = []
    for scan in scans:
        for region in receipts[scan.image_id]["regions"]:
            diameter = 2 * math.sqrt(region["area"] / math.pi)
            found.append(
                Located(
                    finding_id=region["finding_id"],
                    image_id=scan.image_id,
                    label=region["label"],
                    pixels=diameter,
                    millimetres=None if scan.pixel_um is None else diameter * scan.pixel_um / 1000,
                    patches=of_finding[region["finding_id"]],
                )
            )
    return found


def _classes_of_films(patches: pd.DataFrame, located: Iterable[Located]) -> dict[str, set[int]]:
    """Classes that a film's picture can show, by its patches and ROIs."""
    classes: dict[str, set[int]] = {}
    pairs = patches[["image_id", "label"]].drop_duplicates()
    for image_id, label in zip(pairs["image_id"], pairs["label"], strict=True):
        classes.setdefault(image_id, set()).add(int(label))
    for item in located:
        classes.setdefault(item.image_id, set()).add(item.label)
    return classes


def _balance(patches: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per split, and one for all; `counts` are the patches of classes 0 to 4."""
    rows = []
    for name in [*(split.value for split in Split), "all"]:
        part = patches if name == "all" else patches[patches["split"] == name]
        labels = Counter(part["label"])
        rows.append(
            {
                "split": name,
                "patches": len(part),
                "counts": [labels[int(label)] for label in Label],
                "films": part["image_id"].nunique(),
                "patients": len(part[["source", "patient_id"]].drop_duplicates()),
            }
        )
    return rows


def _patients_in_two_splits(patches: pd.DataFrame) -> list[str]:
    pairs = patches[["source", "patient_id", "split"]].drop_duplicates()
    splits = Counter(zip(pairs["source"], pairs["patient_id"], strict=True))
    return [f"{source} {patient}" for (source, patient), count in sorted(splits.items()) if count > 1]


def _film_groups(scans: Iterable[Scan]) -> list[dict[str, Any]]:
    """Films by source, scanner, institution and depth of their pixels."""
    groups: dict[tuple[str, str, str, int], list[Scan]] = {}
    for scan in scans:
        groups.setdefault((scan.source, scan.scanner, scan.institution, scan.bits), []).append(scan)
    return [
        {
            "source": source,
            "scanner": scanner_of(group[0]),
            "bits": bits,
            "films": len(group),
            "normal": sum(scan.normal for scan in group),
            "views": Counter((scan.laterality, scan.view) for scan in group),
            "rows": [scan.rows for scan in group],
            "columns": [scan.columns for scan in group],
            "pixel_um": sorted({scan.pixel_um for scan in group if scan.pixel_um is not None}),
        }
        for (source, _, _, bits), group in sorted(groups.items())
    ]


def _by_class(tables: Mapping[str, Any]) -> dict[str, dict[tuple[str, Any], dict[int, Any]]]:
    """Of each table of the audit, its rows by (split, value) and label; of the films' sizes, by (split, rows or columns)."""
    cells: dict[str, dict[tuple[str, Any], dict[int, Any]]] = {name: {} for name in tables}
    for name in ("source", "scanner", "bits"):
        for row in tables[name]:
            cells[name].setdefault((row["split"], row["value"]), {})[row["label"]] = row
    for side in ("rows", "columns"):
        for row in tables["size"]:
            cells["size"].setdefault((row["split"], side), {})[row["label"]] = row[side]
    return cells


def _flag_rows(findings: Iterable[Finding]) -> list[tuple[str, int, str]]:
    """Flags of ROIs that occur, how many findings have each, and what it means."""
    counts = Counter(flag for finding in findings for flag in finding.roi_flags)
    return [(flag.value, counts[flag], meaning) for flag, meaning in ROI_FLAGS.items() if counts[flag]]


def _finding_rows(findings: Sequence[Finding], located: Sequence[Located]) -> list[dict[str, Any]]:
    """One row per abnormal class, and one for all (`label` None)."""
    rows = []
    for label in [*list(Label)[1:], None]:
        own = [finding for finding in findings if label in (None, finding.label)]
        places = [item for item in located if label in (None, item.label)]
        rows.append(
            {
                "label": label,
                "findings": len(own),
                "located": len(places),
                "kinds": Counter(finding.roi_kind for finding in own),
                "verdicts": Counter(finding.verdict for finding in own),
                "pixels": [item.pixels for item in places],
                "millimetres": [item.millimetres for item in places if item.millimetres is not None],
                "patches": [item.patches for item in places],
            }
        )
    return rows


def _diameter_bins(located: Sequence[Located]) -> list[tuple[str, list[int]]]:
    """Name of each bin of diameters, and its located findings of classes 0 to 4."""
    rows = []
    for low, high in itertools.pairwise(_DIAMETERS):
        labels = Counter(item.label for item in located if low <= item.pixels < high)
        name = f"{low:,.0f} and more" if math.isinf(high) else f"{low:,.0f} to {high:,.0f}"
        rows.append((name, [labels[int(label)] for label in Label]))
    return rows


def _reject_groups(rejects: Iterable[Rejection]) -> list[dict[str, Any]]:
    """Rejects by reason, the most frequent first."""
    groups: dict[str, list[Rejection]] = {}
    for row in rejects:
        groups.setdefault(row.code, []).append(row)
    return [
        {
            "code": code,
            "meaning": REASONS[group[0].code],
            "count": len(group),
            "stages": sorted({row.stage for row in group}),
            "examples": [
                (name_of(row.path) or row.finding_id or row.image_id, without_folders(row.message)[:_MESSAGE])
                for row in group[:_EXAMPLES]
            ],
        }
        for code, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
