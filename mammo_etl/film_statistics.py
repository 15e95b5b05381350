"""What a film looks like where no lesion is: its edges, its background, and its tissue.

By these figures `mammo_etl.confounds` asks how well a film's class can be told without seeing a lesion. They follow the scanner, not the
patient, as far as such figures can: black clamped or noisy, frames, noise, sharpness, how grey levels are spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.breast import Breast
from mammo_etl.cleaning import to_8bit
from mammo_etl.film import Film
from mammo_etl.roi import Region

_SAMPLED_ROWS = 128
"""About this many rows of a film are looked at, evenly spaced, each over its whole width: enough pixels for figures of the whole film."""
_STRIP = 0.01
"""Width of the border strip, as a share of the film's height."""
_FAR = 4
"""Distance over which the wider of two grey differences is taken, pixels: a sharp scanner has most of it over one pixel already."""


@dataclass(frozen=True)
class _Levels:
    """Histogram of the grey levels of some pixels, (256,); of none it gives 0 throughout, and never NaN."""

    counts: NDArray[np.float64]

    @property
    def total(self) -> float:
        return float(self.counts.sum())

    def share(self, level: int) -> float:
        return float(self.counts[level]) / max(self.total, 1.0)

    def mean(self) -> float:
        return float(np.arange(256) @ self.counts) / max(self.total, 1.0)

    def spread(self) -> float:
        return float(np.sqrt((np.arange(256) - self.mean()) ** 2 @ self.counts / max(self.total, 1.0)))

    def quantile(self, share: float) -> float:
        return float(np.searchsorted(np.cumsum(self.counts), share * self.total)) if self.total else 0.0


def film_statistics(film: Film, breast: Breast, regions: Sequence[Region]) -> dict[str, float]:
    """Statistics of a film outside its lesions, each finite.

    `film` is the whole film before anything was blackened; no pixel in the box of a region counts. Grey levels are 0 to
    255, shares 0 to 1. `border_*`: a strip of 1% of the height along the four edges, as far as it is not breast; `background_*`: what is
    neither strip nor breast; `tissue_*`: the breast. Of each: mean or quantiles, spread (standard deviation), `zero` (share of pixels that
    are exactly 0); `noise` is the mean grey difference of horizontal neighbours, `sharpness` its ratio to that over four pixels.
    A part that the film does not have gives 0.
    """
    rows, columns = film.pixels.shape
    step = max(1, rows // _SAMPLED_ROWS)
    strip = max(1, round(_STRIP * rows))
    sampled = np.ascontiguousarray(to_8bit(film.pixels[::step], film.bits))
    tissue = np.ascontiguousarray(breast.mask[::step])
    background = np.asarray(cv2.bitwise_not(tissue), np.uint8)
    border = background.copy()
    # Sampled row i is row i * step of the film.
    border[-(-strip // step) : -(-(rows - strip) // step), strip : columns - strip] = 0
    background = background - border
    for region in regions:
        top, bottom = -(-region.box.y // step), -(-region.box.bottom // step)
        for part in (tissue, background, border):
            part[top:bottom, region.box.x : region.box.right] = 0
    of_border, of_background, of_tissue = (_levels(sampled, part) for part in (border, background, tissue))
    counted = of_border.total + of_background.total + of_tissue.total
    white = sum(levels.counts[255] for levels in (of_border, of_background, of_tissue))
    near = _difference(sampled, tissue, 1)
    values = {
        "aspect": rows / columns,
        "white": float(white) / max(counted, 1.0),
        "border_mean": of_border.mean(),
        "border_spread": of_border.spread(),
        "border_zero": of_border.share(0),
        "background_share": of_background.total / max(counted, 1.0),
        "background_mean": of_background.mean(),
        "background_spread": of_background.spread(),
        "background_zero": of_background.share(0),
        "background_p95": of_background.quantile(0.95),
        "background_noise": _difference(sampled, background, 1),
        "tissue_p05": of_tissue.quantile(0.05),
        "tissue_p50": of_tissue.quantile(0.5),
        "tissue_p95": of_tissue.quantile(0.95),
        "tissue_spread": of_tissue.spread(),
        "tissue_noise": near,
        "tissue_sharpness": near / max(_difference(sampled, tissue, _FAR), 1e-3),
    }
    return {name: round(value, 5) for name, value in values.items()}


def _levels(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> _Levels:
    return _Levels(np.asarray(cv2.calcHist([image], [0], mask, [256], [0, 256]), np.float64).ravel())


def _difference(image: NDArray[np.uint8], mask: NDArray[np.uint8], distance: int) -> float:
    """Mean absolute difference of pixels that many columns apart, both within the mask."""
    if image.shape[1] <= distance:
        return 0.0
    differences = cv2.absdiff(image[:, distance:], image[:, :-distance])
    return _levels(
        np.asarray(differences, np.uint8),
        np.asarray(cv2.bitwise_and(mask[:, distance:], mask[:, :-distance]), np.uint8),
    ).mean()
