"""What surrounds a film on its scan: black margins, and bright borders."""

import cv2
import numpy as np
from numpy.typing import NDArray

_BLACK = 1.0
"""Grey levels up to this are the black around a scanned film."""
_WHITE = 0.6
"""Borders are brighter than this share of the film's brightest grey, its 99.9th percentile."""
_EVEN = 0.05
"""Grey levels of a border differ by at most this share of the brightest."""
_STEP, _CLIFF = 0.08, 0.2
"""A border ends within two pixels, by at least the first share of the brightest along half of its outline, and by the second along an
eighth: against tissue the step may be small, against the film's background it is not."""
_ASKEW = 0.1
"""A border's edge is turned against the side by at most this slope, about 6 degrees."""
_BESIDE = 0.4
"""A border lies along at least this share of one side of the film."""


def without_black(small: NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns of a scan, (rows, columns) of grey levels 0 to 255, inside the black that surrounds it: a scanner's margin, or padding
    to a square. Both are empty if all is black.
    """
    lit = small > _BLACK
    rows = np.flatnonzero(lit.mean(axis=1) > 0.005)
    columns = np.flatnonzero(lit.mean(axis=0) > 0.005)
    if not len(rows) or not len(columns):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def find_borders(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Borders along the sides of a scan, (rows, columns) of grey levels 0 to 255, as a mask of 255 and 0: light that came past the film, frames,
    bright strips. A breast at a side is not even, ends softly, and is round.
    """
    grey = np.asarray(cv2.convertScaleAbs(levels), np.uint8)
    rows, columns = grey.shape
    top = _quantile(grey, 0.999)
    gradient = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    around = np.ones((3, 3), np.uint8)
    # Each area that was filled has its own number in `areas`, which has one pixel more on every side.
    areas = np.zeros((rows + 2, columns + 2), np.uint8)
    borders = np.zeros((rows, columns), np.uint8)
    sides = [(x, y) for x in (0, columns - 1) for y in range(0, rows, 8)]
    sides += [(x, y) for y in (0, rows - 1) for x in range(0, columns, 8)]
    number = 1
    for x, y in sides:
        if grey[y, x] < _WHITE * top or areas[y + 1, x + 1] or number == 255:
            continue
        number += 1
        flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (number << 8)
        _, _, _, (left, up, width, height) = cv2.floodFill(grey, areas, (x, y), 0, _EVEN * top, _EVEN * top, flags)
        filled = areas[1:-1, 1:-1] == number
        beside = max(filled[:, 0].mean(), filled[:, -1].mean(), filled[0].mean(), filled[-1].mean())
        around_film = filled[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= 3
        if beside < _BESIDE or not (around_film or _is_straight(filled)):
            continue
        part = np.s_[max(0, up - 4) : up + height + 4, max(0, left - 4) : left + width + 4]
        area = cv2.morphologyEx(filled[part].astype(np.uint8) * np.uint8(255), cv2.MORPH_CLOSE, around)
        outline = cv2.dilate(area, around) - area
        steps = gradient[part][outline > 0]
        if len(steps) and np.mean(steps > _STEP * top) > 0.5 and np.mean(steps > _CLIFF * top) > 0.125:
            borders[part] |= np.asarray(area, np.uint8)
    # The outermost pixels of a border are mixed with what lies beside it.
    return np.asarray(cv2.dilate(borders, around), np.uint8)


def _is_straight(filled: NDArray[np.bool_]) -> bool:
    """Whether an area's inner edge is a straight line along the side on which it lies most, hardly askew.

    The edge of a clipped breast is round, and that of a clipped pectoral muscle steep.
    """
    sides = [filled, filled[:, ::-1], filled.T, filled.T[:, ::-1]]
    area = max(sides, key=lambda side: side[:, 0].mean())
    lines = np.flatnonzero(area[:, 0])
    lines = lines[len(lines) // 10 : len(lines) - len(lines) // 10]
    depth = np.where(area[lines].all(axis=1), area.shape[1], area[lines].argmin(axis=1))
    line = np.polyfit(lines, depth, 1)
    rest = np.abs(depth - np.polyval(line, lines))
    return bool(abs(line[0]) <= _ASKEW and np.median(rest) <= max(1.5, 0.004 * len(area)))


def _quantile(grey: NDArray[np.uint8], share: float) -> int:
    counts = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel())
    return int(np.searchsorted(counts, share * counts[-1]))
