"""DDSM: case folders made here with all the faults that the originals have, and the original text files."""

import gzip
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mammo_etl.files import SourceFileError, list_files
from mammo_etl.film import read_film
from mammo_etl.gzipped import gunzip
from mammo_etl.ics import MAX_TEXT_BYTES, IcsCase, IcsView, find_ics_view, parse_name, read_ics
from mammo_etl.inventory import SourceFiles
from mammo_etl.listed import listed_by_texts
from mammo_etl.ljpeg import LjpegHeader
from mammo_etl.overlay import Lesion, read_overlay
from mammo_etl.phantom import ljpeg_writer
from mammo_etl.records import (
    Abnormality,
    Box,
    Finding,
    Label,
    Laterality,
    Pathology,
    Reason,
    Rejection,
    RoiFlag,
    RoiKind,
    Verdict,
    View,
)
from mammo_etl.roi import region_of
from mammo_etl.sources import Inventory, ddsm

ROWS, COLUMNS = 20, 12
FILMS = ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")
PIXELS = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)
LJPEG = ljpeg_writer.encode(PIXELS, 12)

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
    *chains: str,
    types: tuple[str, ...] = ("MASS SHAPE OVAL MARGINS OBSCURED",),
    pathology: str = "BENIGN",
    total: int | None = None,
) -> str:
    lines = ["TOTAL_ABNORMALITIES 1", "ABNORMALITY 1", *(f"LESION_TYPE {kind}" for kind in types)]
    total = len(chains) if total is None else total
    lines += ["ASSESSMENT 4", "SUBTLETY 3", f"PATHOLOGY {pathology}", f"TOTAL_OUTLINES {total}"]
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
        # A broken one beside a good one: flagged.
        (("3 4 2 8 4 #", "5 5 1 1 #"), ("5 5 11",), None),
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
    assert finding.verdict is (Verdict.AS_LISTED if outlines else Verdict.QUARANTINED)
    assert [reject.code for reject in inventory.rejects] == ([] if fault is None else [fault])
    assert all(reject.finding_id == "ddsm_D-4000-1_LEFT_CC_1" for reject in inventory.rejects)


def finding_of(tmp_path: Path, text: str) -> Finding:
    make_case(tmp_path, "D-4000-1", {"LEFT_CC": text})
    inventory = inventory_of(tmp_path)
    assert inventory.rejects == ()
    (finding,) = inventory.findings
    return finding


# A square of 4 x 4 pixels with its top-left corner at column 3, row 4, on a film of 12 columns and 20 rows.
SQUARE = "3 4 2 2 2 4 4 4 6 6 6 0 0 0 #"
CORE = "CORE\n4 5 2 4 6 0 #"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (overlay(SQUARE), ()),
        (overlay(f"{SQUARE}\n{CORE}", total=2), ()),
        (overlay(SQUARE).replace("TOTAL_OUTLINES 1\n", ""), ()),
        (overlay(SQUARE.replace("3 4", "0 0")), ()),
        (overlay(SQUARE.replace("3 4", "8 16")), ()),
        # One pixel over each edge.
        (overlay(SQUARE.replace("3 4", "-1 4")), (RoiFlag.CLIPPED,)),
        (overlay(SQUARE.replace("3 4", "3 -1")), (RoiFlag.CLIPPED,)),
        (overlay(SQUARE.replace("3 4", "9 4")), (RoiFlag.CLIPPED,)),
        (overlay(SQUARE.replace("3 4", "3 17")), (RoiFlag.CLIPPED,)),
        (overlay(SQUARE, SQUARE.replace("3 4", "11 4")), (RoiFlag.CLIPPED,)),
        # The core is not used.
        (overlay(f"{SQUARE}\nCORE\n99 99 2 4 #", total=2), ()),
        (overlay(SQUARE.replace("0 #", "#")), (RoiFlag.OPEN,)),
        (overlay(SQUARE, "3 4 2 9 #"), (RoiFlag.BROKEN_OUTLINE,)),
        (overlay(SQUARE, total=2), (RoiFlag.MISCOUNTED,)),
        (overlay(f"{SQUARE}\n{CORE}", total=1), (RoiFlag.MISCOUNTED,)),
        (overlay(SQUARE, SQUARE, total=0), (RoiFlag.MISCOUNTED,)),
        (
            overlay("9 4 2 2 2 4 #", "x", total=3),
            (RoiFlag.CLIPPED, RoiFlag.OPEN, RoiFlag.BROKEN_OUTLINE, RoiFlag.MISCOUNTED),
        ),
    ],
)
def test_oddities_of_outlines_are_flagged(tmp_path: Path, text: str, flags: tuple[RoiFlag, ...]) -> None:
    assert finding_of(tmp_path, text).roi_flags == flags


