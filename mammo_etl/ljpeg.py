"""Lossless JPEG (SOF3, ITU-T T.81 annex H) of one component, as DDSM's films are stored.

DDSM was written by the PVRG codec (Stanford, 1993; Debian's ``pvrg-jpeg``), whose prediction departs from T.81:

- row 0 is predicted with the scan's own predictor, below an imaginary row filled with 2^(P-Pt-1), where T.81 H.1.2.1
  predicts it from the left neighbour;
- a restart marker aligns the bits and nothing more: prediction goes on across it, where T.81 starts afresh.

The first pixel of every row is predicted from the pixel above, as in T.81, and pixel (0, 0) so by 2^(P-Pt-1).
Sums are modulo 65536. So readers that follow T.81 return wrong pixels, without an error, for predictors 2, 3, 6 and 7,
and for every predictor where there are restart markers.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

MAX_PIXELS = 50_000_000
"""Larger frames are refused unread. The largest film, 24 cm x 30 cm at 42 um, has 41 million pixels."""

MAX_SEGMENTS = 200
"""Before the scan; PVRG writes 3. Keeps a file of nothing but small segments from being read for minutes."""

SOF3, DHT, SOI, EOI, SOS, _DRI, _RST0 = 0xC3, 0xC4, 0xD8, 0xD9, 0xDA, 0xDD, 0xD0
_OTHER_FRAMES = set(range(0xC0, 0xD0)) - {SOF3, DHT, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x00, 0x01, *range(_RST0, EOI + 1)}

_FILL = re.compile(rb"\xff*(?=\xff)")
"""Any number of ff may stand before a marker (T.81 B.1.1.2)."""

LONGEST_CODE = 16
LARGEST_CATEGORY = 16
"""SSSS 16: the difference 32768, with no extra bits (T.81 H.1.2.2)."""

_PEEK = 12
"""Bits looked up at once. 12 make a table of 16 KiB, which stays in the first-level cache.
A single table for 16 bits took 1.6 times as long on a 12-bit film."""

_DONE, _BITS_LEFT, _DATA_ENDED, _NO_SUCH_CODE = range(4)


class LjpegError(ValueError):
    """Not a lossless JPEG that can be decoded in full; says what was expected and what was found."""


@dataclass(frozen=True)
class LjpegHeader:
    """What the markers say of a film. Some DDSM files have rows and columns swapped here; their .ics is right."""

    rows: int
    """Pixels from top to bottom, 1 to 65535."""
    columns: int
    """Pixels from left to right, 1 to 65535."""
    precision: int
    """P, bits in a pixel, 2 to 16."""
    predictor: int
    """1 to 7 of T.81 table H.1."""
    point_transform: int
    """Pt: pixels were shifted right by as many bits before coding, so that those are lost. 0 in DDSM."""
    restart_interval: int
    """Pixels between restart markers, a whole number of rows; 0 where there are none, as in DDSM."""


@dataclass(frozen=True)
class _HuffmanCode:
    """A canonical prefix code of differences' categories, as a DHT segment holds it."""

    counts: bytes
    """How many codes there are of 1, 2, ... 16 bits."""
    categories: bytes
    """SSSS of each code, in the order of the codes."""


@dataclass(frozen=True)
class _Scan:
    header: LjpegHeader
    code: _HuffmanCode
    offset: int
    """Of the first byte of entropy-coded data in the file."""


def read_header(data: bytes) -> LjpegHeader:
    """Read the markers up to the scan, and no pixels.

    Raises LjpegError where they are not those of a lossless JPEG of one component and at most MAX_PIXELS pixels.
    """
    return _read_markers(data).header


