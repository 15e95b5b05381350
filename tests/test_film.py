"""Films of every format, told apart by content, and what is refused."""

import gzip
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from mammo_etl import pgm
from mammo_etl.files import SourceFileError
from mammo_etl.film import read_film, read_ljpeg_header
from mammo_etl.phantom import ljpeg_writer
from mammo_etl.records import Reason

PIXELS = np.random.default_rng(2).integers(0, 65536, (23, 31), dtype=np.uint16)
BYTES = (PIXELS >> 8).astype(np.uint8)


def dicom_file(pixels: NDArray[np.uint16]) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PhotometricInterpretation = 15, "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def png(pixels: NDArray[np.integer] | NDArray[np.floating], suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def p5(pixels: NDArray[np.generic], largest: int) -> bytes:
    stored = pixels.astype(">u2") if largest > 255 else pixels.astype(np.uint8)
    return b"P5\n%d %d\n%d\n" % (*pixels.shape[::-1], largest) + stored.tobytes()


def p2(pixels: NDArray[np.generic], largest: int) -> bytes:
    numbers = " ".join(map(str, pixels.ravel().tolist()))
    return f"P2\n# a comment\n{pixels.shape[1]}\n# 7 7\n{pixels.shape[0]} {largest}\n{numbers}".encode()


def read(path: Path, content: bytes, rows: int | None = None, columns: int | None = None) -> tuple[np.ndarray, int]:
    path.write_bytes(content)
    film = read_film(str(path), rows, columns)
    return film.pixels, film.bits


def refusal(path: Path, content: bytes, rows: int | None = None, columns: int | None = None) -> Reason:
    path.write_bytes(content)
    with pytest.raises(SourceFileError) as raised:
        read_film(str(path), rows, columns)
    return raised.value.code


@pytest.mark.parametrize(
    ("content", "expected", "bits"),
    [
        (dicom_file(PIXELS), PIXELS, 16),
        (ljpeg_writer.encode(PIXELS, 16), PIXELS, 16),
        (ljpeg_writer.encode(PIXELS >> 4, 12), PIXELS >> 4, 12),
        (ljpeg_writer.encode(BYTES, 8), BYTES, 8),
        (gzip.compress(ljpeg_writer.encode(PIXELS >> 4, 12)), PIXELS >> 4, 12),
        (png(PIXELS), PIXELS, 16),
        (png(BYTES), BYTES, 8),
        (png(PIXELS, ".tif"), PIXELS, 16),
        (p5(PIXELS, 65535), PIXELS, 16),
        (p5(PIXELS >> 4, 4095), PIXELS >> 4, 12),
        (p5(BYTES, 255), BYTES, 8),
        (p5(BYTES >> 1, 127), BYTES >> 1, 7),
        (p2(PIXELS, 65535), PIXELS, 16),
        (p2(BYTES, 255) + b"\n", BYTES, 8),
        # The first pixel of a binary file may look like white space.
        (p5(np.full((2, 2), 32, np.uint8), 255), np.full((2, 2), 32, np.uint8), 8),
    ],
    ids=[
        "dicom",
        "ljpeg16",
        "ljpeg12",
        "ljpeg8",
        "ljpeg12-gzip",
        "png16",
        "png8",
        "tiff",
        "p5-16",
        "p5-12",
        "p5-8",
        "p5-7",
        "p2-16",
        "p2-8",
        "p5-blank",
    ],
)
def test_formats(tmp_path: Path, content: bytes, expected: np.ndarray, bits: int) -> None:
    # The name tells nothing.
    pixels, found = read(tmp_path / "film.dat", content, *expected.shape)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype
    assert found == bits


def test_swapped_height_and_width_of_an_ljpeg(tmp_path: Path) -> None:
    # As in DDSM: coded with the sides exchanged, so that the rows of the film run on through those of the file.
    content = ljpeg_writer.encode(PIXELS.reshape(31, 23), 16)
    path = tmp_path / "film"
    np.testing.assert_array_equal(read(path, content, 23, 31)[0], PIXELS)
    assert read(path, content)[0].shape == (31, 23)
    assert refusal(path, content, 23, 30) is Reason.FILM_SIZE


@pytest.mark.parametrize("content", [dicom_file(PIXELS), png(PIXELS), p5(BYTES, 255)])
def test_other_formats_are_not_reshaped(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path / "film", content, 31, 23) is Reason.FILM_SIZE
    assert refusal(tmp_path / "film", content, 23, 30) is Reason.FILM_SIZE
    assert read(tmp_path / "film", content, 23)[0].shape == (23, 31)


