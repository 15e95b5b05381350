"""CBIS-DDSM: tables and DICOM files made here in every layout and with every fault known of the originals, and the real tables."""

import csv
import io
import random
import shutil
import zipfile
from dataclasses import dataclass
from io import BytesIO
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from mammo_etl import dicom
from mammo_etl.files import SourceFileError, list_files
from mammo_etl.film import Film, read_film
from mammo_etl.film_work import film_work
from mammo_etl.records import Abnormality, Label, Laterality, Pathology, Reason, Rejection, RoiKind, Verdict, View
from mammo_etl.sources import Inventory, cbis_ddsm

ROWS, COLUMNS = 40, 30
FILM = np.random.default_rng(3).integers(0, 65536, (ROWS, COLUMNS), dtype=np.uint16)
CROP = FILM[5:15, 5:17].copy()
MASK = np.zeros((ROWS, COLUMNS), np.uint8)
MASK[6:14, 6:16] = 255

TABLE = "mass_case_description_train_set.csv"
LAYOUTS = ("old", "new", "api", "tables", "flat")


def dicom_bytes(
    pixels: NDArray[np.generic], patient: str, series: str, number: int, sop: str | None = None, description: str = ""
) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = sop or generate_uid()
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = series, "1.2.3"
    dataset.PatientID, dataset.SeriesDescription = patient, description
    dataset.InstanceNumber = number + 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def series_uid(*names: object) -> str:
    return generate_uid(entropy_srcs=[str(name) for name in names])


@dataclass(frozen=True)
class Place:
    """Where the files of one series lie, in the layout of one downloader, and what the tables call them."""

    root: Path
    layout: str
    patient: str
    series: str

    def path(self, number: int) -> Path:
        folders = {
            "old": (self.patient, "10-04-2016-DDSM-30104", f"1-ROI mask images-{self.series[-5:]}"),
            "new": (self.patient, "07-20-2016-DDSM-NA-74994", f"1.000000-cropped images-{self.series[-5:]}"),
            "api": (self.patient, "1.2.3", self.series),
            "tables": (self.patient, "1.2.3", self.series),
            "flat": (),
        }[self.layout]
        name = {
            "new": f"1-{number + 1}.dcm",
            "api": f"1-{number + 1}.dcm",
            "flat": f"{self.patient}-{number}-{self.series[-8:]}.DCM",
        }.get(self.layout, f"{number:06d}.dcm")
        return self.root.joinpath(*folders, name)

    def write(self, number: int, pixels: NDArray[np.generic], **fields: str) -> Path:
        path = self.path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom_bytes(pixels, self.patient, self.series, number, **fields))
        return path

    def listed(self, number: int) -> str:
        return f"{self.patient}/1.2.3/{self.series}/{number:06d}.dcm"


@dataclass
class Case:
    """A film with findings, as it goes to disk and into the table."""

    root: Path
    layout: str = "old"
    patient: str = "P_00001"
    laterality: str = "LEFT"
    view: str = "CC"
    kind: str = "mass"
    part: str = "Training"

    @property
    def name(self) -> str:
        return f"{self.kind.title()}-{self.part}_{self.patient}_{self.laterality}_{self.view}"

    def film(self) -> Place:
        return Place(self.root, self.layout, self.name, series_uid(self.name))

    def roi(self, number: int = 1, which: str = "both") -> Place:
        return Place(self.root, self.layout, f"{self.name}_{number}", series_uid(self.name, number, which))

    def row(self, number: int = 1, crop: str | None = None, mask: str | None = None, **values: str) -> dict[str, str]:
        roi = self.roi(number)
        described = {
            "mass": {"breast_density": "3", "mass shape": "OVAL", "mass margins": "SPICULATED"},
            "calc": {"breast density": "3", "calc type": "PLEOMORPHIC", "calc distribution": "N/A"},
        }[self.kind]
        return {
            "patient_id": self.patient,
            **described,
            "left or right breast": self.laterality,
            "image view": self.view,
            "abnormality id": str(number),
            "abnormality type": "mass" if self.kind == "mass" else "calcification",
            "assessment": "4",
            "pathology": "MALIGNANT",
            "subtlety": "0",
            "image file path": self.film().listed(0),
            "cropped image file path": crop or roi.listed(0),
            "ROI mask file path": (mask or roi.listed(1)) + "\n",
        } | values

    def write(self) -> "Case":
        """A film with one finding whose crop is file 0 and whose mask file 1."""
        self.film().write(0, FILM)
        self.roi().write(0, CROP)
        self.roi().write(1, MASK)
        return self


