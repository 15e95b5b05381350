"""CBIS-DDSM's tables: what is odd about the real ones, and what becomes of damaged copies."""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from mammo_etl.cbis_tables import TableRow, Tables, read_tables
from mammo_etl.records import Abnormality, Pathology, Reason

MASS, CALC = Abnormality.MASS, Abnormality.CALCIFICATION
TABLES = {
    (MASS, "train"): "mass_case_description_train_set.csv",
    (MASS, "test"): "mass_case_description_test_set.csv",
    (CALC, "train"): "calc_case_description_train_set.csv",
    (CALC, "test"): "calc_case_description_test_set.csv",
}
SMALLEST = TABLES[CALC, "test"]


@pytest.fixture(scope="session")
def folder(realdata: Path) -> Path:
    return realdata / "cbis_csv"


@pytest.fixture(scope="session")
def tables(folder: Path) -> Tables:
    return read_tables(map(str, folder.iterdir()))


@pytest.fixture(scope="session")
def rows(tables: Tables) -> tuple[TableRow, ...]:
    return tables.rows


def part_of(rows: tuple[TableRow, ...], abnormality: Abnormality, split: str) -> list[TableRow]:
    return [row for row in rows if (row.abnormality, row.split) == (abnormality, split)]


def side_view(row: TableRow) -> tuple[str, str, str]:
    return row.patient_id, row.laterality, row.view


def several(rows: tuple[TableRow, ...], key: Callable[[TableRow], object], value: Callable[[TableRow], object]) -> int:
    """How many keys have more than one value."""
    found = defaultdict(set)
    for row in rows:
        found[key(row)].add(value(row))
    return sum(len(values) > 1 for values in found.values())


def columns_of(path: Path) -> list[dict[str, str]]:
    """A table as the csv module reads it, untouched."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def edited(content: bytes, change: Callable[[list[list[str]]], object]) -> bytes:
    """A table after its cells were changed in place, the header's among them."""
    lines = list(csv.reader(io.StringIO(content.decode(), newline="")))
    change(lines)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def read_copy(tmp_path: Path, content: bytes, name: str = SMALLEST) -> Tables:
    (tmp_path / name).write_bytes(content)
    return read_tables([str(tmp_path / name)])


def test_nothing_of_the_real_tables_is_left_out(tables: Tables) -> None:
    rows = tables.rows
    assert tables.rejects == ()
    assert len({row.finding_id for row in rows}) == len(rows) == 3568
    assert len({row.image_id for row in rows}) == 3103
    assert len({row.patient_id for row in rows}) == 1566
    assert Counter((row.pathology, row.abnormality) for row in rows) == {
        (Pathology.BENIGN, CALC): 1199,
        (Pathology.BENIGN, MASS): 912,
        (Pathology.MALIGNANT, CALC): 673,
        (Pathology.MALIGNANT, MASS): 784,
    }
    of = {kind: {row.patient_id for row in rows if row.abnormality is kind} for kind in (MASS, CALC)}
    assert (len(of[MASS]), len(of[CALC]), len(of[MASS] & of[CALC])) == (892, 753, 79)


@pytest.mark.parametrize(
    ("abnormality", "split", "count", "patients", "films", "pathologies"),
    [
        (MASS, "train", 1318, 691, 1231, (637, 577, 104)),
        (MASS, "test", 378, 201, 361, (147, 194, 37)),
        (CALC, "train", 1546, 602, 1227, (544, 528, 474)),
        (CALC, "test", 326, 151, 284, (129, 130, 67)),
    ],
)
def test_each_table(
    rows: tuple[TableRow, ...],
    abnormality: Abnormality,
    split: str,
    count: int,
    patients: int,
    films: int,
    pathologies: tuple[int, int, int],
) -> None:
    found = part_of(rows, abnormality, split)
    listed = Counter(row.pathology_listed for row in found)
    assert len(found) == count
    assert len({row.patient_id for row in found}) == patients
    assert len({row.image_id for row in found}) == len({row.image.path for row in found}) == films
    assert (listed["MALIGNANT"], listed["BENIGN"], listed["BENIGN_WITHOUT_CALLBACK"]) == pathologies


