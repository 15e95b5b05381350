"""The outlines of a lesion as DDSM's `.OVERLAY` files have them, Freeman chains, and what is wrong with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.film import PlacedLesion, Region, region_from
from mammo_etl.phantom.source_faults import Fault

# Freeman codes of DDSM, 0 = north, clockwise, as (row step, column step).
_CODES = {
    step: code for code, step in enumerate([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)])
}

Points = NDArray[np.int32]


@dataclass(frozen=True)
class Outlines:
    """The outlines of one lesion."""

    stated: int
    """How many there are, as TOTAL_OUTLINES says."""
    boundaries: tuple[str, ...]
    """Chains: start column, start row, codes, `#`."""
    core: str | None
    """Chain of the lesion's core."""
    roi: Region
    """What of the film the boundaries enclose, as far as they can be followed."""


def outlines_of(placed: PlacedLesion) -> Outlines:
    """The outlines of a lesion without a fault."""
    core = None if placed.core is None else _chain(_contour(placed.core))
    return Outlines(1 if core is None else 2, (_chain(_contour(placed.roi)),), core, placed.roi)


def _contour(region: Region) -> Points:
    """Outer contour of a region, (n, 2) x, y on the film; each point is a neighbour of the next, and the last of the first."""
    contours, _ = cv2.findContours(region.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    (contour,) = contours
    return np.asarray(contour.reshape(-1, 2) + np.array([region.box.x, region.box.y]), np.int32)


def _chain(points: Points, *, closed: bool = True) -> str:
    """Points, each a neighbour of the next, as a chain."""
    steps = np.roll(points, -1, axis=0) - points
    codes = " ".join(str(_CODES[int(dy), int(dx)]) for dx, dy in (steps if closed else steps[:-1]))
    return f"{points[0, 0]} {points[0, 1]}  {codes} #"


def _filled(points: Points) -> Region:
    """What a closed polygon encloses, its edge included; it may lie beyond the film."""
    x, y, width, height = cv2.boundingRect(points)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [points - np.array([x, y], np.int32)], 255)
    return region_from(mask, y, x)


def _leave(outlines: Outlines, rows: int, columns: int) -> Outlines:
    """The lesion's outline drawn out over the nearer side of the film, as far as the lesion is wide."""
    points, box = _contour(outlines.roi), outlines.roi.box
    away = -box.right if box.x < columns - box.right else columns - box.x
    hull = cv2.convexHull(np.vstack([points, points + np.array([away, 0], np.int32)])).reshape(-1, 2)
    whole = _filled(np.asarray(hull, np.int32))
    contour = _contour(whole)
    inside = int(np.flatnonzero((contour[:, 0] >= 0) & (contour[:, 0] < columns))[0])
    left, right = max(0, whole.box.x), min(columns, whole.box.right)
    seen = np.ascontiguousarray(whole.mask[:, left - whole.box.x : right - whole.box.x])
    chain = _chain(np.roll(contour, -inside, axis=0))
    return replace(outlines, boundaries=(chain,), roi=region_from(seen, whole.box.y, left))


def _open(outlines: Outlines, rows: int, columns: int) -> Outlines:
    """The last fifth of the outline is missing; a straight line closes it."""
    points = _contour(outlines.roi)
    points = points[: len(points) - len(points) // 5]
    return replace(outlines, boundaries=(_chain(points, closed=False),), roi=_filled(points))


def _break(outlines: Outlines, rows: int, columns: int) -> Outlines:
    """A second outline, in which a code is no figure."""
    broken = f"{columns // 2} {rows // 2}  4 4 4 2 2 x 0 0 6 #"
    return replace(outlines, stated=outlines.stated + 1, boundaries=(*outlines.boundaries, broken))


def _miscount(outlines: Outlines, rows: int, columns: int) -> Outlines:
    return replace(outlines, stated=outlines.stated + 1)


OUTLINE_FAULTS: dict[Fault, Callable[[Outlines, int, int], Outlines]] = {
    Fault.LEAVING_CHAIN: _leave,
    Fault.OPEN_CHAIN: _open,
    Fault.BROKEN_CHAIN: _break,
    Fault.MISCOUNTED: _miscount,
}
"""One for each lesion of a film: its outlines, and the film's rows and columns."""