def write_table(root: Path, rows: list[dict[str, str]], name: str = TABLE, newline: str = "\n") -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.getvalue().encode())


def inventory_of(root: Path | str) -> Inventory:
    listing = list_files(str(root), "cbis-ddsm")
    headers, rejects = {}, list(listing.rejects)
    for url in listing.files:
        if cbis_ddsm.wants(url):
            try:
                headers[url] = cbis_ddsm.read_header(url)
            except SourceFileError as error:
                rejects.append(Rejection(stage="inventory", code=error.code, message=error.message, path=url))
    result = cbis_ddsm.assemble(listing.files, headers, rejects)
    files, items = list(listing.files), list(headers.items())
    random.Random(1).shuffle(files)
    random.Random(2).shuffle(items)
    assert cbis_ddsm.assemble(files, dict(items), rejects[::-1]) == result
    return result


def codes(inventory: Inventory) -> list[tuple[Reason, str]]:
    return sorted((reject.code, reject.finding_id or reject.image_id) for reject in inventory.rejects)


IMAGE = "cbis-ddsm_P_00001_LEFT_CC_mass"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("swapped", [False, True])
def test_every_layout(tmp_path: Path, layout: str, swapped: bool) -> None:
    case = Case(tmp_path / "images", layout)
    film = case.film().write(0, FILM, sop="1.2.3.4")
    crop = case.roi().write(1 if swapped else 0, CROP, description="ROI mask images")
    mask = case.roi().write(0 if swapped else 1, MASK, description="ROI mask images")
    write_table(tmp_path / "tables", [case.row()])
    inventory = inventory_of(tmp_path)
    (scan,), (finding,) = inventory.scans, inventory.findings
    assert inventory.rejects == ()
    assert (scan.image_id, scan.patient_id, scan.laterality, scan.view) == (IMAGE, "P_00001", Laterality.LEFT, View.CC)
    assert (scan.path, scan.sop_instance_uid) == (str(film), "1.2.3.4")
    assert (scan.rows, scan.columns, scan.bits, scan.density, scan.pixel_um) == (ROWS, COLUMNS, 16, 3, None)
    assert (scan.normal, scan.official_split, scan.scanner, scan.institution) == (False, "train", "", "")
    assert (finding.finding_id, finding.image_id, finding.label) == (f"{IMAGE}_1", IMAGE, Label.MALIGNANT_MASS)
    assert (finding.roi_kind, finding.roi_path, finding.crop_path) == (RoiKind.MASK, str(mask), str(crop))
    assert (finding.assessment, finding.subtlety, finding.descriptors) == (4, 0, "OVAL; SPICULATED")
    # Flat file names are the downloader's own: there the instance number of the header tells.
    assert finding.verdict is (Verdict.SWAPPED if swapped else Verdict.AS_LISTED)
    assert finding.mask_listed_as == ("crop" if swapped else "mask")
    assert (finding.mask_bits, finding.mask_rows, finding.mask_columns) == (8, ROWS, COLUMNS)
    assert (finding.mask_ratio_y, finding.mask_ratio_x, finding.match_score) == (1.0, 1.0, None)


def test_zip(tmp_path: Path) -> None:
    case = Case(tmp_path / "x").write()
    write_table(tmp_path / "x", [case.row()])
    with zipfile.ZipFile(tmp_path / "cbis.zip", "w") as archive:
        for path in (tmp_path / "x").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "x"))
    inventory = inventory_of(tmp_path / "cbis.zip")
    assert (len(inventory.scans), len(inventory.findings), inventory.rejects) == (1, 1, ())


@pytest.mark.parametrize("swapped", [False, True])
def test_crop_and_mask_in_series_of_their_own(tmp_path: Path, swapped: bool) -> None:
    case = Case(tmp_path)
    case.film().write(0, FILM)
    one, other = case.roi(1, "one"), case.roi(1, "other")
    crop, mask = one.write(0, CROP), other.write(0, MASK)
    listed = (other.listed(0), one.listed(0)) if swapped else (one.listed(0), other.listed(0))
    write_table(tmp_path, [case.row(1, *listed)])
    (finding,) = inventory_of(tmp_path).findings
    assert (finding.roi_path, finding.crop_path) == (str(mask), str(crop))
    assert finding.verdict is (Verdict.SWAPPED if swapped else Verdict.SPLIT_SERIES)
    assert finding.mask_listed_as == ("crop" if swapped else "mask")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("strayed", ["crop", "mask"])
