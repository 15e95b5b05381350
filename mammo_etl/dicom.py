"""The only DICOM reader: headers without pixels, and the pixels of single-frame grey images.

Of a header nothing but the fields of `DicomHeader` is read; the rest of it (names, dates of birth, ...) is skipped unparsed.
"""

import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import data_element_offset_to_value, read_partial
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mammo_etl.files import SourceFileError, read_bytes, size_of
from mammo_etl.records import Reason
from mammo_etl.window import Window, display_of, parse_window

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Values are checked below where they matter; pydicom's own warnings on odd ones would print them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_FIRST_BYTES = 64 * 1024
"""CBIS-DDSM's headers take about 2 KB, modern ones with private groups some 10 KB; a longer one costs a second read."""

_MAGIC = slice(128, 132)
_PIXELS = 0x7FE00008
"""Float pixel data; double float and integer pixel data follow (PS3.6)."""
_UNDEFINED_LENGTH = 0xFFFFFFFF
_END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0"
"""What encapsulated pixel data end with (PS3.5 A.4)."""

_KEYWORDS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "SeriesDescription",
    "InstanceNumber",
    "Laterality",
    "PatientOrientation",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RescaleSlope",
    "RescaleIntercept",
)
_TAG_OF: dict[str, int] = {keyword: tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None}
_TAGS: list[BaseTag | int] = [*_TAG_OF.values()]

_BROKEN = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on damaged files. Never chained to our own errors: its messages quote bytes of the header."""


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """The fields of a single-frame grey image that mammo uses; texts are empty where the file has none."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    series_description: str
    instance_number: int
    """Position in the series, from 1; 0 if not stated."""
    laterality: str
    """L or R."""
    patient_orientation: str
    """Values joined by a backslash; CBIS-DDSM keeps the view here."""
    rows: int
    columns: int
    bits_allocated: int
    """8 or 16."""
    bits_stored: int
    high_bit: int
    """Always bits_stored - 1: others are refused (PS3.3 C.7.6.3.1 knows no other)."""
    photometric_interpretation: str
    """MONOCHROME1 (0 is white) or MONOCHROME2 (0 is black)."""
    transfer_syntax_uid: str
    number_of_frames: int
    """Always 1: others are refused."""
    window: Window | None = None
    """None where the file has none that can be used."""


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts with these bytes (132 or more) is DICOM, with or without its preamble (PS3.10 7.1)."""
    if start[_MAGIC] == b"DICM":
        return True
    if len(start) < 8:
        return False
    group, element, vr, length = struct.unpack("<HH2sH", start[:8])
    # Without a preamble: the first elements of the meta group or of the data set, explicit or implicit with a sane length.
    return group in (0x0002, 0x0008) and element <= 0x0018 and ((vr.isalpha() and vr.isupper()) or length == 0)


def read_header(url: str) -> DicomHeader:
    """The header of a file, from its first bytes.

    Raises SourceFileError: `unreadable-file` (no DICOM, or broken), `truncated-file` (shorter than its pixels need), or
    `unsupported-format` (no image, a colour or multi-frame one, or a transfer syntax that cannot be decoded).
    """
    size = size_of(url)
    start = read_bytes(url, _FIRST_BYTES)
    if not is_dicom(start):
        raise SourceFileError(
            Reason.UNREADABLE_FILE, "The file is not DICOM: it has no DICM mark and no data elements."
        )
    if size > len(start):
        try:
            parsed = _parse(start)
        except _BROKEN:
            parsed = None
        if parsed is not None and parsed.pixels is not None:
            return _checked(parsed, size)
    return _checked(_parse_whole(start if size <= len(start) else read_bytes(url)), size)


@dataclass(frozen=True)
class Decoded:
    """The image of a file."""

    pixels: Pixels
    """(rows, columns), 0 black: MONOCHROME1 is inverted."""
    bits: int
    """Bits that a pixel uses: its values are below 2 ** bits."""
    display: NDArray[np.uint16] | None
    """By the file's window, if it has one: grey level, 0 black to 65535 white, of each pixel value below 2 ** bits."""