def test_a_line_break_within_one_quoted_path_of_every_row(folder: Path, rows: tuple[TableRow, ...]) -> None:
    for (abnormality, _), name in TABLES.items():
        broken = "ROI mask file path" if abnormality is MASS else "cropped image file path"
        for cells in columns_of(folder / name):
            assert [column for column, value in cells.items() if "\n" in value] == [broken]
            assert cells[broken].endswith("\n")
    assert all(re.fullmatch(r"\d{6}\.dcm", file.name) for row in rows for file in (row.image, row.crop, row.mask))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_line_ends_of_either_kind(folder: Path, tmp_path: Path, tables: Tables, line_end: bytes) -> None:
    for path in folder.iterdir():
        # Some copies have every line end, those within values too, in Windows' way.
        content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", line_end)
        (tmp_path / path.name.upper()).write_bytes(content)
    assert read_tables(map(str, tmp_path.iterdir())) == tables


def test_records_that_end_in_crlf_around_values_that_do_not(folder: Path, tmp_path: Path, tables: Tables) -> None:
    for path in folder.iterdir():
        text = io.StringIO(newline="")
        with path.open(newline="") as file:
            csv.writer(text, lineterminator="\r\n").writerows(csv.reader(file))
        (tmp_path / path.name).write_bytes(text.getvalue().encode())
    assert read_tables(map(str, tmp_path.iterdir())) == tables


def test_copies_of_a_table_count_once(folder: Path, tmp_path: Path, tables: Tables) -> None:
    copy = tmp_path / SMALLEST
    copy.write_bytes((folder / SMALLEST).read_bytes().replace(b"\n", b"\r\n"))
    assert read_tables([str(copy), *map(str, folder.iterdir())]) == tables


def test_density_under_either_name_of_its_column(folder: Path, rows: tuple[TableRow, ...]) -> None:
    for (abnormality, split), name in TABLES.items():
        column = "breast_density" if abnormality is MASS else "breast density"
        listed = Counter(cells[column] for cells in columns_of(folder / name))
        read = Counter(str(row.density or 0) for row in part_of(rows, abnormality, split))
        assert read == listed
    assert Counter(row.density for row in rows) == {2: 1373, 3: 1103, 4: 554, 1: 536, None: 2}


def test_zeros_where_the_scale_begins_at_one(rows: tuple[TableRow, ...]) -> None:
    no_density = [row for row in rows if row.density is None]
    assert [(row.abnormality, row.split) for row in no_density] == [(CALC, "test")] * 2
    assert all("breast density" in row.unstated for row in no_density)
    no_subtlety = [row for row in rows if row.subtlety == 0]
    assert [(row.abnormality, row.split) for row in no_subtlety] == [(MASS, "train")] * 2
    assert all("subtlety" in row.unstated for row in no_subtlety)
    # BI-RADS 0 is a verdict: further imaging is needed.
    further = [row for row in rows if row.assessment == 0]
    assert len(further) == 238
    assert not any("assessment" in row.unstated for row in further)


def test_nulls(rows: tuple[TableRow, ...]) -> None:
    assert Counter(column for row in rows for column in row.unstated) == {
        "mass shape": 4,
        "mass margins": 60,
        "calc type": 24,
        "calc distribution": 439,
        "breast density": 2,
        "subtlety": 2,
    }
    assert sum(not row.descriptors for row in rows) == 2
    assert not any("N/A" in row.descriptors for row in rows)


def test_abnormality_numbers_that_skip(rows: tuple[TableRow, ...]) -> None:
    numbers = defaultdict(list)
    for row in rows:
        numbers[row.image_id].append(row.abnormality_id)
    assert all(len(set(found)) == len(found) for found in numbers.values())
    assert sum(sorted(found) != list(range(1, len(found) + 1)) for found in numbers.values()) == 101
    assert numbers["cbis-ddsm_P_00016_LEFT_CC_calc"] == [2]
    assert Counter(map(len, numbers.values())) == {1: 2810, 2: 191, 3: 66, 4: 15, 5: 10, 6: 9, 7: 2}


