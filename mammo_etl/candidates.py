"""Places in a film where patches may be cut: over every finding, and at random in normal tissue.

Random places come from a generator seeded by (seed, image_id), so that they do not depend on the order of work.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.dicom import Pixels
from mammo_etl.records import Box, Candidate
from mammo_etl.roi import Region
from mammo_etl.settings import PatchSettings

EQUAL_SHARES = 0.01
"""Shares of two ROIs in a patch that differ by no more count as equal. Else a patch that holds both would change its label with every pixel
of either that is cut off at its edge."""

_TRIES = 40
"""Random places tried per normal patch asked for; more would only press the last ones into a crowded breast."""

_SEARCHED = 250_000
"""About the most places looked at for a finding that shows most at none of its own; those of a small ROI are all of them."""


class BoxSums:
    """Sums of an image over boxes, by its integral image (Crow 1984), so that a box costs four look-ups."""

    def __init__(self, image: Pixels, origin: Box) -> None:
        """`image`: (rows, columns); `origin`: the place of its top-left pixel on the scan."""
        # Whole numbers, in double precision too: it is exact below 2**53.
        fits = int(image.max()) * image.size < 2**31
        self._integral = cv2.integral(image, sdepth=cv2.CV_32S if fits and image.dtype == np.uint8 else cv2.CV_64F)
        self._origin = origin

    def __call__(self, y: NDArray[np.int64], x: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Sum of the image in each box of `size` at (y, x) on the scan; outside the image is 0."""
        rows, columns = self._integral.shape
        top = np.clip(y - self._origin.y, 0, rows - 1)
        bottom = np.clip(y - self._origin.y + size, 0, rows - 1)
        left = np.clip(x - self._origin.x, 0, columns - 1)
        right = np.clip(x - self._origin.x + size, 0, columns - 1)
        table = self._integral
        sums = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return sums.astype(np.int64)