@pytest.mark.parametrize(
    ("chain", "box"),
    [
        (SQUARE, Box(4, 3, 4, 4)),
        (SQUARE.replace("3 4", "-2 4"), Box(4, 0, 4, 2)),
        (SQUARE.replace("3 4", "10 18"), Box(18, 10, 2, 2)),
        (SQUARE.replace("3 4", "3 -3"), Box(0, 3, 1, 4)),
        # All around the film, far beyond each edge.
        (f"-50 -50 {'2 ' * 200}{'4 ' * 200}{'6 ' * 200}{'0 ' * 200}#", Box(0, 0, ROWS, COLUMNS)),
    ],
)
def test_clipped_outline_keeps_its_pixels_on_the_film(tmp_path: Path, chain: str, box: Box) -> None:
    region = region_of(finding_of(tmp_path, overlay(chain)), ROWS, COLUMNS)
    assert region is not None
    assert (region.box, region.area) == (box, box.height * box.width)


def test_open_outline_is_closed_by_a_straight_line(tmp_path: Path) -> None:
    # Three sides of the square.
    region = region_of(finding_of(tmp_path, overlay("3 4 2 2 2 4 4 4 6 6 6 #")), ROWS, COLUMNS)
    assert region is not None
    assert (region.box, region.area) == (Box(4, 3, 4, 4), 16)


def test_broken_outline_leaves_the_others(tmp_path: Path) -> None:
    region = region_of(finding_of(tmp_path, overlay("0 0 2 9 #", SQUARE, "8 9 1 3 5 7 #")), ROWS, COLUMNS)
    assert region is not None
    assert (region.box, region.area) == (Box(4, 3, 7, 8), 16 + 5)


@pytest.mark.parametrize("start", ["-9 4", "3 20", "900000 4", "-900000 -900000"])
def test_outline_wholly_outside_the_film(tmp_path: Path, start: str) -> None:
    finding = finding_of(tmp_path, overlay(SQUARE.replace("3 4", start)))
    assert finding.roi_flags == (RoiFlag.CLIPPED,)
    with pytest.raises(SourceFileError) as raised:
        region_of(finding, ROWS, COLUMNS)
    assert raised.value.code is Reason.ROI_OUTSIDE


