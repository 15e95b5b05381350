"""Any supported film file as pixels: DICOM, DDSM's lossless JPEG, PGM, PNG or TIFF, told apart by content."""

import re
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl import dicom, ljpeg, pgm
from mammo_etl.files import SourceFileError, read_bytes
from mammo_etl.gzipped import gunzip, gunzip_start, is_gzip
from mammo_etl.records import Reason

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_TIFF = (b"II*\0", b"MM\0*")

_LJPEG_HEADER_BYTES = 64 * 1024
"""The pixels of a lossless JPEG begin within these; DDSM's begin after some hundred."""

_LJPEG_PIXEL_BYTES = 4
"""No coded pixel takes more: a code of 16 bits and 15 further bits (T.81 H.1.2.2)."""

_OTHER_JPEG_FRAME = re.compile(rb"\xff(?:[\xc0-\xc2\xc5-\xc7\xc9-\xcb\xcd-\xcf]|\xc3.{7}[^\x01])", re.DOTALL)
"""A frame other than lossless Huffman, or of more than one component (T.81 tables B.1 and B.2)."""


@dataclass(frozen=True)
class Film:
    """Decoded pixels of one film."""

    pixels: dicom.Pixels
    """(rows, columns), 0 black."""
    bits: int
    """Bits that a pixel uses: its values are below 2 ** bits."""
    display: NDArray[np.uint16] | None = None
    """By the file's own window, where it has one: grey level, 0 black to 65535 white, of each pixel value below 2 ** bits."""


def starts_as_film(start: bytes) -> bool:
    """Whether a file with these first bytes, 132 at least, is of a format that `decode_film` knows."""
    if is_gzip(start):
        return gunzip_start(start, len(_JPEG)).startswith(_JPEG)
    return dicom.is_dicom(start[:132]) or start.startswith((_JPEG, b"P2", b"P5", _PNG, *_TIFF))


def read_film(url: str, rows: int | None = None, columns: int | None = None) -> Film:
    """The pixels of a film; see `decode_film`."""
    return decode_film(read_bytes(url), rows, columns)


def decode_film(content: bytes, rows: int | None = None, columns: int | None = None) -> Film:
    """The pixels of a film from its file's content; `rows` and `columns` is the size that its source states.

    A lossless JPEG whose header has another shape with as many pixels is reshaped to it: some DDSM files have height and
    width swapped. It may be gzipped. Raises SourceFileError: `film-size` for any other size than the stated one,
    `unreadable-file`, `truncated-file`, or `unsupported-format` (colour among it).
    """
    if is_gzip(content):
        content = _gunzip_ljpeg(content)
    if not content:
        raise SourceFileError(Reason.UNREADABLE_FILE, "The file is empty.")
    if dicom.is_dicom(content[:132]):
        decoded = dicom.decode(content)
        film = Film(decoded.pixels, decoded.bits, decoded.display)
    elif content.startswith(_JPEG):
        film = _decode_ljpeg(content)
        if rows is not None and columns is not None and film.pixels.size == rows * columns:
            film = Film(film.pixels.reshape(rows, columns), film.bits)
    elif content.startswith((b"P2", b"P5")):
        film = Film(*pgm.decode(content))
    elif content.startswith((_PNG, *_TIFF)):
        film = _decode_by_opencv(content)
    else:
        raise SourceFileError(
            Reason.UNSUPPORTED_FORMAT,
            "The file is of none of the supported formats: DICOM, lossless JPEG (DDSM), PGM, PNG, TIFF.",
        )
    height, width = film.pixels.shape
    if (rows is not None and height != rows) or (columns is not None and width != columns):
        raise SourceFileError(
            Reason.FILM_SIZE, f"The film has {height} x {width} pixels, its source states {rows} x {columns}."
        )
    return film


def read_ljpeg_header(url: str) -> ljpeg.LjpegHeader:
    """The header of a lossless JPEG, gzipped or not, from its first bytes; raises SourceFileError for anything else."""
    start = read_bytes(url, _LJPEG_HEADER_BYTES)
    return _ljpeg_header(gunzip_start(start, _LJPEG_HEADER_BYTES) if is_gzip(start) else start)


def _ljpeg_header(start: bytes) -> ljpeg.LjpegHeader:
    try:
        return ljpeg.read_header(start)
    except ljpeg.LjpegError as error:
        raise _ljpeg_fault(start, error) from error


def _gunzip_ljpeg(content: bytes) -> bytes:
    """A gzipped lossless JPEG, no longer than the film that its header describes can make it."""
    start = gunzip_start(content[:_LJPEG_HEADER_BYTES], _LJPEG_HEADER_BYTES)
    if not start.startswith(_JPEG):
        raise SourceFileError(
            Reason.UNSUPPORTED_FORMAT, "Expected a lossless JPEG (DDSM) in the gzip file, found something else."
        )
    header = _ljpeg_header(start)
    return gunzip(content, _LJPEG_HEADER_BYTES + header.rows * header.columns * _LJPEG_PIXEL_BYTES)


def _decode_ljpeg(content: bytes) -> Film:
    try:
        return Film(ljpeg.decode(content), ljpeg.read_header(content).precision)
    except ljpeg.LjpegError as error:
        if b"\xff\xd9" not in content[-64:] and not _is_other_jpeg(content):
            raise SourceFileError(
                Reason.TRUNCATED_FILE, f"The lossless JPEG ends before its pixels do: {error}."
            ) from error
        raise _ljpeg_fault(content, error) from error


def _ljpeg_fault(content: bytes, error: ljpeg.LjpegError) -> SourceFileError:
    code = Reason.UNSUPPORTED_FORMAT if _is_other_jpeg(content) else Reason.UNREADABLE_FILE
    return SourceFileError(code, f"The file is no lossless JPEG that can be decoded: {error}.")


def _is_other_jpeg(content: bytes) -> bool:
    header = content[: content.find(b"\xff\xda")]
    return content.startswith(_JPEG) and _OTHER_JPEG_FRAME.search(header) is not None


def _decode_by_opencv(content: bytes) -> Film:
    if content.startswith(_PNG) and _PNG_END not in content[-4096:]:
        raise SourceFileError(Reason.TRUNCATED_FILE, "The PNG file ends before its pixels do.")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise SourceFileError(Reason.UNREADABLE_FILE, "The image file could not be decoded.") from error
    if pixels is None:
        raise SourceFileError(Reason.UNREADABLE_FILE, "The image file could not be decoded.")
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        return Film(pixels.astype(np.uint8, copy=False), 8)
    if pixels.ndim == 2 and pixels.dtype == np.uint16:
        return Film(pixels.astype(np.uint16, copy=False), 16)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    raise SourceFileError(
        Reason.UNSUPPORTED_FORMAT,
        f"Expected a grey image of 8 or 16 bits, found {channels} channel(s) of {pixels.dtype}.",
    )
