"""Arrow schemas of the tables, made from the records: one place for columns, types and their descriptions.

Each Parquet file carries the description of every column in that field's metadata, `format_version` in the file's metadata, and
(for `rejects`) the meaning of every reason code.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Sequence
from enum import IntEnum, StrEnum
from operator import attrgetter
from typing import Any, TypeVar

import pyarrow as pa
from typing_extensions import Doc

from mammo_etl.records import REASONS, Candidate, Finding, Patch, Rejection, Scan

FORMAT_VERSION = 3
"""Version of every table, manifest and receipt; raised when their meaning changes."""

Record = TypeVar("Record")

_ARROW: dict[type, pa.DataType] = {str: pa.string(), bool: pa.bool_(), int: pa.int32(), float: pa.float64()}


def _arrow_type(annotation: Any) -> tuple[pa.DataType, bool]:
    """Arrow type of an annotation, and whether it may be null."""
    arguments = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _arrow_type(inner)[0], True
    if typing.get_origin(annotation) is tuple:
        return pa.list_(pa.field("item", _arrow_type(arguments[0])[0], nullable=False)), False
    if issubclass(annotation, StrEnum):
        return pa.string(), False
    if issubclass(annotation, IntEnum):
        return pa.int32(), False
    return _ARROW[annotation], False


def schema_of(record: type) -> pa.Schema:
    """Arrow schema of a record class: one described column per field, in order."""
    hints = typing.get_type_hints(record, include_extras=True)
    fields = []
    for field in dataclasses.fields(record):
        annotation, doc = typing.get_args(hints[field.name])
        arrow, nullable = _arrow_type(annotation)
        assert isinstance(doc, Doc)
        fields.append(pa.field(field.name, arrow, nullable, {"description": doc.documentation}))
    metadata: dict[bytes | str, bytes | str] = {
        "format_version": str(FORMAT_VERSION),
        "table": (record.__doc__ or "").strip(),
    }
    if record is Rejection:
        metadata["reasons"] = json.dumps({reason.value: text for reason, text in REASONS.items()})
    return pa.schema(fields, metadata=metadata)


SCANS = schema_of(Scan)
FINDINGS = schema_of(Finding)
REJECTS = schema_of(Rejection)
CANDIDATES = schema_of(Candidate)
PATCHES = schema_of(Patch)


def to_table(records: Iterable[Any], record: type) -> pa.Table:
    """Records as an Arrow table with the record's schema."""
    return pa.Table.from_pylist(to_rows(records, record), schema=schema_of(record))


def to_rows(records: Iterable[Any], record: type) -> list[dict[str, Any]]:
    """Records as rows: their fields by name. Several times faster than `dataclasses.asdict`, which copies what cannot change."""
    names = [field.name for field in dataclasses.fields(record)]
    values = attrgetter(*names)
    return [dict(zip(names, values(item), strict=True)) for item in records]


def to_columns(records: Sequence[Any], record: type) -> dict[str, list[Any]]:
    """Records as columns by name, without a copy of each record, as `pandas.DataFrame(records)` makes of dataclasses."""
    return {field.name: [getattr(item, field.name) for item in records] for field in dataclasses.fields(record)}


def from_rows(rows: Iterable[dict[str, Any]], record: type[Record]) -> list[Record]:
    """Rows, as `pyarrow.Table.to_pylist` gives them, back into records with their enums."""
    hints = typing.get_type_hints(record)
    converters = {
        name: hint if isinstance(hint, type) and issubclass(hint, (StrEnum, IntEnum)) else tuple
        for name, hint in hints.items()
        if typing.get_origin(hint) is tuple or (isinstance(hint, type) and issubclass(hint, (StrEnum, IntEnum)))
    }
    return [
        record(**{name: converters[name](value) if name in converters else value for name, value in row.items()})
        for row in rows
    ]
