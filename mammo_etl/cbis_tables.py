"""CBIS-DDSM's four case-description tables: one row per finding."""

import csv
import io
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

from mammo_etl.files import SourceFileError, name_of, read_bytes
from mammo_etl.records import Abnormality, Laterality, Pathology, Reason, Rejection, View

SOURCE = "cbis-ddsm"

_NAME = re.compile(r"(mass|calc)[-_ ]case[-_ ]description[-_ ](train|test).*\.csv", re.IGNORECASE)
_COLUMNS = (
    "patient id",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "pathology",
    "image file path",
    "cropped image file path",
    "roi mask file path",
)
"""Columns that must be there, in lower case and with spaces: the tables write both `breast_density` and `breast density`."""
_DESCRIPTORS = ("mass shape", "mass margins", "calc type", "calc distribution")
_MAY_BE_NULL = ("breast density", *_DESCRIPTORS, "assessment", "subtlety")
_FROM_ONE = ("breast density", "subtlety")
"""Scales that begin at 1: a 0 is no value. That of `assessment` begins at 0 (BI-RADS 0: needs further imaging)."""
_NULLS = ("", "N/A")
"""How a table writes that a value is not known; copies that went through a spreadsheet or pandas leave it empty."""
_PATHOLOGIES = {
    "BENIGN": Pathology.BENIGN,
    "BENIGN_WITHOUT_CALLBACK": Pathology.BENIGN,
    "MALIGNANT": Pathology.MALIGNANT,
}

