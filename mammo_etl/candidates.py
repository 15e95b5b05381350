"""Places in a film where patches may be cut: over every finding, and at random in normal tissue.

Random places come from a generator seeded by (seed, image_id), so that they do not depend on the order of work.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.records import Box, Candidate
from mammo_etl.roi import Region
from mammo_etl.settings import PatchSettings

_TRIES = 40
"""Random places tried per normal patch asked for; more would only press the last ones into a crowded breast."""


class BoxSums:
    """Sums of a mask over boxes, by its integral image (Crow 1984), so that a box costs four look-ups."""

    def __init__(self, mask: NDArray[np.uint8], origin: Box) -> None:
        """`mask`: (rows, columns), zero or not; `origin`: the place of its top-left pixel on the scan."""
        self._integral = cv2.integral((mask > 0).view(np.uint8))
        self._origin = origin

    def __call__(self, y: NDArray[np.int64], x: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Pixels of the mask in each box of `size` at (y, x) on the scan."""
        rows, columns = self._integral.shape
        top = np.clip(y - self._origin.y, 0, rows - 1)
        bottom = np.clip(y - self._origin.y + size, 0, rows - 1)
        left = np.clip(x - self._origin.x, 0, columns - 1)
        right = np.clip(x - self._origin.x + size, 0, columns - 1)
        table = self._integral
        sums = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return sums.astype(np.int64)


def grid(start: int, length: int, size: int, stride: int) -> list[int]:
    """Starts of patches that cover [start, start + length): steps of `stride`, the last one aligned to the end.

    A length below `size` has one patch, at `start`.
    """
    end = start + max(length - size, 0)
    return [*range(start, end, stride), end]


def generator(seed: int, image_id: str) -> np.random.Generator:
    """The random stream of one film."""
    digest = hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def find_candidates(
    image_id: str,
    rows: int,
    columns: int,
    mask: NDArray[np.uint8],
    mask_box: Box,
    regions: Sequence[Region],
    normals: Literal["normal", "background"] | None,
    avoid: Sequence[Box],
    settings: PatchSettings,
) -> list[Candidate]:
    """Every candidate of one film of rows x columns pixels, abnormal ones first.

    `mask` is the breast inside `mask_box`, zero or not. `normals`: what normal tissue of this film is called, None if none may be taken;
    it never touches the boxes of `avoid`.
    """
    if rows < settings.size or columns < settings.size:
        return []
    breast = BoxSums(mask, mask_box)
    random = generator(settings.seed, image_id)
    found = [
        candidate
        for region in sorted(regions, key=lambda region: region.finding_id)
        for candidate in _abnormal(image_id, rows, columns, breast, region, regions, random, settings)
    ]
    if normals:
        found += _normal(image_id, rows, columns, mask, mask_box, breast, normals, avoid, random, settings)
    return found


def _places(
    region: Region, rows: int, columns: int, random: np.random.Generator, settings: PatchSettings
) -> list[tuple[str, int, int]]:
    """(origin, y, x) of the patches for one ROI: its centre, places around it, and a grid if it is larger than a patch."""
    size, box = settings.size, region.box
    centre_y, centre_x = box.y + (box.height - size) // 2, box.x + (box.width - size) // 2
    shifts = random.uniform(-settings.jitter, settings.jitter, (settings.around, 2)) * size
    places = [("centre", centre_y, centre_x)]
    places += [("around", centre_y + round(dy), centre_x + round(dx)) for dy, dx in shifts]
    if box.height > size or box.width > size:
        ys = grid(box.y, box.height, size, settings.stride) if box.height > size else [centre_y]
        xs = grid(box.x, box.width, size, settings.stride) if box.width > size else [centre_x]
        places += [("grid", y, x) for y in ys for x in xs]
    kept: dict[tuple[int, int], str] = {}
    for origin, y, x in places:
        kept.setdefault((min(max(y, 0), rows - size), min(max(x, 0), columns - size)), origin)
    return [(origin, y, x) for (y, x), origin in kept.items()]


def _abnormal(
    image_id: str,
    rows: int,
    columns: int,
    breast: BoxSums,
    region: Region,
    regions: Sequence[Region],
    random: np.random.Generator,
    settings: PatchSettings,
) -> list[Candidate]:
    """Patches of one finding: those in which no other finding is shown to a larger share, and enough of it is.

    The one that shows most of it is kept whatever else it shows: each located finding has at least one patch.
    """
    places = _places(region, rows, columns, random, settings)
    y = np.array([place[1] for place in places], np.int64)
    x = np.array([place[2] for place in places], np.int64)
    own = BoxSums(region.mask, region.box)(y, x, settings.size)
    fraction = own / region.area
    coverage = own / settings.size**2
    others = [
        BoxSums(other.mask, other.box)(y, x, settings.size) / other.area
        for other in regions
        if other.finding_id != region.finding_id
    ]
    rivals = np.max(others, axis=0) if others else np.zeros(len(places))
    keep = (fraction >= rivals) & ((fraction >= settings.min_roi) | (coverage >= settings.min_roi))
    keep[np.lexsort((-coverage, -(fraction - rivals), -own))[0]] = True
    breast_fraction = breast(y, x, settings.size) / settings.size**2
    return [
        Candidate(
            image_id=image_id,
            finding_id=region.finding_id,
            label=region.label,
            origin=places[i][0],
            y=int(y[i]),
            x=int(x[i]),
            size=settings.size,
            roi_fraction=float(fraction[i]),
            roi_coverage=float(coverage[i]),
            breast_fraction=float(breast_fraction[i]),
        )
        for i in np.flatnonzero(keep)
    ]


def _normal(
    image_id: str,
    rows: int,
    columns: int,
    mask: NDArray[np.uint8],
    mask_box: Box,
    breast: BoxSums,
    origin: str,
    avoid: Sequence[Box],
    random: np.random.Generator,
    settings: PatchSettings,
) -> list[Candidate]:
    """Patches whose centres are uniform over the breast, inside the film, mostly breast, apart from each other and from `avoid`."""
    size, wanted = settings.size, settings.normals_per_film
    tries = wanted * _TRIES
    centre_y = random.integers(0, mask_box.height, tries)
    centre_x = random.integers(0, mask_box.width, tries)
    y, x = centre_y + mask_box.y - size // 2, centre_x + mask_box.x - size // 2
    fits = (mask[centre_y, centre_x] > 0) & (y >= 0) & (x >= 0) & (y <= rows - size) & (x <= columns - size)
    for box in avoid:
        fits &= (y >= box.bottom) | (y + size <= box.y) | (x >= box.right) | (x + size <= box.x)
    y, x = y[fits], x[fits]
    share = breast(y, x, size) / size**2
    enough = share >= settings.min_breast
    y, x, share = y[enough], x[enough], share[enough]
    chosen: list[int] = []
    for i in range(len(y)):
        if len(chosen) == wanted:
            break
        apart = (y[chosen] - y[i]) ** 2 + (x[chosen] - x[i]) ** 2
        if not chosen or apart.min() >= max(settings.min_distance, 1) ** 2:
            chosen.append(i)
    return [
        Candidate(
            image_id=image_id,
            finding_id="",
            label=0,
            origin=origin,
            y=int(y[i]),
            x=int(x[i]),
            size=size,
            roi_fraction=0.0,
            roi_coverage=0.0,
            breast_fraction=float(share[i]),
        )
        for i in chosen
    ]
