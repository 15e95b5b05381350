"""DDSM: case folders made here with all the faults that the originals have, and the original text files."""

import gzip
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mammo_etl.files import SourceFileError, list_files
from mammo_etl.film import read_film
from mammo_etl.ics import find_ics_view, parse_name, read_ics
from mammo_etl.overlay import Lesion, read_overlay
from mammo_etl.phantom import ljpeg_writer
from mammo_etl.records import Abnormality, Label, Laterality, Pathology, Reason, Rejection, RoiKind, View
from mammo_etl.sources import Inventory, ddsm

ROWS, COLUMNS = 20, 12
FILMS = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")
LJPEG = ljpeg_writer.encode(np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS), 12)

OVERLAY = """TOTAL_ABNORMALITIES 2\x20
ABNORMALITY 1\x20
LESION_TYPE MASS SHAPE OVAL MARGINS ILL_DEFINED\x20\x20
ASSESSMENT 4\x20
SUBTLETY 3
PATHOLOGY MALIGNANT\x20
TOTAL_OUTLINES 2\x20
BOUNDARY
5 6  2 2 4 4 6 6 0 0 #\x20
\tCORE
5 7 2 4 6 0 #
ABNORMALITY 2
LESION_TYPE CALCIFICATION TYPE PLEOMORPHIC DISTRIBUTION CLUSTERED
ASSESSMENT 2
SUBTLETY 5
PATHOLOGY BENIGN_WITHOUT_CALLBACK
TOTAL_OUTLINES 1
BOUNDARY
1 2 3 4 5 #
"""


def overlay(
    *chains: str, types: tuple[str, ...] = ("MASS SHAPE OVAL MARGINS OBSCURED",), pathology: str = "BENIGN"
) -> str:
    lines = ["TOTAL_ABNORMALITIES 1", "ABNORMALITY 1", *(f"LESION_TYPE {kind}" for kind in types)]
    lines += ["ASSESSMENT 4", "SUBTLETY 3", f"PATHOLOGY {pathology}", "TOTAL_OUTLINES 1"]
    for chain in chains:
        lines += ["BOUNDARY", chain]
    return "\n".join(lines) + "\n"


def ics(case: str, flagged: tuple[str, ...] = (), digitizer: str = "HOWTEK 43.5", resolution: str = "43.5") -> str:
    views = [
        f"{film} LINES {ROWS} PIXELS_PER_LINE {COLUMNS} BITS_PER_PIXEL 12 RESOLUTION {resolution} "
        f"{'OVERLAY' if film in flagged else 'NON_OVERLAY'}\x20"
        for film in FILMS
    ]
    # The first line may be blank, and the age is missing at times.
    head = ["", "ics_version 1.0", f"filename {case}", "DATE_OF_STUDY 2 7 1995", "PATIENT_AGE ", "FILM ", "DENSITY 3"]
    return "\n".join([*head, f"DIGITIZER {digitizer} ", "SEQUENCE", *views]) + "\n"


def make_case(root: Path, case: str, overlays: dict[str, str] | None = None, **words: str) -> Path:
    """A case of four films; `overlays` is the text by film."""
    overlays = overlays or {}
    folder = root / "cases" / f"case{case[2:6]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{case}.ics").write_text(ics(case, tuple(overlays), **words))
    for film in FILMS:
        (folder / f"{case.replace('-', '_')}.{film}.LJPEG").write_bytes(LJPEG)
        if film in overlays:
            (folder / f"{case.replace('-', '_')}.{film}.OVERLAY").write_text(overlays[film])
    return folder


def inventory_of(root: Path | str) -> Inventory:
    listing = list_files(str(root), "ddsm")
    headers, rejects = {}, list(listing.rejects)
    for url in listing.files:
        if ddsm.wants(url):
            try:
                headers[url] = ddsm.read_header(url)
            except SourceFileError as error:
                rejects.append(Rejection(stage="inventory", code=error.code, message=error.message, path=url))
    result = ddsm.assemble(listing.files, headers, rejects)
    files, items = list(listing.files), list(headers.items())
    random.Random(1).shuffle(files)
    random.Random(2).shuffle(items)
    assert ddsm.assemble(files, dict(items), rejects[::-1]) == result
    return result