def decode(data: bytes) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Pixels of a file's bytes: (rows, columns) as its header has them, uint8 where precision <= 8, else uint16.

    What follows the scan is ignored, and may be missing. Values that 9 to 15 bits of precision do not hold are kept, as
    PVRG keeps them. Raises LjpegError where read_header would, where the scan does not hold every pixel, and where it
    holds more than that: both tell of damage, which lossless JPEG has no checksum to show.
    """
    scan = _read_markers(data)
    header = scan.header
    pixel_count, room = header.rows * header.columns, 8 * (len(data) - scan.offset)
    if room < pixel_count:  # The shortest code has one bit. Checked before memory is asked for.
        raise LjpegError(f"expected {pixel_count} coded pixels after the header, found {room} bits")
    differences, categories = _lookup_tables(scan.code)
    encoded = np.frombuffer(data, np.uint8)
    pixels = np.empty((header.rows, header.columns), np.uint16)
    above = np.full(header.columns, 1 << (header.precision - header.point_transform - 1), np.uint16)
    rows_at_once = header.restart_interval // header.columns or header.rows
    position = scan.offset
    for interval, first in enumerate(range(0, header.rows, rows_at_once)):
        if first:
            position = _after_restart_marker(data, position, (interval - 1) % 8)
        band = pixels[first : first + rows_at_once]
        status, where = _decode_rows(encoded, position, differences, categories, above, band, header.predictor)
        if status == _DATA_ENDED:
            raise LjpegError(f"expected {header.rows} rows, found the end of the coded data in row {first + where}")
        if status == _NO_SUCH_CODE:
            raise LjpegError(f"expected a code of the file's Huffman table, found none in row {first + where}")
        if status == _BITS_LEFT or not _is_marker_or_end(data, where):
            raise LjpegError(f"expected the coded data to end with row {first + len(band) - 1}, found more of them")
        position, above = where, band[-1]
    return _as_stored(pixels, header)


def _as_stored(pixels: npt.NDArray[np.uint16], header: LjpegHeader) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    if header.precision > 8:
        if header.point_transform:
            pixels <<= header.point_transform
        return pixels
    largest = int(pixels.max()) << header.point_transform
    if largest > 255:
        raise LjpegError(f"expected pixels of {header.precision} bits, found the value {largest}")
    pixels <<= header.point_transform
    return pixels.astype(np.uint8)


def _is_marker_or_end(data: bytes, position: int) -> bool:
    ahead = data[position : position + 2]
    return ahead == b"" or (ahead[0] == 0xFF and ahead[1:] != b"\x00")


def _past_fill(data: bytes, position: int) -> int:
    fill = _FILL.match(data, position)
    return fill.end() if fill else position


def _after_restart_marker(data: bytes, position: int, number: int) -> int:
    position = _past_fill(data, position)
    marker = bytes((0xFF, _RST0 + number))
    if data[position : position + 2] != marker:
        found = data[position : position + 2].hex(" ") or "the end of the file"
        raise LjpegError(f"expected restart marker {marker.hex(' ')} at byte {position}, found {found}")
    return position + 2


def _read_markers(data: bytes) -> _Scan:
    """Markers, segments and their fields: T.81 annex B."""
    if data[:2] != bytes((0xFF, SOI)):
        raise LjpegError(f"expected a JPEG file, which starts with ff d8, found {data[:2].hex(' ') or 'nothing'}")
    frame: tuple[int, int, int, int] | None = None
    codes: dict[int, _HuffmanCode] = {}
    restart_interval = 0
    position = 2
    for _ in range(MAX_SEGMENTS):
        marker, body, position = _next_segment(data, position)
        if marker == SOF3:
            if frame is not None:
                raise LjpegError("expected one frame header, found two")
            frame = _parse_frame(body)
        elif marker in _OTHER_FRAMES:
            raise LjpegError(
                f"expected lossless Huffman-coded JPEG (SOF3, ff c3), found a frame of type ff {marker:02x}"
            )
        elif marker == DHT:
            codes |= _parse_huffman_codes(body)
        elif marker == _DRI:
            if len(body) != 2:
                raise LjpegError(f"expected a restart interval of 2 bytes, found {len(body)}")
            restart_interval = int.from_bytes(body)
        elif marker == SOS:
            return _parse_scan(body, frame, codes, restart_interval, position)
    raise LjpegError(f"expected a scan within {MAX_SEGMENTS} segments, found none")


def _next_segment(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Marker, content and end of the segment at a position."""
    position = _past_fill(data, position)
    if position + 4 > len(data):
        raise LjpegError(f"expected a start of scan, found the end of the file after {len(data)} bytes")
    if data[position] != 0xFF or data[position + 1] in _WITHOUT_LENGTH:
        raise LjpegError(
            f"expected a header segment at byte {position}, found {data[position : position + 2].hex(' ')}"
        )
    length = int.from_bytes(data[position + 2 : position + 4])
    end = position + 2 + length
    if length < 2 or end > len(data):
        raise LjpegError(
            f"expected the segment at byte {position} to end within {len(data)} bytes, found length {length}"
        )
    return data[position + 1], data[position + 4 : end], end


