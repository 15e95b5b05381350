"""mini-MIAS: the real subset, and every fault that its files can have."""

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mammo_etl.files import SourceFileError, list_files
from mammo_etl.film import read_film
from mammo_etl.records import Abnormality, Label, Laterality, Pathology, Reason, Rejection, RoiKind, Verdict, View
from mammo_etl.sources import Inventory, mini_mias

PGM = b"P5\n8 6\n255\n" + bytes(48)
INFO = """Some prose about mdb001 first.
mdb001 G CIRC B 5 2 1
mdb001 G CALC M 3 4 2
mdb002 F NORM \n\
mdb003 D ARCH M *NOTE 3* \n\
mdb004 D ASYM B
"""


def inventory_of(root: Path | str) -> Inventory:
    listing = list_files(str(root), "mini-mias")
    headers, rejects = {}, list(listing.rejects)
    for url in listing.files:
        if mini_mias.wants(url):
            try:
                headers[url] = mini_mias.read_header(url)
            except SourceFileError as error:
                rejects.append(Rejection(stage="inventory", code=error.code, message=error.message, path=url))
    result = mini_mias.assemble(listing.files, headers, rejects)
    # Neither the order of files nor that of headers matters.
    files, items = list(listing.files), list(headers.items())
    random.Random(1).shuffle(files)
    random.Random(2).shuffle(items)
    assert mini_mias.assemble(files, dict(items), rejects[::-1]) == result
    return result


