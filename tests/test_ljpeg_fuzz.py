"""Lossless JPEG from nobody one can trust: cut, bent and hostile files.

Whatever the bytes, `decode` gives pixels of the header's size or raises LjpegError, soon, and takes no more memory than the file's own
size lets a film have. The long form runs for MAMMO_FUZZ_SECONDS (180) in a process of its own, in which numba checks every index:

    MAMMO_FUZZ_SECONDS=600 python -m pytest -m slow tests/test_ljpeg_fuzz.py

or, to see what was tried, `NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=/tmp/checked python tests/test_ljpeg_fuzz.py 600`.
"""

import itertools
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from hypothesis import strategies as st

from mammo_etl import ljpeg
from mammo_etl.ljpeg import LjpegError, decode, read_header
from mammo_etl.phantom.ljpeg_writer import encode

SECONDS = 5.0
"""Longest time for one file of at most some ten thousand bytes; it takes milliseconds. Generous, for busy machines."""

EVERY_CATEGORY = bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))


def check(data: bytes) -> str:
    """Decodes a file and holds the promises; returns what came of it, without numbers."""
    pixels, outcome = None, "decoded"
    tracemalloc.start()
    started = time.perf_counter()
    try:
        pixels = decode(data)
    except LjpegError as error:
        outcome = re.sub(r"\b[0-9a-f]{1,2}\b|[0-9]+", "#", str(error).split(", found")[0])
    finally:
        seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seconds < SECONDS
    # A pixel has at least a bit of the file, and is held in 2 bytes, 8-bit ones at the end in 1 more. Tables take 0.4 MB; the rest is for
    # other threads of the test process.
    assert peak < 5_000_000 + (8 * 3 + 1) * len(data)
    if pixels is not None:
        header = read_header(data)
        assert pixels.shape == (header.rows, header.columns)
        assert pixels.dtype == (np.uint8 if header.precision <= 8 else np.uint16)
    return outcome


# Files: good ones, made of hostile parts, and both bent.


def segment(marker: int, body: bytes, length: int | None = None) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2 if length is None else length).to_bytes(2) + body


@cache
def good_files() -> tuple[bytes, ...]:
    generator = np.random.default_rng(0)
    files = []
    for precision, predictor, shape in [(8, 7, (9, 11)), (12, 7, (24, 17)), (12, 1, (1, 40)), (16, 4, (40, 1)), (16, 6, (60, 70)), (12, 7, (100, 90)), (2, 5, (3, 3))]:  # fmt: skip
        top = (1 << precision) - 1
        noise = generator.integers(0, top, shape, endpoint=True)
        slope = np.minimum(np.indices(shape).sum(axis=0), top)
        files += [encode(pixels, precision, predictor) for pixels in (noise, slope)]
    # Restart markers and a point transform, which `encode` does not write: flat rows, a bit a pixel.
    rows, columns = 12, 8
    parts = [
        b"\xff\xd8",
        segment(0xC3, bytes((12, 0, rows, 0, columns, 1, 1, 0x11, 0))),
        segment(0xC4, bytes((0, 1, 1, *[0] * 14, 0, 3))),
        segment(0xDD, bytes((0, columns))),
        segment(0xDA, bytes((1, 1, 0, 7, 0, 2))),
        *(b"\0" + bytes((0xFF, 0xD0 + row % 8)) for row in range(rows - 1)),
        b"\0\xff\xd9",
    ]
    return (*files, b"".join(parts))


RUNS = [byte * 2000 for byte in (b"\0", b"\xff\0", b"\xff", b"\xaa", b"\xfe", b"\xff\xd0")]

SIZES = st.one_of(st.integers(1, 40), st.sampled_from([0, 1, 2, 255, 1526, 10000, 32768, 65535]), st.integers(0, 65535))