def decode(content: bytes) -> Decoded:
    """The image in a file's content.

    Raises SourceFileError as `read_header` does, and if the pixels cannot be decoded.
    """
    parsed = _parse_whole(content)
    header = _checked(parsed, len(content))
    grey = _grey(content, header, parsed)
    display = None if header.window is None else display_of(header.window, header.bits_stored)
    if header.photometric_interpretation == "MONOCHROME1":
        grey = np.subtract((1 << header.bits_stored) - 1, grey, dtype=grey.dtype)
        display = None if display is None else 65535 - display[::-1]
    return Decoded(grey, header.bits_stored, display)


def _grey(content: bytes, header: DicomHeader, parsed: "_Parsed") -> Pixels:
    """Pixels as stored."""
    syntax = UID(header.transfer_syntax_uid)
    if syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian) and header.bits_stored == header.bits_allocated:
        # Most files by far. They lie in the file as NumPy wants them: without a copy they take no time.
        assert parsed.pixels is not None
        kind: np.dtype[np.uint8] | np.dtype[np.uint16] = np.dtype("u1" if header.bits_allocated == 8 else "<u2")
        flat = np.frombuffer(content, kind, header.rows * header.columns, parsed.pixels.offset)
        # Pixels of a broken header may begin at an odd place.
        aligned: Pixels = np.require(flat.reshape(header.rows, header.columns), requirements="A")
        return aligned
    try:
        dataset = pydicom.dcmread(BytesIO(content), force=True)
        dataset.file_meta.TransferSyntaxUID = syntax
        pixels, _ = get_decoder(syntax).as_array(dataset, raw=True, index=0)
    except (*_BROKEN, RuntimeError, OSError):
        if syntax.is_encapsulated and _END_OF_SEQUENCE not in content[-16:]:
            raise SourceFileError(
                Reason.TRUNCATED_FILE, "The DICOM file ends within its compressed pixel data."
            ) from None
        raise SourceFileError(
            Reason.UNREADABLE_FILE, f"The DICOM pixel data ({syntax.name}) could not be decoded."
        ) from None
    grey: Pixels = (
        pixels.astype(np.uint8, copy=False) if header.bits_allocated == 8 else pixels.astype(np.uint16, copy=False)
    )
    if grey.shape != (header.rows, header.columns):
        raise SourceFileError(
            Reason.UNREADABLE_FILE,
            f"The DICOM pixel data decode to shape {grey.shape}, the header says {header.rows} x {header.columns}.",
        )
    return grey


@dataclass(frozen=True, slots=True)
class _PixelElement:
    offset: int
    """Of its value in the file."""
    length: int
    """As stated; all ones for encapsulated data."""
    integer: bool


@dataclass(frozen=True, slots=True)
class _Parsed:
    dataset: FileDataset
    pixels: _PixelElement | None
    cut: bool
    """Whether an element reaches beyond the end."""


