"""PGM files, binary (P5) and plain (P2), of 8 or 16 bits: mini-MIAS's format.

Not by OpenCV: it returns nothing for plain files without a final line break, and does not tell one fault from another.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammo_etl.files import SourceFileError, read_bytes, size_of
from mammo_etl.records import Reason

_GAP = rb"(?:\s|#[^\n\r]*[\n\r])+"
_HEADER = re.compile(rb"P([25])" + _GAP + rb"([0-9]{1,6})" + _GAP + rb"([0-9]{1,6})" + _GAP + rb"([0-9]{1,5})\s")
"""Form, columns, rows, largest value; comments may stand between them (Netpbm's PGM specification)."""
_WORD = re.compile(rb"\S+")
_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class PgmHeader:
    """What a PGM file says before its pixels."""

    rows: int
    columns: int
    bits: int
    """Bits of the largest value that pixels may have, 1 to 16."""
    plain: bool
    """Whether pixels are decimal numbers (P2), or bytes with the high one first (P5)."""
    offset: int
    """Of the first pixel, bytes."""


def read_header(url: str) -> PgmHeader:
    """The header of a file, from its first bytes.

    Raises SourceFileError: `unreadable-file` if there is none, `truncated-file` if the file is too short for its pixels.
    """
    header = _parse(read_bytes(url, _HEADER_BYTES))
    room = size_of(url) - header.offset
    if header.plain:
        # A number and what parts it from the next take two bytes at least; the last one may take one.
        room += 1
    _check_room(room // 2 if header.plain or header.bits > 8 else room, header)
    return header


def decode(content: bytes) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], int]:
    """Pixels, (rows, columns), and the number of bits they use, of a file's content; raises SourceFileError as `read_header` does."""
    header = _parse(content)
    count = header.rows * header.columns
    if header.plain:
        try:
            # Word by word: a list of them would take fifty times the memory of the pixels.
            words = _WORD.finditer(content, header.offset)
            values = np.fromiter((int(word[0]) for word in words), dtype=np.uint16)
        except (ValueError, OverflowError) as error:
            raise SourceFileError(
                Reason.UNREADABLE_FILE, "The PGM file holds something else than numbers up to 65535."
            ) from error
        _check_room(values.size, header)
    else:
        stored = np.dtype(np.uint8 if header.bits <= 8 else ">u2")
        _check_room((len(content) - header.offset) // stored.itemsize, header)
        values = np.frombuffer(content, stored, count, header.offset)
    pixels = values[:count].reshape(header.rows, header.columns)
    return (pixels.astype(np.uint8) if header.bits <= 8 else pixels.astype(np.uint16)), header.bits


def _parse(start: bytes) -> PgmHeader:
    match = _HEADER.match(start)
    if match is None:
        raise SourceFileError(
            Reason.UNREADABLE_FILE, "The file is not PGM: expected P5 or P2, columns, rows and largest value."
        )
    columns, rows, largest = int(match[2]), int(match[3]), int(match[4])
    if rows < 1 or columns < 1 or not 1 <= largest <= 65535:
        raise SourceFileError(
            Reason.UNREADABLE_FILE, f"The PGM header states {rows} x {columns} pixels of 0 to {largest}."
        )
    return PgmHeader(rows, columns, largest.bit_length(), match[1] == b"2", match.end())


def _check_room(present: int, header: PgmHeader) -> None:
    if present < header.rows * header.columns:
        raise SourceFileError(
            Reason.TRUNCATED_FILE,
            f"The PGM file holds {max(0, present)} of its {header.rows} x {header.columns} pixels.",
        )
