"""The truth about the films: masks and tables, under the names that the loaders of each source give."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.film import Film, PlacedLesion
from mammo_etl.records import Abnormality, label_of
from mammo_etl.workspace import write_bytes


@dataclass(frozen=True)
class FilmTruth:
    """One row of `films.csv`."""

    image_id: str
    source: str
    patient_id: str
    laterality: str
    view: str
    rows: int
    columns: int
    density: int
    """ACR 1 to 4."""
    normal: bool
    """True if the film comes from a normal case."""
    scanner: str
    """DBA, HOWTEK or LUMISYS; empty for CBIS-DDSM."""
    faults: str
    """Names of the film's faults, separated by semicolons."""


@dataclass(frozen=True)
class FindingTruth:
    """One row of `findings.csv`; the box is the ROI's, in pixels of the film."""

    finding_id: str
    image_id: str
    patient_id: str
    abnormality: str
    pathology: str
    """As the source lists it: MALIGNANT, BENIGN or BENIGN_WITHOUT_CALLBACK."""
    label_name: str
    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True)
class FaultTruth:
    """One row of `source_faults.csv`: who carries a fault that was asked for."""

    fault: str
    patient_id: str
    """Empty if the whole source carries it."""
    image_id: str
    finding_id: str
    """Empty if the whole film carries it."""


@dataclass(frozen=True)
class Truth:
    """What one film adds to the truth tables."""

    films: tuple[FilmTruth, ...]
    findings: tuple[FindingTruth, ...]
    faults: tuple[FaultTruth, ...] = ()


def image_id_of(source: str, case: str, film: Film, abnormality: Abnormality | None = None) -> str:
    """Name of a film: source, patient or case, side and view, and mass or calc in CBIS-DDSM."""
    kind = {None: "", Abnormality.MASS: "_mass", Abnormality.CALCIFICATION: "_calc"}[abnormality]
    return f"{source}_{case}_{film.plan.laterality}_{film.plan.view}{kind}"


def write_film_truth(
    folder: Path,
    film: Film,
    lesions: Sequence[PlacedLesion],
    *,
    image_id: str,
    patient_id: str,
    density: int,
    normal: bool,
    scanner: str,
) -> Truth:
    """Write the masks of a film and those of its lesions that this image of it is listed with; returns the table rows."""
    rows, columns = film.pixels.shape
    _write_mask(folder / f"{image_id}.breast.png", film.breast)
    findings = []
    for placed in lesions:
        finding_id = f"{image_id}_{placed.lesion.number}"
        _write_mask(folder / f"{finding_id}.roi.png", placed.roi.on_film(rows, columns))
        findings.append(
            FindingTruth(
                finding_id=finding_id,
                image_id=image_id,
                patient_id=patient_id,
                abnormality=placed.lesion.abnormality.value,
                pathology=placed.lesion.pathology_listed,
                label_name=label_of(placed.lesion.abnormality, placed.lesion.pathology).title,
                **asdict(placed.roi.box),
            )
        )
    row = FilmTruth(
        image_id=image_id,
        source=image_id.split("_", 1)[0],
        patient_id=patient_id,
        laterality=film.plan.laterality.value,
        view=film.plan.view.value,
        rows=rows,
        columns=columns,
        density=density,
        normal=normal,
        scanner=scanner,
        faults=";".join(film.faults),
    )
    return Truth((row,), tuple(findings))


def write_truth_tables(folder: Path, truths: Sequence[Truth]) -> None:
    """Write `films.csv` and `findings.csv` of all films, in order; and `source_faults.csv` if there are such faults."""
    _write_table(folder / "films.csv", FilmTruth, [row for truth in truths for row in truth.films])
    _write_table(folder / "findings.csv", FindingTruth, [row for truth in truths for row in truth.findings])
    faults = [row for truth in truths for row in truth.faults]
    if faults:
        _write_table(folder / "source_faults.csv", FaultTruth, faults)


def _write_table(
    path: Path,
    record: type[FilmTruth] | type[FindingTruth] | type[FaultTruth],
    rows: Sequence[FilmTruth | FindingTruth | FaultTruth],
) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(record)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes(path, text.getvalue().encode())


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a mask of 0 and 255 as a PNG of one bit per pixel."""
    done, png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1])
    if not done:
        raise RuntimeError(f"{path}: OpenCV could not encode the mask as PNG")
    write_bytes(path, png.tobytes())