def _parse(content: bytes) -> _Parsed:
    """Elements up to the pixel data."""
    found: list[tuple[BaseTag, str | None, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag >= _PIXELS:
            found.append((tag, vr, length))
        return bool(found)

    stream = BytesIO(content)
    dataset = read_partial(stream, at_pixels, force=True, specific_tags=_TAGS)
    if not found:
        return _Parsed(dataset, None, stream.tell() > len(content))
    tag, vr, length = found[0]
    offset = stream.tell() + data_element_offset_to_value(bool(dataset.is_implicit_VR), vr)
    return _Parsed(dataset, _PixelElement(offset, length, tag == 0x7FE00010), False)


def _parse_whole(content: bytes) -> _Parsed:
    try:
        return _parse(content)
    except _BROKEN:
        raise SourceFileError(
            Reason.UNREADABLE_FILE, "The DICOM header is broken: its data elements could not be parsed."
        ) from None


def _checked(parsed: _Parsed, size: int) -> DicomHeader:
    """The header, if it is that of an image that can be decoded from a file of `size` bytes."""
    try:
        header, samples, signed = _fields(parsed.dataset)
    except _BROKEN:
        raise SourceFileError(
            Reason.UNREADABLE_FILE, "The DICOM header is broken: a field holds no value of its kind."
        ) from None
    element = parsed.pixels
    if parsed.cut or (element is None and header.rows > 0):
        raise SourceFileError(Reason.TRUNCATED_FILE, "The DICOM file ends before its pixel data.")
    if element is None or header.rows < 1 or header.columns < 1:
        raise SourceFileError(Reason.UNSUPPORTED_FORMAT, "The DICOM file holds no image: expected a mammogram.")
    form = (
        f"{header.number_of_frames} frame(s), {samples} sample(s) per pixel, {header.bits_allocated} bits (high bit {header.high_bit} of {header.bits_stored})"
        f"{', signed' if signed else ''}{'' if element.integer else ', floating point'}"
    )
    if (
        header.number_of_frames != 1
        or samples != 1
        or signed
        or not element.integer
        or header.bits_allocated not in (8, 16)
        or not 1 <= header.bits_stored <= header.bits_allocated
        or header.high_bit != header.bits_stored - 1
        or header.photometric_interpretation not in ("MONOCHROME1", "MONOCHROME2")
    ):
        raise SourceFileError(
            Reason.UNSUPPORTED_FORMAT,
            f"Expected a single-frame grey DICOM image of 8 or 16 unsigned bits, found {form}.",
        )
    syntax = UID(header.transfer_syntax_uid)
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise SourceFileError(
            Reason.UNSUPPORTED_FORMAT,
            f"The DICOM transfer syntax {syntax.name} cannot be decoded: store the file uncompressed.",
        )
    if not syntax.is_encapsulated and syntax != DeflatedExplicitVRLittleEndian:
        needed = header.rows * header.columns * header.bits_allocated // 8
        present = min(max(0, size - element.offset), element.length)
        if present < needed:
            raise SourceFileError(
                Reason.TRUNCATED_FILE,
                f"The DICOM file holds {present} of the {needed} bytes of its {header.rows} x {header.columns} pixels.",
            )
    return header


def _fields(dataset: FileDataset) -> tuple[DicomHeader, int, bool]:
    """Header, samples per pixel, and whether pixels are signed.

    Values are taken as they stand in the file: for these few, pydicom's conversion of values costs as much again as all the rest.
    Raises ValueError for a number that is none.
    """
    order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"

    def raw(keyword: str) -> bytes:
        element = dataset.get_item(_TAG_OF[keyword])
        value = None if element is None else element.value
        return value if isinstance(value, bytes) else b""

    def text(keyword: str) -> str:
        # UIDs, codes and identifiers: ASCII, padded to an even length (PS3.5 6.2).
        return "\\".join(part.strip(" \0") for part in raw(keyword).decode("latin-1").split("\\"))

    def number(keyword: str, default: int) -> int:
        value = raw(keyword)
        if len(value) not in (0, 2):
            raise ValueError(f"{keyword}: expected 2 bytes, found {len(value)}")
        return int.from_bytes(value, order) if value else default

    def written(keyword: str, default: int) -> int:
        value = text(keyword)
        return int(value) if value else default

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    header = DicomHeader(
        sop_instance_uid=text("SOPInstanceUID"),
        series_instance_uid=text("SeriesInstanceUID"),
        study_instance_uid=text("StudyInstanceUID"),
        patient_id=text("PatientID"),
        series_description=text("SeriesDescription"),
        instance_number=written("InstanceNumber", 0),
        laterality=text("Laterality"),
        patient_orientation=text("PatientOrientation"),
        rows=number("Rows", 0),
        columns=number("Columns", 0),
        bits_allocated=number("BitsAllocated", 0),
        bits_stored=number("BitsStored", number("BitsAllocated", 0)),
        high_bit=number("HighBit", number("BitsStored", number("BitsAllocated", 0)) - 1),
        photometric_interpretation=text("PhotometricInterpretation"),
        transfer_syntax_uid=str(syntax),
        number_of_frames=written("NumberOfFrames", 1),
        window=parse_window(text),
    )
    return header, number("SamplesPerPixel", 1), number("PixelRepresentation", 0) != 0
