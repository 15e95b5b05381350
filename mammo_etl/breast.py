"""Finding the breast on a film, and blackening everything else."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.records import Box
from mammo_etl.settings import CleaningSettings

_FILM_MM = 240.0
"""Height of the usual mammography film (18 x 24 cm; the large format is 24 x 30 cm)."""


@dataclass(frozen=True)
class Breast:
    """Where the breast is on a film."""

    mask: NDArray[np.uint8]
    """(rows, columns) of the film, 255 breast, 0 elsewhere."""
    box: Box
    """Smallest rectangle that holds the mask."""
    area_share: float
    """Share of the film that is breast."""
    solidity: float
    """Area of the breast over the area of its convex hull; low for a ragged mask."""
    border_contact: float
    """Share of the film's border that touches the breast."""


def to_8bit(pixels: NDArray[np.uint8] | NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Grey levels 0 to 2**bits - 1 as 0 to 255, rounded; larger ones become 255.

    The scale is fixed rather than stretched to each film's extremes, so that equal densities stay equal between films.
    """
    if bits == 8:
        return pixels.astype(np.uint8, copy=False)
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255.0 / (2**bits - 1)), dtype=np.uint8)


def find_breast(grey: NDArray[np.uint8], settings: CleaningSettings) -> Breast | None:
    """The breast on an 8-bit film, (rows, columns), or None if there is none.

    On the film reduced by `settings.scale`: a threshold (`_threshold`), an erosion that separates what hangs together by something
    thin (border frame, labels, scratches), the largest object, grown back within the threshold, a closing that smooths the outline, holes
    filled. The mask is then enlarged to the film's size.
    """
    rows, columns = grey.shape
    scale = max(1, min(settings.scale, rows // 512))
    reduced = cv2.resize(grey, (max(1, columns // scale), max(1, rows // scale)), interpolation=cv2.INTER_AREA)
    small = np.asarray(cv2.GaussianBlur(reduced, (5, 5), 0), dtype=np.uint8)
    mask = np.where(small > _threshold(small, settings), np.uint8(255), np.uint8(0))
    radius = round(settings.smooth_mm * small.shape[0] / _FILM_MM)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    # Outside the frame counts as background: a strip along the edge is thin, whatever lies beyond it.
    eroded = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(eroded, connectivity=4)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    core = np.where(labels == largest, np.uint8(255), np.uint8(0))
    # Grown back by twice what was taken, within what is bright: corners at the film's edge and the skin line return.
    breast = cv2.bitwise_and(cv2.dilate(core, kernel, iterations=2), mask)
    breast = cv2.morphologyEx(breast, cv2.MORPH_CLOSE, kernel)
    outlines, _ = cv2.findContours(breast, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(breast, outlines, -1, 255, cv2.FILLED)
    hull_area = sum(float(cv2.contourArea(cv2.convexHull(outline))) for outline in outlines)
    area = sum(float(cv2.contourArea(outline)) for outline in outlines)
    border = np.concatenate([breast[0], breast[-1], breast[:, 0], breast[:, -1]])
    enlarged = cv2.resize(breast, (columns, rows), interpolation=cv2.INTER_LINEAR)
    full = np.asarray(cv2.threshold(enlarged, 127, 255, cv2.THRESH_BINARY)[1], dtype=np.uint8)
    x, y, width, height = cv2.boundingRect(full)
    return Breast(
        mask=full,
        box=Box(y, x, height, width),
        area_share=float(cv2.countNonZero(breast)) / breast.size,
        solidity=area / hull_area if hull_area else 0.0,
        border_contact=float(np.count_nonzero(border)) / border.size,
    )


def _threshold(small: NDArray[np.uint8], settings: CleaningSettings) -> float:
    """Grey level above which a pixel can be breast.

    Otsu's threshold lies midway between the background and dense tissue, so that fatty tissue and the skin line are lost. `skin`
    therefore takes it only to tell the two apart, and goes a fifth of the way from the background's most frequent grey to the
    mean of what is brighter, yet not into the background's noise (four times the spread of its darker half).
    """
    otsu, _ = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if settings.method == "otsu":
        return otsu
    histogram = cv2.calcHist([small], [0], None, [256], [0, 256]).ravel()
    levels = np.arange(256)
    dark, bright = levels <= otsu, levels > otsu
    background = int(np.argmax(histogram * dark))
    tissue = float(np.average(levels[bright], weights=histogram[bright] + 1e-9))
    below = levels <= background
    spread = float(np.sqrt(np.average((levels[below] - background) ** 2, weights=histogram[below])))
    return min(otsu, max(background + (tissue - background) / 5, background + 4 * spread))


def blacken(grey: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The film with 0 outside the mask and at least 1 inside, so that the mask can be had back from the image alone."""
    return np.asarray(cv2.bitwise_and(np.maximum(grey, 1), mask), dtype=np.uint8)