class Overlaps:
    """How much of each finding's ROI patches show."""

    def __init__(self, regions: Sequence[Region], size: int) -> None:
        """`regions`: of one film, at least one, sorted by finding_id; `size`: height and width of the patches."""
        self._sums = [BoxSums(on(region.mask), region.box) for region in regions]
        self._areas = np.array([[region.area] for region in regions], np.float64)
        self._size = size

    def pixels(self, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pixels of each ROI in the patch at each place, (regions, places)."""
        return np.stack([sums(y, x, self._size) for sums in self._sums])

    def shares(self, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same as shares of each ROI, 0 to 1."""
        return np.divide(pixels, self._areas)

    def most_shown(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the region that gives each patch its label, (places,).

        That is the one of whose ROI the patch holds the larger share; where shares are equal (to `EQUAL_SHARES`), the one with more pixels in
        it; where these are equal too, the first. So it follows from the place alone.
        """
        shares = self.shares(pixels)
        close = shares >= shares.max(axis=0) - EQUAL_SHARES
        first: NDArray[np.int64] = np.where(close, pixels, -1).argmax(axis=0)
        return first


def on(mask: Pixels) -> NDArray[np.uint8]:
    """A mask's pixels as 1 where they are above 0, else 0."""
    return (mask > 0).view(np.uint8)


def grid(start: int, length: int, size: int, stride: int) -> list[int]:
    """Starts of patches that cover [start, start + length): steps of `stride`, or of `size` if that is less, the last one aligned to the end.

    A length below `size` has one patch, at `start`.
    """
    end = start + max(length - size, 0)
    return [*range(start, end, min(stride, size)), end]


def generator(seed: int, image_id: str) -> np.random.Generator:
    """The random stream of one film."""
    digest = hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def find_candidates(
    image_id: str,
    rows: int,
    columns: int,
    image: Pixels,
    image_box: Box,
    regions: Sequence[Region],
    normals: Literal["normal", "background"] | None,
    avoid: Sequence[Box],
    settings: PatchSettings,
) -> list[Candidate]:
    """Every candidate of one film of rows x columns pixels, abnormal ones first; no two abnormal ones are at the same place.

    `image` is the cleaned film inside `image_box`, 0 outside the breast. `normals`: what normal tissue of this film is called, None if none
    may be taken; it never touches the boxes of `avoid`.
    """
    if rows < settings.size or columns < settings.size:
        return []
    breast = BoxSums(on(image), image_box)
    random = generator(settings.seed, image_id)
    ordered = sorted(regions, key=lambda region: region.finding_id)
    found = _abnormal(image_id, rows, columns, breast, ordered, random, settings) if ordered else []
    if normals:
        found += _normal(image_id, rows, columns, image, image_box, breast, normals, avoid, random, settings)
    return found


def _places(
    region: Region, rows: int, columns: int, random: np.random.Generator, settings: PatchSettings
) -> dict[tuple[int, int], str]:
    """(y, x) -> origin of the patches for one ROI: its centre, places around it, and a grid if it is larger than a patch."""
    size, box = settings.size, region.box
    centre_y, centre_x = box.y + (box.height - size) // 2, box.x + (box.width - size) // 2
    shifts = random.uniform(-settings.jitter, settings.jitter, (settings.around, 2)) * size
    places = [("centre", centre_y, centre_x)]
    places += [("around", centre_y + round(dy), centre_x + round(dx)) for dy, dx in shifts]
    if box.height > size or box.width > size:
        ys = grid(box.y, box.height, size, settings.stride) if box.height > size else [centre_y]
        xs = grid(box.x, box.width, size, settings.stride) if box.width > size else [centre_x]
        places += [("grid", y, x) for y in ys for x in xs]
    inside: dict[tuple[int, int], str] = {}
    for origin, y, x in places:
        inside.setdefault((min(max(y, 0), rows - size), min(max(x, 0), columns - size)), origin)
    return inside


def _abnormal(
    image_id: str,
    rows: int,
    columns: int,
    breast: BoxSums,
    regions: Sequence[Region],
    random: np.random.Generator,
    settings: PatchSettings,
) -> list[Candidate]:
    """Patches of every finding: of its places those that show it most of all findings, and enough of it; at least one of these in any case.

    A finding that shows most at none of them is looked for elsewhere (`_place_apart`).
    """
    size = settings.size
    overlaps = Overlaps(regions, size)
    kept: dict[tuple[int, int], tuple[int, str]] = {}
    for index, region in enumerate(regions):
        places = _places(region, rows, columns, random, settings)
        pixels = overlaps.pixels(*np.array([*places], np.int64).T)
        own = np.where(overlaps.most_shown(pixels) == index, pixels[index], 0)
        enough = (own / region.area >= settings.min_roi) | (own / size**2 >= settings.min_roi)
        enough[own.argmax()] = True
        of_grid = sorted((i for i, origin in enumerate(places.values()) if origin == "grid"), key=lambda i: -own[i])
        enough[_completing(region, [*places], enough & (own > 0), of_grid, size)] = True
        kept |= {
            place: (index, origin)
            for (place, origin), keep in zip(places.items(), enough & (own > 0), strict=True)
            if keep
        }
    for index in sorted(set(range(len(regions))) - {index for index, _ in kept.values()}):
        place = _place_apart(index, regions[index].box, overlaps, kept, rows, columns, size)
        if place is not None:
            kept[place] = index, "apart"
    y, x = np.array([*kept], np.int64).reshape(-1, 2).T
    pixels = overlaps.pixels(y, x)
    shares = overlaps.shares(pixels)
    breast_fraction = breast(y, x, size) / size**2
    return [
        Candidate(
            image_id=image_id,
            finding_id=regions[index].finding_id,
            finding_ids=_shown(index, regions, pixels[:, i], shares[:, i]),
            label=regions[index].label,
            origin=origin,
            y=int(y[i]),
            x=int(x[i]),
            size=size,
            roi_fraction=float(shares[index, i]),
            roi_coverage=float(pixels[index, i] / size**2),
            breast_fraction=float(breast_fraction[i]),
        )
        for i, (index, origin) in enumerate(kept.values())
    ]


def _completing(
    region: Region, places: Sequence[tuple[int, int]], kept: NDArray[np.bool_], further: Sequence[int], size: int
) -> list[int]:
    """Those of the `further` places, in that order, that show pixels of the ROI which no place before them and none that is `kept` shows.

    A ROI of many small blobs is mostly in patches that hold little of it each.
    """
    unseen = region.mask.copy()
    chosen = []
    for i in [*np.flatnonzero(kept).tolist(), *further]:
        y, x = places[i][0] - region.box.y, places[i][1] - region.box.x
        part = unseen[max(y, 0) : max(y + size, 0), max(x, 0) : max(x + size, 0)]
        if not kept[i] and cv2.countNonZero(np.ascontiguousarray(part)):
            chosen.append(i)
        part[:] = 0
    return chosen


def _place_apart(
    index: int,
    box: Box,
    overlaps: Overlaps,
    taken: dict[tuple[int, int], tuple[int, str]],
    rows: int,
    columns: int,
    size: int,
) -> tuple[int, int] | None:
    """The place (y, x) of all that touch the ROI in `box` where it does best against the other findings, as one nested in another does at its rim.

    First where it is shown most, if anywhere, then by the lead of its share over the largest other one, by its pixels, and by closeness to
    the centre of its box. Places of other patches are left to them; None if there are no others, on a film hardly larger than a patch.
    """
    heights = range(max(box.y - size + 1, 0), min(box.bottom - 1, rows - size) + 1)
    widths = range(max(box.x - size + 1, 0), min(box.right - 1, columns - size) + 1)
    step = 1 + math.isqrt(len(heights) * len(widths) // _SEARCHED)
    y, x = (axis.ravel() for axis in np.meshgrid(heights[::step], widths[::step], indexing="ij"))
    pixels = overlaps.pixels(y, x)
    shares = overlaps.shares(pixels)
    lead = shares[index] - np.delete(shares, index, axis=0).max(axis=0, initial=0.0)
    distance = (2 * (y - box.y) + size - box.height) ** 2 + (2 * (x - box.x) + size - box.width) ** 2
    others = overlaps.most_shown(pixels) != index
    for i in np.lexsort((distance, -pixels[index], -lead, others)):
        place = int(y[i]), int(x[i])
        if pixels[index, i] > 0 and place not in taken:
            return place
    return None


def _shown(
    index: int, regions: Sequence[Region], pixels: NDArray[np.int64], shares: NDArray[np.float64]
) -> tuple[str, ...]:
    """The findings with pixels in a patch: the one that it belongs to, then the others by share, pixels and finding_id."""
    others = [i for i in np.lexsort((-pixels, -shares)).tolist() if i != index and pixels[i] > 0]
    return tuple(regions[i].finding_id for i in (index, *others))


def _normal(
    image_id: str,
    rows: int,
    columns: int,
    image: Pixels,
    image_box: Box,
    breast: BoxSums,
    origin: str,
    avoid: Sequence[Box],
    random: np.random.Generator,
    settings: PatchSettings,
) -> list[Candidate]:
    """Patches whose centres are uniform over the breast, inside the film, mostly breast, apart from each other and from `avoid`.

    `settings.hard_normals` of them are those of the random places where the breast in the patch is brightest.
    """
    size, wanted = settings.size, settings.normals_per_film
    tries = wanted * _TRIES
    # Uniform over the box, and those off the breast dropped: what is left is uniform over the breast.
    centre_y = random.integers(0, image_box.height, tries)
    centre_x = random.integers(0, image_box.width, tries)
    y, x = centre_y + image_box.y - size // 2, centre_x + image_box.x - size // 2
    fits = (image[centre_y, centre_x] > 0) & (y >= 0) & (x >= 0) & (y <= rows - size) & (x <= columns - size)
    for box in avoid:
        fits &= (y >= box.bottom) | (y + size <= box.y) | (x >= box.right) | (x + size <= box.x)
    y, x = y[fits], x[fits]
    pixels = breast(y, x, size)
    enough = pixels / size**2 >= settings.min_breast
    y, x, pixels = y[enough], x[enough], pixels[enough]
    hard: list[int] = []
    if number := round(settings.hard_normals * wanted):
        brightness = BoxSums(image, image_box)(y, x, size) / pixels
        hard = _apart(y, x, np.argsort(-brightness, kind="stable"), [], number, settings.min_distance)
    chosen = _apart(y, x, np.arange(len(y)), hard, wanted, settings.min_distance)
    return [
        Candidate(
            image_id=image_id,
            finding_id="",
            finding_ids=(),
            label=0,
            origin=origin if turn >= len(hard) else "hard",
            y=int(y[i]),
            x=int(x[i]),
            size=size,
            roi_fraction=0.0,
            roi_coverage=0.0,
            breast_fraction=float(pixels[i] / size**2),
        )
        for turn, i in enumerate(chosen)
    ]


def _apart(
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    order: NDArray[np.int64],
    chosen: list[int],
    wanted: int,
    distance: float,
) -> list[int]:
    """`chosen` and, up to `wanted` in all, those of `order` (indices of y and x) that are at least `distance` from all before them."""
    chosen = [*chosen]
    for i in order.tolist():
        if len(chosen) == wanted:
            break
        apart = (y[chosen] - y[i]) ** 2 + (x[chosen] - x[i]) ** 2
        if not chosen or apart.min() >= max(distance, 1) ** 2:
            chosen.append(i)
    return chosen
