"""One film, end to end: read, clean, find its regions and candidates, write the PNG and the receipts.

A film's work is skipped where its receipts hold: same input files (by content), same settings, same format, output still there and undamaged.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from mammo_etl.candidates import find_candidates
from mammo_etl.cleaning import clean_film
from mammo_etl.dicom import Pixels
from mammo_etl.files import SourceFileError, digest_of, fingerprint_of, read_bytes, stamp_of
from mammo_etl.film import decode_film, read_film
from mammo_etl.film_statistics import film_statistics
from mammo_etl.film_work import FilmWork
from mammo_etl.formats import version_of
from mammo_etl.places import Place
from mammo_etl.png import decode_png, encode_png
from mammo_etl.records import Box, Candidate, Finding, Reason, Rejection, RoiKind, Scan, Verdict
from mammo_etl.roi import Region, region_from_json, region_to_json
from mammo_etl.roi_check import check_roi
from mammo_etl.schema import FORMAT_VERSION, from_rows, to_rows
from mammo_etl.settings import CleaningSettings, PatchSettings, digest
from mammo_etl.workspace import DamagedFileError, Workspace, read_sealed, write_bytes, write_sealed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FilmResult:
    """What became of one film."""

    scan: Scan
    """The film, with the quality of its breast mask; as it came, if it was rejected."""
    image_skipped: bool
    """The cleaned image was there already."""
    candidates_skipped: bool
    """The candidates were there already."""
    candidates: int
    rejects: tuple[Rejection, ...]
    findings: tuple[Finding, ...]
    """The film's findings, with what their pixels have shown; empty if the film was rejected."""
    png: str
    """SHA-256 of the cleaned image; empty if the film was rejected."""
    box: tuple[int, int, int, int]
    """Breast box (y, x, height, width) on the original scan."""


def convert_film(work: FilmWork, workspace: Place, cleaning: CleaningSettings, patches: PatchSettings) -> FilmResult:
    """Cleans one film and finds its candidates, as far as the receipts in the workspace do not hold.

    What cannot be used comes back as rejections; a film that cannot be read leaves nothing behind.
    """
    scan = work.scan
    places = Workspace(workspace)
    images = places.images(digest(cleaning))
    receipt_path = images / f"{scan.image_id}.json"
    try:
        receipt = _valid_image(receipt_path, work)
        image: Pixels | None = None
        image_skipped = receipt is not None
        if receipt is None:
            receipt, image, png = _make_image(work, cleaning)
            write_bytes(images / f"{scan.image_id}.png", png)
            write_sealed(receipt_path, receipt)
        if scan.rows < patches.size or scan.columns < patches.size:
            raise SourceFileError(
                Reason.TOO_SMALL,
                f"The film has {scan.rows} x {scan.columns} pixels, less than a patch of {patches.size} x {patches.size}.",
            )
        avoid, avoidable = _boxes_to_avoid(work, receipt) if patches.normals == "background" else ((), False)
    except SourceFileError as error:
        _log.info("rejected, %s: %s", error.code, error.message)
        return FilmResult(scan, False, False, 0, (rejection(error, scan),), (), "", (0, 0, 0, 0))
    quality = {f"mask_{name}": value for name, value in receipt["quality"].items()}
    scan = replace(scan, image_sha256=receipt["png"], image_box=tuple(receipt["box"]), **quality)
    findings = tuple(_with_evidence(finding, receipt["evidence"][finding.finding_id]) for finding in work.findings)
    by_id = {finding.finding_id: finding for finding in work.findings}
    rejects = tuple(
        rejection(SourceFileError(Reason(row["code"]), row["message"]), scan, by_id[row["finding_id"]])
        for row in receipt["rejects"]
    )
    for row in rejects:
        _log.info("finding %s rejected, %s: %s", row.finding_id, row.code, row.message)
    normals: Literal["normal", "background"] | None = "normal" if scan.normal else "background" if avoidable else None
    basis = digest(receipt["input"], receipt["png"], receipt["regions"], [asdict(box) for box in avoid], normals)
    candidates_path = places.candidates(digest(cleaning, patches)) / f"{scan.image_id}.json"
    known = _valid_candidates(candidates_path, basis)
    if known is not None:
        return FilmResult(
            scan, image_skipped, True, len(known), rejects, findings, receipt["png"], tuple(receipt["box"])
        )
    if image is None:
        image = decode_png((images / f"{scan.image_id}.png").read_bytes())
    candidates = find_candidates(
        image_id=scan.image_id,
        rows=scan.rows,
        columns=scan.columns,
        image=image,
        image_box=Box(*receipt["box"]),
        regions=[region_from_json(region) for region in receipt["regions"]],
        normals=normals,
        avoid=avoid,
        settings=patches,
    )
    rows = to_rows(candidates, Candidate)
    _log.debug("%s, %d candidates found", "image kept" if image_skipped else "image cleaned", len(candidates))
    write_sealed(candidates_path, {"format_version": FORMAT_VERSION, "basis": basis, "rows": rows}, indent=None)
    return FilmResult(
        scan, image_skipped, False, len(candidates), rejects, findings, receipt["png"], tuple(receipt["box"])
    )


