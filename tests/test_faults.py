"""Every fault of the data sets by name: phantoms that carry it, the verdict on them, and their pixels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from numpy.typing import NDArray

from mammo_etl.convert import convert_film
from mammo_etl.density import to_cbis_scale
from mammo_etl.film import read_film
from mammo_etl.film_work import film_work
from mammo_etl.inventory import assemble, list_sources, read_headers
from mammo_etl.phantom.film import Film, make_film
from mammo_etl.phantom.source_faults import FAULTS, Fault
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.records import Finding, Reason, Rejection, RoiFlag, RoiKind, Scan, Verdict
from mammo_etl.roi import region_from_json
from mammo_etl.settings import CleaningSettings, PatchSettings, SourceSettings
from mammo_etl.sources import Inventory

PATIENTS, SEED = 4, 8
SIZE = (480, 320)
LARGE, LARGEST = (960, 640), (1440, 960)
"""Where a mask is drawn at another size: at 480 rows a pixel is a tenth of the smaller lesions. Where the cut-out is, too: one shorter than
32 pixels is found only if it is an exact copy."""

SAME_SOURCE = [
    Fault.OLD_NBIA,
    Fault.NEW_NBIA,
    Fault.DDSM_NA,
    Fault.API_LAYOUT,
    Fault.TABLE_LAYOUT,
    Fault.FLAT,
    Fault.UPPER_CASE,
    Fault.METADATA_CSV,
    Fault.DUPLICATE_INSTANCE,
    Fault.EXTRA_FILES,
    Fault.CRLF_TABLES,
    Fault.BLANK_HEADER,
]
SAME_CASES = [
    Fault.SWAPPED_SIZE,
    Fault.RESTART,
    Fault.TRAILING_BYTES,
    Fault.TRAILING_SPACES,
    Fault.BLANK_LINE,
    Fault.GZIP,
]
FLAGS = {
    Fault.LEAVING_CHAIN: RoiFlag.CLIPPED,
    Fault.OPEN_CHAIN: RoiFlag.OPEN,
    Fault.BROKEN_CHAIN: RoiFlag.BROKEN_OUTLINE,
    Fault.MISCOUNTED: RoiFlag.MISCOUNTED,
}

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Phantoms:
    """Phantoms and what mammo makes of the source that carries the fault."""

    out: Path
    kind: str
    inventory: Inventory
    carriers: pd.DataFrame
    """Rows of source_faults.csv."""

    @property
    def findings(self) -> dict[str, Finding]:
        return {finding.finding_id: finding for finding in self.inventory.findings}

    @property
    def scans(self) -> dict[str, Scan]:
        return {scan.image_id: scan for scan in self.inventory.scans}

    @property
    def carrying(self) -> list[str]:
        """finding_id of those that carry the fault."""
        return sorted(set(self.carriers["finding_id"]) - {""})

    def truth(self, finding_id: str) -> Mask:
        mask = cv2.imread(str(self.out / "truth" / f"{finding_id}.roi.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        return np.asarray(mask, np.uint8)


@dataclass(frozen=True)
class Converted:
    """What conversion made of a source."""

    findings: dict[str, Finding]
    rejects: dict[str, Rejection]
    """By finding_id."""
    regions: dict[str, Mask]
    """By finding_id, as masks of the whole film."""


def make(out: Path, kind: str, *faults: Fault, size: tuple[int, int] = SIZE, patients: int = PATIENTS) -> Phantoms:
    write_phantoms(out, patients, SEED, height=size[0], width=size[1], faults=faults)
    (source,) = list_sources([SourceSettings(kind=kind, path=str(out / kind))])
    inventory = assemble(source, dict(read_headers(kind, source.with_headers)))
    table = out / "truth" / "source_faults.csv"
    assert table.exists() == bool(faults)
    carriers = pd.read_csv(table, keep_default_na=False) if faults else pd.DataFrame({"finding_id": []})
    return Phantoms(out, kind, inventory, carriers)


def convert(phantoms: Phantoms, workspace: Path) -> Converted:
    inventory = phantoms.inventory
    found = Converted({}, {}, {})
    for work in film_work(inventory.scans, inventory.findings, inventory.rejects):
        result = convert_film(work, workspace, CleaningSettings(), PatchSettings(size=64, normals_per_film=0))
        found.findings.update({finding.finding_id: finding for finding in result.findings})
        found.rejects.update({reject.finding_id: reject for reject in result.rejects})
        (receipt,) = workspace.glob(f"images/*/{result.scan.image_id}.json")
        for region in map(region_from_json, json.loads(receipt.read_text())["regions"]):
            mask = np.zeros((work.scan.rows, work.scan.columns), np.uint8)
            box = region.box
            mask[box.y : box.bottom, box.x : box.right] = region.mask
            found.regions[region.finding_id] = mask
    return found


@pytest.fixture(scope="module", autouse=True)
def _drawn_once() -> Iterator[None]:
    """Drawing takes most of the time, and no fault changes what a film shows."""
    films: dict[str, Film] = {}

    def drawn(rng: np.random.Generator, *arguments: Any) -> Film:
        key = repr((rng.bit_generator.state, arguments))
        if key not in films:
            films[key] = make_film(rng, *arguments)
        return films[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammo_etl.phantom.write.make_film", drawn)
        yield


@pytest.fixture(scope="module")
def cbis(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    """CBIS-DDSM without a fault beyond its usual mix."""
    return make(tmp_path_factory.mktemp("plain"), "cbis-ddsm")


@pytest.fixture(scope="module")
def ddsm(cbis: Phantoms) -> Phantoms:
    """DDSM without a fault."""
    return make(cbis.out, "ddsm")


def placeless(inventory: Inventory, **other: Any) -> list[Any]:
    """Scans and findings apart from where their files lie, with other values where there are such fields."""

    def fields(record: Scan | Finding) -> dict[str, Any]:
        names = ("path",) if isinstance(record, Scan) else ("roi_path", "crop_path")
        return dict.fromkeys(names, "") | {name: value for name, value in other.items() if hasattr(record, name)}

    scans = [replace(scan, **fields(scan)) for scan in inventory.scans]
    return [*scans, *(replace(finding, **fields(finding)) for finding in inventory.findings)]


def assert_same_pixels(phantoms: Phantoms, plain: Phantoms, workspace: Path) -> None:
    """The same pixels in films and regions, and the regions those of the truth."""
    assert phantoms.scans.keys() == plain.scans.keys()
    for image_id, scan in phantoms.scans.items():
        expected = plain.scans[image_id]
        np.testing.assert_array_equal(
            read_film(scan.path, scan.rows, scan.columns).pixels,
            read_film(expected.path, expected.rows, expected.columns).pixels,
        )
    converted = convert(phantoms, workspace)
    assert not converted.rejects
    assert converted.regions.keys() == plain.findings.keys()
    for finding_id, region in converted.regions.items():
        np.testing.assert_array_equal(region, plain.truth(finding_id))


def overlap(a: Mask, b: Mask) -> float:
    """Intersection over union."""
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def others(phantoms: Phantoms) -> Iterator[str]:
    """Findings that do not carry the fault."""
    yield from sorted(phantoms.findings.keys() - set(phantoms.carrying))


def assert_some_carry(phantoms: Phantoms, plain: Phantoms) -> None:
    """Some findings carry the fault; the others are as they are without it."""
    assert phantoms.carrying
    assert list(others(phantoms))
    for finding_id in others(phantoms):
        expected = replace(plain.findings[finding_id], roi_path="", crop_path="")
        assert replace(phantoms.findings[finding_id], roi_path="", crop_path="") == expected


def test_every_fault_has_its_test() -> None:
    module = Path(__file__).read_text()
    assert FAULTS.keys() == set(Fault)
    assert not [fault for fault in Fault if f"Fault.{fault.name}" not in module]


# CBIS-DDSM: mask and cut-out


@pytest.mark.parametrize(
    ("fault", "verdict", "listed_as"),
    [
        (Fault.SWAPPED, Verdict.SWAPPED, "crop"),
        (Fault.SPLIT_SERIES, Verdict.SPLIT_SERIES, "mask"),
        (Fault.SHARED_SERIES, Verdict.AS_LISTED, "mask"),
    ],
)
def test_mask_and_crop_are_told_by_content(
    cbis: Phantoms, tmp_path: Path, fault: Fault, verdict: Verdict, listed_as: str
) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", fault)
    assert not phantoms.inventory.rejects
    assert_some_carry(phantoms, cbis)
    converted = convert(phantoms, tmp_path / "workspace")
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        assert (finding.verdict, finding.mask_listed_as, finding.mask_bits) == (verdict, listed_as, 8)
        assert finding.match_score is None
        checked = converted.findings[finding_id]
        assert (checked.verdict, checked.mask_values) == (verdict, (0, 255))
        assert checked.match_score == pytest.approx(1, abs=1e-3)
    assert_same_pixels(phantoms, cbis, tmp_path / "workspace")


def test_split_series_are_two(tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.SPLIT_SERIES)
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        files = [pydicom.dcmread(path, stop_before_pixels=True) for path in (finding.roi_path, finding.crop_path)]
        assert files[0].SeriesInstanceUID != files[1].SeriesInstanceUID


def test_a_mask_of_sixteen_bits(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.SIXTEEN_BIT_MASK)
    assert_some_carry(phantoms, cbis)
    converted = convert(phantoms, tmp_path / "workspace")
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        assert finding.mask_bits == 16
        assert converted.findings[finding_id].mask_values == (0, 65535)
    assert placeless(phantoms.inventory, mask_bits=8) == placeless(cbis.inventory)
    assert_same_pixels(phantoms, cbis, tmp_path / "workspace")


@pytest.mark.parametrize(("fault", "size", "patients"), [(Fault.RESCALED, LARGE, 3), (Fault.RESCALED_CROP, LARGEST, 1)])
def test_a_mask_of_another_size_is_rescaled_and_proved(
    tmp_path: Path, fault: Fault, size: tuple[int, int], patients: int
) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", fault, size=size, patients=patients)
    assert not phantoms.inventory.rejects
    assert phantoms.carrying
    assert list(others(phantoms))
    converted = convert(phantoms, tmp_path / "workspace")
    assert not converted.rejects
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        assert (finding.verdict, finding.match_score) == (Verdict.RESCALED, None)
        assert finding.mask_listed_as in ("mask", "crop")
        assert finding.mask_ratio_y == pytest.approx(50 / 43.5, rel=0.0025)
        assert finding.mask_ratio_x == pytest.approx(50 / 43.5, rel=0.0025)
        checked = converted.findings[finding_id]
        assert (checked.verdict, checked.roi_kind, checked.mask_values) == (Verdict.RESCALED, RoiKind.MASK, (0, 255))
        assert checked.match_score is not None
        assert checked.match_score > (0.999 if fault is Fault.RESCALED else 0.9)
        assert overlap(converted.regions[finding_id], phantoms.truth(finding_id)) > 0.97
    for finding_id in others(phantoms):
        assert converted.findings[finding_id].verdict is not Verdict.RESCALED
        np.testing.assert_array_equal(converted.regions[finding_id], phantoms.truth(finding_id))


@pytest.mark.parametrize("fault", [Fault.RESCALED_NO_CROP, Fault.RESCALED_CROP])
def test_a_mask_of_another_size_that_nothing_proves_is_not_used(cbis: Phantoms, tmp_path: Path, fault: Fault) -> None:
    """There is no cut-out, or it has so few pixels that, reduced, it cannot be found."""
    phantoms = make(tmp_path, "cbis-ddsm", fault)
    assert_some_carry(phantoms, cbis)
    converted = convert(phantoms, tmp_path / "workspace")
    assert sorted(converted.rejects) == phantoms.carrying
    for finding_id in phantoms.carrying:
        assert phantoms.findings[finding_id].verdict is Verdict.RESCALED
        checked = converted.findings[finding_id]
        assert (checked.verdict, checked.roi_kind) == (Verdict.QUARANTINED, RoiKind.NONE)
        assert (checked.match_score is None) == (fault is Fault.RESCALED_NO_CROP)
        assert converted.rejects[finding_id].code is Reason.MASK_UNPROVED
    assert sorted(converted.regions) == list(others(phantoms))


def test_a_stretched_mask_is_not_used(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.STRETCHED_MASK)
    assert_some_carry(phantoms, cbis)
    assert {reject.finding_id: reject.code for reject in phantoms.inventory.rejects} == dict.fromkeys(
        phantoms.carrying, Reason.MASK_SIZE
    )
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        assert (finding.verdict, finding.roi_kind) == (Verdict.QUARANTINED, RoiKind.NONE)
        assert finding.mask_ratio_y == pytest.approx(50 / 43.5, rel=0.0025)
        assert finding.mask_ratio_x == 1
    converted = convert(phantoms, tmp_path / "workspace")
    assert sorted(converted.regions) == list(others(phantoms))


def test_a_mask_of_another_place_is_not_used(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.WRONG_MASK)
    assert_some_carry(phantoms, cbis)
    # Headers cannot tell.
    assert placeless(phantoms.inventory) == placeless(cbis.inventory)
    converted = convert(phantoms, tmp_path / "workspace")
    assert {finding_id: reject.code for finding_id, reject in converted.rejects.items()} == dict.fromkeys(
        phantoms.carrying, Reason.WRONG_MASK
    )
    for finding_id in phantoms.carrying:
        mask = read_film(phantoms.findings[finding_id].roi_path).pixels
        truth = phantoms.truth(finding_id)
        assert np.count_nonzero(mask) == np.count_nonzero(truth)
        grown = cv2.dilate(truth, np.ones((25, 25), np.uint8))
        assert not mask[grown > 0].any(), "the wrong mask lies where the right one does"
        checked = converted.findings[finding_id]
        assert (checked.verdict, checked.roi_kind) == (Verdict.QUARANTINED, RoiKind.NONE)
        assert checked.match_score is not None
        assert checked.match_score < 0.99
    for finding_id in others(phantoms):
        np.testing.assert_array_equal(converted.regions[finding_id], phantoms.truth(finding_id))
    assert sorted(converted.regions) == list(others(phantoms))


def test_a_mask_that_is_not_there(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.MISSING_MASK)
    assert_some_carry(phantoms, cbis)
    assert {reject.finding_id: reject.code for reject in phantoms.inventory.rejects} == dict.fromkeys(
        phantoms.carrying, Reason.MISSING_MASK
    )
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        assert (finding.verdict, finding.roi_kind, finding.roi_path) == (Verdict.QUARANTINED, RoiKind.NONE, "")
        assert finding.mask_bits is None
    assert sorted(convert(phantoms, tmp_path / "workspace").regions) == list(others(phantoms))


# CBIS-DDSM: films, tables, folders


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Fault.MISSING_FILM, Reason.MISSING_FILES), (Fault.TRUNCATED_FILM, Reason.TRUNCATED_FILE)],
)
def test_a_film_that_is_not_whole(cbis: Phantoms, tmp_path: Path, fault: Fault, reason: Reason) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", fault)
    gone = set(phantoms.carriers["image_id"])
    assert set() < gone < cbis.scans.keys()
    assert {(reject.image_id, reject.code) for reject in phantoms.inventory.rejects} == {
        (image_id, reason) for image_id in gone
    }
    left = Inventory(
        tuple(scan for scan in cbis.inventory.scans if scan.image_id not in gone),
        tuple(finding for finding in cbis.inventory.findings if finding.image_id not in gone),
        (),
    )
    assert placeless(phantoms.inventory) == placeless(left)
    for finding_id, region in convert(phantoms, tmp_path / "workspace").regions.items():
        np.testing.assert_array_equal(region, cbis.truth(finding_id))


@pytest.mark.parametrize("fault", SAME_SOURCE)
def test_cbis_ddsm_is_the_same_in_any_layout(cbis: Phantoms, tmp_path: Path, fault: Fault) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", fault)
    assert set(phantoms.carriers["fault"]) == {fault}
    assert placeless(phantoms.inventory) == placeless(cbis.inventory)
    codes = {reject.code for reject in phantoms.inventory.rejects}
    assert codes == ({Reason.NOT_IN_TABLES} if fault is Fault.EXTRA_FILES else set())
    assert_same_pixels(phantoms, cbis, tmp_path / "workspace")
    names = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "cbis-ddsm").rglob("*")}
    before = {path.relative_to(cbis.out).as_posix() for path in (cbis.out / "cbis-ddsm").rglob("*")}
    # The patients of the usual mix are in the two first layouts by turns.
    if fault not in (Fault.CRLF_TABLES, Fault.BLANK_HEADER):
        assert names != before


def test_the_layouts_are_what_they_are_called(tmp_path: Path) -> None:
    folders = {
        Fault.OLD_NBIA: "CBIS-DDSM/*/10-04-2016-DDSM-?????/1-full mammogram images-?????/000000.dcm",
        Fault.NEW_NBIA: "CBIS-DDSM/*/07-20-2016-DDSM-?????/1.000000-full mammogram images-?????/1-1.dcm",
        Fault.DDSM_NA: "CBIS-DDSM/*/07-20-2016-DDSM-NA-?????/1.000000-full mammogram images-?????/1-1.dcm",
        Fault.API_LAYOUT: "Mass-Training_*_CC/1.2.*/1.2.*/1-1.dcm",
        Fault.TABLE_LAYOUT: "Mass-Training_*_CC/1.2.*/1.2.*/000000.dcm",
        Fault.FLAT: "dicom/1.2.*.dcm",
    }
    for fault, pattern in folders.items():
        write_phantoms(tmp_path / fault, 1, SEED, height=320, width=200, faults=[fault])
        assert list((tmp_path / fault / "cbis-ddsm").glob(pattern)), fault
    write_phantoms(tmp_path / "x", 1, SEED, height=320, width=200, faults=[Fault.CRLF_TABLES, Fault.METADATA_CSV])
    source = tmp_path / "x" / "cbis-ddsm"
    table = (source / "mass_case_description_train_set.csv").read_bytes()
    assert table.count(b"\r\n") == table.count(b"\n") == 5
    listed = pd.read_csv(source / "metadata.csv")
    files = list(source.rglob("*.dcm"))
    assert listed["Number of Images"].sum() == len(files)
    assert {source / place for place in listed["File Location"]} == {file.parent for file in files}
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert set(listed["Series UID"]) == {header.SeriesInstanceUID for header in headers}


def test_layouts_may_be_mixed(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.FLAT, Fault.TABLE_LAYOUT, Fault.DUPLICATE_INSTANCE)
    assert set(phantoms.carriers["fault"]) == {Fault.FLAT, Fault.TABLE_LAYOUT, Fault.DUPLICATE_INSTANCE}
    assert placeless(phantoms.inventory) == placeless(cbis.inventory)
    assert not phantoms.inventory.rejects


def test_the_odd_header_is_there(tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.BLANK_HEADER)
    assert phantoms.carrying
    for finding_id in phantoms.carrying:
        header = pydicom.dcmread(phantoms.findings[finding_id].roi_path, stop_before_pixels=True)
        assert (header.PatientID, header.SeriesDescription, header.Laterality) == ("P_00562_LEFT_CC_2.dcm", "", "")


def test_cells_that_say_nothing(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.BLANK_CELLS)
    blank = {"density": None, "subtlety": 0, "descriptors": ""}
    assert not phantoms.inventory.rejects
    assert placeless(phantoms.inventory) == placeless(cbis.inventory, **blank) != placeless(cbis.inventory)
    assert_same_pixels(phantoms, cbis, tmp_path / "workspace")


def test_abnormality_ids_may_skip_numbers(cbis: Phantoms, tmp_path: Path) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", Fault.SKIPPED_IDS)
    assert not phantoms.inventory.rejects
    numbers = {int(finding_id.rsplit("_", 1)[1]) for finding_id in phantoms.findings}
    assert min(numbers) == 2
    assert len(phantoms.findings) == len(cbis.findings)
    for finding_id, region in convert(phantoms, tmp_path / "workspace").regions.items():
        np.testing.assert_array_equal(region, phantoms.truth(finding_id))


@pytest.mark.parametrize("fault", [Fault.TWIN, Fault.BOTH_PARTS])
def test_a_side_and_view_filmed_twice(tmp_path: Path, fault: Fault) -> None:
    phantoms = make(tmp_path, "cbis-ddsm", fault)
    assert not phantoms.inventory.rejects
    assert phantoms.scans.keys() == set(phantoms.carriers["image_id"])
    splits = {"train", "test"} if fault is Fault.BOTH_PARTS else {"train"}
    for work in film_work(phantoms.inventory.scans, phantoms.inventory.findings):
        ((twin, findings),) = work.twins
        assert {twin.image_id[-5:], work.scan.image_id[-5:]} == {"_calc", "_mass"}
        assert {twin.official_split, work.scan.official_split} == splits
        assert twin.sop_instance_uid != work.scan.sop_instance_uid
        assert findings
        # One breast, listed twice: here to the pixel.
        np.testing.assert_array_equal(read_film(twin.path).pixels, read_film(work.scan.path).pixels)
    converted = convert(phantoms, tmp_path / "workspace")
    assert converted.regions.keys() == phantoms.findings.keys()
    for finding_id, region in converted.regions.items():
        np.testing.assert_array_equal(region, phantoms.truth(finding_id))


# DDSM


@pytest.mark.parametrize("fault", SAME_CASES)
def test_ddsm_is_the_same_for_all_that(ddsm: Phantoms, tmp_path: Path, fault: Fault) -> None:
    phantoms = make(tmp_path, "ddsm", fault)
    assert set(phantoms.carriers["image_id"]) == phantoms.scans.keys()
    assert not phantoms.inventory.rejects
    assert placeless(phantoms.inventory) == placeless(ddsm.inventory)
    assert phantoms.findings
    assert_same_pixels(phantoms, ddsm, tmp_path / "workspace")
    changed = [
        path.relative_to(tmp_path)
        for path in (tmp_path / "ddsm").rglob("*_*.*")
        if not (other := ddsm.out / path.relative_to(tmp_path)).exists() or other.read_bytes() != path.read_bytes()
    ]
    suffix = ".OVERLAY" if fault is Fault.TRAILING_SPACES else ".LJPEG"
    assert fault is Fault.BLANK_LINE or [path for path in changed if suffix in path.name]


def test_an_ics_with_an_empty_line_and_no_age(tmp_path: Path) -> None:
    phantoms = make(tmp_path, "ddsm", Fault.BLANK_LINE)
    files = list((phantoms.out / "ddsm").rglob("*.ics"))
    assert len(files) == 2
    for path in files:
        assert path.read_text().startswith("\nics_version")
        assert "\nPATIENT_AGE \n" in path.read_text()


def test_gzip_with_and_without_its_suffix(tmp_path: Path) -> None:
    phantoms = make(tmp_path, "ddsm", Fault.GZIP)
    files = [path for path in (phantoms.out / "ddsm").rglob("*_*_*") if path.is_file()]
    assert all(path.read_bytes().startswith(b"\x1f\x8b") for path in files)
    named: dict[str, set[bool]] = {path.name.split(".")[2]: set() for path in files}
    for path in files:
        named[path.name.split(".")[2]].add(path.suffix == ".gz")
    assert named == {"LJPEG": {True}, "OVERLAY": {True, False}}
    assert {path.suffix for path in (phantoms.out / "ddsm").rglob("*-1.ics*")} == {".gz"}


@pytest.mark.parametrize("fault", FLAGS)
def test_odd_outlines_are_flagged_and_filled(ddsm: Phantoms, tmp_path: Path, fault: Fault) -> None:
    phantoms = make(tmp_path, "ddsm", fault)
    assert not phantoms.inventory.rejects
    assert phantoms.carrying == sorted(phantoms.findings)
    converted = convert(phantoms, tmp_path / "workspace")
    assert not converted.rejects
    for finding_id in phantoms.carrying:
        finding = phantoms.findings[finding_id]
        assert finding.roi_flags == (FLAGS[fault],)
        assert (finding.verdict, finding.roi_kind) == (Verdict.AS_LISTED, RoiKind.OUTLINE)
        truth = phantoms.truth(finding_id)
        np.testing.assert_array_equal(converted.regions[finding_id], truth)
        lesion = ddsm.truth(finding_id)
        if fault is Fault.LEAVING_CHAIN:
            assert (truth[:, 0] | truth[:, -1]).any(), "the outline reaches the film's edge"
            assert not (lesion & ~truth).any()
        elif fault is Fault.OPEN_CHAIN:
            assert 0.8 < overlap(truth, lesion) < 1
        else:
            np.testing.assert_array_equal(truth, lesion)


def test_lumysis_is_lumisys(tmp_path: Path) -> None:
    phantoms = make(tmp_path, "ddsm", Fault.LUMYSIS)
    assert not phantoms.inventory.rejects
    assert all("DIGITIZER LUMYSIS\n" in path.read_text() for path in (phantoms.out / "ddsm").rglob("*.ics"))
    assert {(scan.scanner, scan.institution, scan.bits) for scan in phantoms.inventory.scans} == {
        ("LUMISYS", "WFU", 12)
    }
    for finding_id, region in convert(phantoms, tmp_path / "workspace").regions.items():
        np.testing.assert_array_equal(region, phantoms.truth(finding_id))


def test_grey_level_0_of_dba_stays_black(tmp_path: Path) -> None:
    phantoms = make(tmp_path, "ddsm", Fault.DBA_ZERO)
    assert not phantoms.inventory.rejects
    for scan in phantoms.inventory.scans:
        assert (scan.scanner, scan.institution, scan.bits) == ("DBA", "MGH", 16)
        levels = read_film(scan.path, scan.rows, scan.columns).pixels.astype(np.uint16)
        zero = levels == 0
        assert zero.mean() > 0.009
        grey = to_cbis_scale(levels, scan.scanner, scan.institution)
        assert grey[zero].max() == 0
        assert grey[~zero].max() > 30000
    for finding_id, region in convert(phantoms, tmp_path / "workspace").regions.items():
        np.testing.assert_array_equal(region, phantoms.truth(finding_id))