def codes(inventory: Inventory) -> list[tuple[Reason, str]]:
    return sorted((reject.code, reject.image_id or reject.path) for reject in inventory.rejects)


def test_normal_case(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "C-0029-1", digitizer="LUMYSIS", resolution="50")
    inventory = inventory_of(tmp_path)
    assert [scan.image_id for scan in inventory.scans] == [f"ddsm_C-0029-1_{film}" for film in FILMS]
    first = inventory.scans[0]
    assert first.path == str(folder / "C_0029_1.LEFT_CC.LJPEG")
    assert (first.patient_id, first.laterality, first.view) == ("C-0029", Laterality.LEFT, View.CC)
    assert (first.scanner, first.institution, first.density) == ("LUMISYS", "WFU", 3)
    assert (first.rows, first.columns, first.bits, first.pixel_um) == (ROWS, COLUMNS, 12, 50.0)
    assert all(scan.normal for scan in inventory.scans)
    assert (inventory.findings, inventory.rejects) == ((), ())


@pytest.mark.parametrize(
    ("case", "institution"), [("A-1003-1", "MGH"), ("B-3024-1", "WFU"), ("C-0001-1", "WFU"), ("D-4000-1", "ISMD")]
)
def test_institutions(tmp_path: Path, case: str, institution: str) -> None:
    make_case(tmp_path, case)
    assert {scan.institution for scan in inventory_of(tmp_path).scans} == {institution}


def test_findings(tmp_path: Path) -> None:
    make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    inventory = inventory_of(tmp_path)
    # One overlay makes the whole case abnormal.
    assert [scan.normal for scan in inventory.scans] == [False] * 4
    mass, calcification = inventory.findings
    assert (mass.finding_id, mass.image_id) == ("ddsm_A-1003-1_LEFT_CC_1", "ddsm_A-1003-1_LEFT_CC")
    assert (mass.abnormality, mass.pathology, mass.label) == (
        Abnormality.MASS,
        Pathology.MALIGNANT,
        Label.MALIGNANT_MASS,
    )
    # Only the boundary counts, not the core.
    assert (mass.roi_kind, mass.roi_outlines) == (RoiKind.OUTLINE, ("5 6 22446600",))
    assert (mass.assessment, mass.subtlety) == (4, 3)
    assert mass.descriptors == "MASS SHAPE OVAL MARGINS ILL_DEFINED"
    assert (calcification.pathology, calcification.pathology_listed) == (
        Pathology.BENIGN,
        "BENIGN_WITHOUT_CALLBACK",
    )
    assert calcification.label is Label.BENIGN_CALCIFICATION
    assert inventory.rejects == ()


