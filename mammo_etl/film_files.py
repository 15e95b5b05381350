"""Films that are read by themselves, outside of any dataset run: those of a data set, or whatever lies in a folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fsspec.core import url_to_fs

from mammo_etl.cleaning import CleanFilm, clean_film
from mammo_etl.files import SourceFileError, digest_of, list_files, name_of, read_bytes
from mammo_etl.film import decode_film, starts_as_film
from mammo_etl.ics import find_ics_view
from mammo_etl.places import read_each
from mammo_etl.records import Rejection, Scan
from mammo_etl.settings import CleaningSettings
from mammo_etl.transient import is_transient

_START = 256
"""Bytes by which a film is told from other files: DICOM's mark is the furthest in, at 128."""

_LONGEST = 120
"""Characters of an image_id, which names a folder: most file systems take 255 bytes."""

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFile:
    """A film, and what is known of it without its pixels."""

    image_id: str
    """Unique name; in file names too."""
    path: str
    """A path or an fsspec URL."""
    source: str = ""
    """Data set; empty for a film that belongs to none."""
    patient_id: str
    """Patient, unique within the source."""
    laterality: str = ""
    """LEFT or RIGHT; empty if unknown."""
    view: str = ""
    """CC or MLO; empty if unknown."""
    rows: int | None = None
    """Height as its source states it, pixels; None: as its file says."""
    columns: int | None = None
    """Width, likewise."""
    bits: int | None = None
    """Bits of a stored pixel, likewise."""
    scanner: str = ""
    """Digitiser; empty if unknown."""
    institution: str = ""
    """Institution that digitised the film; empty if unknown."""


def of_scan(scan: Scan) -> FilmFile:
    """A data set's film."""
    return FilmFile(
        image_id=scan.image_id,
        path=scan.path,
        source=scan.source,
        patient_id=scan.patient_id,
        laterality=scan.laterality,
        view=scan.view,
        rows=scan.rows,
        columns=scan.columns,
        bits=scan.bits,
        scanner=scan.scanner,
        institution=scan.institution,
    )


def is_single(path: str) -> bool:
    """Whether there is a local file that is no zip archive: at most one film."""
    return "://" not in path and Path(path).is_file() and Path(path).suffix.lower() != ".zip"


def loose_films(path: str) -> tuple[list[FilmFile], tuple[Rejection, ...]]:
    """The film at a path, or all films below a folder, in a zip archive or below an object-store prefix, sorted by image_id; and folders that could not be listed.

    Films are told by how their files begin; other files are passed over. The first folder below `path` is the patient; a film right in it is one of
    its own. image_id is the path below `path`, each character that is no letter, digit, `.`, `_` or `-` as `_`, and a long one cut. The folder that an
    archive consists of is left out of both. Raises OSError if there is nothing there.
    """
    if is_single(path):
        return _named({str(Path(path).absolute()): Path(path).name}), ()
    listing = list_files(path, "")
    names = _below(listing.files, path)
    films = [url for url, film in zip(listing.files, read_each(_may_be_film, listing.files), strict=True) if film]
    return _named({url: names[url] for url in films}), listing.rejects


def _may_be_film(url: str) -> bool:
    # The table of contents of DICOM media is DICOM too. What is no regular file may never end.
    if name_of(url).upper() == "DICOMDIR" or ("://" not in url and not Path(url).is_file()):
        return False
    try:
        return starts_as_film(read_bytes(url, _START))
    except Exception as error:
        if isinstance(error, SourceFileError) or is_transient(error):
            # Whoever reads it whole will try again, or be told why it cannot be.
            return True
        raise


def _below(files: Sequence[str], root: str) -> dict[str, str]:
    """Path of each listed file below the root."""
    if not any("::" in url for url in files):
        if "://" not in root:
            return {url: Path(url).relative_to(Path(root).absolute()).as_posix() for url in files}
        filesystem, prefix = url_to_fs(root)
        base = f"{filesystem.unstrip_protocol(prefix).rstrip('/')}/"
        # An object that is the root itself has nothing below it.
        return {url: url.removeprefix(base) if url.startswith(base) else name_of(url) for url in files}
    inner = root.split("::", 1)[0].split("://", 1)[-1].strip("/") if "::" in root else ""
    members = {url: url.split("::", 1)[0].split("://", 1)[1].removeprefix(f"{inner}/") for url in files}
    top = {member.split("/", 1)[0] for member in members.values()}
    if len(top) == 1 and all("/" in member for member in members.values()):
        return {url: member.split("/", 1)[1] for url, member in members.items()}
    return members


def _named(names: dict[str, str]) -> list[FilmFile]:
    found: dict[str, FilmFile] = {}
    taken: set[str] = set()
    for url, name in sorted(names.items()):
        image_id = _OTHER_CHARACTERS.sub("_", name.replace("/", "_"))
        # Some file systems do not tell A from a.
        if len(image_id) > _LONGEST or image_id.lower() in taken:
            image_id = f"{image_id[:_LONGEST]}-{digest_of(name.encode())[:16]}"
        taken.add(image_id.lower())
        folder, separator, _ = name.partition("/")
        found[image_id] = FilmFile(image_id=image_id, path=url, patient_id=folder if separator else image_id)
    return [found[image_id] for image_id in sorted(found)]


def with_ics(film: FilmFile) -> FilmFile:
    """The film with size, bits, scanner and institution of the `.ics` beside it, if it is one of DDSM's and nothing is stated of it.

    Raises SourceFileError if the .ics is there but cannot be understood.
    """
    view = find_ics_view(film.path) if film.rows is None else None
    if view is None:
        return film
    return replace(
        film,
        rows=view.rows,
        columns=view.columns,
        bits=view.bits,
        scanner=view.scanner,
        institution=view.institution,
    )


def clean_alone(film: FilmFile, content: bytes, settings: CleaningSettings) -> tuple[CleanFilm, int, int]:
    """A film cleaned as a build would clean it, and its rows and columns, from the content of its file; raises SourceFileError if it cannot be used.

    What is not stated of the film is as its file says.
    """
    decoded = decode_film(content, film.rows, film.columns)
    rows, columns = decoded.pixels.shape
    bits = decoded.bits if film.bits is None else film.bits
    return clean_film(decoded, bits, film.scanner, film.institution, settings), rows, columns
