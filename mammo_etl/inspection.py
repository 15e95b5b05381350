"""What an inventory comes to, in numbers: the content of `mammo inspect`.

The models below are its JSON; their fields are the keys, in this order. A key is never left out: what is not known is 0, null or empty.
Keys that are words of the data (classes, verdicts, reasons) are the values of `mammo_etl.records`.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from pydantic import BaseModel, ConfigDict

from mammo_etl.cbis_tables import TableRow
from mammo_etl.records import (
    REASONS,
    Abnormality,
    Finding,
    Label,
    Reason,
    Rejection,
    RoiFlag,
    RoiKind,
    Scan,
    Verdict,
)
from mammo_etl.sources import Inventory

FORMAT_VERSION = 1
"""Version of the JSON; raised when the meaning of a key changes."""

UNKNOWN = "unknown"
"""Key for films whose source does not say."""


class Facts(BaseModel):
    """Base of the models: frozen, described by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Amount(Facts):
    """How much of the data something concerns."""

    films: int
    """Films: image files of a side and view; a Calc and a Mass film of one side and view are two."""
    patients: int
    """Patients to whom these films belong."""
    findings: int
    """Findings in them."""


class Overlap(Facts):
    """What is in both parts, train and test, of a source's own split."""

    patients: int
    """Patients with films in both parts."""
    side_views: int
    """Sides and views of a patient with films in both parts (one as a Calc film, one as a Mass film)."""


class Spread(Facts):
    """Smallest, middle and largest of some lengths, in pixels."""

    least: int
    median: int
    most: int


class FilmSize(Facts):
    """Sizes of films, in pixels."""

    rows: Spread
    """Heights."""
    columns: Spread
    """Widths."""
    sizes: int
    """How many different sizes there are."""


class Rejected(Facts):
    """What was left out for one reason."""

    count: int
    """How many files, films, findings or rows."""
    meaning: str
    """The reason in words."""
    example: str
    """What was said of the first of them, in the order of paths."""
    example_path: str
    """Its file or folder; empty if there is none."""


class ListedTable(Facts):
    """One of CBIS-DDSM's tables, or all of them together."""

    rows: int
    """Rows that are understood: findings."""
    patients: int
    """Patients in the table."""
    films: int
    """Films that it names."""
    series: int
    """DICOM series that it names."""
    dicom_files: int
    """DICOM files that it names: films, cut-outs and ROI masks."""
    pathologies: dict[str, int]
    """Findings by pathology, in the table's own words."""
    split_series: int
    """Findings whose cut-out and ROI mask are listed in two series, not in one for both."""
    skipped_numbers: int
    """Films whose abnormality numbers are not 1, 2 and so on without a gap."""
    unstated: dict[str, int]
    """Findings by column that says nothing of them: null, or 0 where the scale begins at 1 (density, subtlety)."""


class SourceInspection(Facts):
    """What one kind of source holds, or all together."""

    phantom: bool
    """Whether films are phantoms."""
    files: int
    """Files below the places given, of whatever kind."""
    films: int
    """Films: image files of a side and view; a Calc and a Mass film of one side and view are two."""
    normal_films: int
    """Films of normal cases among them."""
    patients: int
    """Patients, counted once per source."""
    patients_with: dict[str, int]
    """Patients with findings by kind of lesion: mass, calcification, and both (who are counted in each of the others too)."""
    findings: int
    """Findings: lesions in a film."""
    classes: dict[str, Amount]
    """The five classes by name; Normal are the films of normal cases, a film of two classes counts in each."""
    pathologies: dict[str, int]
    """Findings by pathology, in the source's own words."""
    mixed_side_views: int
    """Sides and views of a patient with findings of more than one class."""
    twins: int
    """Sides and views of a patient that exist as a Calc film and as a Mass film."""
    official_splits: dict[str, Amount]
    """By part of the source's own split, train and test; empty where it has none."""
    official_overlaps: Overlap
    """What is in both parts."""
    verdicts: dict[str, int]
    """Findings by verdict on their files, as far as headers tell: a build that reads the pixels may quarantine more. Empty where
    only tables were read."""
    roi_kinds: dict[str, int]
    """Findings by how their ROI is given."""
    roi_flags: dict[str, int]
    """Findings by oddity of a ROI that can be used all the same."""
    scanners: dict[str, int]
    """Films by scanner; `unknown` where the source does not say."""
    bits: dict[str, int]
    """Films by bits that a pixel uses; `unknown` where only tables were read that do not say."""
    film_size: FilmSize | None
    """Rows and columns of the films; null where no size is known."""
    rejects: dict[str, Rejected]
    """What was left out, by reason, the most frequent first."""
    tables: dict[str, ListedTable]
    """CBIS-DDSM's tables by name (`calc test`, `calc train`, `mass test`, `mass train`) and `all`; empty unless only tables were read."""


