"""The films of an inventory as units of work, each with all that a worker needs to know of it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from mammo_etl.records import Finding, Rejection, RoiFlag, Scan


@dataclass(frozen=True, slots=True)
class FilmWork:
    """One film to be converted: small, and all that a worker needs to know of it."""

    scan: Scan
    findings: tuple[Finding, ...]
    """The film's own findings."""
    twins: tuple[tuple[Scan, tuple[Finding, ...]], ...] = ()
    """Other films of the same side and view of the patient, with their findings: normal tissue stays away from these too."""
    unplaced: bool = False
    """Something of this patient was left out: there may be a lesion that no finding tells of."""


def film_work(scans: Sequence[Scan], findings: Sequence[Finding], rejects: Sequence[Rejection] = ()) -> list[FilmWork]:
    """The films of an inventory as units of work, sorted by image_id.

    A rejected row, film, finding or outline may have been a lesion of any film of its patient; an image_id begins with source and patient.
    """
    rejected = sorted(
        {row.image_id for row in rejects if row.image_id}
        | {finding.image_id for finding in findings if RoiFlag.BROKEN_OUTLINE in finding.roi_flags}
    )
    of_film: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.finding_id):
        of_film.setdefault(finding.image_id, []).append(finding)
    of_view: dict[tuple[str, str, str, str], list[Scan]] = {}
    ordered = sorted(scans, key=lambda scan: scan.image_id)
    for scan in ordered:
        of_view.setdefault((scan.source, scan.patient_id, scan.laterality, scan.view), []).append(scan)
    return [
        FilmWork(
            scan,
            tuple(of_film.get(scan.image_id, ())),
            tuple(
                (twin, tuple(of_film.get(twin.image_id, ())))
                for twin in of_view[scan.source, scan.patient_id, scan.laterality, scan.view]
                if twin.image_id != scan.image_id
            ),
            unplaced=_any_begins(rejected, f"{scan.source}_{scan.patient_id}"),
        )
        for scan in ordered
    ]


def _any_begins(names: Sequence[str], beginning: str) -> bool:
    """Whether one of the sorted names begins so: of those that do not come before it, the first does, if any."""
    place = bisect_left(names, beginning)
    return place < len(names) and names[place].startswith(beginning)
