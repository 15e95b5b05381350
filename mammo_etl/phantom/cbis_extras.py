"""What lies beside CBIS-DDSM's films in a folder: NBIA's list of series, second copies, and files that do not belong there."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mammo_etl.phantom.cbis_dicom import dicom_bytes
from mammo_etl.phantom.cbis_series import CbisFolder, Series, new_nbia
from mammo_etl.phantom.plan import FilmPlan
from mammo_etl.phantom.source_faults import Fault
from mammo_etl.records import Laterality, View
from mammo_etl.workspace import write_bytes


@dataclass(frozen=True)
class WrittenImage:
    """A DICOM file."""

    path: Path
    series: Series


def _list_series(root: Path, images: Sequence[WrittenImage]) -> None:
    """NBIA's `metadata.csv`, one row per series."""
    by_series: dict[Series, list[Path]] = {}
    for image in images:
        by_series.setdefault(image.series, []).append(image.path)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_METADATA)
    for series, paths in by_series.items():
        writer.writerow(
            (
                series.series_uid,
                "CBIS-DDSM",
                "NO",
                "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY",
                series.patient_folder,
                series.study_uid,
                "",
                "07-20-2016",
                series.description,
                "",
                "MG",
                "Secondary Capture Image Storage",
                "1.2.840.10008.5.1.4.1.1.7",
                len(paths),
                f"{sum(path.stat().st_size for path in paths) / 1e6:.2f} MB",
                f"./{paths[0].parent.relative_to(root).as_posix()}",
                "2021-09-14T12:00:00.000",
            )
        )
    write_bytes(root / "metadata.csv", text.getvalue().encode())


_METADATA = (
    "Series UID",
    "Collection",
    "3rd Party Analysis",
    "Data Description URI",
    "Subject ID",
    "Study UID",
    "Study Description",
    "Study Date",
    "Series Description",
    "Manufacturer",
    "Modality",
    "SOP Class Name",
    "SOP Class UID",
    "Number of Images",
    "File Size",
    "File Location",
    "Download Timestamp",
)


def _copy_all(root: Path, images: Sequence[WrittenImage]) -> None:
    for image in images:
        write_bytes(root / "second download" / image.path.relative_to(root), image.path.read_bytes())


def _litter(root: Path, images: Sequence[WrittenImage]) -> None:
    """What archives, operating systems and other collections leave."""
    write_bytes(root / "README.txt", b"Curated Breast Imaging Subset of DDSM.\n")
    write_bytes(root / ".DS_Store", b"\0\0\0\1Bud1")
    write_bytes(root / "other.csv", b"path,label\nx.png,1\n")
    done, thumbnail = cv2.imencode(".jpg", np.zeros((32, 24), np.uint8))
    if not done:
        raise RuntimeError(f"{root}: OpenCV could not encode the thumbnail as JPEG")
    for folder in sorted({image.path.parent for image in images}):
        write_bytes(folder / "Thumbs.db", b"\xd0\xcf\x11\xe0")
        write_bytes(folder / "thumb.jpg", thumbnail.tobytes())
    for image in images:
        # macOS keeps attributes in files of such names on other filesystems.
        write_bytes(image.path.with_name(f"._{image.path.name}"), b"\0\5\x16\7")
    other = CbisFolder(root / "other", new_nbia, ".dcm", 0).series("OTHER-0001", "survey")
    film = FilmPlan(Laterality.LEFT, View.CC, ())
    write_bytes(other.file(0), dicom_bytes(other, 0, film, np.zeros((64, 48), np.uint16), {}))


EXTRAS_FAULTS: dict[Fault, Callable[[Path, Sequence[WrittenImage]], None]] = {
    Fault.METADATA_CSV: _list_series,
    Fault.DUPLICATE_INSTANCE: _copy_all,
    Fault.EXTRA_FILES: _litter,
}
"""Each for the whole source, after all its images are written: root and images."""
