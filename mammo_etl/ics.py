"""DDSM's `.ics` files, which list the films of a case, and the names of a case's files.

Format: DDSM, "Description of a case" (University of South Florida).
"""

import math
import re
from dataclasses import dataclass
from itertools import product

from mammo_etl.density import scanner_name
from mammo_etl.files import SourceFileError, name_of, read_bytes, size_of
from mammo_etl.gzipped import gunzip, is_gzip
from mammo_etl.records import Laterality, Reason, View

_INSTITUTIONS = {"A": "MGH", "B": "WFU", "C": "WFU", "D": "ISMD"}
"""Institution by the first letter of a case."""

_FILE_NAME = re.compile(
    r"(?P<letter>[A-D])[-_](?P<patient>\d{4})[-_](?P<study>\d+)"
    r"(?:\.(?P<side>LEFT|RIGHT)_(?P<view>CC|MLO))?\.(?P<kind>ICS|LJPEG|OVERLAY)(?P<gz>\.GZ)?",
    re.IGNORECASE,
)
_ICS_SUFFIXES = (".ics", ".ICS", ".ics.gz", ".ICS.gz", ".ics.GZ", ".ICS.GZ")

MAX_TEXT_BYTES = 8 << 20
"""Larger text files are refused. An outline takes two bytes for each pixel of its length: this is 200 times round a film."""

_VIEW_LINE = re.compile(r"(LEFT|RIGHT)_(CC|MLO)\b(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of a case's file says, as `C-0029-1.ics` or `C_0029_1.LEFT_CC.LJPEG`."""

    case: str
    """With dashes, as C-0029-1."""
    kind: str
    """ics, ljpeg or overlay."""
    film: str
    """LEFT_CC and so on; empty for the .ics, which is the whole case's."""


@dataclass(frozen=True, slots=True)
class IcsView:
    """One film of a case, as its .ics describes it."""

    laterality: Laterality
    view: View
    rows: int
    columns: int
    bits: int
    pixel_um: float | None
    """Pixel pitch, micrometres."""
    overlay: bool
    """Whether there is an .OVERLAY file."""
    scanner: str
    """DBA, HOWTEK or LUMISYS; upper case as it stands for any other."""
    institution: str
    """MGH, WFU or ISMD."""
    density: int | None
    """ACR 1 to 4."""

    @property
    def film(self) -> str:
        """LEFT_CC and so on."""
        return f"{self.laterality}_{self.view}"


@dataclass(frozen=True, slots=True)
class IcsCase:
    """An .ics file: the films of one case."""

    views: tuple[IcsView, ...]


def parse_name(url: str) -> FileName | None:
    """What a file's name says; None if it is not that of a case's .ics, .LJPEG or .OVERLAY."""
    match = _FILE_NAME.fullmatch(name_of(url))
    if match is None or (match["side"] is None) is not (match["kind"].upper() == "ICS"):
        return None
    film = f"{match['side']}_{match['view']}".upper() if match["side"] else ""
    case = f"{match['letter'].upper()}-{match['patient']}-{match['study']}"
    return FileName(case, match["kind"].lower(), film)


def read_ics(url: str) -> IcsCase:
    """The films that an .ics file lists.

    Raises SourceFileError: `unreadable-file`, or `bad-table` if it lists none or a line lacks a film's size.
    """
    name = parse_name(url)
    lines = read_text(url).splitlines()
    fields = {words[0].upper(): " ".join(words[1:]) for line in lines if (words := line.split())}
    density = fields.get("DENSITY", "")
    views: dict[str, IcsView] = {}
    for number, line in enumerate(lines, 1):
        match = _VIEW_LINE.match(line.strip())
        if match is None:
            continue
        words = match[3].upper().split()
        sizes = dict(zip(words[::2], words[1::2], strict=False))
        try:
            view = IcsView(
                laterality=Laterality(match[1].upper()),
                view=View(match[2].upper()),
                rows=_size(sizes["LINES"]),
                columns=_size(sizes["PIXELS_PER_LINE"]),
                bits=_size(sizes["BITS_PER_PIXEL"]),
                pixel_um=_pitch(sizes.get("RESOLUTION", "0")),
                overlay="OVERLAY" in words,
                scanner=scanner_name(fields.get("DIGITIZER", "")),
                institution=_INSTITUTIONS[name.case[0]] if name is not None else "",
                density=int(density) if density in ("1", "2", "3", "4") else None,
            )
        except (KeyError, ValueError) as error:
            raise SourceFileError(
                Reason.BAD_TABLE,
                f"Line {number} of the .ics file does not describe a film: expected"
                " LINES n PIXELS_PER_LINE n BITS_PER_PIXEL n RESOLUTION n and OVERLAY or NON_OVERLAY.",
            ) from error
        views.setdefault(view.film, view)
    if not views:
        raise SourceFileError(Reason.BAD_TABLE, "The .ics file lists no film: expected lines as LEFT_CC LINES ...")
    return IcsCase(tuple(views.values()))


def find_ics_view(url: str) -> IcsView | None:
    """What the .ics beside a .LJPEG file says of it; None if there is no .ics or it does not list this film.

    Raises SourceFileError if the .ics is there but cannot be understood.
    """
    name = parse_name(url)
    if name is None:
        return None
    path, *archive = url.split("::", 1)
    folder = path[: len(path) - len(name_of(path))]
    for case, suffix in product((name.case, name.case.lower()), _ICS_SUFFIXES):
        candidate = "::".join([f"{folder}{case}{suffix}", *archive])
        try:
            size_of(candidate)
        except SourceFileError:
            continue
        return next((view for view in read_ics(candidate).views if view.film == name.film), None)
    return None


def read_text(url: str) -> str:
    """Text of a file, gunzipped if its content asks for it.

    Raises SourceFileError `unreadable-file` if that fails, or if there are more than MAX_TEXT_BYTES.
    """
    content = read_bytes(url, MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise SourceFileError(
            Reason.UNREADABLE_FILE, f"Expected a text file of at most {MAX_TEXT_BYTES} bytes, found a larger one."
        )
    if is_gzip(content):
        content = gunzip(content, MAX_TEXT_BYTES)
    return content.decode("latin-1")


def _size(text: str) -> int:
    """A whole number above 0; raises ValueError for anything else."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise ValueError(f"expected a whole number above 0, found {text}")
    return int(text)


def _pitch(text: str) -> float | None:
    """Micrometres, None if 0 or no finite number; raises ValueError if it is no number."""
    pitch = float(text)
    return pitch if math.isfinite(pitch) and pitch > 0 else None
