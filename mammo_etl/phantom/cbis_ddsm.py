"""Phantom films as CBIS-DDSM publishes its own: DICOM files in NBIA's folders, and four tables.

The quirks are the collection's: a side and view seen with a mass and with a calcification is two images; crop and ROI mask share
a series, and the tables name one for the other; a newline stands inside a quoted path of every table row.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from mammo_etl.phantom.film import Film, PlacedLesion
from mammo_etl.phantom.plan import CbisPatient, Lesion
from mammo_etl.phantom.truth import Truth, image_id_of, write_film_truth
from mammo_etl.records import Abnormality, Box
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
_FULL, _MASK, _CROP = "full mammogram images", "ROI mask images", "cropped images"

# Of the findings whose files were looked into, all calcifications and 28% of the masses had crop and mask exchanged in the table.
_SWAPPED = {Abnormality.MASS: 0.28, Abnormality.CALCIFICATION: 0.9}
# In 7% of the rows of the mass tables crop and mask have a series each; in those of the calcifications next to none.
_APART = {Abnormality.MASS: 0.07, Abnormality.CALCIFICATION: 0.0}


@dataclass(frozen=True)
class TableRow:
    """One finding's row."""

    table: str
    """File name of the table."""
    values: tuple[str, ...]
    """In the order of the header."""


@dataclass(frozen=True)
class _Series:
    """Where a series lies: on the disk, and in the tables."""

    folder: Path
    study_uid: str
    series_uid: str
    patient_folder: str
    old_layout: bool

    def file(self, number: int) -> Path:
        """File of an image of the series, numbered from 0."""
        return self.folder / (f"{number:06d}.dcm" if self.old_layout else f"1-{number + 1}.dcm")

    def table_path(self, number: int) -> str:
        """The same as the tables write it, whatever the folders are called."""
        return f"{self.patient_folder}/{self.study_uid}/{self.series_uid}/{number:06d}.dcm"


def write_cbis_film(
    root: Path,
    truth_folder: Path,
    patient: CbisPatient,
    film: Film,
    *,
    old_layout: bool,
    rng: np.random.Generator,
    seed: int,
) -> tuple[list[TableRow], list[Truth]]:
    """Write a film below the source's folder `root`, once for each kind of lesion it shows, and its truth.

    `old_layout` chooses between the two folder layouts that NBIA's downloaders have made.
    """
    rows, truths = [], []
    for kind, part in patient.parts.items():
        lesions = [placed for placed in film.lesions if placed.lesion.abnormality is kind]
        if not lesions:
            continue
        name = f"{_PREFIX[kind]}-{part}_{patient.patient_id}_{film.plan.laterality.value}_{film.plan.view.value}"
        series = _series(root, name, _FULL, seed, old_layout)
        _write_image(series, 0, film, film.pixels, _FULL)
        for placed in lesions:
            crop, mask = _write_finding(root, name, film, placed, old_layout, rng, seed)
            paths = (series.table_path(0), crop, mask)
            rows.append(TableRow(_TABLES[kind, part], _values(patient, film, placed.lesion, paths)))
        truths.append(
            write_film_truth(
                truth_folder,
                film,
                lesions,
                image_id=image_id_of(SOURCE, patient.patient_id, film, kind),
                patient_id=patient.patient_id,
                density=patient.density,
                normal=False,
                scanner="",
            )
        )
    return rows, truths


def write_cbis_tables(root: Path, rows: Sequence[TableRow]) -> None:
    """Write all four tables, those without rows too."""
    for (kind, _), table in _TABLES.items():
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_header(kind))
        writer.writerows(row.values for row in rows if row.table == table)
        write_bytes(root / table, text.getvalue().encode())


def _header(kind: Abnormality) -> tuple[str, ...]:
    density, described = _DESCRIBED[kind]
    before = ("patient_id", density, "left or right breast", "image view", "abnormality id", "abnormality type")
    after = ("assessment", "pathology", "subtlety", "image file path", "cropped image file path")
    return (*before, *described, *after, "ROI mask file path")


