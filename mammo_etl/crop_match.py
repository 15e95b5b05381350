"""Where on a film a finding's cut-out comes from: the proof that its mask lies on the right film, in the right place and scale.

CBIS-DDSM supplies with each finding a cut-out of the film around the lesion. It is looked for near the place that the mask claims.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.dicom import Pixels
from mammo_etl.records import Box

_FOUND = 0.9
"""Least score of a cut-out that was found. On a real film of 4560 x 2864 pixels, cut-outs of 32 to 600 pixels scored 0.936 or more at their
own place, even those that were reduced by 1.149 or had another gamma, and 0.55 or less at other places (0.8 on synthetic clouds of 36 pixels);
smaller exact copies 1, and 0.74 or less."""

_SIDE = 512
"""Of a larger cut-out its middle is looked for: this many pixels are as telling as all, and quick to find."""
_SMALL = 32
"""Cut-outs with a side shorter than this are told by their grain, which has no edge to lose: only exact copies are found."""
_LEAST = 8
"""Cut-outs with a side shorter than this tell nothing."""
_MARGIN = 48
"""How far from its place a cut-out may lie, pixels, beside half of what it is larger than the mask's box."""
_FARTHEST = 512
"""Largest such distance."""
_SLACK = 16
"""By how much a ROI's box may reach over its cut-out, pixels, beside a tenth of the cut-out: masks and cut-outs were resampled apart."""
_LARGEST = 4
"""A cut-out this many times as long as the ROI's box, and some pixels more, was made of something else."""
_FINE, _COARSE = 1.0, 3.0
"""Standard deviations, pixels, of the Gaussians whose difference is compared: without the film's grain, and without the slow changes of
brightness that make any two places of a breast alike."""


@dataclass(frozen=True, slots=True)
class Match:
    """The best place of a cut-out on a film."""

    score: float
    """Correlation, 1 at best."""
    place: Box
    """Where the whole cut-out lies on the film, at the scale with which it fits best."""

    @property
    def found(self) -> bool:
        """Whether the score is enough."""
        return self.score >= _FOUND

    def frames(self, box: Box, rows: int, columns: int) -> bool:
        """Whether a ROI of this box is what the cut-out was made of, on a film of rows x columns.

        CBIS-DDSM cut along the ROI's bounding rectangle (Lee et al. 2017, doi:10.1038/sdata.2017.177), some with a margin: the box lies within
        the cut-out, about in its middle unless the film ends there, and fills a fair part of it.
        """
        return _framed(self.place.y, self.place.height, box.y, box.height, rows) and _framed(
            self.place.x, self.place.width, box.x, box.width, columns
        )


def match_crop(film: Pixels, crop: Pixels, box: Box, scales: Iterable[tuple[float, float]]) -> Match | None:
    """How well a cut-out is found on a film, (rows, columns), around the box of its finding.

    It is looked for at each of `scales`, factors (y, x) on the cut-out, until it is found, or else the best score counts: the normalised
    cross-correlation (Lewis 1995) of the filtered images, 1 for an exact copy. None if the cut-out is too small or of one grey, or if
    there is no room for it.
    """
    best: Match | None = None
    for scale in scales:
        match = _best(film, _scaled(crop, *scale), box)
        if match is not None and (best is None or match.score > best.score):
            best = match
        if best is not None and best.found:
            break
    return best


def _framed(start: int, length: int, box_start: int, box_length: int, film: int) -> bool:
    """The same along one axis."""
    slack = _SLACK + length // 10
    within = start - slack <= box_start and box_start + box_length <= start + length + slack
    at_edge = start <= slack or start + length >= film - slack
    middle = abs((2 * box_start + box_length) - (2 * start + length)) / 2 <= max(slack, length / 4)
    return within and (middle or at_edge) and length <= _LARGEST * box_length + 8 * _SLACK


def _scaled(crop: Pixels, scale_y: float, scale_x: float) -> Pixels:
    if (scale_y, scale_x) == (1.0, 1.0):
        return crop
    height, width = max(1, round(crop.shape[0] * scale_y)), max(1, round(crop.shape[1] * scale_x))
    method = cv2.INTER_AREA if scale_y < 1 else cv2.INTER_LINEAR
    scaled: Pixels = cv2.resize(crop, (width, height), interpolation=method).astype(crop.dtype, copy=False)  # type: ignore[assignment]
    return scaled


def _best(film: Pixels, crop: Pixels, box: Box) -> Match | None:
    if min(crop.shape) < _LEAST:
        return None
    height, width = min(crop.shape[0], _SIDE), min(crop.shape[1], _SIDE)
    top, left = (crop.shape[0] - height) // 2, (crop.shape[1] - width) // 2
    y, reach_y = _around(box.y, box.height, crop.shape[0], height)
    x, reach_x = _around(box.x, box.width, crop.shape[1], width)
    first_y, first_x = max(0, y - reach_y), max(0, x - reach_x)
    window = film[first_y : max(0, y + height + reach_y + 1), first_x : max(0, x + width + reach_x + 1)]
    if window.shape[0] < height or window.shape[1] < width:
        return None
    wanted = np.asarray(crop[top : top + height, left : left + width], np.float32)
    offered = np.asarray(window, np.float32)
    # Near the edges of the cut-out a filter cannot see what it sees on the film.
    if min(height, width) >= _SMALL:
        filtered, edge = _band_passed, 5
    else:
        filtered, edge = _grain, 1
    wanted = filtered(wanted)[edge : height - edge, edge : width - edge]
    if float(wanted.std()) == 0:
        return None
    scores = cv2.matchTemplate(filtered(offered), np.ascontiguousarray(wanted), cv2.TM_CCOEFF_NORMED)
    # Where the film is of one grey, the score is 0 / 0.
    _, score, _, (found_x, found_y) = cv2.minMaxLoc(np.clip(np.nan_to_num(scores, posinf=0, neginf=0), -1, 1))
    place = Box(first_y + found_y - edge - top, first_x + found_x - edge - left, *crop.shape)
    return Match(float(score), place)


def _around(start: int, length: int, crop: int, part: int) -> tuple[int, int]:
    """First pixel of the cut-out's middle `part` if it lies centred on the box, and how far from there it may be.

    At the film's edge a cut-out loses its margin on one side, so that its centre is no longer that of the box.
    """
    return start + (length - part) // 2, min(_MARGIN + abs(crop - length) // 2, _FARTHEST)


def _band_passed(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    fine = cv2.GaussianBlur(levels, (0, 0), _FINE)
    return np.asarray(fine - cv2.GaussianBlur(levels, (0, 0), _COARSE), np.float32)


def _grain(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.Laplacian(levels, cv2.CV_32F, ksize=1), np.float32)
