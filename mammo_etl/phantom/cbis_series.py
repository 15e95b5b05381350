"""Where the series of CBIS-DDSM lie: in the tables, and on disks in the layouts that downloaders have made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydicom.uid import UID, generate_uid

from mammo_etl.phantom.source_faults import Fault

FULL, MASK, CROP = "full mammogram images", "ROI mask images", "cropped images"
"""Descriptions of series."""


@dataclass(frozen=True)
class Series:
    """One series: what its images' headers say of it, and where it lies."""

    place: "CbisFolder"
    patient_folder: str
    """Also the PatientID, as Mass-Training_P_00001_LEFT_CC_1."""
    description: str
    study_uid: str
    series_uid: str

    def file(self, number: int) -> Path:
        """File of an image of the series, numbered from 0."""
        return self.place.root / self.place.layout(self, number).with_suffix(self.place.suffix)

    def table_path(self, number: int) -> str:
        """The same as the tables write it, whatever the folders are called."""
        return f"{self.patient_folder}/{self.study_uid}/{self.series_uid}/{number:06d}.dcm"

    def instance_uid(self, number: int) -> UID:
        """SOP instance UID of an image."""
        return generate_uid(entropy_srcs=[self.series_uid, str(number)])


@dataclass(frozen=True)
class CbisFolder:
    """The folder of a patient's files."""

    root: Path
    """The source's folder."""
    layout: Callable[[Series, int], PurePosixPath]
    """Path below the root of an image of a series."""
    suffix: str
    """What files end in."""
    seed: int
    """Decides the UIDs."""

    def series(self, patient_folder: str, description: str) -> Series:
        """A series of a study of its own."""

        def uid(*names: str) -> str:
            return generate_uid(entropy_srcs=[str(self.seed), patient_folder, *names])

        return Series(self, patient_folder, description, uid("study"), uid("series", description))


def old_nbia(series: Series, number: int) -> PurePosixPath:
    """NBIA's first downloader; it ends its folder names with the last five figures of a UID, as the later ones do."""
    return _nbia(series, "10-04-2016-DDSM", "1", f"{number:06d}.dcm")


def new_nbia(series: Series, number: int) -> PurePosixPath:
    """NBIA's newer downloaders."""
    return _nbia(series, "07-20-2016-DDSM", "1.000000", f"1-{number + 1}.dcm")


def _ddsm_na(series: Series, number: int) -> PurePosixPath:
    return _nbia(series, "07-20-2016-DDSM-NA", "1.000000", f"1-{number + 1}.dcm")


def _nbia(series: Series, study: str, series_number: str, name: str) -> PurePosixPath:
    return PurePosixPath(
        "CBIS-DDSM",
        series.patient_folder,
        f"{study}-{series.study_uid[-5:]}",
        f"{series_number}-{series.description}-{series.series_uid[-5:]}",
        name,
    )


def _api(series: Series, number: int) -> PurePosixPath:
    return PurePosixPath(series.patient_folder, series.study_uid, series.series_uid, f"1-{number + 1}.dcm")


def _table(series: Series, number: int) -> PurePosixPath:
    return PurePosixPath(series.table_path(number))


def _flat(series: Series, number: int) -> PurePosixPath:
    return PurePosixPath("dicom", f"{series.instance_uid(number)}.dcm")


LAYOUT_FAULTS: dict[Fault, Callable[[Series, int], PurePosixPath]] = {
    Fault.OLD_NBIA: old_nbia,
    Fault.NEW_NBIA: new_nbia,
    Fault.DDSM_NA: _ddsm_na,
    Fault.API_LAYOUT: _api,
    Fault.TABLE_LAYOUT: _table,
    Fault.FLAT: _flat,
}
"""One for all files of a patient."""