def test_paths_of_four_segments_whose_folders_tell_the_film(rows: tuple[TableRow, ...]) -> None:
    for row in rows:
        kind = "Mass" if row.abnormality is MASS else "Calc"
        part = "Training" if row.split == "train" else "Test"
        film = f"{kind}-{part}_{row.patient_id}_{row.laterality}_{row.view}"
        assert row.image.folder == film
        assert row.crop.folder == row.mask.folder == f"{film}_{row.abnormality_id}"
        for file in (row.image, row.crop, row.mask):
            segments = file.path.split("/")
            assert len(segments) == 4
            assert (segments[0], segments[2], segments[3]) == (file.folder, file.series_uid, file.name)
            assert re.fullmatch(r"[\d.]{1,64}", file.series_uid)


def test_series_and_files_of_the_collection(rows: tuple[TableRow, ...]) -> None:
    # As many as in the manifest of the DICOM files.
    listed = [file for row in rows for file in (row.image, row.crop, row.mask)]
    assert len({file.series_uid for file in listed}) == 6775
    assert len({file.path for file in listed}) == 10239
    # A series is one film's, and one finding's.
    assert several(rows, lambda row: row.image.series_uid, lambda row: row.image_id) == 0
    assert several(rows, lambda row: row.image_id, lambda row: (row.image.series_uid, row.split)) == 0
    assert several(rows, lambda row: row.crop.series_uid, lambda row: row.finding_id) == 0
    assert several(rows, lambda row: row.mask.series_uid, lambda row: row.finding_id) == 0


def test_crop_and_mask_in_one_series_or_in_two(rows: tuple[TableRow, ...]) -> None:
    apart = [row for row in rows if row.crop.series_uid != row.mask.series_uid]
    assert Counter((row.abnormality, row.split) for row in apart) == {
        (MASS, "train"): 92,
        (MASS, "test"): 11,
        (CALC, "train"): 1,
    }
    assert all((row.crop.name, row.mask.name) == ("000000.dcm", "000000.dcm") for row in apart)
    together = [row for row in rows if row.crop.series_uid == row.mask.series_uid]
    assert all({row.crop.name, row.mask.name} == {"000000.dcm", "000001.dcm"} for row in together)


def test_overlaps_of_the_official_split(rows: tuple[TableRow, ...]) -> None:
    assert several(rows, lambda row: row.patient_id, lambda row: row.split) == 31
    assert several(rows, side_view, lambda row: row.split) == 29
    # They are so only once mass and calc are pooled.
    for kind in (MASS, CALC):
        of_kind = tuple(row for row in rows if row.abnormality is kind)
        assert several(of_kind, lambda row: row.patient_id, lambda row: row.split) == 0


def test_sides_and_views_that_are_two_films_or_of_two_classes(rows: tuple[TableRow, ...]) -> None:
    assert several(rows, side_view, lambda row: row.image_id) == 71
    assert several(rows, side_view, lambda row: row.image.series_uid) == 71
    assert several(rows, side_view, lambda row: (row.pathology, row.abnormality)) == 86


def test_one_row_in_full(rows: tuple[TableRow, ...]) -> None:
    (row,) = [row for row in rows if row.finding_id == "cbis-ddsm_P_00005_RIGHT_CC_calc_1"]
    assert (row.patient_id, row.laterality, row.view, row.split) == ("P_00005", "RIGHT", "CC", "train")
    assert (row.density, row.assessment, row.subtlety) == (3, 3, 3)
    assert row.pathology_listed == "MALIGNANT"
    assert row.descriptors == "AMORPHOUS; CLUSTERED"
    assert (row.crop.name, row.mask.name) == ("000001.dcm", "000000.dcm")
    assert row.crop.series_uid == "1.3.6.1.4.1.9590.100.1.2.393344010211719049419601138200355094682"


