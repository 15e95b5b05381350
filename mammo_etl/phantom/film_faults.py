"""What a scanned film shows beside the breast: background, frames, labels, tape, scratches, dust.

All on CBIS-DDSM's grey scale (0 black to 1 white), in the film's final orientation.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.labels import lead_letters, sticker
from mammo_etl.phantom.noise import Floats, rescaled
from mammo_etl.records import Laterality, View

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class FaultyFilm:
    """A film with its faults."""

    grey: Floats
    """(rows, columns), 0 to 1."""
    hidden: Mask
    """(rows, columns), 255 where frame, margin or strip covers what lies below."""
    faults: tuple[str, ...]
    """Names of the faults present, sorted: those of `_RATES`, and label-touches-frame (or the film's edge)."""


_RATES = {
    "gradient": 0.5,
    "frame": 0.25,
    "bright-strip": 0.3,
    "black-margin": 0.35,
    "label": 0.9,
    "tape": 0.2,
    "scratches": 0.3,
    "dust": 0.6,
}
"""Share of the films that have each fault."""


def spoil(rng: np.random.Generator, tissue: Floats, breast: Mask, laterality: Laterality, view: View) -> FaultyFilm:
    """Put a breast on a film as a scanner would deliver it.

    `tissue` is (rows, columns) grey, 0 outside the breast; `breast` its mask. The chest wall lies at the left edge in films of
    the left breast and at the right edge in others.
    """
    present = {name for name, rate in _RATES.items() if rng.random() < rate}
    grey = _background(rng, tissue, breast, "gradient" in present)
    hidden = np.zeros(breast.shape, np.uint8)
    frame = 0
    if "tape" in present and not _tape(rng, grey, breast, laterality):
        present.remove("tape")
    if "frame" in present:
        frame = _frame(rng, grey, hidden)
    if "bright-strip" in present:
        _edge_strip(rng, grey, hidden, rng.uniform(0.75, 1.0), 0.012)
    if "label" in present:
        touching = rng.random() < 0.3
        if not _label(rng, grey, breast, laterality, view, frame, touching=touching):
            present.remove("label")
        elif touching:
            present.add("label-touches-frame")
    if "scratches" in present:
        _scratches(rng, grey)
    if "dust" in present:
        _dust(rng, grey)
    if "black-margin" in present:
        _edge_strip(rng, grey, hidden, 0.0, 0.015)
    return FaultyFilm(np.clip(grey, 0, 1, out=grey), hidden, tuple(sorted(present)))


def _background(rng: np.random.Generator, tissue: Floats, breast: Mask, gradient: bool) -> Floats:
    """Breast on exposed film: dark, noisy, a little brighter around the breast and, at times, towards one side."""
    rows, columns = breast.shape
    small = cv2.resize(breast, (max(2, columns // 16), max(2, rows // 16)), interpolation=cv2.INTER_AREA)
    glow = cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), small.shape[0] / 40)
    base = 0.008 + 0.022 * glow
    if gradient:
        y, x = np.mgrid[0 : small.shape[0], 0 : small.shape[1]] / np.reshape(small.shape, (2, 1, 1))
        angle = rng.uniform(0, 2 * np.pi)
        slope = np.clip(0.5 + np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5), 0, 1)
        base = base + rng.uniform(0.015, 0.05) * slope.astype(np.float32)
    film = np.asarray(tissue + rescaled(np.asarray(base, np.float32), rows, columns), np.float32)
    grain = rng.standard_normal((rows, columns), np.float32)
    grain *= 0.006
    film += grain
    return film


def _frame(rng: np.random.Generator, grey: Floats, hidden: Mask) -> int:
    """White border on all four sides with rounded inner corners; returns its width in pixels."""
    rows, columns = grey.shape
    width = max(2, int(rng.uniform(0.004, 0.012) * rows))
    radius = int(rng.uniform(0.01, 0.03) * rows)
    inner = np.zeros_like(hidden)
    inset = width + radius
    inner[width:-width, inset:-inset] = 255
    inner[inset:-inset, width:-width] = 255
    for y in (inset, rows - inset - 1):
        for x in (inset, columns - inset - 1):
            cv2.circle(inner, (x, y), radius, 255, -1)
    outside = inner == 0
    grey[outside] = rng.uniform(0.85, 0.97) + 0.5 * (grey[outside] - 0.01).clip(-0.03, 0.03)
    hidden[outside] = 255
    return width


def _edge_strip(rng: np.random.Generator, grey: Floats, hidden: Mask, level: float, width: float) -> None:
    """A strip of one grey along one or two edges, up to the share `width` of the height."""
    for edge in rng.permutation(4)[: int(rng.integers(1, 3))]:
        size = max(2, round(rng.uniform(0.3, 1.0) * width * grey.shape[0]))
        where = [np.s_[:size], np.s_[-size:], np.s_[:, :size], np.s_[:, -size:]][edge]
        grey[where] = level
        hidden[where] = 255


def _place(
    rng: np.random.Generator, breast: Mask, height: int, width: int, xs: tuple[int, int], ys: tuple[int, int]
) -> tuple[int, int] | None:
    """Top-left corner (y, x) of a box clear of the breast within the given ranges, or None after 40 tries."""
    margin = breast.shape[0] // 100
    for _ in range(40):
        y = int(rng.integers(ys[0], max(ys[0], ys[1] - height) + 1))
        x = int(rng.integers(xs[0], max(xs[0], xs[1] - width) + 1))
        near = breast[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin]
        if not near.any():
            return y, x
    return None


def _label(
    rng: np.random.Generator,
    grey: Floats,
    breast: Mask,
    laterality: Laterality,
    view: View,
    frame: int,
    *,
    touching: bool,
) -> bool:
    """Side and view in lead letters or on a sticker, near the edge away from the chest wall; False if there is no room.

    `touching` puts it flush with the film's edge, over the frame of width `frame` if there is one.
    """
    rows, columns = grey.shape
    text = f"{laterality[0]}{' ' if rng.random() < 0.5 else ''}{view}"
    size = rng.uniform(0.02, 0.035) * rows
    draw = lead_letters if rng.random() < 0.6 else sticker
    picture, shape = draw(rng, text, size)
    height, width = picture.shape
    if height > rows or width > columns:
        return False
    inset = 0 if touching else frame + round(0.008 * rows)
    if laterality is Laterality.LEFT:
        xs = (columns - width if touching else round(0.62 * columns), columns - inset)
    else:
        xs = (inset, width if touching else round(0.38 * columns))
    ys = (inset, rows // 2) if rng.random() < 0.8 else (rows // 2, rows - inset)
    place = _place(rng, breast, height, width, xs, ys)
    if place is None:
        return False
    y, x = place
    target = grey[y : y + height, x : x + width]
    cover = shape[: target.shape[0], : target.shape[1]].astype(np.float32) / 255
    target += cover * (picture[: target.shape[0], : target.shape[1]] - target)
    return True


def _tape(rng: np.random.Generator, grey: Floats, breast: Mask, laterality: Laterality) -> bool:
    """An opaque bright piece of tape away from the breast; False if there is no room."""
    rows, columns = grey.shape
    height, width = round(rng.uniform(0.03, 0.06) * rows), round(rng.uniform(0.15, 0.28) * columns)
    if rng.random() < 0.5:
        height, width = width, height
    xs = (columns // 2, columns) if laterality is Laterality.LEFT else (0, columns // 2)
    place = _place(rng, breast, height, width, xs, (0, rows))
    if place is None:
        return False
    y, x = place
    target = grey[y : y + height, x : x + width]
    target[:] = rng.uniform(0.45, 0.8) + 2 * (target - target.mean())
    return True


def _scratches(rng: np.random.Generator, grey: Floats) -> None:
    """One to three thin, nearly straight bright lines across the film."""
    rows, columns = grey.shape
    for _ in range(int(rng.integers(1, 4))):
        start, end = rng.uniform(0, 1, (2, 2)) * [columns, rows]
        t = np.linspace(0, 1, 40)[:, None]
        bend = rng.normal(0, 0.01) * rows * np.sin(np.pi * t)
        points = np.rint((start + (end - start) * t + bend) * 16).astype(np.int32)
        _add_lines(grey, [points], max(1, rows // 2400), rng.uniform(0.06, 0.18))


def _dust(rng: np.random.Generator, grey: Floats) -> None:
    """Some tiny bright specks and hairs."""
    rows, columns = grey.shape
    hairs = []
    for _ in range(int(rng.integers(4, 16))):
        start = rng.uniform(0, 1, 2) * [columns, rows]
        steps = rng.normal(0, rows / 2400, (int(rng.integers(1, 4)), 2))
        hairs.append(np.rint((start + np.vstack([[0, 0], np.cumsum(steps, 0)])) * 16).astype(np.int32))
    _add_lines(grey, hairs, max(1, rows // 2400), rng.uniform(0.1, 0.3))


def _add_lines(grey: Floats, lines: list[NDArray[np.int32]], width: int, level: float) -> None:
    """Add anti-aliased lines (points x, y in sixteenths of a pixel), each on the part of the film that it crosses."""
    for line in lines:
        x, y, w, h = cv2.boundingRect(line)
        top, left = max(0, y // 16 - width - 2), max(0, x // 16 - width - 2)
        part = grey[top : (y + h) // 16 + width + 3, left : (x + w) // 16 + width + 3]
        if part.size:
            canvas = np.zeros(part.shape, np.uint8)
            cv2.polylines(canvas, [line - [left * 16, top * 16]], False, 255, width, cv2.LINE_AA, shift=4)
            drawn = np.nonzero(canvas)
            part[drawn] += canvas[drawn] * np.float32(level / 255)
