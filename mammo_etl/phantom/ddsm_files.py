"""What is wrong with whole files of DDSM: functions of a finished file's path and content, which give what is written instead."""

import gzip
from collections.abc import Callable
from pathlib import Path

from mammo_etl.ljpeg import decode, read_header
from mammo_etl.phantom.ljpeg_writer import encode
from mammo_etl.phantom.source_faults import Fault

_ROWS_PER_RESTART = 16


def _swap_size(path: Path, content: bytes) -> tuple[Path, bytes]:
    """The same pixels one after the other, in rows as long as the film is high: so PVRG was told the size of some films."""
    if path.suffix != ".LJPEG":
        return path, content
    pixels = decode(content)
    return path, encode(pixels.reshape(pixels.shape[::-1]), read_header(content).precision)


def _restart(path: Path, content: bytes) -> tuple[Path, bytes]:
    if path.suffix != ".LJPEG":
        return path, content
    header = read_header(content)
    rows = min(_ROWS_PER_RESTART, 65535 // header.columns)
    return path, encode(decode(content), header.precision, rows_per_restart=rows)


def _trail_bytes(path: Path, content: bytes) -> tuple[Path, bytes]:
    return path, content + bytes(13) if path.suffix == ".LJPEG" else content


def _trail_spaces(path: Path, content: bytes) -> tuple[Path, bytes]:
    return path, content if path.suffix == ".LJPEG" else content.replace(b"\n", b"  \n")


def _blank(path: Path, content: bytes) -> tuple[Path, bytes]:
    if path.suffix != ".ics":
        return path, content
    lines = content.lstrip().splitlines()
    blanked = (b"PATIENT_AGE " if line.startswith(b"PATIENT_AGE") else line for line in lines)
    return path, b"\n" + b"\n".join(blanked) + b"\n"


def _gzip(path: Path, content: bytes) -> tuple[Path, bytes]:
    """The overlays of MLO views keep their names: their content alone tells."""
    named = path.suffix != ".OVERLAY" or path.stem.endswith("_CC")
    return path.with_name(f"{path.name}.gz") if named else path, gzip.compress(content, mtime=0)


FILE_FAULTS: dict[Fault, Callable[[Path, bytes], tuple[Path, bytes]]] = {
    Fault.SWAPPED_SIZE: _swap_size,
    Fault.RESTART: _restart,
    Fault.TRAILING_BYTES: _trail_bytes,
    Fault.TRAILING_SPACES: _trail_spaces,
    Fault.BLANK_LINE: _blank,
    Fault.GZIP: _gzip,
}
"""One for all files of a case."""