def test_a_byte_order_mark_and_blank_lines(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()
    expected = read_copy(tmp_path, content)
    assert len(expected.rows) == 326
    header, rest = content.split(b"\n", 1)
    blank = b"\n\r\n   \n" + b"," * 13 + b"\n\n"
    assert read_copy(tmp_path, b"\xef\xbb\xbf" + header + blank + rest + blank) == expected


def test_nulls_as_other_programs_write_them(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()
    expected = read_copy(tmp_path, content)

    def rewrite(lines: list[list[str]]) -> None:
        """pandas reads N/A as a gap, writes it as nothing, and numbers beside a gap as 3.0; it may add a column of row numbers."""
        number = lines[0].index("subtlety")
        for index, line in enumerate(lines):
            if index:
                line[:] = ["" if value == "N/A" else value for value in line]
                line[number] += ".0"
            line.insert(0, str(index - 1) if index else "Unnamed: 0")

    assert read_copy(tmp_path, edited(content, rewrite)) == expected


def test_a_value_that_is_null_where_one_must_be(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()
    for column, said in (("pathology", "pathology is N/A"), ("image view", "image view is N/A")):

        def rewrite(lines: list[list[str]], column: str = column) -> None:
            lines[3][lines[0].index(column)] = "N/A"

        found = read_copy(tmp_path, edited(content, rewrite))
        assert len(found.rows) == 325
        (reject,) = found.rejects
        assert reject.code is Reason.BAD_TABLE_ROW
        assert reject.message.startswith("Row 3: ")
        assert said in reject.message


def test_an_optional_column_that_is_missing(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()

    def rewrite(lines: list[list[str]]) -> None:
        number = lines[0].index("breast density")
        for line in lines:
            del line[number]

    found = read_copy(tmp_path, edited(content, rewrite))
    assert found.rejects == ()
    assert len(found.rows) == 326
    assert {row.density for row in found.rows} == {None}
    assert not any("breast density" in row.unstated for row in found.rows)


def test_a_needed_column_that_is_missing(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()
    found = read_copy(tmp_path, content.replace(b"ROI mask file path", b"roi path", 1))
    assert found.rows == ()
    (reject,) = found.rejects
    assert (reject.code, reject.path) == (Reason.BAD_TABLE, str(tmp_path / SMALLEST))
    assert reject.message == "The table lacks columns: roi mask file path."


def test_a_table_cut_within_a_quoted_value(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()
    quoted = content.rindex(b'"', 0, content.rindex(b'"'))
    found = read_copy(tmp_path, content[: quoted + 40])
    assert found.rows == ()
    (reject,) = found.rejects
    assert reject.code is Reason.BAD_TABLE
    assert "cut short" in reject.message


def test_a_table_cut_elsewhere_loses_its_last_row(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes().rstrip()
    found = read_copy(tmp_path, content[: content.rindex(b"/")])
    assert len(found.rows) == 325
    (reject,) = found.rejects
    assert reject.code is Reason.BAD_TABLE_ROW
    assert reject.message.startswith("Row 326: roi mask file path is ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "lacks columns"),
        (b"\n\n", "lacks columns"),
        (b"\xff\xfep\x00a\x00t\x00", "not CSV text"),
        (b"<html>404</html>", "lacks columns"),
        (b"patient_id;breast_density;left or right breast\n", "lacks columns"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, said: str) -> None:
    found = read_copy(tmp_path, content)
    assert found.rows == ()
    (reject,) = found.rejects
    assert reject.code is Reason.BAD_TABLE
    assert said in reject.message


def test_other_names(folder: Path, tmp_path: Path) -> None:
    content = (folder / SMALLEST).read_bytes()
    for name in ("Calc-Case-Description-Test-Set.csv", "calc_case_description_test_set (1).CSV"):
        assert len(read_copy(tmp_path, content, name).rows) == 326
    assert [reject.code for reject in read_copy(tmp_path, content, "calc.csv").rejects] == [Reason.BAD_TABLE]