@pytest.mark.parametrize(
    "content",
    [
        dicom_file(PIXELS),
        ljpeg_writer.encode(PIXELS, 16),
        png(PIXELS),
        p5(PIXELS, 65535),
        p5(BYTES, 255),
        p2(BYTES, 255),
    ],
    ids=["dicom", "ljpeg", "png", "p5-16", "p5-8", "p2"],
)
def test_truncated_files(tmp_path: Path, content: bytes) -> None:
    for keep in (len(content) - 20, len(content) // 2):
        assert refusal(tmp_path / "film", content[:keep]) is Reason.TRUNCATED_FILE
    assert refusal(tmp_path / "film", content[:20]) in (
        Reason.TRUNCATED_FILE,
        Reason.UNREADABLE_FILE,
        Reason.UNSUPPORTED_FORMAT,
    )


@pytest.mark.parametrize("keep", range(0, 24))
def test_ljpeg_cut_within_its_header(tmp_path: Path, keep: int) -> None:
    content = ljpeg_writer.encode(PIXELS, 16)[:keep]
    assert refusal(tmp_path / "film", content) in (
        Reason.TRUNCATED_FILE,
        Reason.UNREADABLE_FILE,
        *((Reason.UNSUPPORTED_FORMAT,) if keep == 1 else ()),
    )


def colour_ljpeg() -> bytes:
    content = bytearray(ljpeg_writer.encode(PIXELS, 16))
    content[content.index(b"\xff\xc3") + 9] = 3
    return bytes(content)


COLOUR = np.dstack([BYTES, BYTES, BYTES[::-1]])


@pytest.mark.parametrize(
    "content",
    [
        png(COLOUR),
        png(COLOUR, ".tif"),
        png(COLOUR, ".jpg"),
        png(BYTES, ".jpg"),
        colour_ljpeg(),
        png(PIXELS.astype(np.float32), ".tif"),
        b"P6\n1 1\n255\nabc",
        b"%PDF-1.4",
        b"x",
        b"PK\x03\x04" + b"\0" * 100,
        gzip.compress(png(PIXELS)),
        gzip.compress(b""),
        gzip.compress(png(BYTES, ".jpg")),
        gzip.compress(gzip.compress(ljpeg_writer.encode(PIXELS, 16))),
    ],
    ids=[
        *("png", "tiff", "colour-jpeg", "grey-jpeg", "ljpeg", "float-tiff", "ppm", "pdf", "letter", "zip"),
        *("png-gzip", "nothing-gzip", "jpeg-gzip", "twice-gzip"),
    ],
)
def test_unsupported(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path / "film", content) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P5\n",
        b"P5\n0 3\n255\n",
        b"P5\n3 3\n70000\n" + b"\0" * 18,
        b"P2\n2 1\n255\n1 x\n",
        b"P2\n2 1\n65535\n1 70000\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50 + b"IEND",
        b"II*\0" + b"\xff" * 50,
        ljpeg_writer.encode(PIXELS, 16).replace(b"\xff\xc3", b"\xff\xfe"),
    ],
)
def test_broken(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path / "film", content) is Reason.UNREADABLE_FILE


def test_gzip_in_several_members(tmp_path: Path) -> None:
    content = ljpeg_writer.encode(PIXELS, 16)
    parts = [content[:100], content[100:500], content[500:]]
    pixels, _ = read(tmp_path / "film", b"".join(map(gzip.compress, parts)) + b"\0" * 512)
    np.testing.assert_array_equal(pixels, PIXELS)


def test_gzip_is_cut_off_where_its_film_must_end(tmp_path: Path) -> None:
    content = ljpeg_writer.encode(PIXELS, 16)
    # What little stands behind a film is passed over, as in files that are not gzipped.
    np.testing.assert_array_equal(read(tmp_path / "film", gzip.compress(content + b"\0" * 512))[0], PIXELS)
    bomb = gzip.compress(content + b"\0" * 50_000_000)
    assert len(bomb) < 60_000
    tracemalloc.start()
    try:
        assert refusal(tmp_path / "film", bomb) is Reason.UNREADABLE_FILE
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_header_of_a_gzipped_film_comes_from_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "film"
    noise = np.random.default_rng(0).integers(0, 65536, (300, 400), dtype=np.uint16)
    packed = gzip.compress(ljpeg_writer.encode(noise, 16))
    assert len(packed) > 200_000
    # The rest may be broken: it is not looked at.
    path.write_bytes(packed[:70_000] + b"\xff" * 1000)
    header = read_ljpeg_header(str(path))
    assert (header.rows, header.columns, header.precision) == (300, 400, 16)
    assert refusal(path, packed[:-20_000]) is Reason.UNREADABLE_FILE


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError) as raised:
        read_film(str(tmp_path / "absent"))
    assert raised.value.code is Reason.UNREADABLE_FILE


def test_headers_without_pixels(tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(p5(PIXELS >> 4, 4095))
    header = pgm.read_header(str(path))
    assert (header.rows, header.columns, header.bits, header.plain) == (23, 31, 12, False)
    path.write_bytes(p5(PIXELS, 65535)[:-1])
    with pytest.raises(SourceFileError) as raised:
        pgm.read_header(str(path))
    assert raised.value.code is Reason.TRUNCATED_FILE
    # One number of one digit is a whole plain file.
    path.write_bytes(b"P2 1 1 255 7")
    assert pgm.read_header(str(path)).rows == 1
    path.write_bytes(ljpeg_writer.encode(PIXELS, 16))
    assert (read_ljpeg_header(str(path)).rows, read_ljpeg_header(str(path)).columns) == (23, 31)
    path.write_bytes(png(BYTES, ".jpg"))
    with pytest.raises(SourceFileError) as raised:
        read_ljpeg_header(str(path))
    assert raised.value.code is Reason.UNSUPPORTED_FORMAT


def test_real_films(realdata: Path) -> None:
    for path in sorted((realdata / "ljpeg").glob("*.LJPEG")):
        expected = np.load(path.with_suffix(".expected.npy"))
        np.testing.assert_array_equal(read_film(str(path), *expected.shape).pixels, expected)
    archive = realdata / "mini_mias" / "mini_mias_subset.zip"
    film = read_film(f"zip://mdb001.pgm::{archive}", 1024, 1024)
    with zipfile.ZipFile(archive) as file:
        np.testing.assert_array_equal(
            film.pixels, cv2.imdecode(np.frombuffer(file.read("mdb001.pgm"), np.uint8), cv2.IMREAD_UNCHANGED)
        )
    assert film.bits == 8
    assert read_film(str(realdata / "cbis_png" / "P_00060_RIGHT_CC.png")).pixels.shape == (4560, 2864)