def test_crop_and_mask_that_have_come_apart(tmp_path: Path, strayed: str, number: int) -> None:
    """The tables name one series for both; one of the two is in another, which no table names, under whatever number."""
    case = Case(tmp_path)
    case.film().write(0, FILM)
    places = {"crop": case.roi(), "mask": case.roi()} | {strayed: case.roi(1, "strayed")}
    numbers = {"crop": 0, "mask": 1} | {strayed: number}
    crop, mask = places["crop"].write(numbers["crop"], CROP), places["mask"].write(numbers["mask"], MASK)
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (finding,) = inventory.findings
    assert (finding.roi_path, finding.crop_path) == (str(mask), str(crop))
    assert finding.verdict is Verdict.SPLIT_SERIES
    assert finding.mask_listed_as == ("mask" if strayed == "crop" else "")
    assert inventory.rejects == ()


@pytest.mark.parametrize("pixels", [FILM[:20, :20], MASK[::-1]], ids=["another crop", "another mask"])
def test_unlisted_series_of_the_patient_do_not_displace_listed_files(
    tmp_path: Path, pixels: NDArray[np.generic]
) -> None:
    case = Case(tmp_path).write()
    extra = case.roi(1, "AAA").write(0, np.ascontiguousarray(pixels))
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (finding,) = inventory.findings
    assert (finding.roi_path, finding.crop_path) == (str(case.roi().path(1)), str(case.roi().path(0)))
    assert finding.verdict is Verdict.AS_LISTED
    assert [(row.code, row.path) for row in inventory.rejects] == [(Reason.NOT_IN_TABLES, str(extra))]


def test_the_tables_tell_a_patients_parts_though_a_film_is_missing(tmp_path: Path) -> None:
    train, test = Case(tmp_path).write(), Case(tmp_path, part="Test", view="MLO")
    write_table(tmp_path, [train.row()])
    write_table(tmp_path, [test.row()], name=TABLE.replace("train", "test"))
    (scan,) = inventory_of(tmp_path).scans
    assert (scan.official_split, scan.official_parts) == ("train", ("test", "train"))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1839, 1379), (1392, 1044), (1599, 1199), (1608, 1200)])
def test_mask_of_another_size_in_one_ratio(tmp_path: Path, rows: int, columns: int, swapped: bool) -> None:
    """Of 43.5 and 50 um, the other way round, off by one pixel, and by just less than 0.5% in one direction alone."""
    film = np.zeros((1600, 1200), np.uint16)
    case = Case(tmp_path)
    case.film().write(0, film)
    case.roi().write(1 if swapped else 0, CROP)
    mask = case.roi().write(0 if swapped else 1, np.zeros((rows, columns), np.uint8))
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (finding,) = inventory.findings
    assert (finding.verdict, finding.roi_kind, finding.roi_path) == (Verdict.RESCALED, RoiKind.MASK, str(mask))
    assert (finding.mask_rows, finding.mask_columns) == (rows, columns)
    assert (finding.mask_ratio_y, finding.mask_ratio_x) == (1600 / rows, 1200 / columns)
    assert finding.mask_listed_as == ("crop" if swapped else "mask")
    assert inventory.rejects == ()


LARGE_CROP = FILM[:36, :27].copy()
EIGHT = (FILM >> 8).astype(np.uint8)


