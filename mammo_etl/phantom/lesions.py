"""Masses and calcification clusters, drawn on a small square of their own.

What tells the classes apart is what a reader of films looks for: malignant masses are dense and spiculated, benign ones smooth and
fainter; malignant calcifications are fine, uneven and strung along ducts, benign ones fewer, rounder and larger.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.distance import distance_to_edge
from mammo_etl.phantom.noise import Floats, smooth_noise
from mammo_etl.phantom.plan import Lesion
from mammo_etl.records import Abnormality, Pathology

Mask = NDArray[np.uint8]

_CONTRAST = {1: 0.7, 2: 0.8, 3: 0.9, 4: 1.0, 5: 1.1}
"""Factor on a lesion's contrast by its subtlety."""


@dataclass(frozen=True)
class LesionPicture:
    """A lesion on a square of odd size, centred."""

    contrast: Floats
    """(side, side) grey to be added where the breast is at full thickness."""
    roi: Mask
    """(side, side), 255 inside the outline that a reader would draw: one region without holes."""
    core: Mask | None
    """(side, side), 255 in the dense centre, for lesions where readers outline that too."""


def draw_lesion(rng: np.random.Generator, lesion: Lesion, diameter_mm: float, mm_per_px: float) -> LesionPicture:
    """The lesion as seen in one view, its ROI about `diameter_mm` across."""
    radius = diameter_mm / 2 / mm_per_px
    draw = _mass if lesion.abnormality is Abnormality.MASS else _cluster
    return draw(rng, lesion, radius, mm_per_px)


def _canvas_half(radius: float) -> int:
    return int(np.ceil(radius * 1.35)) + 3


def _outline(
    rng: np.random.Generator, radius: float, squeeze: float, roughness: float, orders: int
) -> NDArray[np.float64]:
    """Closed outline around (0, 0), (n, 2) x, y in pixels, no point farther than `radius`."""
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    r = np.ones_like(angle)
    for order in range(2, orders + 1):
        r += rng.normal(0, roughness / np.sqrt(order)) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    turn = rng.uniform(0, np.pi)
    x, y = r * np.cos(angle), r * np.sin(angle) * squeeze
    points = np.column_stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])
    return np.asarray(points * radius / np.hypot(points[:, 0], points[:, 1]).max())


def _filled(points: NDArray[np.float64], half: int) -> Mask:
    mask = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    cv2.fillPoly(mask, [np.rint((points + half) * 16).astype(np.int32)], 255, shift=4)
    return mask


def _mass(rng: np.random.Generator, lesion: Lesion, radius: float, mm_per_px: float) -> LesionPicture:
    malignant = lesion.pathology is Pathology.MALIGNANT
    half = _canvas_half(radius)
    squeeze = rng.uniform(0.9, 1.0) if lesion.shape == "ROUND" else rng.uniform(0.65, 0.9)
    if malignant:
        body = _outline(rng, 0.62 * radius, squeeze, 0.12, 9)
    else:
        body = _outline(rng, 0.93 * radius, squeeze, 0.09 if "LOBULATED" in lesion.shape else 0.02, 5)
    solid = _filled(body, half)
    depth = distance_to_edge(solid)
    depth /= depth.max()
    # A lens: steep at its edge, flat in the middle.
    dome = np.sqrt(1 - (1 - depth) ** 2)
    scale = _CONTRAST[lesion.subtlety]
    side = dome.shape[0]
    uneven = 1 + 0.12 * smooth_noise(rng, side, side, max(3.0, radius / 2))
    if not malignant:
        contrast = 0.17 * scale * dome * uneven
        return LesionPicture(_blurred(contrast, 0.15 / mm_per_px), _filled(body * 1.06, half), None)
    spicules = _spicules(rng, radius, half, 0.6 / mm_per_px)
    contrast = 0.25 * scale * _blurred(dome * uneven, 0.5 / mm_per_px)
    contrast += 0.17 * scale * _blurred(spicules * (1 - 0.7 * dome), 0.12 / mm_per_px)
    roi = _filled(body * 1.42, half)
    core = _filled(body, half) if lesion.number == 1 and rng.random() < 0.5 else None
    return LesionPicture(np.asarray(contrast, np.float32), roi, core)


def _spicules(rng: np.random.Generator, radius: float, half: int, widest: float) -> Floats:
    """Tapering lines that radiate from the centre, (side, side) from 0 to 1."""
    canvas = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    for _ in range(int(rng.integers(22, 40))):
        angle = rng.uniform(0, 2 * np.pi)
        end = radius * rng.triangular(0.7, 0.8, 1.3)
        strength = rng.uniform(0.4, 1.0)
        along = np.linspace(0.35 * radius, end, 9)
        bent = angle + rng.normal(0, 0.2) * np.linspace(0, 1, 9) ** 2
        points = np.rint((np.column_stack([along * np.cos(bent), along * np.sin(bent)]) + half) * 16)
        for step in range(8):
            taper = 1 - step / 9
            width = max(1, round(min(widest, 0.07 * radius) * strength * taper))
            ends = points[step : step + 2].astype(np.int32)
            grey = int(255 * strength * (0.3 + 0.7 * taper))
            cv2.polylines(canvas, [ends], False, grey, width, cv2.LINE_AA, shift=4)
    return np.asarray(canvas / 255, np.float32)