def _parse_frame(body: bytes) -> tuple[int, int, int, int]:
    """Precision, rows, columns, component identifier."""
    if len(body) < 6:
        raise LjpegError(f"expected a frame header of 9 bytes, found {len(body)}")
    precision, rows, columns, components = struct.unpack_from(">BHHB", body)
    if components != 1 or len(body) != 9:
        raise LjpegError(f"expected one grey component in 9 bytes, found {components} in {len(body)}")
    if not 2 <= precision <= 16:
        raise LjpegError(f"expected a precision of 2 to 16 bits, found {precision}")
    if not 1 <= rows * columns <= MAX_PIXELS:
        raise LjpegError(f"expected a film of 1 to {MAX_PIXELS} pixels, found {rows} rows of {columns}")
    return precision, rows, columns, body[6]


def _parse_huffman_codes(body: bytes) -> dict[int, _HuffmanCode]:
    """The segment's codes for differences by table number; codes for AC coefficients are passed over."""
    codes = {}
    start = 0
    while start < len(body):
        kind, table, counts = body[start] >> 4, body[start] & 15, body[start + 1 : start + 17]
        first = start + 17
        start = first + sum(counts)
        if start > len(body) or kind > 1:
            raise LjpegError(f"expected Huffman tables to fill {len(body)} bytes, found one of class {kind} to {start}")
        if kind == 0:
            codes[table] = _HuffmanCode(counts, body[first:start])
    return codes


def _parse_scan(
    body: bytes,
    frame: tuple[int, int, int, int] | None,
    codes: dict[int, _HuffmanCode],
    restart_interval: int,
    offset: int,
) -> _Scan:
    if frame is None:
        raise LjpegError("expected a frame header before the scan, found none")
    precision, rows, columns, component = frame
    if len(body) != 6 or body[:2] != bytes((1, component)):
        raise LjpegError(f"expected a scan of component {component} alone, found the scan header {body.hex(' ')}")
    table, predictor, point_transform = body[2] >> 4, body[3], body[5] & 15
    if not 1 <= predictor <= 7:
        raise LjpegError(f"expected a predictor from 1 to 7, found {predictor}")
    if point_transform >= precision:
        raise LjpegError(f"expected a point transform below {precision} bits, found {point_transform}")
    if restart_interval % columns:
        # T.81 B.2.4.4 forbids it, and PVRG does not read back what it writes so.
        raise LjpegError(f"expected a restart interval of whole rows of {columns} pixels, found {restart_interval}")
    if table not in codes:
        raise LjpegError(f"expected a Huffman table {table}, found tables {sorted(codes)}")
    header = LjpegHeader(rows, columns, precision, predictor, point_transform, restart_interval)
    return _Scan(header, codes[table], offset)


def _lookup_tables(code: _HuffmanCode) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16]]:
    """What to do on seeing the next bits of the scan.

    By the next 12 bits: difference << 8 | bits used, where those bits hold code and difference, else 0.
    By the next 16 bits: SSSS << 6 | bits used by code and difference, or 0 where no code begins so.
    """
    if not code.categories or max(code.categories) > LARGEST_CATEGORY:
        raise LjpegError(f"expected Huffman codes for categories 0 to 16, found {code.categories.hex(' ') or 'none'}")
    by_16_bits = np.zeros(1 << LONGEST_CODE, np.uint16)
    start, categories = 0, iter(code.categories)
    for length, count in enumerate(code.counts, start=1):
        for _ in range(count):
            category = next(categories)
            end = start + (1 << (LONGEST_CODE - length))
            if end > by_16_bits.size:
                raise LjpegError(f"expected a prefix code, found too many Huffman codes of {length} bits")
            extra = 0 if category == LARGEST_CATEGORY else category
            by_16_bits[start:end] = category << 6 | (length + extra)
            start = end
    seen = np.arange(1 << _PEEK, dtype=np.int32)
    entry = by_16_bits[:: 1 << (LONGEST_CODE - _PEEK)].astype(np.int32)
    used, extra_bits = entry & 63, entry >> 6
    fits = (entry > 0) & (used <= _PEEK) & (extra_bits < LARGEST_CATEGORY)
    mask = (1 << extra_bits) - 1
    difference = (seen >> np.where(fits, _PEEK - used, 0)) & mask
    difference -= np.where(difference <= mask >> 1, mask, 0)
    return np.where(fits, difference << 8 | used, 0).astype(np.int32), by_16_bits