_reject = partial(Rejection, stage="inventory", source=SOURCE)


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as a table names it: `folder/study/series/name`."""

    folder: str
    """Also the PatientID of the file's header, as Mass-Training_P_00001_LEFT_CC_1."""
    series_uid: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class TableRow:
    """One finding."""

    patient_id: str
    laterality: Laterality
    view: View
    abnormality: Abnormality
    abnormality_id: int
    pathology: Pathology
    pathology_listed: str
    density: int | None
    assessment: int | None
    subtlety: int | None
    descriptors: str
    unstated: tuple[str, ...]
    """Columns that say nothing of this finding: null, or 0 on a scale that begins at 1 (density, subtlety)."""
    split: str
    """train or test: the table that holds the row."""
    image: ListedFile
    crop: ListedFile
    """What the table calls the cut-out; it may be the mask."""
    mask: ListedFile
    """What the table calls the ROI mask; it may be the cut-out."""

    @property
    def image_id(self) -> str:
        """Name of the film: mass and calcification films of one side and view are two, with UIDs of their own."""
        kind = "mass" if self.abnormality is Abnormality.MASS else "calc"
        return f"{SOURCE}_{self.patient_id}_{self.laterality}_{self.view}_{kind}"

    @property
    def finding_id(self) -> str:
        """Name of the finding."""
        return f"{self.image_id}_{self.abnormality_id}"


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows of all tables, and what had to be left out."""

    rows: tuple[TableRow, ...]
    """By finding_id."""
    rejects: tuple[Rejection, ...]


def read_tables(files: Iterable[str]) -> Tables:
    """The tables among some files, by name (`mass_case_description_train_set.csv` and so on, in any case of letters).

    Copies of a table count once. Rejections: `bad-table` if there is no table, or one that cannot be read, lacks columns, or differs
    from another of its name; `bad-table-row` for rows that are not understood, and for a second row of one finding.
    """
    rejects: list[Rejection] = []
    found: dict[str, tuple[str, list[dict[str, str]]]] = {}
    for url in sorted(files):
        match = _NAME.fullmatch(name_of(url))
        if match is None:
            continue
        split = match[2].lower()
        try:
            rows = _parse(read_bytes(url))
        except SourceFileError as error:
            rejects.append(_reject(code=error.code, message=error.message, path=url))
            continue
        first, known = found.setdefault(f"{match[1].lower()} {split}", (url, rows))
        if rows != known:
            message = f"The table differs from another of its name: {name_of(first)} was taken."
            rejects.append(_reject(code=Reason.BAD_TABLE, message=message, path=url))
    if not found and not rejects:
        message = "No table was found: expected mass_case_description_train_set.csv, and the others of its kind."
        rejects.append(_reject(code=Reason.BAD_TABLE, message=message))
    rows_by_id: dict[str, TableRow] = {}
    for kind, (url, rows) in sorted(found.items()):
        for number, values in enumerate(rows, 1):
            try:
                row = _row(values, split=kind.split()[1])
                if row.finding_id in rows_by_id:
                    raise SourceFileError(Reason.BAD_TABLE_ROW, f"{row.finding_id} has a row already.")
            except SourceFileError as error:
                message = f"Row {number}: {error.message}"
                rejects.append(_reject(code=error.code, message=message, path=url))
            else:
                rows_by_id[row.finding_id] = row
    return Tables(tuple(row for _, row in sorted(rows_by_id.items())), tuple(rejects))


def official_parts(rows: Iterable[TableRow]) -> dict[str, tuple[str, ...]]:
    """The parts, test and train, in which the tables list each patient; 31 are in both."""
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row.patient_id, set()).add(row.split)
    return {patient: tuple(sorted(found)) for patient, found in parts.items()}


def _parse(content: bytes) -> list[dict[str, str]]:
    """Rows of a table by column name; the line breaks that end some values are dropped."""
    try:
        # newline="" leaves line ends to the csv module: values hold line breaks of their own.
        lines = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        hint = ": it is cut short" if str(error) == "unexpected end of data" else ""
        raise SourceFileError(Reason.BAD_TABLE, f"The table is not CSV text: {error}{hint}.") from error
    header = [name.strip().lower().replace("_", " ") for name in lines[0]] if lines else []
    if missing := [column for column in _COLUMNS if column not in header]:
        raise SourceFileError(Reason.BAD_TABLE, f"The table lacks columns: {', '.join(missing)}.")
    return [
        dict(zip(header, (value.strip().strip('"').strip() for value in line), strict=False))
        for line in lines[1:]
        if any(value.strip() for value in line)
    ]


def _row(values: dict[str, str], split: str) -> TableRow:
    """A row; raises SourceFileError with `bad-table-row`, naming the column."""

    def one_of(column: str, allowed: Collection[str]) -> str:
        value = values.get(column, "").upper()
        if value not in allowed:
            raise SourceFileError(
                Reason.BAD_TABLE_ROW, f"{column} is {value or 'empty'}: expected one of {', '.join(allowed)}."
            )
        return value

    def listed(column: str) -> ListedFile:
        path = values.get(column, "").replace("\\", "/")
        parts = path.split("/")
        if len(parts) < 4 or not all(parts):
            raise SourceFileError(
                Reason.BAD_TABLE_ROW, f"{column} is {path or 'empty'}: expected folder/study/series/file."
            )
        return ListedFile(folder=parts[-4], series_uid=parts[-2], name=parts[-1], path=path)

    patient_id = values.get("patient id", "")
    number = _integer(values.get("abnormality id", ""))
    if not re.fullmatch(r"P_\d+", patient_id) or number is None:
        raise SourceFileError(
            Reason.BAD_TABLE_ROW, "patient_id or abnormality id is not understood: expected P_00001 and a number."
        )
    pathology = one_of("pathology", _PATHOLOGIES)
    density = _integer(values.get("breast density", ""))
    return TableRow(
        patient_id=patient_id,
        laterality=Laterality(one_of("left or right breast", [*Laterality])),
        view=View(one_of("image view", [*View])),
        abnormality=Abnormality(one_of("abnormality type", [kind.upper() for kind in Abnormality]).lower()),
        abnormality_id=number,
        pathology=_PATHOLOGIES[pathology],
        pathology_listed=pathology,
        density=density if density in (1, 2, 3, 4) else None,
        assessment=_integer(values.get("assessment", "")),
        subtlety=_integer(values.get("subtlety", "")),
        descriptors="; ".join(value for column in _DESCRIPTORS if (value := values.get(column, "")) not in _NULLS),
        unstated=tuple(
            column
            for column in _MAY_BE_NULL
            if column in values
            and (values[column] in _NULLS or (column in _FROM_ONE and _integer(values[column]) == 0))
        ),
        split=split,
        image=listed("image file path"),
        crop=listed("cropped image file path"),
        mask=listed("roi mask file path"),
    )


def _integer(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,4})(\.0)?", text)  # pandas writes a column of integers with a gap as 3.0
    return int(match[1]) if match else None
