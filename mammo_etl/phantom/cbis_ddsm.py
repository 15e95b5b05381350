"""Phantom films as CBIS-DDSM publishes its own: DICOM files in NBIA's folders, and four tables.

The quirks are the collection's: a side and view seen with a mass and with a calcification is two images; crop and ROI mask share
a series, and the tables name one for the other; a newline stands inside a quoted path of every table row.
"""

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mammo_etl.phantom.cbis_dicom import dicom_bytes
from mammo_etl.phantom.cbis_extras import WrittenImage
from mammo_etl.phantom.cbis_roi import ROI_FAULTS, RoiFiles, roi_files
from mammo_etl.phantom.cbis_series import CROP, FULL, LAYOUT_FAULTS, MASK, CbisFolder, Series, new_nbia, old_nbia
from mammo_etl.phantom.film import Film, PlacedLesion
from mammo_etl.phantom.plan import CbisPatient, FilmPlan, Lesion
from mammo_etl.phantom.source_faults import Fault, deal
from mammo_etl.phantom.truth import FaultTruth, Truth, image_id_of, write_film_truth
from mammo_etl.records import Abnormality
from mammo_etl.workspace import write_bytes

SOURCE = "cbis-ddsm"

_TABLES = {
    (Abnormality.MASS, "Training"): "mass_case_description_train_set.csv",
    (Abnormality.MASS, "Test"): "mass_case_description_test_set.csv",
    (Abnormality.CALCIFICATION, "Training"): "calc_case_description_train_set.csv",
    (Abnormality.CALCIFICATION, "Test"): "calc_case_description_test_set.csv",
}
_PREFIX = {Abnormality.MASS: "Mass", Abnormality.CALCIFICATION: "Calc"}
_DESCRIBED = {
    Abnormality.MASS: ("breast_density", ("mass shape", "mass margins")),
    Abnormality.CALCIFICATION: ("breast density", ("calc type", "calc distribution")),
}


@dataclass(frozen=True)
class TableRow:
    """One finding's row."""

    table: str
    """File name of the table."""
    values: tuple[str, ...]
    """In the order of the header."""


@dataclass(frozen=True)
class CbisWritten:
    """What a patient adds to tables and truth, and the files."""

    table_rows: tuple[TableRow, ...]
    truths: tuple[Truth, ...]
    images: tuple[WrittenImage, ...]


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4]


def _drop(_content: bytes) -> None:
    return None


FILM_FAULTS: dict[Fault, Callable[[bytes], bytes | None]] = {Fault.MISSING_FILM: _drop, Fault.TRUNCATED_FILM: _cut}
"""One for each film's finished file, but for one film in each round; None where no file is left."""

ROW_FAULTS: dict[Fault, Mapping[str, str]] = {
    Fault.BLANK_CELLS: {
        "breast density": "0",
        "breast_density": "0",
        **dict.fromkeys((column for _, columns in _DESCRIBED.values() for column in columns), ""),
        "subtlety": "0",
    }
}
"""One for all of a patient's rows: other values, by column."""

TABLE_FAULTS: dict[Fault, Callable[[str], str]] = {Fault.CRLF_TABLES: lambda text: text.replace("\n", "\r\n")}
"""Each for all tables."""


@dataclass(frozen=True)
class _Dealer:
    """How a patient's files are written: where to, and with which faults."""

    place: CbisFolder
    rng: np.random.Generator
    layout_fault: Fault | None
    row_fault: Fault | None
    film_faults: Iterator[Fault | None]
    roi_faults: Iterator[Fault | None]


def write_cbis_patient(
    root: Path,
    truth_folder: Path,
    patient: CbisPatient,
    films: Iterable[Film],
    *,
    number: int,
    rng: np.random.Generator,
    seed: int,
    faults: Collection[Fault],
) -> CbisWritten:
    """Write a patient's films below the source's folder `root`, each once for each kind of lesion it shows, and their truth.

    `number` counts the patients of the source from 0; it chooses between the two folder layouts that NBIA's downloaders have made, and
    deals out the faults.
    """
    layout_fault = next(deal(LAYOUT_FAULTS, faults, number))
    layout = LAYOUT_FAULTS[layout_fault] if layout_fault else old_nbia if number % 2 == 0 else new_nbia
    dealer = _Dealer(
        place=CbisFolder(root, layout, ".DCM" if Fault.UPPER_CASE in faults else ".dcm", seed),
        rng=rng,
        layout_fault=layout_fault,
        row_fault=next(deal(ROW_FAULTS, faults, number)),
        # Most patients have two films, of one finding each.
        film_faults=deal(FILM_FAULTS, faults, 2 * number, one_whole=True),
        roi_faults=deal(ROI_FAULTS, faults, 3 * number, one_whole=True),
    )
    parts = [
        _write_film(dealer, truth_folder, patient, film, kind, lesions)
        for film in films
        for kind in patient.parts
        if (lesions := [placed for placed in film.lesions if placed.lesion.abnormality is kind])
    ]
    return CbisWritten(
        tuple(row for part in parts for row in part.table_rows),
        tuple(truth for part in parts for truth in part.truths),
        tuple(image for part in parts for image in part.images),
    )


