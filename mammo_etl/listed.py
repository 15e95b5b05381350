"""What the tables of a source list, read alone: before its films are downloaded.

The result has the form of an inventory, as if every film that is listed were there. What only the films' files tell is left at 0 or
empty: for CBIS-DDSM rows, columns and bits of the films, and the verdicts of all sources.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mammo_etl.cbis_tables import SOURCE, TableRow, Tables, official_parts, read_tables
from mammo_etl.files import SourceFileError, name_of, read_bytes
from mammo_etl.ics import IcsCase, parse_name
from mammo_etl.inspection import Inspected, Inspection, inspect
from mammo_etl.inventory import InventoryError, SourceFiles, assemble, list_sources, read_headers
from mammo_etl.ljpeg import LjpegHeader
from mammo_etl.pgm import PgmHeader
from mammo_etl.records import Finding, Reason, Rejection, RoiKind, Scan, label_of
from mammo_etl.settings import SourceSettings
from mammo_etl.sources import Inventory

_MINI_MIAS_ROW = re.compile(r"mdb\d{3}\b", re.IGNORECASE)
_MINI_MIAS_SIDE = 1024
"""Rows and columns of every film (MIAS, Info.txt, note 2)."""


def inspect_tables(settings: Sequence[SourceSettings]) -> Inspection:
    """What the tables of the sources list; a place may also be a single table.

    Raises InventoryError if there is nothing at one of the places, or a source is of a kind without tables.
    """
    return inspect({source.kind: _listed(source) for source in _list_tables(settings)}, tables_only=True)


def _list_tables(settings: Sequence[SourceSettings]) -> list[SourceFiles]:
    single = {source: Path(source.path).absolute() for source in settings if _is_table(source.path)}
    places = [source for source in settings if source not in single]
    found = {source.kind: source for source in (list_sources(places) if places else [])}
    for table, path in single.items():
        listed = found.get(table.kind, SourceFiles(table.kind, (), ()))
        found[table.kind] = SourceFiles(table.kind, (*listed.files, str(path)), listed.rejects)
    return [found[kind] for kind in sorted(found)]


def _is_table(path: str) -> bool:
    return Path(path).is_file() and Path(path).suffix.lower() != ".zip"


def _listed(source: SourceFiles) -> Inspected:
    if source.kind == SOURCE:
        tables = read_tables(source.files)
        return Inspected(listed_by_cbis_tables(tables), len(source.files), source.phantom, tables.rows)
    return Inspected(listed_by_texts(source), len(source.files), source.phantom)


def listed_by_cbis_tables(tables: Tables) -> Inventory:
    """The films and findings of CBIS-DDSM's tables; paths are those that the tables write."""
    parts = official_parts(tables.rows)
    first_rows: dict[str, TableRow] = {}
    for row in tables.rows:
        first_rows.setdefault(row.image_id, row)
    return Inventory(
        tuple(_scan(row, parts[row.patient_id]) for row in first_rows.values()),
        tuple(_finding(row) for row in tables.rows),
        tables.rejects,
    )


def listed_by_texts(source: SourceFiles) -> Inventory:
    """The films and findings that DDSM's .ics and .OVERLAY files list, or mini-MIAS' Info.txt.

    Raises InventoryError for other kinds of source.
    """
    if source.kind == "ddsm":
        return _listed_by_cases(source)
    if source.kind == "mini-mias":
        return _listed_by_info(source)
    raise InventoryError(f"source {source.kind}: it has no tables that can be read alone")


def _listed_by_cases(source: SourceFiles) -> Inventory:
    texts = [url for url in source.files if (name := parse_name(url)) is not None and name.kind != "ljpeg"]
    headers: dict[str, Any] = dict(read_headers(source.kind, texts))
    films: dict[str, LjpegHeader] = {}
    for url, header in headers.items():
        name = parse_name(url)
        if name is not None and isinstance(header, IcsCase):
            for view in header.views:
                path = f"{name.case.replace('-', '_')}.{view.film}.LJPEG"
                films[path] = LjpegHeader(view.rows, view.columns, view.bits, 7, 0, 0)
    return _as_if_there(source, texts, headers | films)


def _listed_by_info(source: SourceFiles) -> Inventory:
    tables = [url for url in source.files if name_of(url).lower() == "info.txt"]
    films: dict[str, PgmHeader] = {}
    try:
        lines = read_bytes(tables[0]).decode("latin-1").splitlines() if tables else []
    except SourceFileError as error:
        return Inventory((), (), (*source.rejects, _bad_table(source.kind, error.message, tables[0])))
    for line in lines:
        if match := _MINI_MIAS_ROW.match(line):
            films[f"{match[0].lower()}.pgm"] = PgmHeader(_MINI_MIAS_SIDE, _MINI_MIAS_SIDE, 8, False, 0)
    if not films:
        message = "There is no Info.txt that lists a film: expected rows as 'mdb003 D NORM'."
        return Inventory((), (), (*source.rejects, _bad_table(source.kind, message, tables[0] if tables else "")))
    listed = _as_if_there(source, tables, films)
    # A film whose row is not understood has a rejection for that row already.
    return replace(listed, rejects=tuple(row for row in listed.rejects if row.code is not Reason.NOT_IN_TABLES))


def _as_if_there(source: SourceFiles, texts: list[str], headers: Mapping[str, Any]) -> Inventory:
    return assemble(replace(source, files=tuple(sorted({*texts, *headers}))), headers)


def _bad_table(kind: str, message: str, path: str) -> Rejection:
    return Rejection(stage="inventory", code=Reason.BAD_TABLE, message=message, source=kind, path=path)


def _scan(row: TableRow, parts: tuple[str, ...]) -> Scan:
    return Scan(
        image_id=row.image_id,
        source=SOURCE,
        patient_id=row.patient_id,
        laterality=row.laterality,
        view=row.view,
        normal=False,
        path=row.image.path,
        rows=0,
        columns=0,
        bits=0,
        density=row.density,
        official_split=row.split,
        official_parts=parts,
    )


def _finding(row: TableRow) -> Finding:
    return Finding(
        finding_id=row.finding_id,
        image_id=row.image_id,
        source=SOURCE,
        patient_id=row.patient_id,
        abnormality=row.abnormality,
        pathology=row.pathology,
        pathology_listed=row.pathology_listed,
        label=label_of(row.abnormality, row.pathology),
        roi_kind=RoiKind.MASK,
        roi_path=row.mask.path,
        crop_path=row.crop.path,
        assessment=row.assessment,
        subtlety=row.subtlety,
        descriptors=row.descriptors,
    )
