"""Phantom films as DDSM publishes its own: a folder per case with `.ics`, `.LJPEG` and `.OVERLAY` files."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.film import Film, PlacedLesion, Region
from mammo_etl.phantom.ljpeg_writer import encode
from mammo_etl.phantom.plan import DdsmPatient, Scanner
from mammo_etl.phantom.truth import Truth, image_id_of, write_film_truth
from mammo_etl.records import Abnormality
from mammo_etl.workspace import write_bytes

SOURCE = "ddsm"

# Freeman codes of DDSM, 0 = north, clockwise, as (row step, column step).
_CODES = {
    step: code for code, step in enumerate([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)])
}


def write_ddsm_film(
    root: Path, truth_folder: Path, patient: DdsmPatient, film: Film, rng: np.random.Generator
) -> Truth:
    """Write a film, and the outlines of its lesions if it has any, below the source's folder `root`; and its truth."""
    stem = f"{patient.case.replace('-', '_')}.{film.plan.laterality.value}_{film.plan.view.value}"
    folder = root / patient.folder
    levels = grey_levels(film.pixels, patient.scanner, rng)
    write_bytes(folder / f"{stem}.LJPEG", encode(levels, patient.scanner.bits))
    if film.lesions:
        write_bytes(folder / f"{stem}.OVERLAY", _overlay(film.lesions).encode())
    return write_film_truth(
        truth_folder,
        film,
        film.lesions,
        image_id=image_id_of(SOURCE, patient.case, film),
        patient_id=patient.patient_id,
        density=patient.density,
        normal=patient.normal,
        scanner=patient.scanner.name,
    )


def write_ics(root: Path, patient: DdsmPatient, sizes: list[tuple[int, int]], rng: np.random.Generator) -> None:
    """Write the `.ics` file of a case; `sizes` are the (rows, columns) of `patient.films`, in order."""
    scanner = patient.scanner
    age = rng.integers(38, 85)
    lines = [
        "ics_version 1.0",
        f"filename {patient.case}",
        f"DATE_OF_STUDY {rng.integers(1, 13)} {rng.integers(1, 28)} {rng.integers(1990, 1998)}",
        # Some files have no age, some begin with an empty line.
        f"PATIENT_AGE {age if rng.random() < 0.9 else ''}",
        "FILM ",
        "FILM_TYPE REGULAR",
        f"DENSITY {patient.density}",
        f"DATE_DIGITIZED {rng.integers(1, 13)} {rng.integers(1, 28)} {rng.integers(1997, 2000)} ",
        f"DIGITIZER {scanner.digitizer}",
        "SEQUENCE" if patient.normal else "SELECTED",
    ]
    if rng.random() < 0.15:
        lines.insert(0, "")
    for film, (rows, columns) in zip(patient.films, sizes, strict=True):
        lines.append(
            f"{film.laterality.value}_{film.view.value} LINES {rows} PIXELS_PER_LINE {columns} "
            f"BITS_PER_PIXEL {scanner.bits} RESOLUTION {scanner.resolution_um} "
            f"{'OVERLAY' if film.lesions else 'NON_OVERLAY'}"
        )
    write_bytes(root / patient.folder / f"{patient.case}.ics", ("\n".join(lines) + "\n").encode())


def grey_levels(pixels: NDArray[np.uint16], scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint16]:
    """What the scanner would have stored for pixels of CBIS-DDSM's scale, (rows, columns).

    CBIS-DDSM maps optical density 0.05 to 65535 and 3.0 to 0; the calibrations of the scanners are DDSM's, solved for the grey
    level. Where the film is darker than CBIS-DDSM can tell, the scanner sees a density between 3.0 and 3.15, and DBA now and
    then nothing at all.
    """
    density = np.linspace(3.0, 0.05, 65536)
    table = np.rint(_grey_level(density, scanner)).astype(np.uint16)
    levels = table[pixels]
    black = np.flatnonzero(pixels == 0)
    dark = rng.uniform(3.0, 3.15, black.size)
    levels.flat[black] = np.floor(_grey_level(dark, scanner)).astype(np.uint16)
    if scanner.name == "DBA":
        levels.flat[black[rng.random(black.size) < 0.001]] = 0
    return levels


def _grey_level(density: NDArray[np.float64], scanner: Scanner) -> NDArray[np.float64]:
    """Grey level of an optical density, by scanner and institution (DDSM's calibration pages)."""
    if scanner.name == "DBA":
        return np.asarray(10 ** (4.80662 - 1.07553 * density))
    if scanner.name == "LUMISYS":
        return 4096.99 - 1009.01 * density
    if scanner.institution == "A":
        return (3.789 - density) / 0.00094568
    return (3.96604095240593 - density) / 0.00099055807612


def _overlay(lesions: tuple[PlacedLesion, ...]) -> str:
    """Text of an `.OVERLAY` file, with the trailing blanks of the original."""
    lines = [f"TOTAL_ABNORMALITIES {len(lesions)}"]
    for placed in lesions:
        lesion = placed.lesion
        words = (
            ("MASS SHAPE", "MARGINS")
            if lesion.abnormality is Abnormality.MASS
            else ("CALCIFICATION TYPE", "DISTRIBUTION")
        )
        lines += [
            f"ABNORMALITY {lesion.number} ",
            f"LESION_TYPE {words[0]} {lesion.shape} {words[1]} {lesion.margins}",
            f"ASSESSMENT {lesion.assessment} ",
            f"SUBTLETY {lesion.subtlety} ",
            f"PATHOLOGY {lesion.pathology_listed}",
            f"TOTAL_OUTLINES {1 if placed.core is None else 2} ",
            "BOUNDARY",
            chain_of(placed.roi),
        ]
        if placed.core is not None:
            lines += ["\tCORE", chain_of(placed.core)]
    return "\n".join(lines) + "\n"


def chain_of(region: Region) -> str:
    """Outer contour of a region as a closed Freeman chain: start column, start row, codes, `#`."""
    contours, _ = cv2.findContours(region.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    (contour,) = contours
    points = contour.reshape(-1, 2) + np.array([region.box.x, region.box.y])
    steps = np.roll(points, -1, axis=0) - points
    codes = " ".join(str(_CODES[int(dy), int(dx)]) for dx, dy in steps)
    return f"{points[0, 0]} {points[0, 1]}  {codes} #"