@pytest.mark.parametrize(
    ("stated", "reasons"), [("2", []), ("0", []), ("1", []), ("many", []), ("3", [Reason.NOT_LOCATED])]
)
def test_wrong_number_of_lesions(tmp_path: Path, stated: str, reasons: list[Reason]) -> None:
    """All that are described are taken. One that is stated and not described could be anywhere: that is said."""
    text = OVERLAY.replace("TOTAL_ABNORMALITIES 2", f"TOTAL_ABNORMALITIES {stated}")
    make_case(tmp_path, "A-1003-1", {"LEFT_CC": text})
    inventory = inventory_of(tmp_path)
    assert [finding.finding_id[-1] for finding in inventory.findings] == ["1", "2"]
    assert codes(inventory) == [(reason, "ddsm_A-1003-1_LEFT_CC") for reason in reasons]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "  \t\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: "\n" + text,
        lambda text: text.replace(" ", "   "),
        lambda text: text.rstrip("\n"),
        str.lower,
    ],
    ids=["crlf", "trailing-blanks", "blank-lines", "leading-blank-line", "wide-gaps", "no-last-line-end", "lower-case"],
)
def test_loose_forms_of_text_files_say_the_same(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    expected = inventory_of(tmp_path)
    assert (len(expected.findings), expected.rejects) == (2, ())
    for path in (folder / "A-1003-1.ics", folder / "A_1003_1.LEFT_CC.OVERLAY"):
        path.write_bytes(spoil(path.read_text()).encode())
    assert inventory_of(tmp_path) == expected


@pytest.mark.parametrize(
    "edit",
    [
        ("PATIENT_AGE ", "PATIENT_AGE 42"),
        ("PATIENT_AGE \n", ""),
        ("PATIENT_AGE ", "PATIENT_AGE x"),
        ("SEQUENCE", "SELECTED"),
        ("SEQUENCE\n", ""),
        ("\nics_version", "ics_version"),
        ("\nics_version", "\n \n\nics_version"),
        ("HOWTEK 43.5 ", "howtek"),
        ("FILM \n", "FILM \nFILM_TYPE REGULAR\n"),
    ],
)
def test_what_varies_in_ics_files_changes_nothing(tmp_path: Path, edit: tuple[str, str]) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    expected = inventory_of(tmp_path)
    path = folder / "A-1003-1.ics"
    text = path.read_text()
    assert text.count(edit[0]) == 1
    path.write_text(text.replace(*edit))
    assert inventory_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("LINES -20 PIXELS_PER_LINE -12 BITS_PER_PIXEL 12 RESOLUTION 50 NON_OVERLAY", Reason.BAD_TABLE),
        ("LINES 0 PIXELS_PER_LINE 12 BITS_PER_PIXEL 12 RESOLUTION 50 NON_OVERLAY", Reason.BAD_TABLE),
        ("LINES 2e1 PIXELS_PER_LINE 12 BITS_PER_PIXEL 12 RESOLUTION 50 NON_OVERLAY", Reason.BAD_TABLE),
        ("LINES 20 PIXELS_PER_LINE 12 BITS_PER_PIXEL 12 RESOLUTION fine NON_OVERLAY", Reason.BAD_TABLE),
        ("LINES 20 PIXELS_PER_LINE 12 BITS_PER_PIXEL 12 RESOLUTION nan NON_OVERLAY", None),
        ("LINES 20 PIXELS_PER_LINE 12 BITS_PER_PIXEL 12 RESOLUTION 0 NON_OVERLAY", None),
        ("LINES 20 PIXELS_PER_LINE 12 BITS_PER_PIXEL 12", None),
    ],
)
def test_size_of_a_film_in_an_ics(tmp_path: Path, line: str, reason: Reason | None) -> None:
    path = tmp_path / "A-1003-1.ics"
    path.write_text(f"DIGITIZER DBA M2100\nLEFT_CC {line}\n")
    if reason is None:
        (view,) = read_ics(str(path)).views
        assert (view.rows, view.columns, view.pixel_um) == (20, 12, None)
    else:
        with pytest.raises(SourceFileError, match="Line 2 of the") as raised:
            read_ics(str(path))
        assert raised.value.code is reason


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


def without_line(path: Path, film: str) -> None:
    """Takes a film out of an .ics."""
    path.write_text("\n".join(line for line in path.read_text().splitlines() if film not in line))