def test_overlay_that_the_ics_does_not_announce(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    (folder / "A-1003-1.ics").write_text(ics("A-1003-1"))
    inventory = inventory_of(tmp_path)
    assert len(inventory.findings) == 2
    assert not any(scan.normal for scan in inventory.scans)


def test_overlay_that_is_announced_but_missing(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    (folder / "A_1003_1.LEFT_CC.OVERLAY").unlink()
    inventory = inventory_of(tmp_path)
    assert codes(inventory) == [(Reason.MISSING_MASK, "ddsm_A-1003-1_LEFT_CC")]
    assert [scan.normal for scan in inventory.scans] == [False] * 4


@pytest.mark.parametrize("content", [b"", b"TOTAL_ABNORMALITIES 0\n", b"\x1f\x8bgarbage", b"\xff\xfe\0\0"])
def test_overlay_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    (folder / "A_1003_1.LEFT_CC.OVERLAY").write_bytes(content)
    inventory = inventory_of(tmp_path)
    # Reported once, and the case is not taken for a normal one.
    code = Reason.UNREADABLE_FILE if content.startswith(b"\x1f") else Reason.BAD_TABLE
    assert codes(inventory) == [(code, "ddsm_A-1003-1_LEFT_CC")]
    assert [scan.normal for scan in inventory.scans] == [False] * 4


@pytest.mark.parametrize(
    ("chains", "outlines", "fault"),
    [
        (("3 4 2 2 4 #",), ("3 4 224",), None),
        # Open, leaving the film on all sides, starting outside it: kept as it is.
        (("0 0 7 7 7 0 0 #",), ("0 0 77700",), None),
        (("-3 400 2 2 2 #",), ("-3 400 222",), None),
        # The end mark is missing, or sticks to the last code.
        (("3 4 2 2 4", "5 5 1 1 #"), ("3 4 224", "5 5 11"), None),
        (("3 4 2 2 4#",), ("3 4 224",), None),
        # Broken over lines, trailing blanks, Windows line ends.
        (("3 4 2 \n2\n4   \n#  ",), ("3 4 224",), None),
        (("3 4 2 2 4 #\r",), ("3 4 224",), None),
        # What follows the end mark is not the outline's.
        (("3 4 2 2 4 # 9 9 9",), ("3 4 224",), None),
        (("3 4 2 8 4 #", "5 5 1 1 #"), ("5 5 11",), Reason.BAD_TABLE_ROW),
        (("3 4 2 8 4 #",), (), Reason.NOT_LOCATED),
        (("3 4 #",), (), Reason.NOT_LOCATED),
        (("3 #",), (), Reason.NOT_LOCATED),
        (("# ",), (), Reason.NOT_LOCATED),
        (("3 x 1 2 #",), (), Reason.NOT_LOCATED),
        ((), (), Reason.NOT_LOCATED),
    ],
)
def test_outlines(tmp_path: Path, chains: tuple[str, ...], outlines: tuple[str, ...], fault: Reason | None) -> None:
    make_case(tmp_path, "D-4000-1", {"LEFT_CC": overlay(*chains)})
    inventory = inventory_of(tmp_path)
    (finding,) = inventory.findings
    assert finding.roi_outlines == outlines
    assert finding.roi_kind is (RoiKind.OUTLINE if outlines else RoiKind.NONE)
    assert [reject.code for reject in inventory.rejects] == ([] if fault is None else [fault])
    assert all(reject.finding_id == "ddsm_D-4000-1_LEFT_CC_1" for reject in inventory.rejects)


def test_first_lesion_type_decides(tmp_path: Path) -> None:
    types = ("CALCIFICATION TYPE PUNCTATE DISTRIBUTION CLUSTERED", "MASS SHAPE ROUND MARGINS CIRCUMSCRIBED")
    make_case(tmp_path, "A-1003-1", {"LEFT_CC": overlay("3 4 2 #", types=types)})
    (finding,) = inventory_of(tmp_path).findings
    assert finding.abnormality is Abnormality.CALCIFICATION
    assert finding.descriptors == "; ".join(types)


@pytest.mark.parametrize("types", [(), ("OTHER",)])
def test_unknown_lesion_type(tmp_path: Path, types: tuple[str, ...]) -> None:
    make_case(tmp_path, "A-1003-1", {"LEFT_CC": overlay("3 4 2 #", types=types)})
    inventory = inventory_of(tmp_path)
    assert (len(inventory.scans), inventory.findings) == (4, ())
    assert [(reject.code, reject.finding_id) for reject in inventory.rejects] == [
        (Reason.BAD_TABLE_ROW, "ddsm_A-1003-1_LEFT_CC_1")
    ]


@pytest.mark.parametrize("pathology", ["UNPROVEN", ""])
def test_unknown_pathology(tmp_path: Path, pathology: str) -> None:
    make_case(tmp_path, "A-1003-1", {"LEFT_CC": overlay("3 4 2 #", pathology=pathology)})
    inventory = inventory_of(tmp_path)
    # The film stays, and is no normal one.
    assert [scan.normal for scan in inventory.scans] == [False] * 4
    assert inventory.findings == ()
    assert codes(inventory) == [(Reason.UNKNOWN_PATHOLOGY, "ddsm_A-1003-1_LEFT_CC")]


def test_lesions_of_one_number(tmp_path: Path) -> None:
    make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY.replace("ABNORMALITY 2", "ABNORMALITY 1")})
    assert [finding.finding_id[-1] for finding in inventory_of(tmp_path).findings] == ["1", "2"]


