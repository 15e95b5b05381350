"""One phantom film, end to end: breast, lesions, faults, and the truth about each."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.breast import FILM_HEIGHT_MM, Breast, make_breast
from mammo_etl.phantom.film_faults import spoil
from mammo_etl.phantom.lesions import LesionPicture, draw_lesion
from mammo_etl.phantom.noise import Floats
from mammo_etl.phantom.plan import FilmPlan, Lesion
from mammo_etl.records import Box, Laterality

Mask = NDArray[np.uint8]

WHITE = 65535
"""CBIS-DDSM's 16-bit white."""

_CLEARANCE_MM = 4.0
"""Least distance between a lesion's outline and skin, film edge, muscle or another lesion."""


@dataclass(frozen=True)
class Region:
    """An area of a film: a box and the mask of the part of it that belongs to the area."""

    box: Box
    mask: Mask
    """(box.height, box.width), 255 in the area; touches all four sides of the box."""

    def on_film(self, rows: int, columns: int) -> Mask:
        """The area as a mask of the whole film, (rows, columns) of 0 and 255."""
        whole = np.zeros((rows, columns), np.uint8)
        whole[self.box.y : self.box.bottom, self.box.x : self.box.right] = self.mask
        return whole


@dataclass(frozen=True)
class PlacedLesion:
    """A lesion and where it lies on the film."""

    lesion: Lesion
    roi: Region
    core: Region | None


@dataclass(frozen=True)
class Film:
    """A phantom film with its truth."""

    plan: FilmPlan
    pixels: NDArray[np.uint16]
    """(rows, columns), CBIS-DDSM's grey scale: 0 black (optical density 3.0 and above), 65535 white (0.05)."""
    breast: Mask
    """(rows, columns), 255 where breast is seen (not below frame, margin or strip)."""
    lesions: tuple[PlacedLesion, ...]
    faults: tuple[str, ...]


def make_film(
    rng: np.random.Generator, plan: FilmPlan, density: int, breast_size: float, height: int, width: int
) -> Film:
    """A film of nominal `height` x `width` pixels, of which it departs by up to 5 %.

    `density` is ACR 1 to 4, `breast_size` 0 to 1. A pixel measures 50 um at a nominal height of 4,800 and in proportion else.
    """
    rows = round(height * rng.uniform(0.95, 1.05))
    columns = round(width * rng.uniform(0.95, 1.05))
    mm_per_px = FILM_HEIGHT_MM / height
    breast = make_breast(rng, plan.view, breast_size, density, rows, columns, mm_per_px)
    lesions = _add_lesions(rng, breast, plan.lesions, mm_per_px)
    tissue, mask = breast.tissue, breast.mask
    _saturate(tissue)
    if plan.laterality is Laterality.RIGHT:
        tissue, mask = np.ascontiguousarray(tissue[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
        lesions = [_mirrored(lesion, columns) for lesion in lesions]
    film = spoil(rng, tissue, mask, plan.laterality, plan.view)
    pixels = np.rint(film.grey * WHITE).astype(np.uint16)
    return Film(plan, pixels, np.asarray(mask & ~film.hidden), tuple(lesions), film.faults)


def _add_lesions(
    rng: np.random.Generator, breast: Breast, lesions: tuple[Lesion, ...], mm_per_px: float
) -> list[PlacedLesion]:
    """Draw the lesions into the tissue, clear of the skin and of each other."""
    room = breast.room_mm.copy()
    scale = breast.tissue.shape[0] / room.shape[0]
    placed = []
    for lesion in lesions:
        diameter = lesion.diameter_mm
        fits = np.zeros(0, np.intp)
        while not fits.size:
            fits = np.flatnonzero(room >= diameter / 2 + _CLEARANCE_MM)
            # A small or crowded breast takes a smaller lesion.
            diameter = diameter if fits.size else 0.9 * diameter
        coarse_y, coarse_x = np.unravel_index(int(rng.choice(fits)), room.shape)
        picture = draw_lesion(rng, lesion, diameter, mm_per_px)
        placed.append(_insert(breast, lesion, picture, round(coarse_y * scale), round(coarse_x * scale)))
        y, x = np.ogrid[: room.shape[0], : room.shape[1]]
        away = np.hypot(y - coarse_y, x - coarse_x) * scale * mm_per_px
        room = np.minimum(room, np.clip(away - diameter / 2, 0, None).astype(np.float32))
    return placed


def _insert(breast: Breast, lesion: Lesion, picture: LesionPicture, y: int, x: int) -> PlacedLesion:
    """Add a picture centred at (y, x) to the tissue, in place; the parts beyond the frame are lost."""
    half = picture.roi.shape[0] // 2
    rows, columns = breast.tissue.shape
    top, left = max(0, y - half), max(0, x - half)
    bottom, right = min(rows, y + half + 1), min(columns, x + half + 1)
    seen = np.s_[top - y + half : bottom - y + half, left - x + half : right - x + half]
    inside = breast.mask[top:bottom, left:right] > 0
    breast.tissue[top:bottom, left:right] += picture.contrast[seen] * inside
    core = None if picture.core is None else region_from(picture.core, y - half, x - half)
    return PlacedLesion(lesion, region_from(picture.roi, y - half, x - half), core)


def region_from(mask: Mask, y: int, x: int) -> Region:
    """The area of a mask whose top-left pixel is (y, x) of the film."""
    left, top, width, height = cv2.boundingRect(mask)
    part = np.ascontiguousarray(mask[top : top + height, left : left + width])
    return Region(Box(y + top, x + left, height, width), part)


def _mirrored(placed: PlacedLesion, columns: int) -> PlacedLesion:
    def mirror(region: Region) -> Region:
        box = region.box
        return Region(
            Box(box.y, columns - box.right, box.height, box.width),
            np.ascontiguousarray(region.mask[:, ::-1]),
        )

    core = None if placed.core is None else mirror(placed.core)
    return PlacedLesion(placed.lesion, mirror(placed.roi), core)


def _saturate(tissue: Floats) -> None:
    """Film's shoulder: grey above 0.7 is compressed, in place, so that it stays below 0.95."""
    bright = tissue > 0.7
    tissue[bright] = 0.95 - 0.25 * np.exp((0.7 - tissue[bright]) / 0.25)
