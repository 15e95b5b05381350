"""CBIS-DDSM: DICOM files in any folder layout, and four tables.

Files are joined to the tables by the SeriesInstanceUID of their headers, never by a path: layouts differ by downloader. What a
finding's files are is decided by their content, since neither table nor file name nor description can be trusted.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

from mammo_etl import dicom
from mammo_etl.cbis_tables import SOURCE, ListedFile, TableRow, official_parts, read_tables
from mammo_etl.dicom import DicomHeader
from mammo_etl.files import SourceFileError, name_of
from mammo_etl.film import read_film
from mammo_etl.records import Finding, Reason, Rejection, RoiKind, Scan, Verdict, label_of
from mammo_etl.roi import is_uniform
from mammo_etl.sources import Inventory

_LIKE_THE_FILM = 1.3
"""Largest ratio of the sides of a film and its mask. Masks are known to be off by 50/43.5 = 1.15 (two scanners' pixel pitches); crops
are far smaller but for the largest lesions, which are then told by depth and pixels."""

_NUMBER = re.compile(r"(?:(?P<listed>\d{6})|\d+-(?P<instance>\d+))\.dcm", re.IGNORECASE)
"""000001.dcm in the tables and older downloads is 1-2.dcm in newer ones."""

_reject = partial(Rejection, stage="inventory", source=SOURCE)


@dataclass(frozen=True, slots=True)
class _File:
    """A DICOM file."""

    path: str
    header: DicomHeader

    @property
    def eight_bit(self) -> bool:
        """Whether a pixel takes 8 bits, as in masks; films and cut-outs have 16."""
        return self.header.bits_allocated == 8

    def has_size_of(self, film: "_File") -> bool:
        """Whether it has as many rows and columns as the film."""
        return (self.header.rows, self.header.columns) == (film.header.rows, film.header.columns)

    def ratios(self, film: "_File") -> tuple[float, float]:
        """Rows and columns of the film over its own."""
        return film.header.rows / self.header.rows, film.header.columns / self.header.columns

    def is_like(self, film: "_File") -> bool:
        """Whether it has about the film's size."""
        return all(1 / _LIKE_THE_FILM <= ratio <= _LIKE_THE_FILM for ratio in self.ratios(film))


@dataclass(frozen=True)
class _Joined:
    """DICOM files and tables, brought together."""

    files: dict[ListedFile, list[_File]]
    """For each file that a table names those of its series, by path; without files of one SOP instance beyond the first."""
    namesakes: dict[ListedFile, list[_File]]
    """For each file that a table names those of its PatientID in series that no table names."""
    unlisted: list[_File]
    """Files that no table names."""


@dataclass(frozen=True)
class _Lost:
    """Files rejected before, as far as their paths tell what they were."""

    films: set[str]
    """image_id."""
    rois: dict[str, Rejection]
    """By finding_id."""


def wants(url: str) -> bool:
    """Whether this is a .dcm file."""
    return name_of(url).lower().endswith(".dcm")


def read_header(url: str) -> DicomHeader:
    """The header of a DICOM file; raises SourceFileError if the file cannot be used."""
    return dicom.read_header(url)


def assemble(files: Sequence[str], headers: Mapping[str, DicomHeader], rejects: Sequence[Rejection]) -> Inventory:
    """Films and findings of the tables, as far as their files are there.

    Reads the tables, and the pixels of those files only whose role their headers leave open.
    """
    if not any(wants(url) for url in files):
        message = "There is no .dcm file here: expected CBIS-DDSM's DICOM files and its four tables."
        return Inventory((), (), (*rejects, _reject(code=Reason.EMPTY_SOURCE, message=message)))
    tables = read_tables(files)
    joined = _join(headers, tables.rows)
    explained, lost = _explain(rejects, tables.rows)
    left_out = [*tables.rejects]
    parts = official_parts(tables.rows)
    rows_of: dict[str, list[TableRow]] = defaultdict(list)
    for row in tables.rows:
        rows_of[row.image_id].append(row)
    scans: list[Scan] = []
    findings: list[Finding] = []
    beside: list[tuple[str, _File]] = []
    for image_id, listed in rows_of.items():
        image = next((row.image for row in listed if joined.files[row.image]), listed[0].image)
        rows = [row for row in listed if row.image.series_uid == image.series_uid]
        left_out += [_of_another_film(row) for row in listed if row not in rows]
        found = joined.files[image]
        film = _film_among(
            found, [file for row in rows for name in (row.crop, row.mask) for file in joined.files[name]]
        )
        if film is None:
            if image_id not in lost.films:
                left_out.append(_missing(rows[0]))
            continue
        scans.append(_scan(rows[0], film, parts[rows[0].patient_id]))
        others = [file for file in found if file != film]
        beside += [(image_id, file) for file in others]
        for row in rows:
            # One film's findings are told apart by PatientID alone.
            own = [f for f in others if len(rows) == 1 or f.header.patient_id in (row.crop.folder, row.mask.folder)]
            finding, faults = _finding(row, film, own, joined, lost)
            findings.append(finding)
            left_out += faults
    used = {path for finding in findings for path in (finding.roi_path, finding.crop_path)}
    left_out += [_duplicate(image_id, file) for image_id, file in beside if file.path not in used]
    there = {scan.image_id for scan in scans} | {item.finding_id for item in findings if item.roi_kind is RoiKind.MASK}
    left_out += [_nameless(row) if (row.finding_id or row.image_id) in there else row for row in explained]
    if tables.rows or not tables.rejects:
        left_out += [_not_in_tables(file) for file in joined.unlisted if file.path not in used]
    return Inventory(
        tuple(sorted(scans, key=attrgetter("image_id"))),
        tuple(sorted(findings, key=attrgetter("finding_id"))),
        tuple(sorted(left_out, key=attrgetter("path", "image_id", "finding_id", "code"))),
    )


def _join(headers: Mapping[str, DicomHeader], rows: Sequence[TableRow]) -> _Joined:
    instances: dict[tuple[str, str], _File] = {}
    for path, header in sorted(headers.items()):
        instances.setdefault((header.series_instance_uid, header.sop_instance_uid or path), _File(path, header))
    by_series: dict[str, list[_File]] = defaultdict(list)
    for file in instances.values():
        by_series[file.header.series_instance_uid].append(file)
    listed = {file for row in rows for file in (row.image, row.crop, row.mask)}
    listed_series = {file.series_uid for file in listed}
    # Copies with other UIDs are told by PatientID, which is the folder's name in the tables.
    by_patient: dict[str, list[_File]] = defaultdict(list)
    for file in instances.values():
        if file.header.series_instance_uid not in listed_series:
            by_patient[file.header.patient_id].append(file)
    namesakes = {file: by_patient.get(file.folder, []) for file in listed}
    joined = {file: by_series.get(file.series_uid) or namesakes[file] for file in listed}
    used = {file.path for found in joined.values() for file in found}
    return _Joined(joined, namesakes, [file for file in instances.values() if file.path not in used])


def _explain(rejects: Iterable[Rejection], rows: Iterable[TableRow]) -> tuple[list[Rejection], _Lost]:
    """The rejections with the film or finding filled in that folder or series in the path tell: there is no header to ask."""
    owners: dict[str, tuple[str, str]] = {}
    for row in rows:
        for file, finding_id in ((row.image, ""), (row.crop, row.finding_id), (row.mask, row.finding_id)):
            owners[file.folder] = owners[file.series_uid] = (row.image_id, finding_id)
    explained: list[Rejection] = []
    lost = _Lost(set(), {})
    for reject in sorted(rejects, key=attrgetter("path")):
        segments = re.split(r"[/\\]", reject.path.split("::", 1)[0])
        owner = next((owners[segment] for segment in segments if segment in owners), None)
        if owner is None:
            explained.append(reject)
            continue
        image_id, finding_id = owner
        explained.append(replace(reject, image_id=image_id, finding_id=finding_id))
        if finding_id:
            lost.rois.setdefault(finding_id, reject)
        else:
            lost.films.add(image_id)
    return explained, lost


def _nameless(reject: Rejection) -> Rejection:
    """A rejected file whose film or finding is there all the same, by another one: that was not left out."""
    return replace(reject, image_id="", finding_id="")


def _scan(row: TableRow, film: _File, parts: tuple[str, ...]) -> Scan:
    return Scan(
        image_id=row.image_id,
        source=SOURCE,
        patient_id=row.patient_id,
        laterality=row.laterality,
        view=row.view,
        normal=False,
        path=film.path,
        rows=film.header.rows,
        columns=film.header.columns,
        bits=film.header.bits_stored,
        density=row.density,
        official_split=row.split,
        official_parts=parts,
        sop_instance_uid=film.header.sop_instance_uid,
    )


def _film_among(own: Sequence[_File], of_findings: Sequence[_File]) -> _File | None:
    """The film: the largest file of 16 bits in its own series, the first of several.

    It is in one of its findings' series where its own has an 8-bit file of just its size in its place: the two were exchanged.
    """
    films = [file for file in own if not file.eight_bit]
    masks = [file for file in own if file.eight_bit]
    if not any(mask.has_size_of(film) for mask in masks for film in films):
        deep = [file for file in of_findings if not file.eight_bit]
        films = [file for file in deep if any(file.has_size_of(mask) for mask in masks)] or films
    return max(
        films or filter(_may_be_film, masks), key=lambda film: film.header.rows * film.header.columns, default=None
    )


def _may_be_film(file: _File) -> bool:
    try:
        return not _is_black_and_white(file)
    except SourceFileError:
        # Whoever reads it as a film will say why it cannot be used.
        return True


def _finding(
    row: TableRow, film: _File, beside: Sequence[_File], joined: _Joined, lost: _Lost
) -> tuple[Finding, list[Rejection]]:
    """A finding, and why it is quarantined if its mask cannot be used; `beside` are files of the film's series that may be its own."""
    candidates = _distinct((row.crop, row.mask), joined.files, film)
    # Mask and cut-out may have come apart: what the listed series lack may be in one of the same PatientID that no table names.
    strays = [file for file in _distinct((row.crop, row.mask), joined.namesakes, film) if file not in candidates]
    beside = [file for file in beside if file not in candidates]
    masks = [file for file in beside if file.eight_bit]
    # One of the film's size is a second film.
    crops = [file for file in beside if not file.eight_bit and not file.has_size_of(film)]
    mask, faults = _mask_among(candidates, film, row)
    if mask is None:
        mask, more = _mask_among([*strays, *masks], film, row)
        faults += more
    crop = _crop_among(candidates, mask, row) or _crop_among([*strays, *crops], mask, row)
    usable = mask is not None and is_uniform(*mask.ratios(film))
    if usable:
        faults = [_nameless(fault) for fault in faults]
    else:
        faults.append(_no_mask(row, mask, film, len(candidates), lost))
    listed_as = _listed_as(mask, crop, row) if mask is not None else ""
    ratios = mask.ratios(film) if mask is not None else (None, None)
    finding = Finding(
        finding_id=row.finding_id,
        image_id=row.image_id,
        source=SOURCE,
        patient_id=row.patient_id,
        abnormality=row.abnormality,
        pathology=row.pathology,
        pathology_listed=row.pathology_listed,
        label=label_of(row.abnormality, row.pathology),
        roi_kind=RoiKind.MASK if usable else RoiKind.NONE,
        roi_path=mask.path if mask is not None else "",
        crop_path=crop.path if crop is not None else "",
        verdict=_verdict(mask, crop, film, listed_as) if usable else Verdict.QUARANTINED,
        mask_listed_as=listed_as,
        mask_bits=mask.header.bits_allocated if mask is not None else None,
        mask_rows=mask.header.rows if mask is not None else None,
        mask_columns=mask.header.columns if mask is not None else None,
        mask_ratio_y=ratios[0],
        mask_ratio_x=ratios[1],
        assessment=row.assessment,
        subtlety=row.subtlety,
        descriptors=row.descriptors,
    )
    return finding, faults


def _distinct(listed: Iterable[ListedFile], files: Mapping[ListedFile, Sequence[_File]], film: _File) -> list[_File]:
    """The files of some listed ones, each once, by path, without the film."""
    found = {file.path: file for name in listed for file in files[name] if file != film}
    return [file for _, file in sorted(found.items())]


def _crop_among(candidates: Sequence[_File], mask: _File | None, row: TableRow) -> _File | None:
    """The cut-out: a file other than the mask, one of 16 bits and one that the table names if there are any."""
    crops = [file for file in candidates if file != mask]
    return min(crops, key=lambda file: (file.header.bits_allocated != 16, not _named(file, row)), default=None)


def _mask_among(candidates: Sequence[_File], film: _File, row: TableRow) -> tuple[_File | None, list[Rejection]]:
    """The ROI mask among a finding's files: by depth and size, and only where these leave it open by pixels.

    Of several it is the one that the table calls the mask, or else the cut-out.
    """
    likely = [file for file in candidates if file.eight_bit and file.is_like(film)]
    exact = [file for file in likely if file.has_size_of(film)]
    for sure in (likely, exact):
        if len(sure) == 1 and is_uniform(*sure[0].ratios(film)):
            return sure[0], []
    masks: list[_File] = []
    faults: list[Rejection] = []
    for file in likely if exact else candidates:
        try:
            if _is_black_and_white(file):
                masks.append(file)
        except SourceFileError as error:
            faults.append(
                _reject(
                    code=error.code,
                    message=error.message,
                    path=file.path,
                    image_id=row.image_id,
                    finding_id=row.finding_id,
                )
            )
    order = ("mask", "crop", "")
    masks.sort(key=lambda file: (not file.has_size_of(film), not file.is_like(film), order.index(_named(file, row))))
    return (masks[0] if masks else None), faults


def _is_black_and_white(file: _File) -> bool:
    pixels = read_film(file.path).pixels
    return bool(((pixels == 0) | (pixels == pixels.max())).all())


def _verdict(mask: _File | None, crop: _File | None, film: _File, listed_as: str) -> Verdict:
    """Verdict on a usable mask, as far as headers tell."""
    if mask is not None and not mask.has_size_of(film):
        return Verdict.RESCALED
    if listed_as == "crop":
        return Verdict.SWAPPED
    apart = mask and crop and mask.header.series_instance_uid != crop.header.series_instance_uid
    return Verdict.SPLIT_SERIES if apart else Verdict.AS_LISTED


def _listed_as(mask: _File, crop: _File | None, row: TableRow) -> str:
    """What the table calls this file, a mask by content: mask or crop; empty where its names do not tell."""
    series = mask.header.series_instance_uid
    if row.crop.series_uid == row.mask.series_uid != series and (
        series == row.image.series_uid or crop is None or crop.header.series_instance_uid != series
    ):
        return ""  # In the film's series, or alone in one that no table names.
    return _named(mask, row)


def _named(file: _File, row: TableRow) -> str:
    """What the table calls a file of this finding: mask or crop, or nothing."""
    if row.crop.series_uid != row.mask.series_uid:
        return {row.crop.series_uid: "crop", row.mask.series_uid: "mask"}.get(file.header.series_instance_uid, "")
    # Within a series only the place tells, by the file's name or, where that is another than the tables know, its header.
    number = _number(name_of(file.path))
    if number is None:
        number = file.header.instance_number - 1
    of_crop, of_mask = _number(row.crop.name), _number(row.mask.name)
    return "" if of_crop == of_mask else {of_crop: "crop", of_mask: "mask"}.get(number, "")


def _number(name: str) -> int | None:
    """Position of a file in its series, from 0."""
    match = _NUMBER.fullmatch(name)
    if match is None:
        return None
    return int(match["listed"]) if match["listed"] else int(match["instance"]) - 1


def _no_mask(row: TableRow, mask: _File | None, film: _File, candidates: int, lost: _Lost) -> Rejection:
    reject = partial(_reject, image_id=row.image_id, finding_id=row.finding_id)
    size = f"{film.header.rows} x {film.header.columns}"
    if mask is not None:
        message = f"The ROI mask has {mask.header.rows} x {mask.header.columns} pixels, its film {size}."
        return reject(code=Reason.MASK_SIZE, message=message, path=mask.path)
    if row.finding_id in lost.rois:
        fault = lost.rois[row.finding_id]
        message = f"The finding's ROI mask cannot be used: {name_of(fault.path)} was rejected ({fault.code.value})."
        return reject(code=Reason.MISSING_MASK, message=message, path=fault.path)
    message = (
        f"None of the finding's {candidates} files is a ROI mask: expected 8 bits and about {size} pixels."
        if candidates
        else "The table lists a ROI mask whose file is not there."
    )
    return reject(code=Reason.MISSING_MASK, message=message, path=row.mask.path)


def _of_another_film(row: TableRow) -> Rejection:
    message = "The table names another series for this film than the rows before: expected one film per side and view."
    return _reject(code=Reason.BAD_TABLE_ROW, message=message, path=row.image.path, image_id=row.image_id)


def _missing(row: TableRow) -> Rejection:
    message = "The table lists a film whose file is not there."
    return _reject(code=Reason.MISSING_FILES, message=message, path=row.image.path, image_id=row.image_id)


def _duplicate(image_id: str, file: _File) -> Rejection:
    message = "The film's series holds another SOP instance already: expected one file."
    return _reject(code=Reason.DUPLICATE_IMAGE, message=message, path=file.path, image_id=image_id)


def _not_in_tables(file: _File) -> Rejection:
    message = "No table names the series of this DICOM file."
    return _reject(code=Reason.NOT_IN_TABLES, message=message, path=file.path)