def rejection(error: SourceFileError, scan: Scan, finding: Finding | None = None) -> Rejection:
    """The row of `rejects` for a film or finding that could not be used."""
    return Rejection(
        stage="convert",
        code=error.code,
        message=error.message,
        source=scan.source,
        path=finding.roi_path if finding is not None and finding.roi_path else scan.path,
        image_id=scan.image_id,
        finding_id=finding.finding_id if finding is not None else "",
    )


def read_candidates(
    workspace: Place, cleaning: CleaningSettings, patches: PatchSettings, image_id: str
) -> list[Candidate]:
    """The candidates that `convert_film` found; raises DamagedFileError if they are not there."""
    path = Workspace(workspace).candidates(digest(cleaning, patches)) / f"{image_id}.json"
    return from_rows(_known(path)["rows"], Candidate)


def read_receipt(workspace: Place, cleaning: CleaningSettings, image_id: str) -> dict[str, Any]:
    """The receipt of a cleaned film; raises DamagedFileError if there is none."""
    return _known(Workspace(workspace).images(digest(cleaning)) / f"{image_id}.json")


def _known(path: Place) -> dict[str, Any]:
    known = read_sealed(path)
    if known is None:
        raise DamagedFileError(f"{path}: missing, or changed after it was written; run the build again")
    return known


def input_files(scan: Scan, findings: Sequence[Finding]) -> list[str]:
    """The files that a film's receipt lists, in its order: the film, then masks and cut-outs; `findings` are the film's own, by finding_id.

    Those of a mask that cannot be used are among them: a change may mend it.
    """
    return [scan.path, *(path for finding in findings for path in (finding.roi_path, finding.crop_path) if path)]


def _meaning(work: FilmWork) -> str:
    """Digest of what the tables say about the film and its ROIs, apart from where the files lie and what cleaning will tell."""
    others = {"path", "roi_path", "crop_path", "image_sha256", "image_box"}
    records: list[Scan | Finding] = [work.scan, *work.findings]
    return digest(*({key: value for key, value in asdict(item).items() if key not in others} for item in records))


def _valid_image(path: Place, work: FilmWork) -> dict[str, Any] | None:
    """The receipt of the cleaned film if it still holds, else None; files with other stamps and the same content get their new stamps in it."""
    receipt = read_sealed(path)
    if receipt is None or version_of(receipt) != FORMAT_VERSION or receipt["meaning"] != _meaning(work):
        return None
    files = input_files(work.scan, work.findings)
    if len(files) != len(receipt["files"]):
        return None
    stamped = []
    for url, known in zip(files, receipt["files"], strict=True):
        # A file of the same stamp is taken for the same; any other is compared by content.
        # One that could not be read then is tried again: the fault may have been a passing one.
        stamp = stamp_of(url)
        same = stamp is not None and stamp == known["stamp"]
        if not known["xxh3"] or (not same and _fingerprint(url) != known["xxh3"]):
            return None
        stamped.append({**known, "stamp": stamp})
    try:
        png = path.with_suffix(".png").read_bytes()
    except FileNotFoundError:
        return None
    if digest_of(png) != receipt["png"]:
        return None
    if stamped != receipt["files"]:
        receipt["files"] = stamped
        write_sealed(path, receipt)
    return receipt


