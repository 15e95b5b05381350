"""Lossless JPEG as PVRG writes it: real files, PVRG itself as the oracle, hand-made scans, and damage."""

import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mammo_etl import ljpeg
from mammo_etl.film import read_film
from mammo_etl.ljpeg import MAX_PIXELS, LjpegError, LjpegHeader, decode, read_header
from mammo_etl.phantom.ljpeg_writer import encode

Pixels = npt.NDArray[np.uint16]

PVRG = shutil.which("pvrg-jpeg")
needs_pvrg = pytest.mark.skipif(PVRG is None, reason="pvrg-jpeg is not installed (Debian package pvrg-jpeg)")

EVERY_CATEGORY = bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
"""Huffman table whose code for SSSS is SSSS itself in 5 bits."""


# A writer of its own, bit by bit, so that the decoder is not only held against its own encoder.


def predicted(image: list[list[int]], row: int, column: int, default: int, predictor: int) -> int:
    """PVRG's rule: row 0 lies below a row of defaults, and a row's first pixel is predicted from above."""
    above = image[row - 1][column] if row else default
    if column == 0:
        return above
    left = image[row][column - 1]
    corner = image[row - 1][column - 1] if row else default
    return {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + ((above - corner) >> 1),
        6: above + ((left - corner) >> 1),
        7: (left + above) >> 1,
    }[predictor]


def coded_bits(difference: int) -> str:
    signed = (difference + 32767) % 65536 - 32767
    category = abs(signed).bit_length()
    if category in (0, 16):
        return f"{category:05b}"
    return f"{category:05b}" + f"{signed if signed > 0 else signed + (1 << category) - 1:0{category}b}"