def compiled(function: Callable[..., Any]) -> Any:
    """A function compiled at its first call, and kept on disk for later processes.

    numba keeps it beside this file, else in the user's cache folder; NUMBA_CACHE_DIR names another place.
    """
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # None of those folders can be written, as in some containers: each process compiles for itself.
        return njit(nogil=True)(function)


@compiled
def predict(predictor, left, above, corner):  # type: ignore[no-untyped-def]
    """T.81 table H.1; corner is the pixel above the left one."""
    if predictor == 7:
        return (left + above) >> 1
    if predictor == 1:
        return left
    if predictor == 2:
        return above
    if predictor == 3:
        return corner
    if predictor == 4:
        return left + above - corner
    if predictor == 5:
        return left + ((above - corner) >> 1)
    return above + ((left - corner) >> 1)


@compiled
def _decode_rows(data, position, differences, categories, above, pixels, predictor):  # type: ignore[no-untyped-def]
    """Fill pixels from the coded data at a position: (_DONE or _BITS_LEFT, end position) or (error, row).

    `window` holds the next `held` bits of the scan, the next one highest. Past the data's end it is fed zeros, which
    `missing` counts, so that nothing is read out of bounds.
    """
    window, held, missing = np.uint64(0), np.int64(0), np.int64(0)
    for row in range(pixels.shape[0]):
        # All three neighbours of a row's first pixel are the pixel above: every predictor then gives just that.
        left = corner = np.int32(above[0])
        for column in range(pixels.shape[1]):
            if held <= 32:
                if (
                    position + 4 <= data.size
                    and data[position] != 0xFF
                    and data[position + 1] != 0xFF
                    and data[position + 2] != 0xFF
                    and data[position + 3] != 0xFF
                ):
                    word = (
                        np.uint64(data[position]) << np.uint64(24)
                        | np.uint64(data[position + 1]) << np.uint64(16)
                        | np.uint64(data[position + 2]) << np.uint64(8)
                        | np.uint64(data[position + 3])
                    )
                    position += 4
                else:
                    if missing > held:
                        return _DATA_ENDED, row
                    word = np.uint64(0)
                    for _ in range(4):
                        word <<= np.uint64(8)
                        if position < data.size and data[position] != 0xFF:
                            word |= np.uint64(data[position])
                            position += 1
                        elif position + 1 < data.size and data[position + 1] == 0:
                            word |= np.uint64(0xFF)  # A zero is stuffed behind each ff of the data.
                            position += 2
                        else:
                            missing += 8
                window |= word << np.uint64(32 - held)
                held += 32
            entry = differences[window >> np.uint64(64 - _PEEK)]
            if entry != 0:
                used = np.uint64(entry & np.int32(63))
                difference = entry >> np.int32(8)
            else:
                long_entry = categories[window >> np.uint64(64 - LONGEST_CODE)]
                if long_entry == 0:
                    return _NO_SUCH_CODE, row
                used = np.uint64(long_entry & np.uint16(63))
                category = np.uint32(long_entry >> np.uint16(6))
                if category == LARGEST_CATEGORY:
                    difference = np.int32(32768)
                else:
                    mask = np.int32((np.uint32(1) << category) - np.uint32(1))
                    difference = np.int32(window >> (np.uint64(64) - used)) & mask
                    if difference <= mask >> 1:
                        difference -= mask
            window <<= used
            held -= np.int64(used)
            over = np.int32(above[column])
            left = (predict(predictor, left, over, corner) + difference) & np.int32(0xFFFF)
            corner = over
            pixels[row, column] = left
        above = pixels[row]
    unread = held - missing
    if unread < 0:
        return _DATA_ENDED, pixels.shape[0] - 1
    return (_BITS_LEFT if unread >= 8 else _DONE), position
