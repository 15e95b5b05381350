"""Finding the breast on a film."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.borders import find_borders, without_black
from mammo_etl.dicom import Pixels
from mammo_etl.records import Box
from mammo_etl.settings import CleaningSettings

Mask = NDArray[np.uint8]
"""(rows, columns), 255 or 0."""
Flags = NDArray[np.bool_]
Levels = NDArray[np.float32]
"""(rows, columns), grey levels 0 to 255 of the reduced film, with fractions."""

# The numbers below, and those of `borders`, were chosen on 57 located lesions of mini-MIAS, one film of CBIS-DDSM, and phantoms (digital, on film, in white borders).

_FILM_MM = 240.0
"""Height of the usual mammography film (18 x 24 cm; the large format is 24 x 30 cm)."""
_LEAST_ROWS = 512
"""A film is not reduced to fewer rows."""
_SMALLEST = 0.01
"""A breast covers at least this share of its film; what is smaller is a label."""
_SKIN = 0.05
"""Skin is brighter than the film beside it by at least this share of the contrast between tissue and background."""
_NOISE = 4.0
"""... and by as many standard deviations of the background."""
_BESIDE_MM, _AROUND_MM = 6.0, 12.5
"""The background beside the breast is looked at from the first distance outwards, and averaged within the second."""
_SAMPLED = 8
"""Every so many of these pixels tells their median."""
_REACH_MM = 12.0
"""The skin is at most this far from tissue that Otsu's threshold has shown."""
_FRINGE_MM = 2.0
"""How far clipped film is followed below the skin's threshold."""
_CLIPPED = 0.02
"""A background is clipped or digital if at least this share of the film is exactly of its darkest grey."""


@dataclass(frozen=True)
class Breast:
    """Where the breast is on a film."""

    mask: Mask
    """(rows, columns) of the film, 255 breast, 0 elsewhere."""
    box: Box
    """Smallest rectangle that holds the mask."""
    area_share: float
    """Share of the film that is breast."""
    solidity: float
    """Area of the breast over the area of its convex hull; low for a ragged mask."""
    border_contact: float
    """Share of the film's border that touches the breast."""
    agreement: float
    """Overlap (intersection over union) of the masks by the two methods, `skin` and `otsu`."""
    contrast: float
    """By how much of its grey the film is darker beside the mask than along its rim, the medians of 2.5 mm on either side: near 1 at the skin,
    low where the outline runs through tissue."""


