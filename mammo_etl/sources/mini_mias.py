"""mini-MIAS: `mdb001.pgm` ... `mdb322.pgm` and their list `Info.txt`, in a folder or a zip archive.

The films are in pairs, the two breasts of one woman: odd numbers are right, even ones left (MIAS, Info.txt). All views are MLO.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

from mammo_etl import pgm
from mammo_etl.files import SourceFileError, name_of, read_bytes
from mammo_etl.records import (
    Abnormality,
    Finding,
    Laterality,
    Pathology,
    Reason,
    Rejection,
    RoiKind,
    Scan,
    Verdict,
    View,
    label_of,
)
from mammo_etl.sources import Inventory

_SOURCE = "mini-mias"
_PIXEL_UM = 200.0

_FILM = re.compile(r"mdb(\d{3})\.pgm", re.IGNORECASE)
_ROW = re.compile(r"mdb(?P<film>\d{3})\b(?P<rest>.*)", re.IGNORECASE)
_VALUES = re.compile(
    r"\s+[FGD]\s+(?:NORM|(?P<kind>CALC|CIRC|SPIC|MISC|ARCH|ASYM)\s+(?P<severity>[BM])"
    r"(?:\s+(?P<x>\d+)\s+(?P<y>\d+)\s+(?P<radius>\d+)|\s*\*NOTE.*)?)\s*"
)
_PATHOLOGIES = {"B": Pathology.BENIGN, "M": Pathology.MALIGNANT}

_reject = partial(Rejection, stage="inventory", source=_SOURCE)


@dataclass(frozen=True, slots=True)
class _Lesion:
    """A row of Info.txt other than NORM."""

    kind: str
    """CALC, CIRC, SPIC, MISC, ARCH or ASYM."""
    severity: str
    """B or M."""
    circle: tuple[int, int, int] | None
    """x, y, radius; pixels from the bottom-left corner."""


def wants(url: str) -> bool:
    """Whether this is a PGM file."""
    return name_of(url).lower().endswith(".pgm")


def read_header(url: str) -> pgm.PgmHeader:
    """Size of a film; raises SourceFileError with `unreadable-file` if it is not PGM, `truncated-file` if it is too short."""
    return pgm.read_header(url)


def assemble(files: Sequence[str], headers: Mapping[str, pgm.PgmHeader], rejects: Sequence[Rejection]) -> Inventory:
    """Films by their number, with the rows of Info.txt, which is read here."""
    if not any(wants(url) for url in files):
        message = "There is no .pgm file here: expected mdb001.pgm and so on, with Info.txt."
        return Inventory((), (), (*rejects, _reject(code=Reason.EMPTY_SOURCE, message=message)))
    left_out = [_with_image_id(reject) for reject in rejects]
    lost = {number for reject in rejects if (number := _number_of(reject.path)) is not None}
    table: dict[int, list[_Lesion]] = {}
    tables = [url for url in sorted(files) if name_of(url).lower() == "info.txt"]
    try:
        table, bad_rows = _read_table(tables)
    except SourceFileError as error:
        left_out.append(_reject(code=error.code, message=error.message, path=tables[0] if tables else ""))
    else:
        left_out += bad_rows
    scans: list[Scan] = []
    findings: list[Finding] = []
    met: set[int] = set()
    for url, header in sorted(headers.items()):
        number = _number_of(url)
        if number is None or number not in table:
            if table:
                left_out.append(_not_in_table(url, number))
        elif number in met:
            message = "The film is there already under another path."
            left_out.append(_reject(code=Reason.DUPLICATE_IMAGE, message=message, path=url, image_id=_image_id(number)))
        else:
            met.add(number)
            scan = _scan(url, header, number, normal=not table[number])
            scans.append(scan)
            findings += [_finding(lesion, scan, position) for position, lesion in enumerate(table[number], 1)]
    left_out += [_missing(number) for number in table if number not in met and number not in lost]
    left_out += [_not_located(finding) for finding in findings if finding.roi_kind is RoiKind.NONE]
    return Inventory(
        tuple(sorted(scans, key=attrgetter("image_id"))),
        tuple(sorted(findings, key=attrgetter("finding_id"))),
        tuple(sorted(left_out, key=attrgetter("path", "image_id", "finding_id", "code"))),
    )


def _read_table(tables: Sequence[str]) -> tuple[dict[int, list[_Lesion]], list[Rejection]]:
    """Lesions of each film (none for NORM) from the first table, and its rows that are not understood, with whose films nothing is done.

    Raises SourceFileError if there is no table, or none of its rows is understood.
    """
    if not tables:
        raise SourceFileError(Reason.BAD_TABLE, "There is no Info.txt: nothing is known about the films.")
    table: dict[int, list[_Lesion]] = {}
    bad_rows: dict[int, Rejection] = {}
    for line in read_bytes(tables[0]).decode("latin-1").splitlines():
        row = _ROW.match(line)
        if row is None:
            continue
        number = int(row["film"])
        values = _VALUES.fullmatch(row["rest"])
        if values is None:
            message = f"The row of film {number} is not understood: expected as in 'mdb001 G CIRC B 535 425 197'."
            bad_rows[number] = _reject(
                code=Reason.BAD_TABLE_ROW, message=message, path=tables[0], image_id=_image_id(number)
            )
            continue
        lesions = table.setdefault(number, [])
        if values["kind"] is not None:
            circle = (int(values["x"]), int(values["y"]), int(values["radius"])) if values["x"] else None
            lesions.append(_Lesion(values["kind"], values["severity"], circle))
    understood = {number: lesions for number, lesions in table.items() if number not in bad_rows}
    if not understood:
        raise SourceFileError(Reason.BAD_TABLE, "Info.txt lists no film: expected rows as 'mdb003 D NORM'.")
    return understood, list(bad_rows.values())


def _number_of(url: str) -> int | None:
    match = _FILM.fullmatch(name_of(url))
    return int(match[1]) if match else None


def _laterality(number: int) -> Laterality:
    return Laterality.RIGHT if number % 2 else Laterality.LEFT


def _patient_id(number: int) -> str:
    right = number if number % 2 else number - 1
    return f"mdb{right:03d}-{right + 1:03d}"


def _image_id(number: int) -> str:
    return f"{_SOURCE}_{_patient_id(number)}_{_laterality(number)}_{View.MLO}"


def _scan(url: str, header: pgm.PgmHeader, number: int, normal: bool) -> Scan:
    return Scan(
        image_id=_image_id(number),
        source=_SOURCE,
        patient_id=_patient_id(number),
        laterality=_laterality(number),
        view=View.MLO,
        normal=normal,
        path=url,
        rows=header.rows,
        columns=header.columns,
        bits=header.bits,
        pixel_um=_PIXEL_UM,
    )


def _finding(lesion: _Lesion, scan: Scan, position: int) -> Finding:
    abnormality = Abnormality.CALCIFICATION if lesion.kind == "CALC" else Abnormality.MASS
    pathology = _PATHOLOGIES[lesion.severity]
    x, y, radius = map(float, lesion.circle) if lesion.circle is not None else (None, None, None)
    return Finding(
        finding_id=f"{scan.image_id}_{position}",
        image_id=scan.image_id,
        source=_SOURCE,
        patient_id=scan.patient_id,
        abnormality=abnormality,
        pathology=pathology,
        pathology_listed=lesion.severity,
        label=label_of(abnormality, pathology),
        roi_kind=RoiKind.CIRCLE if lesion.circle is not None else RoiKind.NONE,
        # The origin is the bottom-left corner of the film (Info.txt, note 3), so y = 0 is its lower edge, at row `rows`.
        roi_y=scan.rows - y if y is not None else None,
        roi_x=x,
        roi_radius=radius,
        verdict=Verdict.AS_LISTED if lesion.circle is not None else Verdict.QUARANTINED,
        descriptors=lesion.kind,
    )


def _with_image_id(reject: Rejection) -> Rejection:
    number = _number_of(reject.path)
    return reject if number is None else replace(reject, image_id=_image_id(number))


def _not_in_table(url: str, number: int | None) -> Rejection:
    message = "Info.txt does not list this film in a way that is understood."
    image_id = "" if number is None else _image_id(number)
    return _reject(code=Reason.NOT_IN_TABLES, message=message, path=url, image_id=image_id)


def _missing(number: int) -> Rejection:
    message = "Info.txt lists a film whose file is not there."
    return _reject(code=Reason.MISSING_FILES, message=message, path=f"mdb{number:03d}.pgm", image_id=_image_id(number))


def _not_located(finding: Finding) -> Rejection:
    message = "Info.txt gives no place for this finding: its calcifications are widely spread, or it was left out."
    return _reject(code=Reason.NOT_LOCATED, message=message, image_id=finding.image_id, finding_id=finding.finding_id)
