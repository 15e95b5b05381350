"""DDSM: case folders of `.ics`, `.LJPEG` and `.OVERLAY` files, anywhere below the root, each gzipped or not.

Files belong together by the case and film that their names state (`C-0029-1.ics`, `C_0029_1.LEFT_CC.LJPEG`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

from mammo_etl.files import name_of
from mammo_etl.film import read_ljpeg_header
from mammo_etl.ics import FileName, IcsCase, IcsView, parse_name, read_ics
from mammo_etl.ljpeg import LjpegHeader
from mammo_etl.overlay import Lesion, Overlay, read_overlay
from mammo_etl.records import (
    Abnormality,
    Finding,
    Pathology,
    Reason,
    Rejection,
    RoiFlag,
    RoiKind,
    Scan,
    Verdict,
    label_of,
)
from mammo_etl.roi import chain_points
from mammo_etl.sources import Inventory

Header = IcsCase | LjpegHeader | Overlay

_SOURCE = "ddsm"
_PATHOLOGIES = {
    "BENIGN": Pathology.BENIGN,
    "BENIGN_WITHOUT_CALLBACK": Pathology.BENIGN,
    "MALIGNANT": Pathology.MALIGNANT,
}
_ABNORMALITIES = {"MASS": Abnormality.MASS, "CALCIFICATION": Abnormality.CALCIFICATION}

_reject = partial(Rejection, stage="inventory", source=_SOURCE)


@dataclass(frozen=True)
class _Files:
    """The files of all cases by what their names say."""

    read: dict[FileName, tuple[str, Header]]
    """Path and header of the first file of each name."""
    lost: set[FileName]
    """Files that were rejected before."""


def wants(url: str) -> bool:
    """Whether this is an .ics, .LJPEG or .OVERLAY file of a case."""
    return parse_name(url) is not None


def read_header(url: str) -> Header:
    """Content of an .ics or .OVERLAY file, or the header of an .LJPEG.

    Raises SourceFileError: `unreadable-file`, `unsupported-format`, or `bad-table` for text files without their content.
    """
    name = parse_name(url)
    assert name is not None
    if name.kind == "ics":
        return read_ics(url)
    return read_overlay(url) if name.kind == "overlay" else read_ljpeg_header(url)


def assemble(files: Sequence[str], headers: Mapping[str, Header], rejects: Sequence[Rejection]) -> Inventory:
    """Films by case and view, with the lesions of their overlays.

    A case is normal if none of its films has an overlay, be it there, readable or not, or only announced.
    """
    scans: list[Scan] = []
    findings: list[Finding] = []
    left_out = [_with_image_id(reject) for reject in rejects]
    if not any(wants(url) for url in files):
        message = "No file of a DDSM case is here: expected names as C-0029-1.ics and C_0029_1.LEFT_CC.LJPEG."
        left_out.append(_reject(code=Reason.EMPTY_SOURCE, message=message))
    known = _Files({}, {name for reject in rejects if (name := parse_name(reject.path)) is not None})
    abnormal = {name.case for name in known.lost if name.kind == "overlay"}
    for url in sorted(headers):
        name = parse_name(url)
        assert name is not None
        if _tells_of_a_lesion(headers[url]):
            abnormal.add(name.case)
        first, header = known.read.setdefault(name, (url, headers[url]))
        if first != url:
            left_out.extend(_duplicate(name, first, header, url, headers[url]))
    listed: set[FileName] = set()
    for name, (_, header) in known.read.items():
        if not isinstance(header, IcsCase):
            continue
        views = {replace(name, kind="ljpeg", film=view.film): view for view in header.views}
        listed.update(views)
        for film, view in views.items():
            scan = _scan(film, view, name.case not in abnormal, known)
            if isinstance(scan, Scan):
                scans.append(scan)
                for item in _lesions(film, view, scan, known):
                    if isinstance(item, Finding):
                        findings.append(item)
                    else:
                        left_out.append(item)
            elif scan is not None:
                left_out.append(scan)
    for name, (url, header) in known.read.items():
        if not isinstance(header, IcsCase) and replace(name, kind="ljpeg") not in listed:
            message = f"No .ics file lists this film: expected {name.case}.ics with a line {name.film}."
            left_out.append(_reject(code=Reason.NOT_IN_TABLES, message=message, path=url, image_id=_image_id(name)))
    return Inventory(
        tuple(sorted(scans, key=attrgetter("image_id"))),
        tuple(sorted(findings, key=attrgetter("finding_id"))),
        tuple(sorted(left_out, key=attrgetter("path", "image_id", "finding_id", "code"))),
    )


def _image_id(name: FileName) -> str:
    return f"{_SOURCE}_{name.case}_{name.film}"


def _tells_of_a_lesion(header: Header) -> bool:
    """Whether this is an overlay, or announces one."""
    return isinstance(header, Overlay) or (isinstance(header, IcsCase) and any(view.overlay for view in header.views))


def _with_image_id(reject: Rejection) -> Rejection:
    name = parse_name(reject.path)
    return replace(reject, image_id=_image_id(name)) if name is not None and name.film else reject


def _duplicate(name: FileName, first: str, kept: Header, url: str, header: Header) -> Iterator[Rejection]:
    """A second file of one name, unless it is a text file that says the same."""
    if isinstance(header, LjpegHeader):
        message = f"The film is there already: {name_of(first)} was taken."
        yield _reject(code=Reason.DUPLICATE_IMAGE, message=message, path=url, image_id=_image_id(name))
    elif header != kept:
        message = f"Another file of this name says something else: {name_of(first)} was taken."
        yield _reject(code=Reason.BAD_TABLE, message=message, path=url, image_id=_image_id(name) if name.film else "")


def _scan(film: FileName, view: IcsView, normal: bool, known: _Files) -> Scan | Rejection | None:
    """A film that an .ics lists; None if its file was rejected before."""
    if film not in known.read:
        if film in known.lost:
            return None
        path = f"{film.case.replace('-', '_')}.{film.film}.LJPEG"
        message = f"The .ics file of case {film.case} lists a film whose file is not there."
        return _reject(code=Reason.MISSING_FILES, message=message, path=path, image_id=_image_id(film))
    url, header = known.read[film]
    assert isinstance(header, LjpegHeader)
    # Some files have height and width swapped: reading puts that right.
    if header.rows * header.columns != view.rows * view.columns:
        message = f"The film has {header.rows} x {header.columns} pixels, its .ics states {view.rows} x {view.columns}."
        return _reject(code=Reason.FILM_SIZE, message=message, path=url, image_id=_image_id(film))
    return Scan(
        image_id=_image_id(film),
        source=_SOURCE,
        patient_id=film.case.rsplit("-", 1)[0],
        laterality=view.laterality,
        view=view.view,
        normal=normal,
        path=url,
        rows=view.rows,
        columns=view.columns,
        bits=view.bits,
        scanner=view.scanner,
        institution=view.institution,
        pixel_um=view.pixel_um,
        density=view.density,
    )


def _lesions(film: FileName, view: IcsView, scan: Scan, known: _Files) -> Iterator[Finding | Rejection]:
    """The findings of a film, and what of its overlay had to be left out."""
    name = replace(film, kind="overlay")
    if name not in known.read:
        if view.overlay and name not in known.lost:
            message = "The .ics file announces an .OVERLAY file for this film, which is not there."
            yield _reject(code=Reason.MISSING_MASK, message=message, path=scan.path, image_id=scan.image_id)
        return
    url, overlay = known.read[name]
    assert isinstance(overlay, Overlay)
    if overlay.stated_lesions is not None and overlay.stated_lesions > len(overlay.lesions):
        message = f"The .OVERLAY file states {overlay.stated_lesions} lesions and describes {len(overlay.lesions)}."
        yield _reject(code=Reason.NOT_LOCATED, message=message, path=url, image_id=scan.image_id)
    for lesion in overlay.lesions:
        finding_id = f"{scan.image_id}_{lesion.number}"
        reject = partial(_reject, path=url, image_id=scan.image_id, finding_id=finding_id)
        kind = lesion.lesion_types[0].split(" ", 1)[0] if lesion.lesion_types else ""
        if kind not in _ABNORMALITIES:
            message = f"The first LESION_TYPE is {kind or 'missing'}: expected MASS or CALCIFICATION."
            yield reject(code=Reason.BAD_TABLE_ROW, message=message)
            continue
        if lesion.pathology not in _PATHOLOGIES:
            message = f"The pathology is {lesion.pathology or 'missing'}: expected one of {', '.join(_PATHOLOGIES)}."
            yield reject(code=Reason.UNKNOWN_PATHOLOGY, message=message)
            continue
        if not lesion.outlines:
            message = f"The lesion has no outline that can be followed ({lesion.broken_outlines} are broken)."
            yield reject(code=Reason.NOT_LOCATED, message=message)
        yield _finding(lesion, _ABNORMALITIES[kind], scan, finding_id)


def _finding(lesion: Lesion, abnormality: Abnormality, scan: Scan, finding_id: str) -> Finding:
    pathology = _PATHOLOGIES[lesion.pathology]
    return Finding(
        finding_id=finding_id,
        image_id=scan.image_id,
        source=_SOURCE,
        patient_id=scan.patient_id,
        abnormality=abnormality,
        pathology=pathology,
        pathology_listed=lesion.pathology,
        label=label_of(abnormality, pathology),
        roi_kind=RoiKind.OUTLINE if lesion.outlines else RoiKind.NONE,
        roi_outlines=lesion.outlines,
        verdict=Verdict.AS_LISTED if lesion.outlines else Verdict.QUARANTINED,
        roi_flags=tuple(_flags(lesion, scan)),
        assessment=lesion.assessment,
        subtlety=lesion.subtlety,
        descriptors="; ".join(lesion.lesion_types),
    )


def _flags(lesion: Lesion, scan: Scan) -> Iterator[RoiFlag]:
    """What is odd about the outlines that are used."""
    chains = [chain_points(chain) for chain in lesion.outlines]
    if not chains:
        return
    if any(((points < 0) | (points >= (scan.columns, scan.rows))).any() for points in chains):
        yield RoiFlag.CLIPPED
    if any((points[0] != points[-1]).any() for points in chains):
        yield RoiFlag.OPEN
    if lesion.broken_outlines:
        yield RoiFlag.BROKEN_OUTLINE
    if lesion.stated_outlines is not None and lesion.stated_outlines != lesion.found_outlines:
        yield RoiFlag.MISCOUNTED