@pytest.mark.parametrize(
    ("files", "mask_number", "reads"),
    [
        # By depth and size alone.
        ((CROP, MASK), 1, 0),
        ((LARGE_CROP, MASK), 1, 0),
        ((EIGHT[5:15, 5:17], MASK), 1, 0),
        ((MASK,), 0, 0),
        # Two 8-bit files about as large as the film: the one of exactly its size.
        ((EIGHT[:36, :27], MASK), 1, 0),
        # Of the same size, or without an 8-bit file of the film's size: by pixels.
        ((EIGHT, MASK), 1, 2),
        ((CROP, MASK.astype(np.uint16) * 257), 1, 2),
        ((FILM, MASK.astype(np.uint16)), 1, 2),
    ],
)
def test_roles_by_content(
    tmp_path: Path,
    files: tuple[NDArray[np.generic], ...],
    mask_number: int,
    reads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(tmp_path)
    case.film().write(0, FILM)
    paths = [case.roi().write(number, np.ascontiguousarray(pixels)) for number, pixels in enumerate(files)]
    write_table(tmp_path, [case.row()])
    inventory_of(tmp_path)
    opened: list[str] = []

    def spy(url: str) -> Film:
        opened.append(url)
        return read_film(url)

    monkeypatch.setattr(cbis_ddsm, "read_film", spy)
    headers = {str(path): dicom.read_header(str(path)) for path in tmp_path.rglob("*.dcm")}
    inventory = cbis_ddsm.assemble([*headers, str(tmp_path / TABLE)], headers, [])
    (finding,) = inventory.findings
    assert finding.roi_path == str(paths[mask_number])
    assert finding.crop_path == "".join(str(path) for path in paths if path != paths[mask_number])
    assert len(opened) == reads
    assert inventory.rejects == ()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("crop", "mask"), list(permutations(range(3), 2)))
def test_of_two_masks_the_listed_one_is_taken(tmp_path: Path, crop: int, mask: int, layout: str) -> None:
    """Both are of the film's size, so that nothing else tells. File 2 is the cut-out: if it is listed as mask, the two are swapped."""
    case = Case(tmp_path, layout)
    case.film().write(0, FILM)
    paths = [str(case.roi().write(number, pixels)) for number, pixels in enumerate((MASK, np.flipud(MASK), CROP))]
    write_table(tmp_path, [case.row(1, case.roi().listed(crop), case.roi().listed(mask))])
    (finding,) = inventory_of(tmp_path).findings
    assert finding.roi_path == paths[crop if mask == 2 else mask]
    assert finding.crop_path == paths[2]


def test_two_findings_whose_files_are_all_in_one_series(tmp_path: Path) -> None:
    case = Case(tmp_path)
    pixels = (FILM, CROP, MASK, CROP, MASK)
    paths = [str(case.film().write(number, picture)) for number, picture in enumerate(pixels)]
    listed = [case.film().listed(number) for number in range(5)]
    write_table(tmp_path, [case.row(1, *listed[1:3]), case.row(2, *listed[3:5])])
    inventory = inventory_of(tmp_path)
    files = [path for finding in inventory.findings for path in (finding.crop_path, finding.roi_path)]
    assert (files, inventory.rejects) == (paths[1:], ())


@pytest.mark.parametrize("listed", ["one", "other"])
def test_of_masks_in_two_series_the_listed_one_is_taken(tmp_path: Path, listed: str) -> None:
    case = Case(tmp_path)
    case.film().write(0, FILM)
    places = {name: case.roi(1, name) for name in ("one", "other")}
    paths = {name: str(place.write(0, MASK)) for name, place in places.items()}
    crop = "other" if listed == "one" else "one"
    crop_path = places[crop].write(1, CROP)
    write_table(tmp_path, [case.row(1, places[crop].listed(1), places[listed].listed(0))])
    (finding,) = inventory_of(tmp_path).findings
    assert (finding.roi_path, finding.crop_path) == (paths[listed], str(crop_path))


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ((), Reason.MISSING_MASK),
        ((CROP,), Reason.MISSING_MASK),
        ((EIGHT[5:15, 5:17],), Reason.MISSING_MASK),
        ((CROP, LARGE_CROP), Reason.MISSING_MASK),
        # Masks of another shape, or far too small.
        ((CROP, np.zeros((46, 34), np.uint8)), Reason.MASK_SIZE),
        ((CROP, np.zeros((10, 10), np.uint8)), Reason.MASK_SIZE),
        ((CROP, np.zeros((ROWS, COLUMNS - 1), np.uint8)), Reason.MASK_SIZE),
    ],
)
def test_quarantine(tmp_path: Path, files: tuple[NDArray[np.generic], ...], code: Reason) -> None:
    case = Case(tmp_path)
    case.film().write(0, FILM)
    for number, pixels in enumerate(files):
        case.roi().write(number, np.ascontiguousarray(pixels))
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (finding,) = inventory.findings
    assert (finding.verdict, finding.roi_kind) == (Verdict.QUARANTINED, RoiKind.NONE)
    assert (finding.roi_path != "") is (finding.mask_rows is not None) is (code is Reason.MASK_SIZE)
    assert codes(inventory) == [(code, f"{IMAGE}_1")]
    assert len(inventory.scans) == 1