def test_film_that_its_ics_does_not_list(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    without_line(folder / "A-1003-1.ics", "LEFT_CC")
    inventory = inventory_of(tmp_path)
    assert [scan.normal for scan in inventory.scans] == [True] * 3
    assert codes(inventory) == [(Reason.NOT_IN_TABLES, "ddsm_A-1003-1_LEFT_CC")]


@pytest.mark.parametrize("content", [OVERLAY, ""], ids=["sound", "broken"])
def test_overlay_of_a_film_that_its_ics_does_not_list(tmp_path: Path, content: str) -> None:
    """The other films are no normal ones, and the lesion that cannot be used is not passed over in silence."""
    folder = make_case(tmp_path, "C-0029-1", {"LEFT_CC": content})
    without_line(folder / "C-0029-1.ics", "LEFT_CC")
    inventory = inventory_of(tmp_path)
    assert [scan.normal for scan in inventory.scans] == [False] * 3
    rejected = [(Path(row.path).suffix, row.code, row.image_id) for row in inventory.rejects]
    assert sorted(rejected) == [
        (".LJPEG", Reason.NOT_IN_TABLES, "ddsm_C-0029-1_LEFT_CC"),
        (".OVERLAY", Reason.NOT_IN_TABLES if content else Reason.BAD_TABLE, "ddsm_C-0029-1_LEFT_CC"),
    ]


def test_overlay_alone(tmp_path: Path) -> None:
    """Without an .ics; also where only the texts are read, in which case the films are not missed."""
    folder = make_case(tmp_path, "C-0029-1", {"LEFT_CC": OVERLAY})
    (folder / "C-0029-1.ics").unlink()
    listed = listed_by_texts(SourceFiles("ddsm", list_files(str(tmp_path), "ddsm").files, ()))
    expected = [(Reason.NOT_IN_TABLES, str(folder / "C_0029_1.LEFT_CC.OVERLAY"), "ddsm_C-0029-1_LEFT_CC")]
    assert [(row.code, row.path, row.image_id) for row in listed.rejects] == expected
    for path in folder.glob("*.LJPEG"):
        path.unlink()
    assert inventory_of(tmp_path) == listed


def test_a_second_ics_that_announces_an_overlay(tmp_path: Path) -> None:
    make_case(tmp_path / "a", "C-0029-1")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "C-0029-1.ics").write_text(ics("C-0029-1", ("LEFT_CC",)))
    inventory = inventory_of(tmp_path)
    assert [reject.code for reject in inventory.rejects] == [Reason.BAD_TABLE]
    assert [scan.normal for scan in inventory.scans] == [False] * 4