def reduction(rows: int, settings: CleaningSettings) -> int:
    """By what factor a film of so many rows is reduced to find its breast."""
    return max(1, min(settings.scale, rows // _LEAST_ROWS))


def find_breast(pixels: Pixels, settings: CleaningSettings) -> Breast | None:
    """The breast on a film, (rows, columns) of any depth with 0 black, or None if there is none.

    All is done on the film reduced by `settings.scale`, its darkest grey set to 0 and its brightest to 255, and the mask is enlarged at the
    end. No side, view or orientation is assumed. By the method `skin`:

    1. Black rows and columns around the scan are left aside, and borders: bright, even areas along a side that end in a sharp step.
    2. Tissue is what is brighter than a threshold well below Otsu's (`_tissue`). An erosion cuts what hangs together by
       something thin (labels, scratches, strips), the largest object stays, and grows back.
    3. From there the mask goes on to the skin line, over what is brighter than the film just beside it; on digital views, and on film that
       was clipped to black, over what is not black.
    4. A closing smooths the outline; holes are filled.

    `otsu` is the rule of many scripts: Otsu's threshold (1979), the largest object, an opening, a closing, holes filled.
    """
    rows, columns = pixels.shape
    scale = reduction(rows, settings)
    # Whole blocks of scale x scale pixels, which are quick to average; the few rows and columns beyond them go by their neighbours.
    height, width = max(1, rows // scale), max(1, columns // scale)
    reduced = cv2.resize(pixels[: height * scale, : width * scale], (width, height), interpolation=cv2.INTER_AREA)
    small = _levelled(np.asarray(reduced))
    mm = _FILM_MM / height
    kernel = _disc(settings.smooth_mm / mm)
    by_otsu = _otsu(small, kernel)
    by_skin = _skin(small, mm, kernel)
    breast = by_skin if settings.method == "skin" else by_otsu
    outlines, _ = cv2.findContours(breast, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    area = sum(float(cv2.contourArea(outline)) for outline in outlines)
    if area < _SMALLEST * breast.size:
        return None
    hull_area = sum(float(cv2.contourArea(cv2.convexHull(outline))) for outline in outlines)
    border = np.concatenate([breast[0], breast[-1], breast[:, 0], breast[:, -1]])
    either = cv2.countNonZero(cv2.bitwise_or(by_skin, by_otsu))
    mask = _enlarged(breast, scale, rows, columns)
    x, y, width, height = cv2.boundingRect(mask)
    return Breast(
        mask=mask,
        box=Box(y, x, height, width),
        area_share=float(cv2.countNonZero(breast)) / breast.size,
        solidity=area / hull_area,
        border_contact=float(np.count_nonzero(border)) / border.size,
        agreement=cv2.countNonZero(cv2.bitwise_and(by_skin, by_otsu)) / either,
        contrast=_contrast(small, breast, kernel),
    )


def _levelled(reduced: NDArray[Any]) -> Levels:
    """Grey levels 0 to 255, whatever the depth. A marker may be far brighter than tissue: what is twice as bright as nearly all else is white."""
    lowest = int(reduced.min())
    usual = int(np.quantile(reduced[::4, ::4], 0.99)) - lowest
    highest = int(reduced.max()) - lowest
    top = min(highest, 2 * usual) or highest or 1
    return np.asarray(np.minimum((reduced - np.float32(lowest)) * np.float32(255 / top), 255), np.float32)


def _contrast(small: Levels, breast: Mask, kernel: Mask) -> float:
    rim = small[(breast > 0) & (cv2.erode(breast, kernel) == 0)]
    beside = small[(breast == 0) & (cv2.dilate(breast, kernel) > 0)]
    if not len(rim) or not len(beside):
        return 0.0
    inner = float(np.median(rim))
    return (inner - float(np.median(beside))) / max(inner, 1.0)


def _enlarged(small: Mask, scale: int, rows: int, columns: int) -> Mask:
    """The mask on the whole film."""
    x, y, width, height = cv2.boundingRect(small)
    top, bottom = max(0, y - 1), min(small.shape[0], y + height + 1)
    left, right = max(0, x - 1), min(small.shape[1], x + width + 1)
    size = (right - left) * scale, (bottom - top) * scale
    part = cv2.resize(small[top:bottom, left:right], size, interpolation=cv2.INTER_LINEAR)
    _, part = cv2.threshold(part, 127, 255, cv2.THRESH_BINARY)
    below = rows - bottom * scale if bottom == small.shape[0] else 0
    beside = columns - right * scale if right == small.shape[1] else 0
    if below or beside:
        part = cv2.copyMakeBorder(part, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    mask = np.zeros((rows, columns), np.uint8)
    mask[top * scale : top * scale + part.shape[0], left * scale : left * scale + part.shape[1]] = part
    return mask


def _otsu(small: Levels, kernel: Mask) -> Mask:
    levels = cv2.GaussianBlur(cv2.convertScaleAbs(small), (5, 5), 0)
    _, bright = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    if count < 2:
        return np.zeros(small.shape, np.uint8)
    largest = _mask(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))
    return _filled(np.asarray(cv2.morphologyEx(largest, cv2.MORPH_CLOSE, kernel), np.uint8))


def _skin(small: Levels, mm: float, kernel: Mask) -> Mask:
    """The breast by the method `skin` on a reduced film whose pixels measure `mm` millimetres; empty if there is none."""
    whole = np.zeros(small.shape, np.uint8)
    inner = without_black(small)
    levels = np.ascontiguousarray(small[inner])
    if min(levels.shape) < 2 * len(kernel):
        return whole
    film = np.asarray(cv2.bitwise_not(find_borders(levels)), np.uint8)
    blurred = _blurred(levels, film)
    tissue = _tissue(blurred, film)
    if tissue is None:
        return whole
    bright = _mask((blurred > tissue.threshold) & (film > 0))
    core = _largest(bright, kernel)
    if not core.any():
        return whole
    darkest = float(levels.min())
    black = levels <= darkest + 0.5
    # Noise that happens to be black here and there is not black on the average.
    if np.count_nonzero((blurred <= darkest + 0.5) & (film > 0)) > _CLIPPED * np.count_nonzero(film):
        breast = _to_black(blurred, black, darkest, film, core, tissue, mm, kernel)
    else:
        breast = _to_skin(blurred, film, core, tissue, mm, kernel)
    closed = np.asarray(cv2.morphologyEx(breast, cv2.MORPH_CLOSE, kernel), np.uint8)
    whole[inner] = cv2.bitwise_and(_filled(closed), film)
    return whole


@dataclass(frozen=True)
class _Tissue:
    """Grey levels of a film's tissue and background."""

    threshold: float
    """Above it a pixel can be tissue."""
    mean: float
    """Of what is brighter than Otsu's threshold."""
    background: float
    """Most frequent grey below Otsu's threshold."""

    @property
    def skin(self) -> float:
        """By how much skin is brighter than background, noise apart."""
        return _SKIN * (self.mean - self.background)


def _tissue(blurred: Levels, film: Mask) -> _Tissue | None:
    """Grey levels by the film's histogram, None for a film of one grey.

    Otsu's threshold lies midway between background and dense tissue, so that fatty tissue is lost. It only serves to tell the two apart:
    the threshold is a fifth of the way from the background's most frequent grey to the mean of what is brighter, yet not within the
    background's noise (four times the spread of its darker half).
    """
    grey = cv2.convertScaleAbs(blurred)
    seen = grey[film > 0]
    if not len(seen) or seen.min() == seen.max():
        return None
    otsu, _ = cv2.threshold(seen, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    histogram = cv2.calcHist([grey], [0], film, [256], [0, 256]).ravel()
    levels = np.arange(256)
    bright = levels > otsu
    background = int(np.argmax(histogram * ~bright))
    mean = float(np.average(levels[bright], weights=histogram[bright] + 1e-9))
    below = levels <= background
    spread = float(np.sqrt(np.average((levels[below] - background) ** 2, weights=histogram[below])))
    threshold = min(otsu, max(background + (mean - background) / 5, background + _NOISE * spread))
    return _Tissue(float(threshold), mean, float(background))


def _to_skin(blurred: Levels, film: Mask, core: Mask, tissue: _Tissue, mm: float, kernel: Mask) -> Mask:
    """The mask from tissue to the skin line: what is brighter than the film beside the breast, whose fog and light differ from place to place.

    Only what is darker than tissue is added: what is brighter and not of the breast is a label or a strip.
    """
    away = _distance(core) * np.float32(mm)
    beside = (away > _BESIDE_MM) & (blurred <= tissue.threshold) & (film > 0)
    if not beside.any():
        return core
    side = 2 * round(_AROUND_MM / mm) + 1
    number = cv2.boxFilter(beside.astype(np.float32), -1, (side, side), borderType=cv2.BORDER_CONSTANT)
    total = cv2.boxFilter(np.where(beside, blurred, np.float32(0)), -1, (side, side), borderType=cv2.BORDER_CONSTANT)
    usual = np.float32(np.median(blurred[beside][::_SAMPLED]))
    background = np.where(number > 0.02, total / np.maximum(number, np.float32(1e-6)), usual)
    rest = (blurred - background)[beside][::_SAMPLED]
    # The median absolute deviation of normal noise is 0.6745 of its standard deviation.
    noise = float(np.median(np.abs(rest - np.median(rest)))) / 0.6745
    skin = max(_NOISE * noise, tissue.skin, 0.7)
    fringe = (blurred > background + skin) & (blurred <= tissue.threshold) & (away <= _REACH_MM) & (film > 0)
    breast = _largest(_mask(fringe | (core > 0)), kernel, core)
    # Where the film beside the breast is as bright as skin, the mask would run on to the limit on a broad front.
    limit = (away > 0.9 * _REACH_MM) & (away <= _REACH_MM) & (film > 0)
    if np.count_nonzero(breast[limit]) > 0.3 * np.count_nonzero(limit):
        return core
    return np.asarray(cv2.bitwise_or(breast, core), np.uint8)


def _to_black(
    blurred: Levels,
    black: Flags,
    darkest: float,
    film: Mask,
    core: Mask,
    tissue: _Tissue,
    mm: float,
    kernel: Mask,
) -> Mask:
    """The mask from tissue to a background that is exactly black.

    On digital views the breast is all that is not black. On film that was clipped there is fog here and there that is not: the mask then
    ends 2 mm beyond where skin can be told from it.
    """
    skin = _largest(_mask((blurred > darkest + tissue.skin) & (film > 0)), kernel, core)
    away = _distance(skin) * np.float32(mm)
    lit = ~black & (film > 0)
    breast = _largest(_mask(lit & (away <= 2 * _REACH_MM)), kernel, core)
    if np.count_nonzero(breast[away > _REACH_MM]) > 0.002 * np.count_nonzero(breast):
        breast = _largest(_mask(lit & (away <= _FRINGE_MM)), kernel, core)
    return np.asarray(cv2.bitwise_or(breast, core), np.uint8)


def _largest(mask: Mask, kernel: Mask, within: Mask | None = None) -> Mask:
    """The largest object of a mask (the one with most of `within`), without what hangs on it by something thinner than the kernel.

    It is grown back by twice what was taken, as far as the mask goes: corners at the film's edge and the outline return. Beyond the film is
    background: a strip along its edge is thin, whatever lies there.
    """
    eroded = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(eroded, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA] if within is None else np.bincount(labels[within > 0], minlength=count)
    if count < 2 or not areas[1:].any():
        return np.zeros(mask.shape, np.uint8)
    core = _mask(labels == 1 + int(np.argmax(areas[1:])))
    return np.asarray(cv2.bitwise_and(cv2.dilate(core, kernel, iterations=2), mask), np.uint8)


def _filled(mask: Mask) -> Mask:
    """The mask with its holes filled."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(mask, outlines, -1, 255, cv2.FILLED), np.uint8)


def _blurred(levels: Levels, film: Mask) -> Levels:
    """The film smoothed over 5 x 5 pixels, without the light of its borders."""
    smooth = cv2.GaussianBlur(levels, (5, 5), 0)
    if cv2.countNonZero(film) == film.size:
        return np.asarray(smooth, np.float32)
    weight = film.astype(np.float32) / 255
    own = cv2.GaussianBlur(weight * levels, (5, 5), 0) / np.maximum(cv2.GaussianBlur(weight, (5, 5), 0), 1e-3)
    return np.where(film > 0, own, smooth).astype(np.float32)


def _distance(mask: Mask) -> Levels:
    """Of each pixel from the mask, pixels; 0 inside it."""
    return np.asarray(cv2.distanceTransform(cv2.bitwise_not(mask), cv2.DIST_L2, 3), np.float32)


def _mask(where: Flags) -> Mask:
    return where.astype(np.uint8) * np.uint8(255)


def _disc(radius: float) -> Mask:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
