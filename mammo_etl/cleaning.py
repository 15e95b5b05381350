"""From a film's pixels to a cleaned image: grey levels on one scale, the breast alone, nothing beside it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl import density
from mammo_etl.breast import Breast, find_breast
from mammo_etl.dicom import Pixels
from mammo_etl.files import SourceFileError
from mammo_etl.film import Film
from mammo_etl.records import Reason
from mammo_etl.settings import CleaningSettings


@dataclass(frozen=True)
class CleanFilm:
    """A film's breast."""

    image: Pixels
    """(rows, columns) of the breast's box, 8 or 16 bits: 0 outside the breast, at least 1 inside, so that the mask can be had back from it."""
    shown: Film
    """The whole film on the scale of the image, with nothing blackened."""
    breast: Breast


def clean_film(film: Film, bits: int, scanner: str, institution: str, settings: CleaningSettings) -> CleanFilm:
    """The cleaned film; arguments as of `calibrated`. Raises SourceFileError (`no-breast`).

    Grey levels go through the file's window where it has one, and are else taken as they are: on a fixed scale, not one stretched to each
    film's extremes, so that equal densities stay equal between films.
    """
    film = calibrated(film, bits, scanner, institution, settings)
    # Before the window, which may cut off the skin.
    breast = find_breast(film.pixels, settings)
    if breast is None:
        raise SourceFileError(
            Reason.NO_BREAST, "No breast was found on the film: nothing on it is brighter than the rest."
        )
    box = breast.box
    inside = np.s_[box.y : box.bottom, box.x : box.right]
    shown = film if film.display is None else Film(film.display[film.pixels], 16)
    if film.display is not None and np.ptp(shown.pixels[inside][breast.mask[inside] > 0]) == 0:
        # A window that shows nothing of the breast was not meant for it.
        shown = Film(film.pixels, film.bits)
    scaled = to_8bit if settings.bits == 8 else to_16bit
    return CleanFilm(blacken(scaled(shown.pixels[inside], shown.bits), breast.mask[inside]), shown, breast)


def calibrated(film: Film, bits: int, scanner: str, institution: str, settings: CleaningSettings) -> Film:
    """The film on CBIS-DDSM's grey scale if its scanner's curve is known and `settings.density_scale` asks for it, else as it is.

    `bits` is what its source states: a lossless JPEG of 12-bit pixels may call itself one of 16 bits.
    """
    if settings.density_scale == "cbis" and density.has_curve(scanner, institution):
        levels = film.pixels.astype(np.uint16, copy=False)
        return Film(density.to_cbis_scale(levels, scanner, institution), 16)
    return Film(film.pixels, min(film.bits, bits), film.display)


def to_8bit(pixels: Pixels, bits: int) -> NDArray[np.uint8]:
    """Grey levels 0 to 2**bits - 1 as 0 to 255, rounded; larger ones become 255."""
    if pixels.dtype == np.uint8 and bits == 8:
        return pixels.astype(np.uint8, copy=False)
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255.0 / (2**bits - 1)), dtype=np.uint8)


def to_16bit(pixels: Pixels, bits: int) -> NDArray[np.uint16]:
    """Grey levels 0 to 2**bits - 1 as 0 to 65535, rounded; larger ones become 65535."""
    if bits == 16:
        return pixels.astype(np.uint16, copy=False)
    scaled = pixels.astype(np.float32) * np.float32(65535 / (2**bits - 1))
    return np.asarray(np.minimum(np.rint(scaled), 65535), np.uint16)


def blacken(grey: Pixels, mask: NDArray[np.uint8]) -> Pixels:
    """The film with 0 outside the mask and at least 1 inside."""
    # A quarter of the time of NumPy's.
    raised = cv2.max(grey, 1.0)  # type: ignore[call-overload]
    cleaned: Pixels = np.asarray(cv2.bitwise_and(raised, raised, mask=mask))  # type: ignore[assignment]
    return cleaned