def _values(patient: CbisPatient, film: Film, lesion: Lesion, paths: tuple[str, str, str]) -> tuple[str, ...]:
    image, crop, mask = paths
    # The tables break the line inside the quotes: after the ROI path for masses, after the crop's for calcifications.
    if lesion.abnormality is Abnormality.MASS:
        mask += "\n"
    else:
        crop += "\n"
    return (
        patient.patient_id,
        str(patient.density),
        film.plan.laterality.value,
        film.plan.view.value,
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


def _write_finding(
    root: Path,
    name: str,
    film: Film,
    placed: PlacedLesion,
    old_layout: bool,
    rng: np.random.Generator,
    seed: int,
) -> tuple[str, str]:
    """Write crop and ROI mask; returns what the table says their paths are."""
    kind = placed.lesion.abnormality
    folder = f"{name}_{placed.lesion.number}"
    rows, columns = film.pixels.shape
    crop = _crop(film.pixels, placed.roi.box)
    mask = placed.roi.on_film(rows, columns)
    apart, swapped = rng.random() < _APART[kind], rng.random() < _SWAPPED[kind]
    if apart:
        crop_series = _series(root, folder, _CROP, seed, old_layout)
        mask_series = _series(root, folder, _MASK, seed, old_layout)
        _write_image(crop_series, 0, film, crop, _CROP)
        _write_image(mask_series, 0, film, mask, _MASK)
        paths = (crop_series.table_path(0), mask_series.table_path(0))
        return paths[::-1] if swapped else paths
    described = _MASK if rng.random() < 0.5 else _CROP
    series = _series(root, folder, described, seed, old_layout)
    # Mass tables call file 0 the crop, calcification tables file 1; what the files hold is another matter.
    listed_crop = 0 if kind is Abnormality.MASS else 1
    crop_number = 1 - listed_crop if swapped else listed_crop
    _write_image(series, crop_number, film, crop, described)
    _write_image(series, 1 - crop_number, film, mask, described)
    return series.table_path(listed_crop), series.table_path(1 - listed_crop)


def _crop(pixels: NDArray[np.uint16], box: Box) -> NDArray[np.uint16]:
    """The ROI's box, grown by a tenth of its longer side on each side as far as the film goes."""
    margin = max(2, max(box.height, box.width) // 10)
    return pixels[max(0, box.y - margin) : box.bottom + margin, max(0, box.x - margin) : box.right + margin]


def _series(root: Path, patient_folder: str, described: str, seed: int, old_layout: bool) -> _Series:
    def uid(*names: str) -> str:
        return generate_uid(entropy_srcs=[str(seed), patient_folder, *names])

    study, series = uid("study"), uid("series", described)
    # NBIA ends its folder names with the last five figures of a UID.
    if old_layout:
        folders = (f"10-04-2016-DDSM-{study[-5:]}", f"1-{described}-{series[-5:]}")
    else:
        folders = (f"07-20-2016-DDSM-{study[-5:]}", f"1.000000-{described}-{series[-5:]}")
    return _Series(
        root / "CBIS-DDSM" / patient_folder / folders[0] / folders[1],
        study,
        series,
        patient_folder,
        old_layout,
    )


def _write_image(
    series: _Series,
    number: int,
    film: Film,
    pixels: NDArray[np.uint16] | NDArray[np.uint8],
    described: str,
) -> None:
    """Write one DICOM file: 16-bit pixels for full images and crops, 8-bit for masks."""
    bits = pixels.dtype.itemsize * 8
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series.series_uid, str(number)])
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyDate = "20160720"
    dataset.StudyTime = "130000"
    dataset.AccessionNumber = ""
    dataset.Modality = "MG"
    dataset.ConversionType = "WSD"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = described
    dataset.PatientName = series.patient_folder
    dataset.PatientID = series.patient_folder
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.BodyPartExamined = "BREAST"
    dataset.StudyInstanceUID = series.study_uid
    dataset.SeriesInstanceUID = series.series_uid
    dataset.StudyID = "DDSM"
    dataset.SeriesNumber = "1"
    dataset.InstanceNumber = str(number + 1)
    # CBIS-DDSM gives the view here instead of an orientation.
    dataset.PatientOrientation = film.plan.view.value
    dataset.Laterality = film.plan.laterality.value[0]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    content = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    # DICOM values have an even length (PS3.5, section 7.1).
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    write_bytes(series.file(number), file.getvalue())