def make(
    root: Path, info: str | None = INFO, films: tuple[str, ...] = ("mdb001", "mdb002", "mdb003", "mdb004")
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if info is not None:
        (root / "Info.txt").write_text(info)
    for film in films:
        (root / f"{film}.pgm").write_bytes(PGM)


def codes(inventory: Inventory) -> list[tuple[Reason, str]]:
    return [(reject.code, reject.image_id) for reject in inventory.rejects]


def test_films_and_findings(tmp_path: Path) -> None:
    make(tmp_path)
    inventory = inventory_of(tmp_path)
    right, left, right_2, left_2 = inventory.scans[1], inventory.scans[0], inventory.scans[3], inventory.scans[2]
    assert right.image_id == "mini-mias_mdb001-002_RIGHT_MLO"
    assert left.image_id == "mini-mias_mdb001-002_LEFT_MLO"
    assert right.patient_id == left.patient_id == "mdb001-002"
    assert right_2.patient_id == left_2.patient_id == "mdb003-004"
    assert (right.laterality, left.laterality) == (Laterality.RIGHT, Laterality.LEFT)
    assert {scan.view for scan in inventory.scans} == {View.MLO}
    assert [scan.normal for scan in (right, left, right_2, left_2)] == [False, True, False, False]
    assert (right.rows, right.columns, right.bits, right.pixel_um, right.density) == (6, 8, 8, 200.0, None)
    circ, calc = inventory.findings[:2]
    assert [finding.finding_id for finding in (circ, calc)] == [f"{right.image_id}_1", f"{right.image_id}_2"]
    assert (circ.abnormality, circ.pathology, circ.label) == (Abnormality.MASS, Pathology.BENIGN, Label.BENIGN_MASS)
    assert (calc.abnormality, calc.pathology) == (Abnormality.CALCIFICATION, Pathology.MALIGNANT)
    # The origin is bottom left.
    assert (circ.roi_kind, circ.roi_x, circ.roi_y, circ.roi_radius) == (RoiKind.CIRCLE, 5, 6 - 2, 1)
    assert (circ.descriptors, circ.pathology_listed) == ("CIRC", "B")
    assert [finding.roi_kind for finding in inventory.findings[2:]] == [RoiKind.NONE] * 2
    assert [finding.verdict for finding in inventory.findings] == [Verdict.AS_LISTED] * 2 + [Verdict.QUARANTINED] * 2
    assert {finding.label for finding in inventory.findings[2:]} == {Label.MALIGNANT_MASS, Label.BENIGN_MASS}
    assert codes(inventory) == [(Reason.NOT_LOCATED, left_2.image_id), (Reason.NOT_LOCATED, right_2.image_id)]


def test_missing_and_unknown_films(tmp_path: Path) -> None:
    make(tmp_path, films=("mdb002", "mdb007", "other"))
    inventory = inventory_of(tmp_path)
    assert [scan.image_id for scan in inventory.scans] == ["mini-mias_mdb001-002_LEFT_MLO"]
    assert inventory.findings == ()
    assert codes(inventory) == [
        (Reason.NOT_IN_TABLES, "mini-mias_mdb007-008_RIGHT_MLO"),
        (Reason.NOT_IN_TABLES, ""),
        (Reason.MISSING_FILES, "mini-mias_mdb001-002_RIGHT_MLO"),
        (Reason.MISSING_FILES, "mini-mias_mdb003-004_RIGHT_MLO"),
        (Reason.MISSING_FILES, "mini-mias_mdb003-004_LEFT_MLO"),
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [(PGM[:-1], Reason.TRUNCATED_FILE), (b"P7", Reason.UNREADABLE_FILE), (b"", Reason.UNREADABLE_FILE)],
)
def test_broken_films_are_rejected_once(tmp_path: Path, content: bytes, code: Reason) -> None:
    make(tmp_path)
    (tmp_path / "mdb001.pgm").write_bytes(content)
    inventory = inventory_of(tmp_path)
    assert (code, "mini-mias_mdb001-002_RIGHT_MLO") in codes(inventory)
    assert Reason.MISSING_FILES not in {reject.code for reject in inventory.rejects}
    assert not [finding for finding in inventory.findings if finding.image_id == "mini-mias_mdb001-002_RIGHT_MLO"]


def test_rows_that_are_not_understood(tmp_path: Path) -> None:
    make(tmp_path, INFO.replace("mdb002 F NORM", "mdb002 F NORM?") + "mdb001 G BLOB B 1 1 1\n")
    inventory = inventory_of(tmp_path)
    # A film is left out if any of its rows is not understood: it might not be normal.
    assert [scan.patient_id for scan in inventory.scans] == ["mdb003-004"] * 2
    bad = [reject for reject in inventory.rejects if reject.code is Reason.BAD_TABLE_ROW]
    assert {reject.image_id for reject in bad} == {f"mini-mias_mdb001-002_{side}_MLO" for side in Laterality}
    assert len([reject for reject in inventory.rejects if reject.code is Reason.NOT_IN_TABLES]) == 2


def test_second_copy_of_a_film(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", films=("mdb002",))
    inventory = inventory_of(tmp_path)
    assert len(inventory.scans) == 4
    assert [reject.path for reject in inventory.rejects if reject.code is Reason.DUPLICATE_IMAGE] == [
        str(tmp_path / "b" / "mdb002.pgm")
    ]


@pytest.mark.parametrize("info", [None, "nothing", ""])
def test_no_table(tmp_path: Path, info: str | None) -> None:
    make(tmp_path, info)
    inventory = inventory_of(tmp_path)
    assert (inventory.scans, inventory.findings) == ((), ())
    assert [reject.code for reject in inventory.rejects] == [Reason.BAD_TABLE]


def test_names_in_other_case(tmp_path: Path) -> None:
    make(tmp_path, None, ())
    (tmp_path / "INFO.TXT").write_text(INFO.replace("\n", "\r\n"))
    (tmp_path / "MDB001.PGM").write_bytes(PGM)
    assert len(inventory_of(tmp_path).findings) == 2


def test_no_films(tmp_path: Path) -> None:
    make(tmp_path, films=())
    assert [reject.code for reject in inventory_of(tmp_path).rejects] == [Reason.EMPTY_SOURCE]


@pytest.mark.parametrize("extracted", [False, True])
def test_real_subset(realdata: Path, tmp_path: Path, extracted: bool) -> None:
    root = realdata / "mini_mias" / "mini_mias_subset.zip"
    if extracted:
        with zipfile.ZipFile(root) as archive:
            archive.extractall(tmp_path)
        root = tmp_path
    inventory = inventory_of(root)
    assert len(inventory.scans) == 102
    assert len({scan.patient_id for scan in inventory.scans}) == 51
    assert {(scan.rows, scan.columns, scan.bits) for scan in inventory.scans} == {(1024, 1024, 8)}
    assert sum(scan.laterality is Laterality.LEFT for scan in inventory.scans) == 51
    # Every film is normal or has a finding.
    with_findings = {finding.image_id for finding in inventory.findings}
    assert {scan.image_id for scan in inventory.scans if not scan.normal} == with_findings
    by_id = {finding.finding_id: finding for finding in inventory.findings}
    # mdb005 F CIRC B 477 133 30 and, on the same film, 500 168 26.
    second = by_id["mini-mias_mdb005-006_RIGHT_MLO_2"]
    assert (second.roi_x, second.roi_y, second.roi_radius) == (500, 1024 - 168, 26)
    assert second.label is Label.BENIGN_MASS
    missing = [reject for reject in inventory.rejects if reject.code is Reason.MISSING_FILES]
    assert len(missing) == 322 - 102
    # mdb233 and mdb245: calcifications over the whole film.
    assert {reject.image_id for reject in inventory.rejects if reject.code is Reason.NOT_LOCATED} == {
        "mini-mias_mdb233-234_RIGHT_MLO",
        "mini-mias_mdb245-246_RIGHT_MLO",
    }
    assert {reject.code for reject in inventory.rejects} == {Reason.MISSING_FILES, Reason.NOT_LOCATED}


def test_origin_is_the_bottom_left_corner(realdata: Path) -> None:
    # Small lesions are brighter than the ring around them: counted from the bottom of the film, and not from the top.
    inventory = inventory_of(realdata / "mini_mias" / "mini_mias_subset.zip")
    paths = {scan.image_id: scan.path for scan in inventory.scans}
    contrasts: list[tuple[float, float]] = []
    for finding in inventory.findings:
        if finding.roi_y is not None and finding.roi_radius is not None and finding.roi_radius <= 50:
            pixels = read_film(paths[finding.image_id]).pixels
            contrasts.append(
                (
                    contrast(pixels, finding.roi_y, finding.roi_x, finding.roi_radius),
                    contrast(pixels, 1024 - finding.roi_y, finding.roi_x, finding.roi_radius),
                )
            )
    found, flipped = np.mean(contrasts, axis=0)
    assert len(contrasts) > 30
    assert found > 10
    assert found > flipped + 10


def contrast(pixels: np.ndarray, y: float, x: float | None, radius: float) -> float:
    """Mean within the circle less the mean of the ring around it that has the same area."""
    assert x is not None
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    squared = (rows - y) ** 2 + (columns - x) ** 2
    ring = (squared > radius**2) & (squared <= 2 * radius**2)
    return float(pixels[squared <= radius**2].mean() - pixels[ring].mean())
