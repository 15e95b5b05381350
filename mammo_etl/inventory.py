"""What the sources hold: tables of films and findings, and what had to be left out."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zipfile import BadZipFile

from mammo_etl.files import SourceFileError, list_files, name_of
from mammo_etl.places import Stamp
from mammo_etl.records import Finding, Reason, Rejection, Scan
from mammo_etl.settings import InventorySettings, SourceSettings, digest
from mammo_etl.sources import Inventory, source_of

_log = logging.getLogger(__name__)

PHANTOM_MARK = "PHANTOM.txt"
"""A file of this name marks a source's films as phantoms, so that no figure made from them passes for medicine."""


class InventoryError(Exception):
    """Sources that cannot be used as asked, in one sentence."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of one kind of source, wherever its parts lie."""

    kind: str
    files: tuple[str, ...]
    rejects: tuple[Rejection, ...]
    """Folders that could not be listed."""
    stamp: str = ""
    """Digest of the names and stamps of all files (see `mammo_etl.files.stamp_of`); empty if any of them has no stamp."""

    @property
    def with_headers(self) -> list[str]:
        """Files whose header is to be read."""
        source = source_of(self.kind)
        return [url for url in self.files if source.wants(url)]

    @property
    def phantom(self) -> bool:
        """Whether the source says that its films are phantoms."""
        return any(name_of(url) == PHANTOM_MARK for url in self.files)


def list_sources(settings: Sequence[SourceSettings]) -> list[SourceFiles]:
    """Lists the files of each kind of source, by kind; several places of one kind count as one source.

    Raises InventoryError if there is no source, or nothing at one of the places.
    """
    if not settings:
        raise InventoryError("no source given: expected at least one KIND=PATH")
    found: dict[str, tuple[dict[str, Stamp | None], list[Rejection]]] = {}
    for source in settings:
        try:
            listing = list_files(source.path, source.kind)
        except (OSError, BadZipFile, ValueError, ImportError) as error:
            # The last two: an URL of a filesystem that is unknown, or not installed.
            raise InventoryError(f"source {source.kind}={source.path}: {error}") from error
        files, rejects = found.setdefault(source.kind, ({}, []))
        files.update(zip(listing.files, listing.stamps, strict=True))
        rejects += listing.rejects
    return [
        SourceFiles(kind, tuple(sorted(files)), tuple(rejects), "" if None in files.values() else digest(files))
        for kind, (files, rejects) in sorted(found.items())
    ]


def read_headers(kind: str, urls: Sequence[str]) -> list[tuple[str, Any | Rejection]]:
    """The header of each file, or the reason why it cannot be used."""
    source = source_of(kind)
    found: list[tuple[str, Any | Rejection]] = []
    for url in urls:
        try:
            found.append((url, source.read_header(url)))
        except SourceFileError as error:
            row = Rejection(stage="inventory", code=error.code, message=error.message, source=kind, path=url)
            _log.info("%s rejected, %s: %s", url, error.code, error.message)
            found.append((url, row))
    return found


def assemble(files: SourceFiles, headers: Mapping[str, Any | Rejection]) -> Inventory:
    """Films and findings of one source from the headers of its files.

    Raises InventoryError if its tables are out of reach.
    """
    rejects = [*files.rejects, *(row for _, row in sorted(headers.items()) if isinstance(row, Rejection))]
    good = {url: header for url, header in headers.items() if not isinstance(header, Rejection)}
    try:
        return source_of(files.kind).assemble(files.files, good, rejects)
    except OSError as error:
        raise InventoryError(f"the tables of source {files.kind} are out of reach at the moment: {error}") from error


def combine(inventories: Mapping[str, Inventory], settings: InventorySettings) -> Inventory:
    """The films of all sources together, by kind of source.

    Raises InventoryError if abnormal DDSM cases stand beside CBIS-DDSM and no setting says what to do with them.
    """
    parts = dict(inventories)
    if "cbis-ddsm" in parts and "ddsm" in parts and settings.mixed_ddsm != "all":
        parts["ddsm"] = _without_abnormal(parts["ddsm"], settings)
    return Inventory(
        tuple(sorted((scan for part in parts.values() for scan in part.scans), key=lambda scan: scan.image_id)),
        tuple(sorted((item for part in parts.values() for item in part.findings), key=lambda item: item.finding_id)),
        sort_rejects(row for part in parts.values() for row in part.rejects),
    )