def _fingerprint(url: str) -> str:
    """Fingerprint of a file; empty if it cannot be read (its finding is rejected, with a reason)."""
    try:
        return fingerprint_of(read_bytes(url))
    except SourceFileError:
        return ""


def _make_image(work: FilmWork, settings: CleaningSettings) -> tuple[dict[str, Any], Pixels, bytes]:
    """Receipt, cleaned image (height, width of its breast box) and its PNG of one film.

    Raises SourceFileError if the film cannot be used; findings that cannot be used are listed in the receipt.
    """
    scan = work.scan
    stamp, content = stamp_of(scan.path), read_bytes(scan.path)
    files = [{"stamp": stamp, "xxh3": fingerprint_of(content)}]
    files += [{"stamp": stamp_of(url), "xxh3": _fingerprint(url)} for url in input_files(scan, work.findings)[1:]]
    film = decode_film(content, scan.rows, scan.columns)
    clean = clean_film(film, scan.bits, scan.scanner, scan.institution, settings)
    breast, box = clean.breast, clean.breast.box
    checked = [check_roi(finding, film.pixels) for finding in work.findings]
    regions = [roi.region for roi in checked if roi.region is not None]
    png = encode_png(clean.image)
    receipt = {
        "format_version": FORMAT_VERSION,
        "image_id": scan.image_id,
        "meaning": _meaning(work),
        "input": digest([file["xxh3"] for file in files]),
        "files": files,
        "png": digest_of(png),
        "box": [box.y, box.x, box.height, box.width],
        "quality": {
            "area_share": breast.area_share,
            "solidity": breast.solidity,
            "border_contact": breast.border_contact,
            "agreement": breast.agreement,
            "contrast": breast.contrast,
        },
        "statistics": film_statistics(clean.shown, breast, regions),
        "regions": [region_to_json(region) for region in regions],
        "evidence": {roi.finding.finding_id: _evidence(roi.finding) for roi in checked},
        "rejects": [
            {"code": roi.fault.code, "message": roi.fault.message, "finding_id": roi.finding.finding_id}
            for roi in checked
            if roi.fault is not None
        ],
    }
    return receipt, clean.image, png


def _evidence(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "roi_kind": finding.roi_kind,
        "mask_values": list(finding.mask_values),
        "match_score": finding.match_score,
    }


def _with_evidence(finding: Finding, evidence: dict[str, Any]) -> Finding:
    return replace(
        finding,
        verdict=Verdict(evidence["verdict"]),
        roi_kind=RoiKind(evidence["roi_kind"]),
        mask_values=tuple(evidence["mask_values"]),
        match_score=evidence["match_score"],
    )


def _valid_candidates(path: Place, basis: str) -> list[Any] | None:
    known = read_sealed(path)
    if known is None or version_of(known) != FORMAT_VERSION or known["basis"] != basis:
        return None
    rows: list[Any] = known["rows"]
    return rows


def _boxes_to_avoid(work: FilmWork, receipt: dict[str, Any]) -> tuple[tuple[Box, ...], bool]:
    """The boxes of all findings of this side and view on this film's grid, and whether background may be taken beside them.

    It may not where a finding is not located, or one may have been lost with something that was rejected: it could be anywhere. A twin's box is scaled to this film: both show the whole film
    of the same breast.
    """
    located = {region["finding_id"]: Box(*region["box"]) for region in receipt["regions"]}
    boxes: list[Box] = list(located.values())
    complete = len(located) == len(work.findings) and not work.unplaced
    for twin, findings in work.twins:
        scale_y, scale_x = work.scan.rows / twin.rows, work.scan.columns / twin.columns
        regions = _regions_of(twin, findings)
        complete &= None not in regions
        boxes += [
            Box(
                int(box.y * scale_y),
                int(box.x * scale_x),
                int(np.ceil(box.height * scale_y)) + 1,
                int(np.ceil(box.width * scale_x)) + 1,
            )
            for box in (region.box for region in regions if region is not None)
        ]
    return tuple(boxes), complete


def _regions_of(scan: Scan, findings: Sequence[Finding]) -> list[Region | None]:
    """The findings' places on another film, None where one is not known. Faults are reported with that film, not here."""
    try:
        film = read_film(scan.path, scan.rows, scan.columns)
    except SourceFileError:
        return [None for _ in findings]
    return [check_roi(finding, film.pixels).region for finding in findings]
