"""DDSM's `.OVERLAY` files: the lesions of one film, with their outlines as chain codes.

Format: DDSM, "Description of a case" (University of South Florida).
"""

import re
from dataclasses import dataclass

from mammo_etl.files import SourceFileError
from mammo_etl.ics import read_text
from mammo_etl.records import Reason

_CHAIN_START = re.compile(r"-?\d{1,6}")
_CHAIN_CODES = re.compile(r"[0-7]+")


@dataclass(frozen=True, slots=True)
class Lesion:
    """One abnormality of an .OVERLAY file, in the file's words."""

    number: int
    lesion_types: tuple[str, ...]
    """As `MASS SHAPE LOBULATED MARGINS CIRCUMSCRIBED`; several where a lesion is described twice."""
    assessment: int | None
    subtlety: int | None
    pathology: str
    outlines: tuple[str, ...]
    """Outer boundaries 'x y codes' (see Finding.roi_outlines); they may leave the film, and need not close."""
    broken_outlines: int
    """Boundaries left out: no start, or codes other than 0 to 7."""
    stated_outlines: int | None
    """TOTAL_OUTLINES: boundaries and cores, by the file's own count."""
    found_outlines: int
    """Boundaries, broken ones too, and cores."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """An .OVERLAY file: the lesions of one film."""

    lesions: tuple[Lesion, ...]
    stated_lesions: int | None
    """TOTAL_ABNORMALITIES: the file's own count."""


def read_overlay(url: str) -> Overlay:
    """The lesions of an .OVERLAY file.

    All that is there is read, whatever the counts that the file states. CORE outlines (inner parts of a lesion) are passed
    over. Raises SourceFileError: `unreadable-file`, or `bad-table` if the file describes no lesion.
    """
    stated: int | None = None
    # A line of a section begins with its keyword; all others belong to the chain above.
    sections: list[list[tuple[str, str]]] = []
    for line in read_text(url).splitlines():
        keyword, rest = (*line.split(maxsplit=1), "", "")[:2]
        if keyword.upper() == "TOTAL_ABNORMALITIES":
            stated = _integer(rest)
            continue
        if keyword.upper() == "ABNORMALITY":
            sections.append([])
        elif not keyword or not sections:
            continue
        if keyword[0].isalpha():
            sections[-1].append((keyword.upper(), rest.strip()))
        else:
            above, chain = sections[-1].pop()
            sections[-1].append((above, f"{chain} {line}"))
    if not sections:
        raise SourceFileError(
            Reason.BAD_TABLE, "The .OVERLAY file describes no lesion: expected ABNORMALITY, LESION_TYPE, BOUNDARY ..."
        )
    lesions = [_lesion(section, position) for position, section in enumerate(sections, 1)]
    if len({lesion.number for lesion in lesions}) < len(lesions):
        # The same number twice would give two findings one name.
        lesions = [_lesion(section[1:], position) for position, section in enumerate(sections, 1)]
    return Overlay(tuple(lesions), stated)


def _lesion(section: list[tuple[str, str]], position: int) -> Lesion:
    values = dict(reversed(section))
    number = _integer(values.get("ABNORMALITY", ""))
    chains = [_outline(text) for keyword, text in section if keyword == "BOUNDARY"]
    outlines = tuple(chain for chain in chains if chain is not None)
    return Lesion(
        number=position if number is None else number,
        lesion_types=tuple(" ".join(text.upper().split()) for keyword, text in section if keyword == "LESION_TYPE"),
        assessment=_integer(values.get("ASSESSMENT", "")),
        subtlety=_integer(values.get("SUBTLETY", "")),
        pathology=values.get("PATHOLOGY", "").upper(),
        outlines=outlines,
        broken_outlines=len(chains) - len(outlines),
        stated_outlines=_integer(values.get("TOTAL_OUTLINES", "")),
        found_outlines=sum(keyword in ("BOUNDARY", "CORE") for keyword, _ in section),
    )


def _outline(text: str) -> str | None:
    """A chain as 'x y codes', ended by # or by the end of its section; None if it is broken."""
    x, y, *codes = (*text.split("#", 1)[0].split(), "", "")
    joined = "".join(codes)
    if _CHAIN_START.fullmatch(x) and _CHAIN_START.fullmatch(y) and _CHAIN_CODES.fullmatch(joined):
        return f"{int(x)} {int(y)} {joined}"
    return None


def _integer(text: str) -> int | None:
    word = text.split()[0] if text.split() else ""
    return int(word) if re.fullmatch(r"\d{1,4}", word) else None
