"""Masks, outlines and circles as regions on the film's grid."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.files import SourceFileError
from mammo_etl.film import read_film
from mammo_etl.records import Box, Finding, Reason, RoiKind

_STEPS = np.array([(0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)], dtype=np.int32)
"""(dx, dy) of DDSM's chain codes 0 = N, 1 = NE, then clockwise to 7 = NW (DDSM, "Overlay files")."""

_ROI, _OUTSIDE = 255, 1
"""Grey levels of an outline and what it encloses, and of what it does not."""

_OFF = 500
"""How far off the film an outline is followed, pixels: what lies further off is drawn there. Outlines leave their film by some pixels."""

UNIFORM = 0.005
"""By how much the ratios of rows and columns of a film and its mask may differ: rounding, on the smallest films."""


@dataclass(frozen=True)
class Region:
    """The pixels of one finding's ROI."""

    finding_id: str
    label: int
    box: Box
    """Smallest rectangle around the ROI, on the original scan."""
    mask: NDArray[np.uint8]
    """(box.height, box.width), 255 ROI, 0 elsewhere."""

    @property
    def area(self) -> int:
        """Pixels of the ROI."""
        return int(cv2.countNonZero(self.mask))


def chain_points(chain: str) -> NDArray[np.int32]:
    """Points (x, y) of an outline given as 'x y codes', (n, 2), from its start on."""
    x, y, codes = (*chain.split(), "")[:3]
    steps = _STEPS[np.frombuffer(codes.encode("ascii"), dtype=np.uint8) - ord("0")]
    start = np.array([[int(x), int(y)]], dtype=np.int32)
    return np.concatenate([start, start + np.cumsum(steps, axis=0, dtype=np.int32)])


def region_of(finding: Finding, rows: int, columns: int) -> Region | None:
    """The ROI of a finding on a film of that size; None if the source gives no place.

    What lies outside the film is cut off; a mask of another size is brought to the film's if `is_uniform` says so. Raises SourceFileError
    if a mask cannot be read or used, or if no pixel of the ROI lies on the film.
    """
    match finding.roi_kind:
        case RoiKind.NONE:
            return None
        case RoiKind.MASK:
            return mask_region(finding, read_mask(finding.roi_path), rows, columns)
        case RoiKind.OUTLINE:
            mask = _outlined(finding.roi_outlines, rows, columns)
        case RoiKind.CIRCLE:
            assert finding.roi_x is not None
            assert finding.roi_y is not None
            assert finding.roi_radius is not None
            mask = np.zeros((rows, columns), np.uint8)
            centre = (round(finding.roi_x), round(finding.roi_y))
            cv2.circle(mask, centre, max(1, round(finding.roi_radius)), 255, cv2.FILLED)
    region = _region(finding, mask)
    if region is None:
        raise SourceFileError(Reason.ROI_OUTSIDE, f"The ROI has no pixel on the film of {rows} x {columns} pixels.")
    return region


def _outlined(chains: Iterable[str], rows: int, columns: int) -> NDArray[np.uint8]:
    """255 on each outline, closed by a straight line, and in all that it encloses; (rows, columns).

    Each is filled by itself and from outside: an even-odd rule, as cv2.fillPoly's, leaves out what two outlines share, or one that runs
    round twice.
    """
    mask = np.zeros((rows + 2 * _OFF, columns + 2 * _OFF), np.uint8)
    for chain in chains:
        # Off the film an outline still tells what is enclosed on it, but may go too far to be drawn.
        x, y = np.clip(_closed(chain_points(chain)) + _OFF, 0, (columns + 2 * _OFF - 1, rows + 2 * _OFF - 1)).T
        left, right, top, bottom = x.min(), x.max() + 1, y.min(), y.max() + 1
        canvas = np.zeros((bottom - top + 2, right - left + 2), np.uint8)
        canvas[y - top + 1, x - left + 1] = _ROI
        cv2.floodFill(canvas, None, (0, 0), _OUTSIDE)
        mask[top:bottom, left:right][canvas[1:-1, 1:-1] != _OUTSIDE] = _ROI
    return mask[_OFF:-_OFF, _OFF:-_OFF]


def _closed(points: NDArray[np.int32]) -> NDArray[np.int32]:
    """Points (x, y), each beside the next, and those of a straight line from the last to the first."""
    length = int(np.abs(points[-1] - points[0]).max())
    line = np.rint(np.linspace(points[-1], points[0], length + 1)).astype(np.int32)
    return np.concatenate([points, line])


@dataclass(frozen=True)
class MaskFile:
    """The pixels of a mask file."""

    mask: NDArray[np.uint8]
    """(rows, columns), 255 where the file is above 0."""
    values: tuple[int, ...]
    """The grey values of the file."""


def read_mask(url: str) -> MaskFile:
    """A mask file of any depth; raises SourceFileError if it cannot be read."""
    pixels = read_film(url).pixels
    levels = 256**pixels.itemsize
    histogram = cv2.calcHist([pixels], [0], None, [levels], [0, levels])
    values = tuple(np.flatnonzero(histogram).tolist())
    return MaskFile(np.where(pixels > 0, np.uint8(255), np.uint8(0)), values)


def is_uniform(ratio_y: float, ratio_x: float) -> bool:
    """Whether a mask differs from its film by one ratio, as where film and mask were digitised with two pixel pitches."""
    return abs(ratio_y / ratio_x - 1) <= UNIFORM


def mask_region(finding: Finding, file: MaskFile, rows: int, columns: int) -> Region:
    """The ROI that a mask gives on a film of that size, the mask brought to it if need be.

    Raises SourceFileError: `missing-mask` if its grey values are not 0 and one other, `mask-size` if rows and columns differ by
    two ratios, `empty-mask`.
    """
    mask = file.mask
    if len({0, *file.values}) > 2 or 0 not in file.values:
        raise SourceFileError(
            Reason.MISSING_MASK,
            f"The file taken for the ROI mask has {len(file.values)} grey value(s): expected 0 and one other.",
        )
    height, width = mask.shape
    if not is_uniform(rows / height, columns / width):
        raise SourceFileError(
            Reason.MASK_SIZE, f"The ROI mask has {height} x {width} pixels, its film {rows} x {columns}."
        )
    if (height, width) != (rows, columns):
        enlarged = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_LINEAR)
        mask = np.asarray(cv2.threshold(enlarged, 127, 255, cv2.THRESH_BINARY)[1], np.uint8)
    region = _region(finding, mask)
    if region is None:
        raise SourceFileError(Reason.EMPTY_MASK, "The ROI mask is empty: expected pixels above 0.")
    return region


def _region(finding: Finding, mask: NDArray[np.uint8]) -> Region | None:
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return None
    box = Box(y, x, height, width)
    return Region(finding.finding_id, int(finding.label), box, mask[y : box.bottom, x : box.right].copy())


def region_to_json(region: Region) -> dict[str, Any]:
    """A region for a receipt: its box, and its mask as a one-bit PNG in base64."""
    ok, png = cv2.imencode(".png", region.mask, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert ok
    box = region.box
    return {
        "finding_id": region.finding_id,
        "label": region.label,
        "box": [box.y, box.x, box.height, box.width],
        "area": region.area,
        "mask": base64.b64encode(png.tobytes()).decode("ascii"),
    }


def region_from_json(value: dict[str, Any]) -> Region:
    """A region from its receipt."""
    png = np.frombuffer(base64.b64decode(value["mask"]), np.uint8)
    mask = np.asarray(cv2.imdecode(png, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)
    return Region(value["finding_id"], value["label"], Box(*value["box"]), mask)
