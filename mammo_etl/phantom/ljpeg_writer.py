"""Writing DDSM's lossless JPEG as the PVRG codec does: the counterpart of `mammo_etl.ljpeg`, whose prediction it shares."""

import struct
from collections import Counter
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from mammo_etl.ljpeg import DHT, EOI, LARGEST_CATEGORY, LONGEST_CODE, SOF3, SOI, SOS, compiled, predict

_DRI, _RST0 = 0xDD, 0xD0


def encode(
    pixels: npt.NDArray[np.integer], precision: int, predictor: int = 7, rows_per_restart: int | None = None
) -> bytes:
    """The file that PVRG and `decode` read back as these pixels exactly.

    `pixels`: (rows, columns), values 0 to 2^precision - 1. No point transform, one optimal Huffman table, and no restart markers, as in
    DDSM, unless there is to be one after each `rows_per_restart` rows. Raises ValueError where pixels, precision (2 to 16), predictor
    (1 to 7) or the pixels between restart markers (1 to 65535) are outside what the format holds.
    """
    if not 2 <= precision <= 16 or not 1 <= predictor <= 7:
        raise ValueError(f"expected precision 2 to 16 and predictor 1 to 7, found {precision} and {predictor}")
    if pixels.ndim != 2 or not 1 <= min(pixels.shape) <= max(pixels.shape) <= 65535:
        raise ValueError(f"expected 1 to 65535 rows and columns, found shape {pixels.shape}")
    if not np.issubdtype(pixels.dtype, np.integer) or pixels.min() < 0 or pixels.max() >> precision:
        raise ValueError(
            f"expected integers of 0 to {(1 << precision) - 1}, found {pixels.dtype} {pixels.min()} to {pixels.max()}"
        )
    interval = 0 if rows_per_restart is None else rows_per_restart * pixels.shape[1]
    if rows_per_restart is not None and not 1 <= interval <= 65535:
        raise ValueError(f"expected 1 to 65535 pixels between restart markers, found {interval}")
    above = np.full(pixels.shape[1], 1 << (precision - 1), np.uint16)
    differences, counts = _differences(np.ascontiguousarray(pixels, np.uint16), above, predictor)
    lengths = _code_lengths({category: int(count) for category, count in enumerate(counts) if count})
    codes = np.zeros(LARGEST_CATEGORY + 1, np.uint64)
    code_lengths = np.zeros(LARGEST_CATEGORY + 1, np.uint64)
    start = 0
    for category, length in lengths.items():
        codes[category], code_lengths[category] = start >> (LONGEST_CODE - length), length
        start += 1 << (LONGEST_CODE - length)
    extra_bits = [*range(LARGEST_CATEGORY), 0]
    bit_count = sum(int(counts[category]) * (length + extra_bits[category]) for category, length in lengths.items())
    packed = np.empty(-(-bit_count // 8), np.uint8)
    coded = bytearray()
    bands = range(0, pixels.shape[0], rows_per_restart or pixels.shape[0])
    for number, first in enumerate(bands):
        if number:
            # A marker aligns the bits and nothing more: see `mammo_etl.ljpeg`.
            coded += bytes((0xFF, _RST0 + (number - 1) % 8))
        size = _pack(differences[first : first + bands.step].ravel(), codes, code_lengths, packed)
        coded += packed[:size].tobytes().replace(b"\xff", b"\xff\x00")
    per_length = Counter(lengths.values())
    table = bytes(per_length[length] for length in range(1, LONGEST_CODE + 1)) + bytes(lengths)
    return b"".join(
        (
            bytes((0xFF, SOI)),
            _segment(SOF3, struct.pack(">BHHBBBB", precision, *pixels.shape, 1, 1, 0x11, 0)),
            _segment(DHT, b"\x00" + table),
            _segment(_DRI, interval.to_bytes(2)) if interval else b"",
            _segment(SOS, bytes((1, 1, 0, predictor, 0, 0))),
            coded,
            bytes((0xFF, EOI)),
        )
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _code_lengths(counts: dict[int, int]) -> dict[int, int]:
    """Bits of each category's code, in the order of canonical codes: the best of at most 16 bits.

    Package-merge (Larmore and Hirschberg, J. ACM 37, 1990). A category that never occurs takes part and gets the last
    of the longest codes, the one of ones only, which T.81 annex C keeps free.
    """
    reserved = LARGEST_CATEGORY + 1
    leaves = sorted([(0, (reserved,)), *((count, (category,)) for category, count in counts.items())])
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(LONGEST_CODE):
        merged = [(a + b, in_a + in_b) for (a, in_a), (b, in_b) in zip(packages[::2], packages[1::2], strict=False)]
        packages = sorted([*leaves, *merged], key=itemgetter(0))
    chosen = packages[: 2 * len(leaves) - 2]
    lengths = Counter(category for _, categories in chosen for category in categories)
    del lengths[reserved]
    return dict(sorted(lengths.items(), key=lambda item: (item[1], item[0])))


@compiled
def _category(difference):  # type: ignore[no-untyped-def]
    """SSSS of a difference modulo 65536 (T.81 table H.2): how many bits its magnitude has."""
    magnitude = min(difference, 65536 - difference)
    bits = 0
    while magnitude:
        magnitude >>= 1
        bits += 1
    return bits


@compiled
def _differences(pixels, above, predictor):  # type: ignore[no-untyped-def]
    """Differences from the prediction, modulo 65536, and how many of them there are of each category."""
    differences = np.empty_like(pixels)
    counts = np.zeros(LARGEST_CATEGORY + 1, np.int64)
    for row in range(pixels.shape[0]):
        left = corner = np.int32(above[0])
        for column in range(pixels.shape[1]):
            over = np.int32(above[column])
            pixel = np.int32(pixels[row, column])
            difference = (pixel - predict(predictor, left, over, corner)) & np.int32(0xFFFF)
            counts[_category(difference)] += 1
            differences[row, column] = difference
            left, corner = pixel, over
        above = pixels[row]
    return differences, counts


@compiled
def _pack(differences, codes, code_lengths, packed):  # type: ignore[no-untyped-def]
    """Write each difference's code and extra bits (T.81 H.1.2.2), the last byte filled with ones; returns how many bytes. Stuff ff later."""
    window, held, position = np.uint64(0), np.uint64(0), 0
    for value in differences:
        difference = np.int64(value)
        category = _category(difference)
        extra_bits = np.uint64(category if category < LARGEST_CATEGORY else 0)
        # Negative differences are sent less one, so that their highest extra bit is 0.
        extra = difference if difference < 32768 else difference - 1
        mask = (np.uint64(1) << extra_bits) - np.uint64(1)
        window = (window << code_lengths[category] | codes[category]) << extra_bits | (np.uint64(extra) & mask)
        held += code_lengths[category] + extra_bits
        while held >= np.uint64(8):
            held -= np.uint64(8)
            packed[position] = (window >> held) & np.uint64(0xFF)
            position += 1
    if held:
        fill = np.uint64(8) - held
        packed[position] = (window << fill | ((np.uint64(1) << fill) - np.uint64(1))) & np.uint64(0xFF)
        position += 1
    return position