@pytest.mark.parametrize("layout", LAYOUTS[:-1])
def test_truncated_mask(tmp_path: Path, layout: str) -> None:
    case = Case(tmp_path, layout).write()
    path = case.roi().path(1)
    path.write_bytes(path.read_bytes()[:-100])
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert inventory.findings[0].verdict is Verdict.QUARANTINED
    assert codes(inventory) == [(Reason.MISSING_MASK, f"{IMAGE}_1"), (Reason.TRUNCATED_FILE, f"{IMAGE}_1")]
    (message,) = [reject.message for reject in inventory.rejects if reject.code is Reason.MISSING_MASK]
    assert f"{path.name} was rejected (truncated-file)" in message


@pytest.mark.parametrize("layout", LAYOUTS[:-1])
def test_truncated_film(tmp_path: Path, layout: str) -> None:
    case = Case(tmp_path, layout).write()
    path = case.film().path(0)
    path.write_bytes(path.read_bytes()[:-100])
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    # Neither missing too, nor are its findings there.
    assert codes(inventory) == [(Reason.TRUNCATED_FILE, IMAGE)]
    assert (inventory.scans, inventory.findings) == ((), ())


@pytest.mark.parametrize("layout", LAYOUTS[:-1])
@pytest.mark.parametrize("place", ["film", "crop", "mask"])
def test_truncated_copy_beside_a_whole_one(tmp_path: Path, place: str, layout: str) -> None:
    """The file is rejected, and neither film nor finding: both are there. Nothing of the patient is lost."""
    case = Case(tmp_path / "whole", layout).write()
    shutil.copytree(tmp_path / "whole", tmp_path / "copy")
    roi = case.roi()
    path = {"film": case.film().path(0), "crop": roi.path(0), "mask": roi.path(1)}[place]
    copy = tmp_path / "copy" / path.relative_to(tmp_path / "whole")
    copy.write_bytes(copy.read_bytes()[:-100])
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert [(row.code, row.path, row.image_id, row.finding_id) for row in inventory.rejects] == [
        (Reason.TRUNCATED_FILE, str(copy), "", "")
    ]
    assert inventory.findings[0].verdict is Verdict.AS_LISTED
    assert [work.unplaced for work in film_work(inventory.scans, inventory.findings, inventory.rejects)] == [False]


@pytest.mark.parametrize("layout", LAYOUTS[:-1])
def test_truncated_cut_out(tmp_path: Path, layout: str) -> None:
    """The finding is there, without the proof of its place."""
    case = Case(tmp_path, layout).write()
    path = case.roi().path(0)
    path.write_bytes(path.read_bytes()[:-100])
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert [(finding.roi_kind, finding.crop_path) for finding in inventory.findings] == [(RoiKind.MASK, "")]
    assert codes(inventory) == [(Reason.TRUNCATED_FILE, "")]


def test_mask_beside_a_file_whose_pixels_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    case.film().write(0, FILM)
    broken, mask = case.roi().write(0, np.ascontiguousarray(EIGHT)), case.roi().write(1, MASK)
    write_table(tmp_path, [case.row()])

    def read_or_not(url: str) -> Film:
        if url == str(broken):
            raise SourceFileError(Reason.UNREADABLE_FILE, "The file is broken.")
        return read_film(url)

    monkeypatch.setattr(cbis_ddsm, "read_film", read_or_not)
    inventory = inventory_of(tmp_path)
    assert [finding.roi_path for finding in inventory.findings] == [str(mask)]
    assert [(row.code, row.path, row.image_id, row.finding_id) for row in inventory.rejects] == [
        (Reason.UNREADABLE_FILE, str(broken), "", "")
    ]


def test_mask_whose_pixels_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    case.film().write(0, FILM)
    case.roi().write(0, np.ascontiguousarray(EIGHT))
    case.roi().write(1, MASK)
    write_table(tmp_path, [case.row()])

    def broken(url: str) -> None:
        raise SourceFileError(Reason.UNREADABLE_FILE, "The file is broken.")

    monkeypatch.setattr(cbis_ddsm, "read_film", broken)
    assert codes(inventory_of(tmp_path)) == [
        (Reason.MISSING_MASK, f"{IMAGE}_1"),
        (Reason.UNREADABLE_FILE, f"{IMAGE}_1"),
        (Reason.UNREADABLE_FILE, f"{IMAGE}_1"),
    ]


