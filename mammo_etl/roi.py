"""Masks, outlines and circles as regions on the film's grid."""

import base64
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

    What lies outside the film is cut off. Raises SourceFileError if a mask cannot be read, is of another size than the film, or if no
    pixel of the ROI lies on the film.
    """
    match finding.roi_kind:
        case RoiKind.NONE:
            return None
        case RoiKind.MASK:
            mask = _read_mask(finding.roi_path, rows, columns)
        case RoiKind.OUTLINE:
            mask = np.zeros((rows, columns), np.uint8)
            cv2.fillPoly(mask, [chain_points(chain) for chain in finding.roi_outlines], 255)
        case RoiKind.CIRCLE:
            assert finding.roi_x is not None
            assert finding.roi_y is not None
            assert finding.roi_radius is not None
            mask = np.zeros((rows, columns), np.uint8)
            centre = (round(finding.roi_x), round(finding.roi_y))
            cv2.circle(mask, centre, max(1, round(finding.roi_radius)), 255, cv2.FILLED)
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        if finding.roi_kind is RoiKind.MASK:
            raise SourceFileError(Reason.EMPTY_MASK, "The ROI mask is empty: expected pixels above 0.")
        raise SourceFileError(Reason.ROI_OUTSIDE, f"The ROI has no pixel on the film of {rows} x {columns} pixels.")
    box = Box(y, x, height, width)
    return Region(finding.finding_id, int(finding.label), box, mask[y : box.bottom, x : box.right].copy())


def _read_mask(path: str, rows: int, columns: int) -> NDArray[np.uint8]:
    film = read_film(path)
    if film.pixels.shape != (rows, columns):
        height, width = film.pixels.shape
        raise SourceFileError(
            Reason.MASK_SIZE, f"The ROI mask has {height} x {width} pixels, its film {rows} x {columns}."
        )
    return np.where(film.pixels > 0, np.uint8(255), np.uint8(0))


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