def test_film_of_another_size(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1")
    (folder / "A_1003_1.LEFT_CC.LJPEG").write_bytes(ljpeg_writer.encode(np.zeros((20, 13), np.uint16), 12))
    # Height and width exchanged: the .ics is right, and the film is read with its size.
    swapped = folder / "A_1003_1.LEFT_MLO.LJPEG"
    swapped.write_bytes(ljpeg_writer.encode(PIXELS.reshape(COLUMNS, ROWS), 12))
    inventory = inventory_of(tmp_path)
    assert codes(inventory) == [(Reason.FILM_SIZE, "ddsm_A-1003-1_LEFT_CC")]
    (scan,) = [scan for scan in inventory.scans if scan.path == str(swapped)]
    np.testing.assert_array_equal(read_film(scan.path, scan.rows, scan.columns).pixels, PIXELS)


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


@pytest.mark.parametrize("suffix", ["", ".gz", ".GZ"])
def test_gzip_of_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    plain = inventory_of(tmp_path)
    for path in list(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.with_name(path.name + suffix).write_bytes(gzip.compress(content))
    inventory = inventory_of(tmp_path)
    assert [replace(scan, path="") for scan in inventory.scans] == [replace(scan, path="") for scan in plain.scans]
    assert (inventory.findings, inventory.rejects) == (plain.findings, ())
    film = inventory.scans[0]
    assert film.path.endswith("LJPEG" + suffix)
    np.testing.assert_array_equal(read_film(film.path, film.rows, film.columns).pixels, PIXELS)
    assert find_ics_view(film.path) is not None


def test_lower_case_names_and_words(tmp_path: Path) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    plain = inventory_of(tmp_path)
    for path in list(folder.iterdir()):
        content = path.read_bytes() if path.suffix == ".LJPEG" else path.read_bytes().lower()
        path.unlink()
        path.with_name(path.name.lower()).write_bytes(content)
    inventory = inventory_of(tmp_path)
    assert [replace(scan, path="") for scan in inventory.scans] == [replace(scan, path="") for scan in plain.scans]
    assert (inventory.findings, inventory.rejects) == (plain.findings, ())
    assert find_ics_view(inventory.scans[0].path) is not None


@pytest.mark.parametrize("name", ["A-1003-1.ics", "A_1003_1.LEFT_CC.OVERLAY", "A_1003_1.LEFT_CC.LJPEG"])
@pytest.mark.parametrize("fault", ["bomb", "cut", "broken"])
def test_gzip_faults(tmp_path: Path, name: str, fault: str) -> None:
    folder = make_case(tmp_path, "A-1003-1", {"LEFT_CC": OVERLAY})
    path = folder / name
    content = path.read_bytes()
    packed = gzip.compress(content + b"\0" * 2 * MAX_TEXT_BYTES if fault == "bomb" else content)
    path.write_bytes({"bomb": packed, "cut": packed[:-9], "broken": packed[:10] + b"\xff" * 20}[fault])
    tracemalloc.start()
    try:
        with pytest.raises(SourceFileError, match="gzip file") as raised:
            read_film(str(path), ROWS, COLUMNS) if path.suffix == ".LJPEG" else ddsm.read_header(str(path))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * MAX_TEXT_BYTES
    finally:
        tracemalloc.stop()
    assert raised.value.code is Reason.UNREADABLE_FILE


@pytest.mark.parametrize(("rows", "columns", "megabytes"), [(1500, 65500, 1), (6000, 8000, 310)])
def test_memory_of_a_small_gzip_file_that_claims_a_huge_film(
    tmp_path: Path, rows: int, columns: int, megabytes: int
) -> None:
    """No frame is larger than the largest films; one that may be takes 4 bytes of coded data to a pixel at most, and 2 for the pixel."""
    path = tmp_path / "A_1003_1.LEFT_CC.LJPEG"
    size = LJPEG.index(b"\xff\xc3") + 5
    scan = LJPEG.index(b"\xff\xda") + 10
    claim = LJPEG[:size] + rows.to_bytes(2) + columns.to_bytes(2) + LJPEG[size + 4 : scan]
    with gzip.open(path, "wb") as file:
        file.write(claim)
        for _ in range(4 * rows * columns >> 20):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 500_000
    tracemalloc.start()
    try:
        with pytest.raises(SourceFileError, match=r"no lossless JPEG that can be decoded|ends before its pixels do"):
            read_film(str(path))
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


def test_gunzip_takes_little_more_than_what_it_gives() -> None:
    content = gzip.compress(bytes(64 << 20), 1)
    tracemalloc.start()
    try:
        assert len(gunzip(content, 64 << 20)) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_text_without_end(tmp_path: Path) -> None:
    path = tmp_path / "A-1003-1.ics"
    path.write_bytes(ics("A-1003-1").encode() + b"\n" * MAX_TEXT_BYTES)
    with pytest.raises(SourceFileError, match="found a larger one"):
        read_ics(str(path))


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
    ["C-0029-1.LJPEG", "C_0029_1.LEFT_CC.ics", "C_0029_1.LEFT_XX.LJPEG", "E-0029-1.ics", "C_0029_1.LEFT_CC.LJPEG.Z"],
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
    overlay = read_overlay(str(realdata / "ddsm" / "D_4000_1.LEFT_CC.OVERLAY"))
    (lesion,) = overlay.lesions
    (outline,) = lesion.outlines
    assert overlay.stated_lesions == 1
    assert lesion == Lesion(
        number=1,
        lesion_types=("MASS SHAPE LOBULATED MARGINS CIRCUMSCRIBED",),
        assessment=0,
        subtlety=4,
        pathology="BENIGN",
        outlines=(outline,),
        broken_outlines=0,
        stated_outlines=1,
        found_outlines=1,
    )


def test_real_overlay_on_its_film(realdata: Path) -> None:
    """The ground truth published with the file: columns 910 to 1602, rows 2092 to 2876, 399,633 pixels."""
    path = str(realdata / "ddsm" / "D_4000_1.LEFT_CC.OVERLAY")
    view = IcsView(Laterality.LEFT, View.CC, 5296, 2566, 12, 43.5, True, "HOWTEK", "ISMD", 3)
    headers: dict[str, ddsm.Header] = {
        "D-4000-1.ics": IcsCase((view,)),
        "D_4000_1.LEFT_CC.LJPEG": LjpegHeader(5296, 2566, 12, 7, 0, 0),
        path: ddsm.read_header(path),
    }
    inventory = ddsm.assemble(list(headers), headers, ())
    (finding,) = inventory.findings
    assert (finding.roi_flags, inventory.rejects) == ((), ())
    region = region_of(finding, 5296, 2566)
    assert region is not None
    assert (region.area, region.box) == (399_633, Box(2092, 910, 2876 - 2092 + 1, 1602 - 910 + 1))