def check_films(inventory: Inventory) -> None:
    """Raises InventoryError if there is no usable film."""
    if not inventory.scans:
        reasons = sorted({row.code.value for row in inventory.rejects})
        empty = [f"{row.source}: {row.message}" for row in inventory.rejects if row.code is Reason.EMPTY_SOURCE]
        raise InventoryError(
            f"no usable film in any source (reasons: {', '.join(reasons) or 'none given'}); "
            + " ".join([*empty, "rejects.parquet in the workspace tells more"])
        )


def _without_abnormal(ddsm: Inventory, settings: InventorySettings) -> Inventory:
    abnormal = [scan for scan in ddsm.scans if not scan.normal]
    if abnormal and settings.mixed_ddsm == "refuse":
        raise InventoryError(
            f"ddsm holds {len(abnormal)} films of abnormal cases, and CBIS-DDSM may hold the same patients: "
            "set inventory.mixed_ddsm to normal-only (leave them out) or all (take them nevertheless)"
        )
    rows = [
        Rejection(
            stage="inventory",
            code=Reason.MIXED_SOURCES,
            message="An abnormal DDSM case beside CBIS-DDSM, left out by inventory.mixed_ddsm.",
            source=scan.source,
            path=scan.path,
            image_id=scan.image_id,
        )
        for scan in abnormal
    ]
    return Inventory(tuple(scan for scan in ddsm.scans if scan.normal), (), (*ddsm.rejects, *rows))


def sort_rejects(rejects: Any) -> tuple[Rejection, ...]:
    """Rejections in an order that does not depend on the order of work."""
    return tuple(
        sorted(rejects, key=lambda row: (row.stage, row.source, row.code, row.path, row.image_id, row.finding_id))
    )


NOT_FAULTS = frozenset({Reason.MISSING_FILES, Reason.MIXED_SOURCES})
"""Reasons that do not count against `max_reject_share`: a partial download and a setting are no faults of the data present."""


def check_rejects(present: int, rejects: Sequence[Rejection], settings: InventorySettings) -> None:
    """Raises InventoryError if too large a share was rejected of the films and findings present.

    `present` is the number of films and findings without a fault.
    """
    faults = [row for row in rejects if row.code not in NOT_FAULTS]
    share = len(faults) / max(1, present + len(faults))
    if share > settings.max_reject_share:
        raise InventoryError(
            f"{len(faults)} of {present + len(faults)} films and findings were rejected ({share:.0%}), more than "
            f"inventory.max_reject_share = {settings.max_reject_share:.0%}: nothing was published; rejects.parquet in the workspace tells what and why"
        )


def without_films(inventory: Inventory, rejects: Sequence[Rejection]) -> Inventory:
    """The inventory after films that were rejected as a whole, and their findings, are taken out and `rejects` added."""
    gone = {row.image_id for row in rejects if row.image_id and not row.finding_id}
    return replace(
        inventory,
        scans=tuple(scan for scan in inventory.scans if scan.image_id not in gone),
        findings=tuple(finding for finding in inventory.findings if finding.image_id not in gone),
        rejects=sort_rejects([*inventory.rejects, *rejects]),
    )


def with_evidence(inventory: Inventory, scans: Iterable[Scan], findings: Iterable[Finding]) -> Inventory:
    """The inventory with those films and findings whose pixels were read in the place of what their headers had told."""
    scan_of = {scan.image_id: scan for scan in scans}
    finding_of = {finding.finding_id: finding for finding in findings}
    return replace(
        inventory,
        scans=tuple(scan_of.get(item.image_id, item) for item in inventory.scans),
        findings=tuple(finding_of.get(item.finding_id, item) for item in inventory.findings),
    )