def _write_film(
    dealer: _Dealer,
    truth_folder: Path,
    patient: CbisPatient,
    film: Film,
    kind: Abnormality,
    lesions: Sequence[PlacedLesion],
) -> CbisWritten:
    """Write the image of a film that is listed with one kind of lesion."""
    part = patient.parts[kind]
    name = f"{_PREFIX[kind]}-{part}_{patient.patient_id}_{film.plan.laterality.value}_{film.plan.view.value}"
    image_id = image_id_of(SOURCE, patient.patient_id, film, kind)
    series = dealer.place.series(name, FULL)
    fault = next(dealer.film_faults)
    content: bytes | None = dicom_bytes(series, 0, film.plan, film.pixels, {})
    if fault is not None and content is not None:
        content = FILM_FAULTS[fault](content)
    images = [] if content is None else [_write(series, 0, content)]
    injected = [
        FaultTruth(each, patient.patient_id, image_id, "")
        for each in (patient.fault, dealer.layout_fault, dealer.row_fault, fault)
        if each is not None
    ]
    rows = []
    for placed in lesions:
        files, roi_fault = roi_files(film, placed, dealer.rng), next(dealer.roi_faults)
        if roi_fault is not None:
            files = ROI_FAULTS[roi_fault](files)
            finding_id = f"{image_id}_{placed.lesion.number}"
            injected.append(FaultTruth(roi_fault, patient.patient_id, image_id, finding_id))
        crop, mask, written = _write_roi(dealer.place, f"{name}_{placed.lesion.number}", film.plan, kind, files)
        images += written
        values = _values(patient, film.plan, placed.lesion, (series.table_path(0), crop, mask))
        if dealer.row_fault is not None:
            values |= {key: value for key, value in ROW_FAULTS[dealer.row_fault].items() if key in values}
        rows.append(TableRow(_TABLES[kind, part], tuple(values.values())))
    truth = write_film_truth(
        truth_folder,
        film,
        lesions,
        image_id=image_id,
        patient_id=patient.patient_id,
        density=patient.density,
        normal=False,
        scanner="",
    )
    return CbisWritten(tuple(rows), (replace(truth, faults=tuple(injected)),), tuple(images))


def write_cbis_tables(root: Path, rows: Sequence[TableRow], faults: Collection[Fault]) -> None:
    """Write all four tables, those without rows too."""
    for (kind, _), table in _TABLES.items():
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_header(kind))
        writer.writerows(row.values for row in rows if row.table == table)
        content = text.getvalue()
        for fault, spoil in TABLE_FAULTS.items():
            content = spoil(content) if fault in faults else content
        write_bytes(root / table, content.encode())


def _header(kind: Abnormality) -> tuple[str, ...]:
    density, described = _DESCRIBED[kind]
    before = ("patient_id", density, "left or right breast", "image view", "abnormality id", "abnormality type")
    after = ("assessment", "pathology", "subtlety", "image file path", "cropped image file path")
    return (*before, *described, *after, "ROI mask file path")


def _values(patient: CbisPatient, film: FilmPlan, lesion: Lesion, paths: tuple[str, str, str]) -> dict[str, str]:
    """A row by column, in the order of the header."""
    image, crop, mask = paths
    # The tables break the line inside the quotes: after the ROI path for masses, after the crop's for calcifications.
    if lesion.abnormality is Abnormality.MASS:
        mask += "\n"
    else:
        crop += "\n"
    values = (
        patient.patient_id,
        str(patient.density),
        film.laterality.value,
        film.view.value,
        str(lesion.number),
        lesion.abnormality.value,
        lesion.shape,
        lesion.margins,
        str(lesion.assessment),
        lesion.pathology_listed,
        str(lesion.subtlety),
        image,
        crop,
        mask,
    )
    return dict(zip(_header(lesion.abnormality), values, strict=True))


def _write_roi(
    place: CbisFolder, folder: str, film: FilmPlan, kind: Abnormality, files: RoiFiles
) -> tuple[str, str, list[WrittenImage]]:
    """Write crop and ROI mask; returns what the table says their paths are, and the files."""
    if files.apart:
        crop, mask = (place.series(folder, CROP), 0), (place.series(folder, MASK), 0)
        listed = (crop[0].table_path(0), mask[0].table_path(0))
        listed = listed[::-1] if files.swapped else listed
    else:
        series = place.series(folder, files.description)
        # Mass tables call file 0 the crop, calcification tables file 1; what the files hold is another matter.
        first = 0 if kind is Abnormality.MASS else 1
        listed = (series.table_path(first), series.table_path(1 - first))
        crop_number = 1 - first if files.swapped else first
        crop, mask = (series, crop_number), (series, 1 - crop_number)
    written = []
    if files.crop is not None:
        written.append(_write(*crop, dicom_bytes(*crop, film, files.crop, {})))
    if files.mask is not None:
        written.append(_write(*mask, dicom_bytes(*mask, film, files.mask, files.mask_header)))
    return *listed, written


def _write(series: Series, number: int, content: bytes) -> WrittenImage:
    write_bytes(series.file(number), content)
    return WrittenImage(series.file(number), series)
