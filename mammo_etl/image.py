"""Any one supported film file as an image file: its exact pixels, or cleaned."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.cleaning import clean_film
from mammo_etl.film import read_film
from mammo_etl.ics import find_ics_view
from mammo_etl.settings import CleaningSettings
from mammo_etl.workspace import replacing

FORMATS = (".npy", ".png")
"""Suffixes of the images that can be written."""


def write_image(
    source: Path, output: Path, clean: bool, mask: Path | None, settings: CleaningSettings
) -> tuple[int, int, int]:
    """Writes a film's exact pixels (`.npy`, or `.png` of 8 or 16 bits), or with `clean` the cleaned film in full frame.

    `mask`: also writes the breast mask (255 breast, 0 elsewhere) to this PNG. An LJPEG takes its size and scanner from the `.ics` beside it, where
    there is one, else its size from its own header. Returns rows, columns and bits of the image written. Raises SourceFileError if the film cannot be used.
    """
    view = find_ics_view(str(source))
    rows, columns = (view.rows, view.columns) if view else (None, None)
    film = read_film(str(source), rows, columns)
    if not clean and mask is None:
        _write(output, film.pixels)
        return (*film.pixels.shape, film.bits)
    scanner, institution, bits = (view.scanner, view.institution, view.bits) if view else ("", "", film.bits)
    cleaned = clean_film(film, bits, scanner, institution, settings)
    box = cleaned.breast.box
    whole = np.zeros(film.pixels.shape, cleaned.image.dtype)
    whole[box.y : box.bottom, box.x : box.right] = cleaned.image
    _write(output, whole if clean else film.pixels)
    if mask is not None:
        _write(mask, cleaned.breast.mask)
    return (*film.pixels.shape, settings.bits if clean else film.bits)


def _write(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix.lower() == ".npy":
            np.save(file, pixels, allow_pickle=False)
        else:
            ok, png = cv2.imencode(".png", pixels)
            assert ok
            file.write(png.tobytes())