def coded(bits: str) -> bytes:
    padded = bits + "1" * (-len(bits) % 8)
    return int(padded, 2).to_bytes(len(padded) // 8).replace(b"\xff", b"\xff\x00")


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body


def frame(rows: int, columns: int, precision: int) -> bytes:
    return bytes((precision, *rows.to_bytes(2), *columns.to_bytes(2), 1, 1, 0x11, 0))


def plain_file(
    image: list[list[int]], precision: int, predictor: int, point_transform: int = 0, rows_per_restart: int = 0
) -> bytes:
    rows, columns = len(image), len(image[0])
    parts = [b"\xff\xd8", segment(0xC3, frame(rows, columns, precision)), segment(0xC4, b"\0" + EVERY_CATEGORY)]
    if rows_per_restart:
        parts.append(segment(0xDD, (rows_per_restart * columns).to_bytes(2)))
    parts.append(segment(0xDA, bytes((1, 1, 0, predictor, 0, point_transform))))
    bits = ""
    for row in range(rows):
        if rows_per_restart and row and row % rows_per_restart == 0:
            parts += [coded(bits), bytes((0xFF, 0xD0 + (row // rows_per_restart - 1) % 8))]
            bits = ""
        for column in range(columns):
            default = 1 << (precision - point_transform - 1)
            bits += coded_bits(image[row][column] - predicted(image, row, column, default, predictor))
    return b"".join([*parts, coded(bits), b"\xff\xd9"])


def pvrg_encode(
    pixels: Pixels, precision: int, predictor: int, folder: Path, point_transform: int = 0, restart_interval: int = 0
) -> bytes:
    assert PVRG is not None
    raw, packed = folder / "raw", folder / "packed.jpg"
    raw.write_bytes(pixels.astype(">u2" if precision > 8 else "u1").tobytes())
    options = {
        "-iw": pixels.shape[1],
        "-ih": pixels.shape[0],
        "-k": predictor,
        "-p": precision,
        "-t": point_transform,
        "-r": restart_interval,
        "-s": packed,
        "-ci": 1,
    }
    arguments = [str(part) for option in options.items() for part in option]
    subprocess.run([PVRG, *arguments, str(raw)], check=True, capture_output=True)
    return packed.read_bytes()


def pvrg_decode(data: bytes, shape: tuple[int, int], precision: int, folder: Path) -> npt.NDArray[np.generic]:
    assert PVRG is not None
    packed = folder / "packed.jpg"
    packed.write_bytes(data)
    (folder / "out.1").unlink(missing_ok=True)
    subprocess.run([PVRG, "-d", "-s", str(packed), "-o", str(folder / "out")], check=True, capture_output=True)
    raw = (folder / "out.1").read_bytes()
    return np.frombuffer(raw, ">u2" if precision > 8 else "u1").reshape(shape)


@st.composite
def films(draw: st.DrawFn, precisions: tuple[int, ...] = (8, 12, 16), largest: int = 40) -> tuple[Pixels, int, int]:
    """Pixels, precision and predictor: noise, flat, steps between the extremes (SSSS 16 among them), or a slope."""
    precision = draw(st.sampled_from(precisions))
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = (1 << precision) - 1
    kind = draw(st.sampled_from(["noise", "flat", "steps", "slope"]))
    if kind == "noise":
        pixels = generator.integers(0, top, shape, endpoint=True)
    elif kind == "flat":
        pixels = np.full(shape, generator.integers(0, top, endpoint=True))
    elif kind == "steps":
        pixels = generator.choice([0, 1, (top + 1) // 2, top], shape)
    else:
        pixels = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) + generator.integers(0, 3, shape)
        pixels = np.minimum(pixels * (top // 100), top)
    return pixels.astype(np.uint16), precision, draw(st.integers(1, 7))


def textured(rows: int, columns: int, precision: int, seed: int = 0) -> Pixels:
    generator = np.random.default_rng(seed)
    slope = np.linspace(0.1, 0.9, columns) * 2**precision + generator.normal(0, 3, (rows, columns))
    pixels: Pixels = np.clip(slope, 0, 2**precision - 1).astype(np.uint16)
    return pixels


# Real files


@pytest.mark.parametrize("name", ["mdb028_p8_k7", "tape_d4000_p16_k1", "tape_d4000_p16_k4", "tape_d4000_p16_k7"])
def test_real_files_decode_exactly(realdata: Path, name: str) -> None:
    data = (realdata / "ljpeg" / f"{name}.LJPEG").read_bytes()
    expected = np.load(realdata / "ljpeg" / f"{name}.expected.npy")
    precision, predictor = int(name.split("_p")[1].split("_")[0]), int(name[-1])
    pixels = decode(data)
    assert pixels.dtype == (np.uint8 if precision == 8 else np.uint16)
    np.testing.assert_array_equal(pixels, expected)
    assert read_header(data) == LjpegHeader(pixels.shape[0], pixels.shape[1], precision, predictor, 0, 0)
    np.testing.assert_array_equal(decode(encode(pixels, precision, predictor)), expected)


# PVRG as the oracle


@needs_pvrg
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(film=films())
def test_pvrg_reads_what_encode_writes(film: tuple[Pixels, int, int], tmp_path: Path) -> None:
    pixels, precision, predictor = film
    shape = (pixels.shape[0], pixels.shape[1])
    read_back = pvrg_decode(encode(pixels, precision, predictor), shape, precision, tmp_path)
    np.testing.assert_array_equal(read_back, pixels)


@needs_pvrg
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    film=films(precisions=(2, 8, 9, 12, 16)),
    point_transform=st.sampled_from([0, 0, 1]),
    rows_per_restart=st.integers(0, 3),
)
def test_decode_reads_what_pvrg_writes(
    film: tuple[Pixels, int, int], point_transform: int, rows_per_restart: int, tmp_path: Path
) -> None:
    pixels, precision, predictor = film
    interval = rows_per_restart * pixels.shape[1]
    data = pvrg_encode(pixels, precision, predictor, tmp_path, point_transform, interval)
    assert read_header(data) == LjpegHeader(
        pixels.shape[0], pixels.shape[1], precision, predictor, point_transform, interval
    )
    np.testing.assert_array_equal(decode(data), pixels >> point_transform << point_transform)


@needs_pvrg
@pytest.mark.slow
@settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
@given(film=films(largest=400), rows_per_restart=st.integers(0, 9))
def test_long_sweep_against_pvrg(film: tuple[Pixels, int, int], rows_per_restart: int, tmp_path: Path) -> None:
    """About two minutes."""
    pixels, precision, predictor = film
    shape = (pixels.shape[0], pixels.shape[1])
    written = pvrg_encode(pixels, precision, predictor, tmp_path, 0, rows_per_restart * shape[1])
    np.testing.assert_array_equal(decode(written), pixels)
    np.testing.assert_array_equal(pvrg_decode(written, shape, precision, tmp_path), pixels)
    read_back = pvrg_decode(encode(pixels, precision, predictor), shape, precision, tmp_path)
    np.testing.assert_array_equal(read_back, pixels)


@needs_pvrg
@pytest.mark.slow
def test_four_times_as_fast_as_pvrg(tmp_path: Path) -> None:
    """On a film of 10 megapixels; tests/benchmarks/ljpeg.py measures with care."""
    pixels = textured(4000, 2500, 12)
    data = encode(pixels, 12)
    decode(GOOD)
    ratios = []
    for _ in range(5):
        started = time.perf_counter()
        decode(data)
        decoded = time.perf_counter()
        np.testing.assert_array_equal(pvrg_decode(data, (4000, 2500), 12, tmp_path), pixels)
        ratios.append((time.perf_counter() - decoded) / (decoded - started))
    assert median(ratios) >= 4


@needs_pvrg
@pytest.mark.parametrize("precision", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor_at_the_smallest_sizes(predictor: int, precision: int, tmp_path: Path) -> None:
    top = (1 << precision) - 1
    generator = np.random.default_rng(predictor)
    for shape in ((1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (2, 2), (3, 5)):
        noise = generator.integers(0, top, shape, np.uint16, endpoint=True)
        steps = np.where(np.indices(shape).sum(axis=0) % 2, top, 0).astype(np.uint16)
        for pixels in (noise, steps, np.zeros(shape, np.uint16), np.full(shape, top, np.uint16)):
            np.testing.assert_array_equal(decode(pvrg_encode(pixels, precision, predictor, tmp_path)), pixels)
            read_back = pvrg_decode(encode(pixels, precision, predictor), shape, precision, tmp_path)
            np.testing.assert_array_equal(read_back, pixels)


@needs_pvrg
@pytest.mark.parametrize("predictor", range(1, 8))
def test_differences_of_32768_as_pvrg_has_them(predictor: int, tmp_path: Path) -> None:
    # Rows of the values 32768 apart, so that every predictor meets that difference.
    pixels = np.zeros((6, 8), np.uint16)
    pixels[1::3, ::2] = 32768
    pixels[2::3] = 32768
    data = pvrg_encode(pixels, 16, predictor, tmp_path)
    table = data[data.index(b"\xff\xc4") + 5 :]
    assert 16 in table[16 : 16 + sum(table[:16])]
    np.testing.assert_array_equal(decode(data), pixels)
    np.testing.assert_array_equal(pvrg_decode(encode(pixels, 16, predictor), (6, 8), 16, tmp_path), pixels)


@needs_pvrg
def test_bytes_of_ff_are_stuffed(tmp_path: Path) -> None:
    # Differences of 4095 have 12 extra bits of ones, so that most bytes of the scan are ff.
    pixels = np.where(np.arange(30) % 2, 4095, 0).astype(np.uint16).reshape(1, 30)
    for data in (pvrg_encode(pixels, 12, 1, tmp_path), encode(pixels, 12, 1)):
        assert data.count(b"\xff\x00") > 5
        np.testing.assert_array_equal(decode(data), pixels)
        np.testing.assert_array_equal(pvrg_decode(data, (1, 30), 12, tmp_path), pixels)


@needs_pvrg
@pytest.mark.parametrize("predictor", range(1, 8))
def test_film_with_height_and_width_swapped(predictor: int, tmp_path: Path) -> None:
    """As in some DDSM files: the scan runs through the film's rows, cut up as if they were as long as its columns."""
    pixels = textured(31, 17, 12)
    path = tmp_path / "film.LJPEG"
    path.write_bytes(pvrg_encode(pixels.reshape(17, 31), 12, predictor, tmp_path))
    assert read_header(path.read_bytes()) == LjpegHeader(17, 31, 12, predictor, 0, 0)
    np.testing.assert_array_equal(read_film(str(path), 31, 17).pixels, pixels)


@needs_pvrg
@pytest.mark.parametrize("trailing", [b"\0", b"\0" * 512, b"\xff" * 9, b"\xff\xd8\xff\xc3", b"\x1a\n"])
def test_bytes_behind_a_film_of_pvrg(trailing: bytes, tmp_path: Path) -> None:
    pixels = textured(23, 11, 12)
    data = pvrg_encode(pixels, 12, 7, tmp_path) + trailing
    np.testing.assert_array_equal(decode(data), pixels)
    np.testing.assert_array_equal(pvrg_decode(data, (23, 11), 12, tmp_path), pixels)


@needs_pvrg
def test_encode_is_as_short_as_pvrg(tmp_path: Path) -> None:
    pixels = textured(300, 200, 12)
    assert len(encode(pixels, 12)) <= len(pvrg_encode(pixels, 12, 7, tmp_path))


# Without PVRG


@settings(max_examples=200, deadline=None)
@given(film=films(precisions=tuple(range(2, 17))))
def test_round_trip_is_exact(film: tuple[Pixels, int, int]) -> None:
    pixels, precision, predictor = film
    data = encode(pixels, precision, predictor)
    assert read_header(data) == LjpegHeader(pixels.shape[0], pixels.shape[1], precision, predictor, 0, 0)
    read_back = decode(data)
    assert read_back.dtype == (np.uint8 if precision <= 8 else np.uint16)
    np.testing.assert_array_equal(read_back, pixels)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize(("precision", "point_transform", "rows_per_restart"), [(8, 0, 0), (12, 3, 1), (16, 0, 2)])
def test_decode_follows_the_rule_of_pvrg(
    predictor: int, precision: int, point_transform: int, rows_per_restart: int
) -> None:
    shifted = textured(20, 9, precision, seed=predictor) >> point_transform
    shifted[3:6, 2:5] = 0
    shifted[10:12] = (1 << (precision - point_transform)) - 1
    data = plain_file(shifted.tolist(), precision, predictor, point_transform, rows_per_restart)
    assert read_header(data).restart_interval == rows_per_restart * 9
    np.testing.assert_array_equal(decode(data), shifted << point_transform)


def test_difference_of_32768_has_no_extra_bits() -> None:
    image = [[0, 32768, 0, 65535, 32767]]
    # All differences are 32768 but the last two, which are -1 and 32768: 5 bits each, and 1 more for the -1.
    data = plain_file(image, 16, 1)
    assert len(data) - len(b"\xff\xd9") - (data.index(b"\1\1\0\1\0\0") + 6) == 4
    np.testing.assert_array_equal(decode(data), image)


def test_codes_are_held_to_16_bits(tmp_path: Path) -> None:
    # Fibonacci numbers as frequencies of the 17 categories would ask for codes of 17 bits. In a film of one column
    # each pixel is predicted from the one above it.
    frequencies = [1, 1]
    while len(frequencies) < 17:
        frequencies.append(frequencies[-1] + frequencies[-2])
    differences = np.repeat([0, *(1 << n for n in range(16))], frequencies)
    column = np.cumsum(np.random.default_rng(0).permutation(differences)) % 65536
    pixels = np.array(column, np.uint16)[:, np.newaxis]
    data = encode(pixels, 16)
    counts = data[data.index(b"\xff\xc4") + 5 :][:16]
    assert counts[15] > 0
    assert sum(counts) == 17
    np.testing.assert_array_equal(decode(data), pixels)
    if PVRG is not None:
        np.testing.assert_array_equal(pvrg_decode(data, (len(column), 1), 16, tmp_path), pixels)


def test_flat_film_takes_one_bit_a_pixel() -> None:
    flat = np.full((64, 64), 2048, np.uint16)
    data = encode(flat, 12)
    assert 64 * 64 // 8 <= len(data) < 64 * 64 // 8 * 2 + 64
    np.testing.assert_array_equal(decode(data), flat)


def test_encode_takes_any_integer_type_and_memory_order() -> None:
    pixels = textured(31, 17, 8)
    expected = encode(pixels, 8)
    assert encode(pixels.astype(np.uint8), 8) == expected
    assert encode(np.asfortranarray(pixels.astype(np.int64)), 8) == expected


# Tolerated


def test_other_segments_fill_bytes_and_trailing_bytes_are_passed_over() -> None:
    pixels = textured(20, 30, 12)
    data = encode(pixels, 12)
    comment, ac_table = segment(0xFE, b"film"), segment(0xC4, b"\x10" + EVERY_CATEGORY)
    roomy = data[:2] + comment + b"\xff\xff" + data[2:-2] + b"\xff" + data[-2:] + b"\0" * 512
    np.testing.assert_array_equal(decode(roomy), pixels)
    np.testing.assert_array_equal(decode(data[:2] + ac_table + data[2:]), pixels)


def test_missing_end_of_image_is_no_loss() -> None:
    pixels = textured(20, 30, 12)
    for cut in (1, 2):
        np.testing.assert_array_equal(decode(encode(pixels, 12)[:-cut]), pixels)


# Damage

GOOD = plain_file([[100, 101, 99], [98, 100, 103]], 8, 7)
FRAME, TABLE, SCAN = frame(2, 3, 8), b"\0" + EVERY_CATEGORY, bytes((1, 1, 0, 7, 0, 0))
CODED = GOOD[GOOD.index(SCAN) + len(SCAN) : -2]


def damaged(
    frame_marker: int = 0xC3,
    frame: bytes = FRAME,
    table: bytes = TABLE,
    scan: bytes = SCAN,
    coded: bytes = CODED,
    before: bytes = b"",
) -> bytes:
    parts = (segment(frame_marker, frame), before, segment(0xC4, table), segment(0xDA, scan), coded, b"\xff\xd9")
    return b"\xff\xd8" + b"".join(parts)


def table(counts: dict[int, int], categories: bytes) -> bytes:
    return bytes((0, *(counts.get(length, 0) for length in range(1, 17)))) + categories


def test_the_undamaged_file_is_good() -> None:
    assert damaged() == GOOD
    np.testing.assert_array_equal(decode(GOOD), [[100, 101, 99], [98, 100, 103]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with ff d8, found nothing"),
        (b"P5\n2 2\n255\n", "starts with ff d8, found 50 35"),
        (b"\xff\xd8", "found the end of the file after 2 bytes"),
        (b"\xff\xd8" + b"\xff" * 5_000_000, "found the end of the file"),
        (b"\xff\xd8\xff\xd9\0\0", "expected a header segment at byte 2, found ff d9"),
        (b"\xff\xd8\x12\x34\0\0", "expected a header segment at byte 2, found 12 34"),
        (b"\xff\xd8\xff\xfe\0\1\0", "found length 1"),
        (b"\xff\xd8\xff\xfe\xff\xff\0", "found length 65535"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000, "expected a scan within 200 segments"),
        (damaged(frame_marker=0xC0), "found a frame of type ff c0"),
        (damaged(frame_marker=0xC1), "found a frame of type ff c1"),
        (damaged(frame_marker=0xCB), "found a frame of type ff cb"),
        (damaged(frame_marker=0xFE), "expected a frame header before the scan"),
        (damaged(before=segment(0xC3, FRAME)), "expected one frame header, found two"),
        (damaged(frame=FRAME[:5]), "frame header of 9 bytes, found 5"),
        (damaged(frame=FRAME + b"\0"), "found 1 in 10"),
        (damaged(frame=FRAME[:5] + b"\3" + bytes((1, 17, 0, 2, 17, 0, 3, 17, 0))), "one grey component.* found 3"),
        (damaged(frame=frame(2, 3, 1)), "precision of 2 to 16 bits, found 1"),
        (damaged(frame=frame(2, 3, 17)), "precision of 2 to 16 bits, found 17"),
        (damaged(frame=frame(0, 3, 8)), "found 0 rows of 3"),
        (damaged(frame=frame(2, 0, 8)), "found 2 rows of 0"),
        (damaged(frame=frame(65535, 65535, 8)), "found 65535 rows of 65535"),
        (damaged(frame=frame(65535, 763, 8)), "found 65535 rows of 763"),
        (damaged(frame=frame(5000, 10000, 8)), "expected 50000000 coded pixels"),
        (damaged(scan=SCAN[:5]), "expected a scan of component 1 alone"),
        (damaged(scan=bytes((1, 2, 0, 7, 0, 0))), "expected a scan of component 1 alone"),
        (damaged(scan=bytes((2, 1, 0, 2, 0, 7, 0, 0))), "expected a scan of component 1 alone"),
        (damaged(scan=bytes((1, 1, 0, 0, 0, 0))), "predictor from 1 to 7, found 0"),
        (damaged(scan=bytes((1, 1, 0, 8, 0, 0))), "predictor from 1 to 7, found 8"),
        (damaged(scan=bytes((1, 1, 0, 7, 0, 8))), "point transform below 8 bits, found 8"),
        (damaged(scan=bytes((1, 1, 0x10, 7, 0, 0))), r"Huffman table 1, found tables \[0\]"),
        (damaged(before=segment(0xDD, b"\0\4")), "restart interval of whole rows of 3 pixels, found 4"),
        (damaged(before=segment(0xDD, b"\3")), "restart interval of 2 bytes, found 1"),
        (damaged(before=segment(0xDD, b"\0\3")), "end with row 0, found more"),
        (damaged(table=TABLE[:10]), "Huffman tables to fill 10 bytes"),
        (damaged(table=TABLE[:-1]), "Huffman tables to fill 33 bytes"),
        (damaged(table=b"\x20" + EVERY_CATEGORY), "found one of class 2"),
        (damaged(table=b"\x10" + EVERY_CATEGORY), r"Huffman table 0, found tables \[\]"),
        (damaged(table=table({}, b"")), "categories 0 to 16, found none"),
        (damaged(table=table({1: 1}, b"\x11")), "categories 0 to 16, found 11"),
        (damaged(table=table({1: 3}, b"\0\1\2")), "too many Huffman codes of 1 bits"),
        (damaged(table=table({1: 2, 16: 1}, b"\0\1\2")), "too many Huffman codes of 16 bits"),
        (damaged(table=table({16: 1}, b"\0")), "expected a code of the file's Huffman table, found none in row 0"),
        (damaged(coded=b"", frame=frame(20, 30, 8)), "expected 600 coded pixels after the header, found 16 bits"),
        (damaged(coded=CODED[:-1]), "found the end of the coded data in row 1"),
        (damaged(coded=CODED[:3] + b"\xff\xd0" + CODED[3:]), "found the end of the coded data"),
        (damaged(coded=CODED + b"\0"), "end with row 1, found more"),
        (damaged(coded=CODED + CODED), "end with row 1, found more"),
        (damaged()[:-2] + b"\0", "end with row 1, found more"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_what_was_expected_and_found(data: bytes, message: str) -> None:
    with pytest.raises(LjpegError, match=message):
        decode(data)


def test_pixels_past_8_bits_are_refused() -> None:
    image = [[100, 300]]
    with pytest.raises(LjpegError, match="pixels of 8 bits, found the value 300"):
        decode(plain_file(image, 8, 7))


def test_restart_marker_out_of_turn_is_refused() -> None:
    data = plain_file(textured(4, 5, 12).tolist(), 12, 7, rows_per_restart=1)
    swapped = data.replace(b"\xff\xd1", b"\xff\xd2", 1)
    with pytest.raises(LjpegError, match=r"restart marker ff d1 at byte [0-9]+, found ff d2"):
        decode(swapped)


def test_read_header_refuses_what_decode_refuses_before_pixels() -> None:
    with pytest.raises(LjpegError, match="predictor"):
        read_header(damaged(scan=bytes((1, 1, 0, 9, 0, 0))))


def test_every_cut_is_noticed() -> None:
    data = encode(textured(12, 7, 12), 12)
    for length in range(len(data) - 2):
        with pytest.raises(LjpegError):
            decode(data[:length])


def test_a_huge_frame_is_refused_before_memory_is_taken() -> None:
    decode(GOOD)
    side = int(MAX_PIXELS**0.5)
    data = damaged(frame=frame(side, side, 16), coded=b"\0" * 10_000)
    tracemalloc.start()
    try:
        with pytest.raises(LjpegError):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_decoder_that_numba_cannot_keep_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where package and home are both read-only. numba says so when the function is made, not when it is called.
    def njit(cache: bool = False, nogil: bool = False) -> Callable[[Callable[..., int]], Callable[..., int]]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(nogil=nogil)

    monkeypatch.setattr(ljpeg, "njit", njit)
    twice = ljpeg.compiled(lambda number: 2 * number)
    assert twice(21) == 42
    assert twice.signatures


@pytest.mark.slow
def test_processes_that_start_at_once_share_a_cache(tmp_path: Path) -> None:
    film, cache = tmp_path / "film.LJPEG", tmp_path / "cache"
    film.write_bytes(GOOD)
    code = f"import pathlib, mammo_etl.ljpeg as m; print(m.decode(pathlib.Path({str(film)!r}).read_bytes()).tolist())"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        assert process.communicate()[0] == "[[100, 101, 99], [98, 100, 103]]\n"
        assert process.returncode == 0
    kept = sorted(cache.rglob("*_decode_rows*"))
    assert [path.suffix for path in kept] == [".nbc", ".nbi"]
    # What they left is good: a later process adds nothing.
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout.startswith(b"[[100")
    assert [path.stat().st_mtime_ns for path in kept] == stamps


def flip(data: bytearray, generator: np.random.Generator) -> None:
    data[generator.integers(len(data))] = generator.integers(256)


def drop(data: bytearray, generator: np.random.Generator) -> None:
    del data[generator.integers(len(data))]


def repeat(data: bytearray, generator: np.random.Generator) -> None:
    start = generator.integers(len(data))
    data[start:start] = data[start : start + generator.integers(40)]


def cut(data: bytearray, generator: np.random.Generator) -> None:
    del data[generator.integers(len(data)) :]


@pytest.mark.parametrize("mutate", [flip, drop, repeat, cut])
def test_damaged_bytes_give_pixels_of_the_header_or_an_error(
    mutate: Callable[[bytearray, np.random.Generator], None],
) -> None:
    seeds = [encode(textured(9, 11, 12), 12), plain_file(textured(6, 5, 16).tolist(), 16, 4, rows_per_restart=2), GOOD]
    generator = np.random.default_rng(7)
    refused = 0
    for turn in range(900):
        data = bytearray(seeds[turn % len(seeds)])
        for _ in range(generator.integers(1, 4)):
            if data:
                mutate(data, generator)
        try:
            pixels = decode(bytes(data))
        except LjpegError:
            refused += 1
        else:
            header = read_header(bytes(data))
            assert pixels.shape == (header.rows, header.columns)
            assert pixels.dtype == (np.uint8 if header.precision <= 8 else np.uint16)
    assert refused > 300


# What encode refuses


@pytest.mark.parametrize(
    ("pixels", "precision", "predictor", "message"),
    [
        (np.zeros((2, 2), np.uint16), 1, 7, "precision 2 to 16"),
        (np.zeros((2, 2), np.uint16), 17, 7, "precision 2 to 16"),
        (np.zeros((2, 2), np.uint16), 12, 0, "predictor 1 to 7"),
        (np.zeros((2, 2), np.uint16), 12, 8, "predictor 1 to 7"),
        (np.zeros(4, np.uint16), 12, 7, r"found shape \(4,\)"),
        (np.zeros((0, 4), np.uint16), 12, 7, r"found shape \(0, 4\)"),
        (np.zeros((1, 65536), np.uint8), 12, 7, r"found shape \(1, 65536\)"),
        (np.full((2, 2), 4096, np.uint16), 12, 7, "integers of 0 to 4095, found uint16 4096 to 4096"),
        (np.full((2, 2), -1), 12, 7, "found int64 -1 to -1"),
        (np.zeros((2, 2)), 12, 7, "found float64"),
    ],
)
def test_encode_refuses_what_the_format_cannot_hold(
    pixels: npt.NDArray[np.uint16], precision: int, predictor: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(pixels, precision, predictor)
