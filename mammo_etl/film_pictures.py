"""Pictures of films for a report: which ones to show, and what is drawn on them."""

import base64
import itertools
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.cleaning import to_8bit
from mammo_etl.dicom import Pixels
from mammo_etl.png import decode_png
from mammo_etl.records import (
    Box,
    Finding,
    Scan,
)
from mammo_etl.roi import Region, region_from_json
from mammo_etl.split import unit_interval

LONG_SIDE = 420
"""Longest side of a film in the page, pixels."""
_SAMPLES = 12
_DOUBTFUL = 8
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80]
_DOUBTS = [
    ("least contrast at the outline", "contrast", False),
    ("least agreement of the two methods", "agreement", False),
    ("lowest solidity", "solidity", False),
    ("most border contact", "border_contact", True),
    ("smallest share of the film", "area_share", False),
    ("largest share of the film", "area_share", True),
]
"""What makes a breast mask doubtful: in words, the receipt's figure, and whether the largest value is the worst."""


@dataclass(frozen=True, slots=True)
class DrawnRegion:
    """A ROI on a film's picture; places in pixels of the picture."""

    number: int
    """1 and up within the film, as in its caption."""
    finding_id: str
    label: int
    path: str
    """Outline as SVG path data."""
    x: float
    """Where its number stands."""
    y: float
    anchor: str
    """Which end of the number that place is: start or end."""


@dataclass(frozen=True, slots=True)
class FilmPicture:
    """A film reduced to at most `LONG_SIDE` pixels, and what is drawn on it; the origin is the film's top-left corner."""

    scan: Scan
    split: str
    """Empty for a film without patches."""
    width: int
    height: int
    jpeg: str
    """The film in base64."""
    breast: str
    """Outline of the breast mask as SVG path data."""
    patches: Mapping[int, str]
    """Boxes of the patches of each class as SVG path data."""
    patch_count: int
    regions: Sequence[DrawnRegion]
    findings: Sequence[tuple[int, int]]
    """Number (0 if not located) and class of each finding."""


def choose_films(
    scans: Iterable[Scan], classes: Mapping[str, Collection[int]], shown: Collection[str], count: int = _SAMPLES
) -> list[str]:
    """About `count` films among which is every class, source and view, and as far as possible every scanner and side.

    `classes` are those of each film. Films that are `shown` elsewhere are taken only if no other has a class, source or
    view. Each film is the one that adds most to those before it; once none adds anything, a new round starts. Ties are
    broken by a hash of the name, so that the same run always shows the same films, and not only its first patients.
    """
    order = sorted(scans, key=lambda scan: (unit_interval("report", scan.image_id), scan.image_id))
    must: dict[str, set[tuple[Any, ...]]] = {
        scan.image_id: {("source", scan.source), ("view", scan.view)}
        | {("class", label) for label in classes.get(scan.image_id, ())}
        for scan in order
    }
    may: dict[str, set[tuple[Any, ...]]] = {
        scan.image_id: {("scanner", scan.source, scan.scanner), ("side", scan.laterality)} for scan in order
    }
    left = [scan.image_id for scan in order if scan.image_id not in shown]
    chosen: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    while left and len(chosen) < count:
        best = max(left, key=lambda image_id: (len(must[image_id] - seen), len(may[image_id] - seen)))
        if seen and seen >= must[best] | may[best]:
            seen = set()
            continue
        chosen.append(best)
        left.remove(best)
        seen |= must[best] | may[best]
    covered = {item for image_id in chosen for item in must[image_id]}
    for scan in order:
        if not must[scan.image_id] <= covered:
            chosen.append(scan.image_id)
            covered |= must[scan.image_id]
    return chosen