class Inspection(Facts):
    """What some sources hold."""

    format_version: int = FORMAT_VERSION
    """Version of these keys."""
    tables_only: bool
    """Whether only tables were read, so that films and findings are those that are listed, be they there or not."""
    sources: dict[str, SourceInspection]
    """By kind of source."""
    all: SourceInspection
    """All sources together."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of one kind of source."""

    inventory: Inventory
    """Its films and findings."""
    files: int
    """Files below its places."""
    phantom: bool
    """Whether its films are phantoms."""
    table_rows: tuple[TableRow, ...] = ()
    """Rows of CBIS-DDSM's tables where these alone were read."""


def inspect(sources: Mapping[str, Inspected], *, tables_only: bool = False) -> Inspection:
    """The numbers of some sources, by kind; `tables_only` leaves out verdicts on files that were not read."""
    parts = [source.inventory for source in sources.values()]
    together = Inspected(
        inventory=Inventory(
            tuple(scan for part in parts for scan in part.scans),
            tuple(finding for part in parts for finding in part.findings),
            tuple(reject for part in parts for reject in part.rejects),
        ),
        files=sum(source.files for source in sources.values()),
        phantom=any(source.phantom for source in sources.values()),
        table_rows=tuple(row for source in sources.values() for row in source.table_rows),
    )
    return Inspection(
        tables_only=tables_only,
        sources={kind: _inspect(source, tables_only) for kind, source in sources.items()},
        all=_inspect(together, tables_only),
    )


def side_view_of(scan: Scan) -> tuple[str, str, str, str]:
    """Source, patient, side and view: what a Calc film and a Mass film can have in common."""
    return scan.source, scan.patient_id, scan.laterality, scan.view


def _inspect(source: Inspected, tables_only: bool) -> SourceInspection:
    scans, findings = source.inventory.scans, source.inventory.findings
    kinds_of: dict[Abnormality, set[Hashable]] = {
        kind: {(item.source, item.patient_id) for item in findings if item.abnormality is kind} for kind in Abnormality
    }
    side_views = {scan.image_id: side_view_of(scan) for scan in scans}
    known = [finding for finding in findings if finding.image_id in side_views]
    parts = sorted({scan.official_split for scan in scans} - {""}, reverse=True)
    return SourceInspection(
        phantom=source.phantom,
        files=source.files,
        films=len(scans),
        normal_films=sum(scan.normal for scan in scans),
        patients=len({(scan.source, scan.patient_id) for scan in scans}),
        patients_with={
            **{kind.value: len(patients) for kind, patients in kinds_of.items()},
            "both": len(set.intersection(*kinds_of.values())),
        },
        findings=len(findings),
        classes={label.title: _class(label, scans, findings) for label in Label},
        pathologies=_counted(finding.pathology_listed for finding in findings),
        mixed_side_views=_several((side_views[finding.image_id], finding.label) for finding in known),
        twins=_several((side_view_of(scan), kind) for scan in scans if (kind := _film_kind(scan))),
        official_splits={
            part: _amount([scan for scan in scans if scan.official_split == part], findings) for part in parts
        },
        official_overlaps=Overlap(
            patients=_several(((scan.source, scan.patient_id), scan.official_split) for scan in scans),
            side_views=_several((side_view_of(scan), scan.official_split) for scan in scans),
        ),
        verdicts={} if tables_only else _counted((item.verdict.value for item in findings), Verdict),
        roi_kinds=_counted((item.roi_kind.value for item in findings), RoiKind),
        roi_flags=_counted((flag.value for item in findings for flag in item.roi_flags), RoiFlag),
        scanners=_counted(scan.scanner or UNKNOWN for scan in scans),
        bits={
            str(bits) if bits else UNKNOWN: count
            for bits, count in sorted(Counter(scan.bits for scan in scans).items())
        },
        film_size=_film_size([(scan.rows, scan.columns) for scan in scans if scan.rows and scan.columns]),
        rejects=_rejects(source.inventory.rejects),
        tables=_tables(source.table_rows),
    )