@st.composite
def frames(draw: st.DrawFn, size: bool, rest: bool) -> bytes:
    """A frame header; of any size, and with anything else in it, if asked."""
    rows, columns = (draw(SIZES), draw(SIZES)) if size else (draw(st.integers(1, 30)), draw(st.integers(1, 30)))
    precision = draw(st.integers(0, 255) if rest else st.sampled_from([8, 12, 16]))
    components = draw(st.sampled_from([0, 1, 2, 3, 255])) if rest else 1
    body = bytes((precision, *rows.to_bytes(2), *columns.to_bytes(2), components)) + bytes((1, 0x11, 0)) * components
    return body[: draw(st.integers(0, len(body)))] if rest and draw(st.booleans()) else body


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A DHT segment's content: good, over-subscribed, empty, with codes too long, with categories that do not exist."""
    number = draw(st.sampled_from([0] * 8 + [1, 3, 15, 0x10, 0x20, 0xFF]))
    kind = draw(st.sampled_from(["good", "good", "full", "short", "random", "empty", "few"]))
    if kind == "good":
        return bytes((number,)) + EVERY_CATEGORY
    if kind == "empty":
        return bytes((number, *[0] * 16))
    if kind == "full":  # A code of each length, the last one of all ones.
        return bytes((number, *[1] * 15, 2)) + bytes(range(17))
    if kind == "short":  # More codes of a length than there are.
        length = draw(st.integers(1, 8))
        counts = [0] * 16
        counts[length - 1] = min(255, (1 << length) + draw(st.integers(1, 2)))
    elif kind == "few":
        counts = [draw(st.sampled_from([0, 0, 0, 1])) for _ in range(16)]
    else:
        counts = [draw(st.integers(0, 255)) for _ in range(16)]
    top = draw(st.sampled_from([16, 16, 16, 16, 17, 255]))
    categories = draw(st.binary(min_size=sum(counts), max_size=sum(counts)))
    return bytes((number, *counts)) + bytes(category % (top + 1) for category in categories)


@st.composite
def made_files(draw: st.DrawFn) -> bytes:
    """A file made of parts, hostile in one way, in none, or in all."""
    way = draw(st.sampled_from(["", "size", "frame", "table", "restart", "segment", "number", "order", "scan", "all"]))

    def hostile(part: str) -> bool:
        return way in (part, "all")

    parts = [
        segment(0xC3, draw(frames(hostile("size"), hostile("frame")))),
        segment(0xC4, draw(tables()) if hostile("table") else b"\0" + EVERY_CATEGORY),
    ]
    if hostile("restart"):
        parts.append(segment(0xDD, draw(st.one_of(st.binary(max_size=4), SIZES.map(lambda size: size.to_bytes(2))))))
    if hostile("segment"):
        length = draw(st.one_of(st.none(), st.integers(0, 65535)))
        parts.append(segment(draw(st.integers(0, 255)), draw(st.binary(max_size=30)), length))
    if hostile("number"):
        at = draw(st.integers(0, len(parts) - 1))
        parts[at : at + 1] = parts[at : at + 1] * draw(st.sampled_from([2, 199, 400]))
    if hostile("order"):
        parts = draw(st.permutations(parts[:5]))
    scan = bytes((1, 1, 0, draw(st.integers(1, 7)), 0, 0))
    if hostile("scan"):
        scan = draw(
            st.one_of(st.binary(max_size=12), st.binary(min_size=4, max_size=4).map(lambda body: b"\1\1" + body))
        )
    coded = draw(st.one_of(st.binary(max_size=400), st.sampled_from(RUNS)))
    return b"".join([b"\xff\xd8", *parts, segment(0xDA, scan), coded, draw(st.sampled_from([b"\xff\xd9", b""]))])


def bend(data: bytes, chance: Random) -> bytes:
    """A file after one to four cuts, changed bytes, bytes more or less, pieces twice or backwards, markers where none belong."""
    bent = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, end = sorted((chance.randint(0, len(bent)), chance.randint(0, len(bent))))
        match chance.choice(["cut", "byte", "byte", "bit", "bit", "remove", "insert", "repeat", "marker", "backwards"]):
            case "cut":
                del bent[end:]
            case "byte":
                bent[at : at + 1] = chance.randbytes(1)
            case "bit":
                bent[at : at + 1] = bytes(byte ^ 1 << chance.randint(0, 7) for byte in bent[at : at + 1])
            case "remove":
                del bent[at : min(end, at + 8)]
            case "insert":
                bent[at:at] = chance.randbytes(chance.randint(1, 16))
            case "repeat":
                bent[at:at] = bent[at : min(end, at + 2000)]
            case "marker":
                bent[at:at] = bytes((0xFF, chance.randint(0, 255)))
            case "backwards":
                bent[at:end] = bent[at:end][::-1]
    return bytes(bent)


