"""The breast of a phantom film: silhouette, pectoral muscle, thickness and parenchyma, without lesions and film faults.

Grey values are CBIS-DDSM's (0 black, 1 white, in place of 0 to 65535). The chest wall is the left edge of the frame, as for a
left breast; `mammo_etl.phantom.film` mirrors right ones.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.distance import distance_to_edge
from mammo_etl.phantom.noise import power_law_noise, rescaled, smooth_noise
from mammo_etl.records import View

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]

FILM_HEIGHT_MM = 240.0
"""Nominal height of a film: 24 x 18 cm cassettes, 4,800 rows of 50 um."""

_TEXTURE_ROWS = 1200
"""Rows at which texture down to about 0.4 mm is made; finer grain is added at full size."""


@dataclass(frozen=True)
class Silhouette:
    """Outlines of a breast as fractions of the film's height and width, points (x, y)."""

    breast: NDArray[np.float64]
    """(n, 2) closed outline; it reaches beyond the frame at the chest wall."""
    pectoral: NDArray[np.float64]
    """(n, 2) outline of the pectoral muscle; (0, 2) in CC views."""
    nipple: tuple[float, float]


@dataclass(frozen=True)
class Breast:
    """A breast as the film shows it."""

    tissue: Floats
    """(rows, columns) grey, 0 to 1, outside the breast 0."""
    mask: Mask
    """(rows, columns), 255 in the breast."""
    room_mm: Floats
    """Coarse map of the distance in mm to the nearest skin, film edge or pectoral muscle; 0 outside the breast."""


def draw_silhouette(rng: np.random.Generator, view: View, size: float) -> Silhouette:
    """Outline of a breast of relative size 0 (small) to 1 (large)."""
    if view is View.CC:
        breast, nipple = _cc_outline(rng, size)
        return Silhouette(breast, np.zeros((0, 2)), nipple)
    breast, nipple = _mlo_outline(rng, size)
    return Silhouette(breast, _pectoral_outline(rng), nipple)


def _skin_ripple(rng: np.random.Generator, t: NDArray[np.float64], amplitude: float) -> NDArray[np.float64]:
    """Smooth irregularity along the skin line, as a function of t from 0 to 1, zero at both ends."""
    ripple = sum(
        rng.normal(0, amplitude / order) * np.sin(order * np.pi * t + rng.uniform(0, 2 * np.pi))
        for order in range(2, 9)
    )
    return np.asarray(ripple * np.sin(np.pi * t))


def _cc_outline(rng: np.random.Generator, size: float) -> tuple[NDArray[np.float64], tuple[float, float]]:
    depth = 0.42 + 0.26 * size + rng.uniform(-0.03, 0.03)
    half_height = 0.29 + 0.12 * size + rng.uniform(-0.02, 0.02)
    centre = 0.5 + rng.uniform(-0.04, 0.04)
    lean = rng.uniform(-0.25, 0.25)
    blunt = rng.uniform(0.75, 1.0)
    t = np.linspace(0, 1, 400)
    angle = (t - 0.5) * np.pi
    ripple = 1 + _skin_ripple(rng, t, 0.02)
    x = depth * np.cos(angle) ** blunt * (1 + lean * 0.2 * np.sin(angle)) * ripple
    y = centre + half_height * np.sin(angle) * ripple
    peak = int(np.argmax(x))
    x += 0.012 * np.exp(-(((y - y[peak]) / 0.014) ** 2))
    outline = np.column_stack([x, y])
    ends = [[-0.1, y[-1]], [-0.1, y[0]]]
    return np.vstack([outline, ends]), (float(x[peak]), float(y[peak]))