def test_missing_film_is_reported_once(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    case.film().path(0).unlink()
    write_table(tmp_path, [case.row(1), case.row(2), case.row(4)])
    inventory = inventory_of(tmp_path)
    assert codes(inventory) == [(Reason.MISSING_FILES, IMAGE)]
    assert inventory.rejects[0].path == case.film().listed(0)
    assert inventory.findings == ()


def test_findings_of_one_film(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    # Numbers are skipped at times.
    case.roi(3).write(0, CROP)
    case.roi(3).write(1, MASK)
    write_table(tmp_path, [case.row(3), case.row(1)])
    inventory = inventory_of(tmp_path)
    assert [finding.finding_id for finding in inventory.findings] == [f"{IMAGE}_1", f"{IMAGE}_3"]
    assert len(inventory.scans) == 1


def test_mass_and_calcification_of_one_view_are_two_films(tmp_path: Path) -> None:
    mass, calc = Case(tmp_path).write(), Case(tmp_path, kind="calc", part="Test").write()
    write_table(tmp_path, [mass.row()])
    write_table(
        tmp_path / "deeper",
        [calc.row(pathology="BENIGN_WITHOUT_CALLBACK")],
        "CALC_case_description_TEST_set.csv",
        "\r\n",
    )
    inventory = inventory_of(tmp_path)
    assert [scan.image_id for scan in inventory.scans] == [IMAGE[:-4] + "calc", IMAGE]
    assert [scan.official_split for scan in inventory.scans] == ["test", "train"]
    finding = inventory.findings[0]
    assert (finding.abnormality, finding.pathology) == (Abnormality.CALCIFICATION, Pathology.BENIGN)
    assert finding.pathology_listed == "BENIGN_WITHOUT_CALLBACK"
    assert finding.descriptors == "PLEOMORPHIC"
    assert inventory.rejects == ()


def test_files_that_no_table_names(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    stranger = Case(tmp_path, patient="P_00002").write()
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert [reject.code for reject in inventory.rejects] == [Reason.NOT_IN_TABLES] * 3
    assert {reject.path for reject in inventory.rejects} == {
        str(path) for path in (stranger.film().path(0), stranger.roi().path(0), stranger.roi().path(1))
    }
    assert len(inventory.scans) == 1


def test_copies_of_a_file(tmp_path: Path) -> None:
    case = Case(tmp_path / "a").write()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_table(tmp_path, [case.row()])
    write_table(tmp_path / "again", [case.row()])
    inventory = inventory_of(tmp_path)
    assert inventory.rejects == ()
    assert inventory.scans[0].path == str(case.film().path(0))
    assert inventory.findings[0].roi_path == str(case.roi().path(1))


def test_two_films_in_one_series(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    second = case.film().write(1, FILM)
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert [(reject.code, reject.path, reject.image_id) for reject in inventory.rejects] == [
        (Reason.DUPLICATE_IMAGE, str(second), IMAGE)
    ]
    assert inventory.scans[0].path == str(case.film().path(0))


FILES: dict[str, NDArray[np.generic]] = {"film": FILM, "crop": CROP, "mask": MASK}


@pytest.mark.parametrize("listed", [False, True], ids=["", "listed so"])
@pytest.mark.parametrize("order", list(permutations(FILES)), ids=" ".join)
def test_film_crop_and_mask_in_one_series(tmp_path: Path, order: tuple[str, ...], listed: bool) -> None:
    """Whether the tables know it or name a series for crop and mask that is not there: content decides."""
    case = Case(tmp_path)
    paths = {role: str(case.film().write(number, FILES[role])) for number, role in enumerate(order)}
    names = {role: case.film().listed(number) if listed else None for number, role in enumerate(order)}
    write_table(tmp_path, [case.row(1, names["crop"], names["mask"])])
    inventory = inventory_of(tmp_path)
    (scan,), (finding,) = inventory.scans, inventory.findings
    assert {"film": scan.path, "crop": finding.crop_path, "mask": finding.roi_path} == paths
    assert (finding.roi_kind, finding.mask_listed_as) == (RoiKind.MASK, "mask" if listed else "")
    assert inventory.rejects == ()


@pytest.mark.parametrize("mask", [MASK, np.zeros((48, 36), np.uint8)], ids=["of its size", "of another size"])
@pytest.mark.parametrize("number", [0, 1])
def test_mask_in_the_series_of_its_film(tmp_path: Path, mask: NDArray[np.uint8], number: int) -> None:
    case = Case(tmp_path)
    paths = (case.film().write(1 - number, FILM), case.film().write(number, mask), case.roi().write(0, CROP))
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (scan,), (finding,) = inventory.scans, inventory.findings
    assert (scan.path, finding.roi_path, finding.crop_path) == tuple(map(str, paths))
    assert (scan.bits, finding.roi_kind, finding.mask_listed_as) == (16, RoiKind.MASK, "")
    assert inventory.rejects == ()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("crop", [CROP, LARGE_CROP], ids=["small crop", "large crop"])
@pytest.mark.parametrize("in_films_series", [("mask",), ("mask", "crop")], ids=" ".join)
def test_film_and_mask_exchanged(
    tmp_path: Path, in_films_series: tuple[str, ...], crop: NDArray[np.uint16], number: int
) -> None:
    case = Case(tmp_path)
    pixels = FILES | {"crop": crop}
    paths: dict[str, str] = {}
    for place, roles in ((case.film(), in_films_series), (case.roi(), FILES.keys() - {*in_films_series})):
        for count, role in enumerate(sorted(roles, reverse=bool(number))):
            paths[role] = str(place.write(count, pixels[role]))
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (scan,), (finding,) = inventory.scans, inventory.findings
    assert {"film": scan.path, "crop": finding.crop_path, "mask": finding.roi_path} == paths
    assert inventory.rejects == ()


def test_whose_mask_is_in_the_series_of_the_film(tmp_path: Path) -> None:
    """With two findings, its PatientID tells; where it does not, the mask is taken for neither's."""
    case = Case(tmp_path)
    film = case.film().write(1, FILM)
    for number in (1, 2):
        case.roi(number).write(0, CROP)
    stray = case.film().path(0)
    stray.write_bytes(dicom_bytes(MASK, f"{case.name}_2", case.film().series, 0))
    write_table(tmp_path, [case.row(1), case.row(2)])
    inventory = inventory_of(tmp_path)
    assert [scan.path for scan in inventory.scans] == [str(film)]
    assert [finding.roi_path for finding in inventory.findings] == ["", str(stray)]
    assert codes(inventory) == [(Reason.MISSING_MASK, f"{IMAGE}_1")]
    case.film().write(0, MASK)
    inventory = inventory_of(tmp_path)
    assert [finding.roi_path for finding in inventory.findings] == ["", ""]
    assert codes(inventory) == [
        (Reason.DUPLICATE_IMAGE, IMAGE),
        (Reason.MISSING_MASK, f"{IMAGE}_1"),
        (Reason.MISSING_MASK, f"{IMAGE}_2"),
    ]


@pytest.mark.parametrize("extra", [MASK, CROP, FILM], ids=["mask", "crop", "film"])
def test_files_of_the_films_series_do_not_displace_the_findings_own(tmp_path: Path, extra: NDArray[np.generic]) -> None:
    case = Case(tmp_path).write()
    film, other = case.film().write(1, FILM), case.film().write(0, extra)
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    (scan,), (finding,) = inventory.scans, inventory.findings
    assert (finding.roi_path, finding.crop_path) == (str(case.roi().path(1)), str(case.roi().path(0)))
    assert [(reject.code, {reject.path, scan.path}) for reject in inventory.rejects] == [
        (Reason.DUPLICATE_IMAGE, {str(film), str(other)})
    ]
    assert extra is FILM or scan.path == str(film)


@pytest.mark.parametrize("extra", [MASK, FILM], ids=["mask", "film"])
def test_a_second_film_or_mask_is_no_cut_out(tmp_path: Path, extra: NDArray[np.generic]) -> None:
    case = Case(tmp_path).write()
    case.roi().path(0).unlink()
    case.film().write(1, extra)
    write_table(tmp_path, [case.row()])
    (finding,) = inventory_of(tmp_path).findings
    assert (finding.roi_path, finding.crop_path) == (str(case.roi().path(1)), "")


def test_a_mask_is_no_film(tmp_path: Path) -> None:
    """A film of 8 bits, as other copies have them, is one."""
    case = Case(tmp_path).write()
    case.film().write(0, MASK)
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert (inventory.scans, codes(inventory)) == ((), [(Reason.MISSING_FILES, IMAGE)])
    case.film().write(0, EIGHT)
    inventory = inventory_of(tmp_path)
    assert ([scan.bits for scan in inventory.scans], inventory.rejects) == ([8], ())


def test_joined_by_patient_where_series_were_renamed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    film = Place(tmp_path, "new", case.name, "9.9.1").write(0, FILM)
    crop = Place(tmp_path, "new", f"{case.name}_1", "9.9.2").write(0, CROP)
    mask = Place(tmp_path, "new", f"{case.name}_1", "9.9.2").write(1, MASK)
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert inventory.rejects == ()
    assert inventory.scans[0].path == str(film)
    assert (inventory.findings[0].roi_path, inventory.findings[0].crop_path) == (str(mask), str(crop))


def test_odd_patient_id_is_joined_by_series(tmp_path: Path) -> None:
    # One mask of the collection has this PatientID and no description.
    case = Case(tmp_path).write()
    roi = case.roi()
    roi.path(1).write_bytes(dicom_bytes(MASK, "P_00562_LEFT_CC_2.dcm", roi.series, 1))
    write_table(tmp_path, [case.row()])
    inventory = inventory_of(tmp_path)
    assert inventory.rejects == ()
    assert inventory.findings[0].roi_path == str(roi.path(1))


@pytest.mark.parametrize(
    "values",
    [
        {"pathology": "UNPROVEN"},
        {"left or right breast": "BOTH"},
        {"image view": ""},
        {"abnormality id": "x"},
        {"abnormality type": "other"},
        {"patient_id": "Smith"},
        {"image file path": "000000.dcm"},
        {"ROI mask file path": ""},
    ],
)
def test_rows_that_are_not_understood(tmp_path: Path, values: dict[str, str]) -> None:
    case = Case(tmp_path).write()
    write_table(tmp_path, [case.row(), case.row(2, **values)])
    inventory = inventory_of(tmp_path)
    (reject,) = [reject for reject in inventory.rejects if reject.code is Reason.BAD_TABLE_ROW]
    assert reject.path == str(tmp_path / TABLE)
    assert reject.message.startswith("Row 2: ")
    assert [finding.finding_id for finding in inventory.findings] == [f"{IMAGE}_1"]


def test_second_row_of_a_finding(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    write_table(tmp_path, [case.row(), case.row(pathology="BENIGN")])
    inventory = inventory_of(tmp_path)
    assert [reject.code for reject in inventory.rejects] == [Reason.BAD_TABLE_ROW]
    assert inventory.findings[0].pathology is Pathology.MALIGNANT


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    row = case.row()
    del row["pathology"]
    write_table(tmp_path, [row])
    assert [reject.code for reject in inventory_of(tmp_path).rejects] == [Reason.BAD_TABLE]
    assert "pathology" in inventory_of(tmp_path).rejects[0].message
    for content in (b"", b'a,"b\nc', b"\xff\xfe\0"):
        (tmp_path / TABLE).write_bytes(content)
        inventory = inventory_of(tmp_path)
        assert [reject.code for reject in inventory.rejects] == [Reason.BAD_TABLE]
        assert inventory.rejects[0].path == str(tmp_path / TABLE)
    (tmp_path / TABLE).unlink()
    assert [reject.code for reject in inventory_of(tmp_path).rejects] == [Reason.BAD_TABLE]


def test_tables_that_differ(tmp_path: Path) -> None:
    case = Case(tmp_path).write()
    write_table(tmp_path / "a", [case.row()])
    write_table(tmp_path / "b", [case.row(pathology="BENIGN")])
    inventory = inventory_of(tmp_path)
    assert [(reject.code, reject.path) for reject in inventory.rejects] == [
        (Reason.BAD_TABLE, str(tmp_path / "b" / TABLE))
    ]
    assert inventory.findings[0].pathology is Pathology.MALIGNANT


def test_no_dicom_files(tmp_path: Path) -> None:
    write_table(tmp_path, [Case(tmp_path).row()])
    assert [reject.code for reject in inventory_of(tmp_path).rejects] == [Reason.EMPTY_SOURCE]