FILES = st.one_of(
    st.sampled_from(good_files()), made_files(), st.binary(max_size=200).map(lambda data: b"\xff\xd8" + data)
)
ANY_HEALTH = list(HealthCheck)


def try_files(data: bytes, number: int, outcomes: Counter[str]) -> None:
    """Checks a file and 30 bent ones made from it."""
    outcomes[check(data)] += 1
    chance = Random(number)
    for _ in range(30):
        bent = bend(data, chance)
        note(f"bent file: {bent.hex()}")
        outcomes[check(bent)] += 1


def warm_up() -> None:
    """Compiling takes seconds and memory that are no file's."""
    for data in good_files():
        decode(data)


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    warm_up()


def test_good_files_are_good() -> None:
    assert {check(data) for data in good_files()} == {"decoded"}


@settings(max_examples=150, deadline=None, suppress_health_check=ANY_HEALTH)
@given(data=FILES, number=st.integers(0, 2**64))
def test_any_bytes_give_pixels_or_an_error(data: bytes, number: int) -> None:
    try_files(data, number, Counter())


@pytest.mark.parametrize("side", [7_072, 65_535])
def test_a_tiny_file_that_claims_a_huge_film_takes_no_memory(side: int) -> None:
    frame = bytes((16, *side.to_bytes(2), *side.to_bytes(2), 1, 1, 0x11, 0))
    data = b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, b"\0" + EVERY_CATEGORY) + segment(0xDA, bytes((1, 1, 0, 7, 0, 0)))  # fmt: skip
    tracemalloc.start()
    try:
        with pytest.raises(LjpegError, match="expected a film of 1 to 50000000 pixels"):
            decode(data + b"\0" * 100)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def fuzz(seconds: float) -> Counter[str]:
    """Tries files for so long; returns how often each came out how."""
    outcomes: Counter[str] = Counter()
    warm_up()
    until = time.monotonic() + seconds
    for round_ in itertools.count():
        if time.monotonic() > until:
            return outcomes
        again = settings(max_examples=100, deadline=None, database=None, suppress_health_check=ANY_HEALTH)
        tried = given(data=FILES, number=st.integers(0, 2**64), outcomes=st.just(outcomes))(try_files)
        seed(round_)(again(tried))()
    raise AssertionError


def check_that_indexes_are_checked() -> None:
    """A table cut short must be noticed by the compiled decoder: else this process proves nothing."""
    table = np.zeros(4, np.int32)
    codes = np.zeros(4, np.uint16)
    data = np.full(16, 0x7F, np.uint8)
    try:
        ljpeg._decode_rows(data, 0, table, codes, np.zeros(2, np.uint16), np.zeros((2, 2), np.uint16), 7)
    except IndexError:
        return
    raise SystemExit("numba does not check indexes: set NUMBA_BOUNDSCHECK=1, and NUMBA_CACHE_DIR to an empty folder")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_for_minutes_with_every_index_checked(tmp_path: Path) -> None:
    seconds = os.environ.get("MAMMO_FUZZ_SECONDS", "180")
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, __file__, seconds],
        env=environment,
        capture_output=True,
        text=True,
        timeout=float(seconds) + 300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    outcomes = dict(line.split(" ", 1)[::-1] for line in done.stdout.splitlines())
    # Both what is inside good headers and what refuses bad ones was reached.
    assert int(outcomes["decoded"]) > 100
    assert len(outcomes) > 20


if __name__ == "__main__":
    check_that_indexes_are_checked()
    for outcome, count in fuzz(float(sys.argv[1])).most_common():
        print(count, outcome)