def _mlo_outline(rng: np.random.Generator, size: float) -> tuple[NDArray[np.float64], tuple[float, float]]:
    depth = 0.5 + 0.27 * size + rng.uniform(-0.03, 0.03)
    top = rng.uniform(0.42, 0.62) * depth
    level = rng.uniform(0.52, 0.62)
    bottom = level + 0.2 + 0.1 * size + rng.uniform(0, 0.05)
    y = np.linspace(-0.02, bottom, 500)
    above = depth - (depth - top) * np.clip((level - y) / level, 0, None) ** rng.uniform(1.5, 1.9)
    below = depth * (1 - np.clip((y - level) / (bottom - level), 0, 1) ** 2.2) ** 0.62
    x = np.where(y < level, above, below)
    t = np.linspace(0, 1, 500)
    x = x * (1 + _skin_ripple(rng, t, 0.02))
    peak = int(np.argmax(x))
    x = x + 0.012 * np.exp(-(((y - y[peak]) / 0.014) ** 2))
    outline = np.column_stack([x, y])
    ends = [[-0.1, bottom], [-0.1, -0.02]]
    return np.vstack([outline, ends]), (float(x[peak]), float(y[peak]))


def _pectoral_outline(rng: np.random.Generator) -> NDArray[np.float64]:
    width = rng.uniform(0.24, 0.4)
    length = rng.uniform(0.42, 0.62)
    bulge = rng.uniform(-0.03, 0.05)
    t = np.linspace(0, 1, 60)
    edge = np.column_stack([width * (1 - t) + bulge * np.sin(np.pi * t), length * t])
    edge[:, 0] += 0.004 * np.sin(9 * t + rng.uniform(0, 6))
    return np.vstack([[[-0.1, -0.1], [width * 1.05, -0.1]], edge, [[-0.1, length]]])


def outline_mask(outline: NDArray[np.float64], rows: int, columns: int) -> Mask:
    """Filled outline (fractions of the frame) as a (rows, columns) mask of 0 and 255."""
    mask = np.zeros((rows, columns), np.uint8)
    if len(outline):
        # Four fractional bits of a pixel. Edges beyond the frame must be level: OpenCV draws them along its border.
        points = np.rint(outline * [columns, rows] * 16).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, shift=4)
    return mask


