"""Phantom films as DDSM publishes its own: a folder per case with `.ics`, `.LJPEG` and `.OVERLAY` files."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.ddsm_files import FILE_FAULTS
from mammo_etl.phantom.ddsm_outlines import OUTLINE_FAULTS, Outlines, outlines_of
from mammo_etl.phantom.film import Film, PlacedLesion
from mammo_etl.phantom.ljpeg_writer import encode
from mammo_etl.phantom.plan import DdsmPatient, Lesion, Scanner
from mammo_etl.phantom.source_faults import Fault, deal
from mammo_etl.phantom.truth import FaultTruth, Truth, image_id_of, write_film_truth
from mammo_etl.records import Abnormality
from mammo_etl.workspace import write_bytes

SOURCE = "ddsm"


def write_ddsm_patient(
    root: Path,
    truth_folder: Path,
    patient: DdsmPatient,
    films: Iterable[Film],
    *,
    number: int,
    rng: np.random.Generator,
    faults: Collection[Fault],
) -> tuple[Truth, ...]:
    """Write a case below the source's folder `root`, and the truth of its films.

    `number` counts the cases from 0 and deals out the faults.
    """
    file_fault = next(deal(FILE_FAULTS, faults, number))
    # One case of four has lesions, in two films.
    outline_faults = deal(OUTLINE_FAULTS, faults, number // 4 * 2)
    truths: list[Truth] = []
    sizes: list[tuple[int, int]] = []
    for film in films:
        rows, columns = film.pixels.shape
        sizes.append((rows, columns))
        truths.append(_write_film(root, truth_folder, patient, film, rng, file_fault, outline_faults))
    ics = _ics(patient, sizes, rng)
    _write(root / patient.folder / f"{patient.case}.ics", ics.encode(), file_fault)
    return tuple(truths)


def _write_film(
    root: Path,
    truth_folder: Path,
    patient: DdsmPatient,
    film: Film,
    rng: np.random.Generator,
    file_fault: Fault | None,
    outline_faults: Iterator[Fault | None],
) -> Truth:
    """Write a film, and the outlines of its lesions if it has any, and its truth."""
    stem = f"{patient.case.replace('-', '_')}.{film.plan.laterality.value}_{film.plan.view.value}"
    folder = root / patient.folder
    image_id = image_id_of(SOURCE, patient.case, film)
    injected = [
        FaultTruth(fault, patient.patient_id, image_id, "")
        for fault in (patient.fault, file_fault)
        if fault is not None
    ]
    levels = grey_levels(film.pixels, patient.scanner, rng)
    if patient.fault in LEVEL_FAULTS:
        levels = LEVEL_FAULTS[patient.fault](levels)
    _write(folder / f"{stem}.LJPEG", encode(levels, patient.scanner.bits), file_fault)
    outlined = []
    for placed in film.lesions:
        outlines, fault = outlines_of(placed), next(outline_faults)
        if fault is not None:
            outlines = OUTLINE_FAULTS[fault](outlines, *film.pixels.shape)
            finding_id = f"{image_id}_{placed.lesion.number}"
            injected.append(FaultTruth(fault, patient.patient_id, image_id, finding_id))
        outlined.append((placed.lesion, outlines))
    if outlined:
        _write(folder / f"{stem}.OVERLAY", _overlay(outlined).encode(), file_fault)
    truth = write_film_truth(
        truth_folder,
        film,
        [PlacedLesion(lesion, outlines.roi, None) for lesion, outlines in outlined],
        image_id=image_id,
        patient_id=patient.patient_id,
        density=patient.density,
        normal=patient.normal,
        scanner=patient.scanner.name,
    )
    return replace(truth, faults=tuple(injected))


def _write(path: Path, content: bytes, fault: Fault | None) -> None:
    if fault is not None:
        path, content = FILE_FAULTS[fault](path, content)
    write_bytes(path, content)


def _ics(patient: DdsmPatient, sizes: list[tuple[int, int]], rng: np.random.Generator) -> str:
    """Text of the `.ics` file of a case; `sizes` are the (rows, columns) of `patient.films`, in order."""
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
    return "\n".join(lines) + "\n"


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


def _zeroed(levels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Grey levels with 0, which DBA gives for noise, in one pixel of a hundred."""
    zeroed = levels.copy()
    zeroed.flat[::101] = 0
    return zeroed


LEVEL_FAULTS: dict[Fault, Callable[[NDArray[np.uint16]], NDArray[np.uint16]]] = {Fault.DBA_ZERO: _zeroed}
"""One for each film of a case: its grey levels, (rows, columns)."""


def _overlay(outlined: Sequence[tuple[Lesion, Outlines]]) -> str:
    """Text of an `.OVERLAY` file, with the trailing blanks of the original."""
    lines = [f"TOTAL_ABNORMALITIES {len(outlined)}"]
    for lesion, outlines in outlined:
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
            f"TOTAL_OUTLINES {outlines.stated} ",
        ]
        for boundary in outlines.boundaries:
            lines += ["BOUNDARY", boundary]
        if outlines.core is not None:
            lines += ["\tCORE", outlines.core]
    return "\n".join(lines) + "\n"