def _cluster(rng: np.random.Generator, lesion: Lesion, radius: float, mm_per_px: float) -> LesionPicture:
    malignant = lesion.pathology is Pathology.MALIGNANT
    half = _canvas_half(radius)
    margin = 1.0 / mm_per_px
    spread = max(radius - margin, 0.6 * radius)
    canvas = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    if malignant:
        centres = _along_ducts(rng, spread, int(rng.integers(22, 46)))
        sizes = rng.uniform(0.1, 0.26, len(centres)) / mm_per_px
    else:
        centres = rng.uniform(-1, 1, (int(rng.integers(5, 10)), 2)) * spread * 0.7
        low, high = (0.3, 0.5) if lesion.shape == "PUNCTATE" else (0.4, 0.85)
        sizes = rng.uniform(low, high, len(centres)) / mm_per_px
    # Where pixels are coarse a speck must not vanish between them.
    sizes = np.maximum(sizes, 0.75 if malignant else 1.4)
    for (x, y), size in zip(centres + half, sizes.tolist(), strict=True):
        if malignant:
            _draw_granule(rng, canvas, x, y, size)
        else:
            _draw_pearl(rng, canvas, x, y, size, "LUCENT" in lesion.shape)
    contrast = _blurred(canvas / np.float32(255), 0.05 / mm_per_px)
    contrast *= (0.36 if malignant else 0.32) * _CONTRAST[lesion.subtlety]
    hull = cv2.convexHull(np.asarray(centres, np.float32)).reshape(-1, 2).astype(np.float64)
    roi = _filled(hull, half)
    reach = 2 * round(max(1.2 / mm_per_px, float(sizes.max()) + 1)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    roi = np.asarray(cv2.dilate(roi, disc), np.uint8)
    if malignant:
        # Tissue around a malignant cluster is often a little denser.
        haze = roi / np.float32(255)
        contrast += 0.035 * _blurred(haze, 0.12 * radius)
    return LesionPicture(contrast, roi, None)


def _along_ducts(rng: np.random.Generator, spread: float, count: int) -> NDArray[np.float64]:
    """Speck centres on a main line and two branches of it, (count, 2) x, y around (0, 0)."""
    turn = rng.uniform(0, 2 * np.pi)
    t = rng.uniform(-0.95, 0.95, count)
    branch = rng.integers(0, 3, count)
    side = np.array([0.0, 0.55, -0.5])[branch] * np.clip(t, 0, None)
    x = t * spread
    y = (side + rng.normal(0, 0.07, count)) * spread
    return np.column_stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)])


def _draw_granule(rng: np.random.Generator, canvas: Mask, x: float, y: float, size: float) -> None:
    """An uneven speck: a short rod with an odd lump."""
    angle = rng.uniform(0, 180)
    grey = int(rng.uniform(120, 255))
    _ellipse(canvas, x, y, size * rng.uniform(1.0, 2.2), size * rng.uniform(0.5, 0.9), angle, grey)
    lump = rng.normal(0, 0.7 * size, 2)
    _ellipse(canvas, x + lump[0], y + lump[1], size * 0.6, size * 0.5, 0, grey)


def _draw_pearl(rng: np.random.Generator, canvas: Mask, x: float, y: float, size: float, lucent: bool) -> None:
    """A round smooth speck, with a dark centre if `lucent`."""
    grey = int(rng.uniform(190, 255))
    flat, angle = rng.uniform(0.85, 1.0), rng.uniform(0, 180)
    _ellipse(canvas, x, y, size, size * flat, angle, grey * 2 // 3)
    _ellipse(canvas, x, y, size * 0.7, size * 0.7 * flat, angle, grey)
    if lucent:
        _ellipse(canvas, x, y, size * 0.5, size * 0.5, 0, 90)


def _ellipse(canvas: Mask, x: float, y: float, long: float, short: float, angle: float, grey: int) -> None:
    centre = (round(x * 16), round(y * 16))
    axes = (max(1, round(long * 16)), max(1, round(short * 16)))
    cv2.ellipse(canvas, centre, axes, angle, 0, 360, grey, -1, cv2.LINE_AA, shift=4)


def _blurred(image: NDArray[np.floating], sigma: float) -> Floats:
    if sigma < 0.3:
        return np.asarray(image, np.float32)
    return np.asarray(cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma), np.float32)