def make_breast(
    rng: np.random.Generator, view: View, size: float, density: int, rows: int, columns: int, mm_per_px: float
) -> Breast:
    """A breast of relative size 0 to 1 and ACR density 1 to 4 on a (rows, columns) frame."""
    outline = draw_silhouette(rng, view, size)
    shrink = max(1.0, rows / _TEXTURE_ROWS)
    small = (round(rows / shrink), round(columns / shrink))
    small_mm = mm_per_px * rows / small[0]
    inside = outline_mask(outline.breast, *small)
    muscle = outline_mask(outline.pectoral, *small)
    to_skin = distance_to_edge(inside) * np.float32(small_mm)
    tissue = _tissue(rng, outline.nipple, density, to_skin, muscle, small_mm)
    framed = cv2.copyMakeBorder(inside & ~muscle, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    room = distance_to_edge(np.asarray(framed, np.uint8))[1:-1, 1:-1] * np.float32(small_mm)
    mask = outline_mask(outline.breast, rows, columns)
    full = rescaled(tissue, rows, columns)
    if shrink > 1:
        full *= 1 + _fine_texture(rng, rows, columns)
    full[mask == 0] = 0
    return Breast(full, mask, room)


def _tissue(
    rng: np.random.Generator,
    nipple: tuple[float, float],
    density: int,
    to_skin: Floats,
    muscle: Mask,
    mm: float,
) -> Floats:
    """Grey of fat, gland, ligaments and muscle on the coarse grid."""
    rows, columns = to_skin.shape
    # The compressed breast is flat inside and rounds off over the last 2 to 3 cm: a darker band along the skin.
    rim = rng.uniform(18, 28)
    depth = np.clip(to_skin / rim, 0, 1)
    thickness = np.sqrt(1 - (1 - depth) ** 2)
    x = np.arange(columns, dtype=np.float32)[None, :] * mm
    y = np.arange(rows, dtype=np.float32)[:, None] * mm
    nipple_x, nipple_y = nipple[0] * columns * mm, nipple[1] * rows * mm

    coarse = power_law_noise(rng, rows, columns, 3.0, stretch=1.6)
    # Gland lies in a disc behind the nipple, fanning out to the chest wall.
    reach = np.hypot((x - 0.45 * nipple_x) / (0.62 * nipple_x), (y - nipple_y) / (0.75 * nipple_x))
    fatness = {1: 1.5, 2: 0.75, 3: 0.1, 4: -0.6}[density] + rng.uniform(-0.15, 0.15)
    gland = 1 / (1 + np.exp(-2.6 * (coarse * 0.8 - fatness + 1.1 - 1.7 * reach**1.5)))
    strands = _strands(rng, rows, columns, 9.0 / mm) + 0.8 * _strands(rng, rows, columns, 4.0 / mm)
    fine = power_law_noise(rng, rows, columns, 2.6, stretch=1.3)
    fat = 0.25 + 0.05 * np.clip(1 - x / nipple_x, 0, 1)
    grey = fat + 0.20 * gland + 0.028 * coarse + (0.02 + 0.03 * gland) * fine
    grey += (0.03 + 0.04 * gland) * strands + 0.035 * _vessels(rng, nipple, rows, columns, mm)
    grey = np.maximum(grey, 0.12)
    muscle_mm = distance_to_edge(muscle) * np.float32(mm)
    fibres = power_law_noise(rng, rows, columns, 2.6, stretch=0.3)
    blend = np.clip(muscle_mm / 3.0, 0, 1)
    grey = grey * (1 - 0.6 * blend) + blend * (0.34 + 0.1 * np.clip(muscle_mm / 25, 0, 1) + 0.012 * fibres)
    skin = np.exp(-(((to_skin - 0.9) / 0.7) ** 2)) * (to_skin > 0)
    inside = (to_skin > 0).astype(np.float32)
    return np.asarray((0.05 + 0.95 * thickness**1.2) * grey * inside + 0.035 * skin, np.float32)


def _strands(rng: np.random.Generator, rows: int, columns: int, wavelength: float) -> Floats:
    """Thin curved bright lines, as of ligaments and ducts: where smooth noise crosses zero."""
    smooth = smooth_noise(rng, rows, columns, wavelength)
    ridges = np.clip(1 - np.abs(smooth) / 0.3, 0, 1) ** 1.5
    patchy = smooth_noise(rng, rows, columns, 6 * wavelength)
    return np.asarray(ridges * np.clip(0.5 + patchy / 2, 0, 1.5), np.float32)


def _vessels(rng: np.random.Generator, nipple: tuple[float, float], rows: int, columns: int, mm: float) -> Floats:
    """A few winding vessels from the chest wall towards the nipple."""
    canvas = np.zeros((rows, columns), np.uint8)
    for _ in range(int(rng.integers(2, 6))):
        t = np.linspace(0, rng.uniform(0.5, 0.85), 80)
        start = nipple[1] + rng.uniform(-0.3, 0.3)
        bend = rng.normal(0, 0.012, 6)
        y = start + (nipple[1] - start) * t + sum(b * np.sin((k + 1) * 3.1 * t + k) for k, b in enumerate(bend))
        points = np.column_stack([t * nipple[0] * columns, y * rows])
        width = max(1, round(rng.uniform(0.5, 1.3) / mm))
        cv2.polylines(canvas, [np.rint(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), max(0.6, 0.35 / mm)) / 255, np.float32)


def _fine_texture(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Relative texture finer than the coarse grid, about as strong as 1/f^3 noise would be there."""
    half = rng.standard_normal(((rows + 1) // 2, (columns + 1) // 2), np.float32)
    texture = rescaled(np.asarray(cv2.GaussianBlur(half, (0, 0), 1.0), np.float32), rows, columns)
    texture *= 0.06
    return texture