def _film_kind(scan: Scan) -> str:
    """mass or calc, with which the names of CBIS-DDSM's films end; empty for other films."""
    kind = scan.image_id.rpartition("_")[2]
    return kind if kind in ("mass", "calc") else ""


def _class(label: Label, scans: Sequence[Scan], findings: Sequence[Finding]) -> Amount:
    if label is Label.NORMAL:
        return _amount([scan for scan in scans if scan.normal], ())
    of_class = [finding for finding in findings if finding.label == label]
    shown = {finding.image_id for finding in of_class}
    return _amount([scan for scan in scans if scan.image_id in shown], of_class)


def _amount(scans: Sequence[Scan], findings: Iterable[Finding]) -> Amount:
    films = {scan.image_id for scan in scans}
    return Amount(
        films=len(films),
        patients=len({(scan.source, scan.patient_id) for scan in scans}),
        findings=sum(finding.image_id in films for finding in findings),
    )


def _several(pairs: Iterable[tuple[Hashable, Hashable]]) -> int:
    """How many first members have more than one second member."""
    found: dict[Hashable, set[Hashable]] = defaultdict(set)
    for first, second in pairs:
        found[first].add(second)
    return sum(len(seconds) > 1 for seconds in found.values())


def _counted(values: Iterable[str], every: Iterable[str] | None = None) -> dict[str, int]:
    """Number of each value; in the order of `every`, zeros included, or sorted."""
    counts = Counter(values)
    return {str(value): counts[value] for value in (sorted(counts) if every is None else every)}


def _film_size(sizes: Sequence[tuple[int, int]]) -> FilmSize | None:
    if not sizes:
        return None

    def spread(lengths: Sequence[int]) -> Spread:
        return Spread(least=min(lengths), median=median_low(lengths), most=max(lengths))

    rows, columns = zip(*sizes, strict=True)
    return FilmSize(rows=spread(rows), columns=spread(columns), sizes=len(set(sizes)))


def _rejects(rejects: Iterable[Rejection]) -> dict[str, Rejected]:
    by_reason: dict[Reason, list[Rejection]] = defaultdict(list)
    for reject in rejects:
        by_reason[reject.code].append(reject)
    found: dict[str, Rejected] = {}
    for code, rows in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        first = min(rows, key=lambda row: (row.path, row.image_id, row.finding_id, row.message))
        found[code.value] = Rejected(
            count=len(rows), meaning=REASONS[code], example=first.message, example_path=first.path
        )
    return found


def _tables(rows: Sequence[TableRow]) -> dict[str, ListedTable]:
    if not rows:
        return {}
    by_name: dict[str, list[TableRow]] = defaultdict(list)
    for row in rows:
        kind = "mass" if row.abnormality is Abnormality.MASS else "calc"
        by_name[f"{kind} {row.split}"].append(row)
    return {**{name: _table(found) for name, found in sorted(by_name.items())}, "all": _table(rows)}


def _table(rows: Sequence[TableRow]) -> ListedTable:
    numbers: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        numbers[row.image_id].add(row.abnormality_id)
    listed = [file for row in rows for file in (row.image, row.crop, row.mask)]
    return ListedTable(
        rows=len(rows),
        patients=len({row.patient_id for row in rows}),
        films=len(numbers),
        series=len({file.series_uid for file in listed}),
        dicom_files=len({(file.series_uid, file.name) for file in listed}),
        pathologies=_counted(row.pathology_listed for row in rows),
        split_series=sum(row.crop.series_uid != row.mask.series_uid for row in rows),
        skipped_numbers=sum(max(found) > len(found) for found in numbers.values()),
        unstated=_counted(column for row in rows for column in row.unstated),
    )