def doubtful_masks(quality: Mapping[str, Mapping[str, float]], count: int = _DOUBTFUL) -> dict[str, str]:
    """The films with the most doubtful breast masks, and the reason in words.

    They are the farthest beyond the median by each figure of `quality` (that of each film's receipt) in turn. At most
    half of the films are named: among few, nothing stands out.
    """
    queues = []
    for words, figure, largest in _DOUBTS:
        values = {name: measured[figure] for name, measured in sorted(quality.items())}
        usual = statistics.median(values.values())
        beyond = [name for name, value in values.items() if (value > usual if largest else value < usual)]
        beyond.sort(key=lambda name: values[name], reverse=largest)
        queues.append([(name, f"{words}: {values[name]:.3f} (median of the run: {usual:.3f})") for name in beyond])
    chosen: dict[str, str] = {}
    for turn in itertools.zip_longest(*queues):
        for name, reason in filter(None, turn):
            if len(chosen) < min(count, len(quality) // 2):
                chosen.setdefault(name, reason)
    return chosen


def draw_film(
    scan: Scan, receipt: Mapping[str, Any], png: bytes, findings: Iterable[Finding], patches: pd.DataFrame
) -> FilmPicture:
    """The picture of one film: the cleaned image in its place on the whole scan, and outlines as vectors over it.

    `png` is the cleaned film, `findings` and `patches` the film's own.
    """
    scale = min(1.0, LONG_SIDE / max(scan.rows, scan.columns))
    width, height = max(1, round(scan.columns * scale)), max(1, round(scan.rows * scale))
    # Read whole: OpenCV's reduced reading of a PNG decodes all of it too, and then samples it worse.
    grey = decode_png(png)
    box = Box(*receipt["box"])
    top, left = min(round(box.y * scale), height - 1), min(round(box.x * scale), width - 1)
    bottom, right = max(top + 1, round(box.bottom * scale)), max(left + 1, round(box.right * scale))
    frame = np.zeros((height, width), np.uint8)
    small: Pixels = np.asarray(cv2.resize(grey, (right - left, bottom - top), interpolation=cv2.INTER_AREA))  # type: ignore[assignment]
    frame[top:bottom, left:right] = to_8bit(small, 8 * small.itemsize)
    ok, jpeg = cv2.imencode(".jpg", frame, _JPEG)
    assert ok
    regions = [
        _draw_region(number, region_from_json(region), scale, width, height)
        for number, region in enumerate(sorted(receipt["regions"], key=lambda region: region["finding_id"]), start=1)
    ]
    numbers = {region.finding_id: region.number for region in regions}
    return FilmPicture(
        scan=scan,
        split="" if patches.empty else str(patches["split"].iloc[0]),
        width=width,
        height=height,
        jpeg=base64.b64encode(jpeg.tobytes()).decode("ascii"),
        breast=_outline(np.where(grey > 0, np.uint8(255), np.uint8(0)), box, scale),
        patches={
            int(label): _squares(patches[patches["label"] == label], scale) for label in sorted(set(patches["label"]))
        },
        patch_count=len(patches),
        regions=regions,
        findings=sorted((numbers.get(finding.finding_id, 0), int(finding.label)) for finding in findings),
    )


def _draw_region(number: int, region: Region, scale: float, width: int, height: int) -> DrawnRegion:
    beside = region.box.right * scale + 4
    fits = beside < width - 16
    return DrawnRegion(
        number=number,
        finding_id=region.finding_id,
        label=region.label,
        path=_outline(region.mask, region.box, scale),
        x=round(beside if fits else region.box.x * scale - 4, 1),
        y=round(min(max(region.box.y * scale + 4, 14), height - 4), 1),
        anchor="start" if fits else "end",
    )


def _outline(mask: NDArray[np.uint8], box: Box, scale: float) -> str:
    """SVG path data of the outlines of a mask that fills `box`, simplified to within half a pixel of the picture."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    paths = []
    for contour in contours:
        points = (cv2.approxPolyDP(contour, 0.5 / scale, True)[:, 0] + (box.x + 0.5, box.y + 0.5)) * scale
        paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(paths)


def _squares(patches: pd.DataFrame, scale: float) -> str:
    """SVG path data of the boxes of patches."""
    boxes = zip(patches["y"] * scale, patches["x"] * scale, patches["size"] * scale, strict=True)
    return "".join(f"M{x:.1f} {y:.1f}h{size:.1f}v{size:.1f}h-{size:.1f}Z" for y, x, size in boxes)