def test_missing_and_unlisted_films(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    (folder / "A_1003_1.LEFT_CC.LJPEG").rename(folder / "B_1003_1.LEFT_CC.LJPEG")
    inventory = inventory_of(tmp_path)
    assert codes(inventory) == [
        (Reason.MISSING_FILES, "ddsm_A-1003-1_LEFT_CC"),
        (Reason.NOT_IN_TABLES, "ddsm_B-1003-1_LEFT_CC"),
    ]
    assert [scan.normal for scan in inventory.scans] == [False] * 3
    assert inventory.findings == ()


def test_film_that_its_ics_does_not_list(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    text = (folder / "A-1003-1.ics").read_text()
    (folder / "A-1003-1.ics").write_text("\n".join(line for line in text.splitlines() if "LEFT_CC" not in line))
    inventory = inventory_of(tmp_path)
    assert len(inventory.scans) == 3
    assert codes(inventory) == [(Reason.NOT_IN_TABLES, "ddsm_A-1003-1_LEFT_CC")]


def test_film_of_another_size(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    (folder / "A_1003_1.LEFT_CC.LJPEG").write_bytes(ljpeg_writer.encode(np.zeros((20, 13), np.uint16), 12))
    # Height and width exchanged: the .ics is right, and the film is read with its size.
    swapped = folder / "A_1003_1.LEFT_MLO.LJPEG"
    film = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)
    swapped.write_bytes(ljpeg_writer.encode(film.reshape(COLUMNS, ROWS), 12))
    inventory = inventory_of(tmp_path)
    assert codes(inventory) == [(Reason.FILM_SIZE, "ddsm_A-1003-1_LEFT_CC")]
    (scan,) = [scan for scan in inventory.scans if scan.path == str(swapped)]
    np.testing.assert_array_equal(read_film(scan.path, scan.rows, scan.columns).pixels, film)


@pytest.mark.parametrize("content", [b"", b"no jpeg", LJPEG[:30]])
def test_broken_film_is_rejected_once(tmp_path: Path, content: bytes) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    (folder / "A_1003_1.LEFT_CC.LJPEG").write_bytes(content)
    inventory = inventory_of(tmp_path)
    assert codes(inventory) == [(Reason.UNREADABLE_FILE, "ddsm_A-1003-1_LEFT_CC")]
    assert len(inventory.scans) == 3


@pytest.mark.parametrize("text", ["", "nothing", "LEFT_CC LINES x PIXELS_PER_LINE 2", "LEFT_CC"])
def test_broken_ics(tmp_path: Path, text: str) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    (folder / "A-1003-1.ics").write_text(text)
    inventory = inventory_of(tmp_path)
    assert inventory.scans == ()
    assert [reject.code for reject in inventory.rejects] == [Reason.BAD_TABLE] + [Reason.NOT_IN_TABLES] * 4


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gzip_and_lower_case(tmp_path: Path, suffix: str) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    for path in list(folder.iterdir()):
        if path.suffix == ".LJPEG":
            path.rename(path.with_suffix(".ljpeg"))
        else:
            path.with_name(path.name.lower().replace("left_cc", "LEFT_CC") + suffix).write_bytes(
                gzip.compress(path.read_bytes())
            )
            path.unlink()
    inventory = inventory_of(tmp_path)
    assert (len(inventory.scans), len(inventory.findings), inventory.rejects) == (4, 2, ())
    assert inventory.scans[0].patient_id == "A-1003"


def test_copies_of_a_case(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    shutil.copytree(folder, tmp_path / "zweite")
    inventory = inventory_of(tmp_path)
    # Text files that say the same are no fault.
    assert {reject.code for reject in inventory.rejects} == {Reason.DUPLICATE_IMAGE}
    assert (len(inventory.scans), len(inventory.findings), len(inventory.rejects)) == (4, 2, 4)
    assert {Path(scan.path).parent for scan in inventory.scans} == {folder}
    (tmp_path / "zweite" / "A-1003-1.ics").write_text(ics("A-1003-1"))
    assert Reason.BAD_TABLE in {reject.code for reject in inventory_of(tmp_path).rejects}


def test_other_files_are_no_source(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "A_1003_1.LEFT_CC.LJPEG.1").write_bytes(b"x")
    (tmp_path / "TAPE_A_1003_1.COMB.16_PGM").write_bytes(b"x")
    inventory = inventory_of(tmp_path)
    assert [reject.code for reject in inventory.rejects] == [Reason.EMPTY_SOURCE]


def test_zip(tmp_path: Path) -> None:
    make_case(tmp_path / "x", "A-1003-1", {"LEFT_CC": OVERLAY})
    with zipfile.ZipFile(tmp_path / "ddsm.zip", "w") as archive:
        for path in (tmp_path / "x").rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "x"))
    inventory = inventory_of(tmp_path / "ddsm.zip")
    assert (len(inventory.scans), len(inventory.findings), inventory.rejects) == (4, 2, ())
    film = inventory.scans[0].path
    assert film.startswith("zip://")
    view = find_ics_view(film)
    assert view is not None
    assert view.rows == ROWS


def test_ics_beside_a_film(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1", digitizer="DBA M2100")
    film = str(folder / "A_1003_1.RIGHT_MLO.LJPEG")
    view = find_ics_view(film)
    assert view is not None
    assert (view.rows, view.columns, view.film, view.scanner, view.institution) == (
        ROWS,
        COLUMNS,
        "RIGHT_MLO",
        "DBA",
        "MGH",
    )
    (folder / "A-1003-1.ics").rename(folder / "A-1003-1.ICS")
    assert find_ics_view(film) == view
    (folder / "A-1003-1.ICS").write_text("broken")
    with pytest.raises(SourceFileError):
        find_ics_view(film)
    (folder / "A-1003-1.ICS").unlink()
    assert find_ics_view(film) is None
    assert find_ics_view(str(folder / "other.dcm")) is None


@pytest.mark.parametrize(
    "name",
    ["C-0029-1.LJPEG", "C_0029_1.LEFT_CC.ics", "C_0029_1.LEFT_XX.LJPEG", "E-0029-1.ics", "C_0029_1.LEFT_CC.LJPEG.gz"],
)
def test_other_names(name: str) -> None:
    assert parse_name(name) is None


def test_real_ics(realdata: Path) -> None:
    views = {view.film: view for view in read_ics(str(realdata / "ddsm" / "B-3024-1.ics")).views}
    assert sorted(views) == list(FILMS)
    mlo = views["RIGHT_MLO"]
    assert (mlo.rows, mlo.columns, mlo.bits, mlo.pixel_um, mlo.overlay) == (4664, 3120, 12, 50.0, True)
    assert (mlo.scanner, mlo.institution, mlo.density) == ("LUMISYS", "WFU", 4)


def test_real_overlay(realdata: Path) -> None:
    (lesion,) = read_overlay(str(realdata / "ddsm" / "D_4000_1.LEFT_CC.OVERLAY")).lesions
    (outline,) = lesion.outlines
    assert lesion == Lesion(
        number=1,
        lesion_types=("MASS SHAPE LOBULATED MARGINS CIRCUMSCRIBED",),
        assessment=0,
        subtlety=4,
        pathology="BENIGN",
        outlines=(outline,),
        broken_outlines=0,
    )
    # The outline's extent is known from the original.
    x, y, codes_ = outline.split()
    steps = np.array([(0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)])
    points = np.array([int(x), int(y)]) + np.cumsum(steps[[int(code) for code in codes_]], axis=0)
    assert points.min(axis=0).tolist() == [910, 2092]
    assert points.max(axis=0).tolist() == [1602, 2876]
