"""An inspection as tables that a person reads."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mammo_etl.inspection import UNKNOWN, Amount, Inspection, ListedTable, SourceInspection

_AMOUNTS: dict[str, Callable[[Amount], int]] = {
    "films": lambda amount: amount.films,
    "patients": lambda amount: amount.patients,
    "findings": lambda amount: amount.findings,
}


def show_inspection(inspection: Inspection, console: Console) -> None:
    """Prints what was found; rows without any count are left out."""
    columns = inspection.sources | ({"all": inspection.all} if len(inspection.sources) > 1 else {})
    console.print(_contents(columns, inspection.tables_only))
    for source in inspection.sources.values():
        if source.tables:
            console.print()
            console.print(_listed(source.tables))
    for kind, source in columns.items():
        if kind == "all":
            continue
        for reason, rejected in source.rejects.items():
            console.print()
            console.print(Text(f"{kind}: {rejected.count:,} rejected, {reason}. {rejected.meaning}"), style="yellow")
            console.print(Text(f"First: {rejected.example}"))
            if rejected.example_path:
                console.print(Text(rejected.example_path), soft_wrap=True)
    if inspection.all.phantom:
        console.print("\nAmong the films are phantoms: drawn by a program, of nobody.")


class _Rows:
    """The rows of a table with one column of counts per item; rows that are empty everywhere are left out."""

    def __init__(self, title: str, columns: Iterable[str]) -> None:
        # As narrow as can be: five columns of counts are to fit into a terminal of 80 characters.
        self.table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
        self.table.add_column("", no_wrap=True)
        for name in columns:
            self.table.add_column(Text(name), justify="right", no_wrap=True)

    def add(self, name: str, values: Iterable[int | str], *, always: bool = False) -> None:
        """A row; texts come from the data, so none is taken for markup."""
        cells = [(f"{value:,}" if value else "-") if isinstance(value, int) else value for value in values]
        if always or any(cell not in ("-", "") for cell in cells):
            self.table.add_row(Text(name), *map(Text, cells))

    def add_counts(self, title: str, counts: Sequence[Mapping[str, int]]) -> None:
        """A section of its own: one row for each key of the last column, which is that of all together."""
        if not any(counts[-1].values()):
            return
        self.table.add_section()
        self.table.add_row(Text(title, style="bold"))
        for name in counts[-1]:
            self.add(f"  {name}", [column.get(name, 0) for column in counts])


def _contents(columns: Mapping[str, SourceInspection], tables_only: bool) -> Table:
    title = "What the tables list, be it there or not" if tables_only else "What the sources hold"
    rows = _Rows(title, columns)
    sources = list(columns.values())
    rows.add("files", [source.files for source in sources], always=True)
    rows.add("films", [source.films for source in sources], always=True)
    rows.add("  of normal cases", [source.normal_films for source in sources])
    rows.add("patients", [source.patients for source in sources], always=True)
    for kind in ("mass", "calcification", "both"):
        rows.add(f"  with {kind}", [source.patients_with[kind] for source in sources])
    rows.add("findings", [source.findings for source in sources], always=True)
    rows.add_counts("films by class", [_amounts(source.classes, "films") for source in sources])
    rows.add_counts("findings by class", [_amounts(source.classes, "findings") for source in sources])
    rows.add_counts("findings by pathology", [source.pathologies for source in sources])
    rows.add_counts("findings by verdict", [source.verdicts for source in sources])
    rows.add_counts("findings by kind of ROI", [source.roi_kinds for source in sources])
    rows.add_counts("findings by ROI oddity", [source.roi_flags for source in sources])
    rows.add_counts("official split", [_splits(source.official_splits) for source in sources])
    rows.add_counts(
        "sides and views",
        [
            {
                "as Calc and Mass film": source.twins,
                "of several classes": source.mixed_side_views,
            }
            for source in sources
        ],
    )
    rows.add_counts(
        "in both official parts",
        [
            {
                "patients": source.official_overlaps.patients,
                "sides and views": source.official_overlaps.side_views,
            }
            for source in sources
        ],
    )
    for title, counts in (
        ("films by scanner", [source.scanners for source in sources]),
        ("films by bits of a pixel", [source.bits for source in sources]),
    ):
        if any(count.keys() - {UNKNOWN} for count in counts):
            rows.add_counts(title, counts)
    if any(source.film_size for source in sources):
        rows.table.add_section()
        rows.table.add_row(Text("film size, pixels", style="bold"))
        rows.add("  rows", [_spread(source, "rows") for source in sources])
        rows.add("  columns", [_spread(source, "columns") for source in sources])
        rows.add("  different sizes", [source.film_size.sizes if source.film_size else 0 for source in sources])
    return rows.table


def _amounts(amounts: Mapping[str, Amount], what: str) -> dict[str, int]:
    return {name: _AMOUNTS[what](amount) for name, amount in amounts.items()}


def _splits(splits: Mapping[str, Amount]) -> dict[str, int]:
    return {f"{part}, {what}": value(amount) for part, amount in splits.items() for what, value in _AMOUNTS.items()}


def _spread(source: SourceInspection, side: str) -> str:
    if source.film_size is None:
        return ""
    spread = source.film_size.rows if side == "rows" else source.film_size.columns
    return f"{spread.least}-{spread.most}" if spread.least < spread.most else str(spread.least)


def _listed(tables: Mapping[str, ListedTable]) -> Table:
    rows = _Rows("CBIS-DDSM's tables", tables)
    found = list(tables.values())
    rows.add("rows", [table.rows for table in found], always=True)
    rows.add("patients", [table.patients for table in found], always=True)
    rows.add("films", [table.films for table in found], always=True)
    rows.add("DICOM series", [table.series for table in found], always=True)
    rows.add("DICOM files", [table.dicom_files for table in found], always=True)
    rows.add("cut-out, mask apart", [table.split_series for table in found])
    rows.add("films skipping numbers", [table.skipped_numbers for table in found])
    rows.add_counts("pathology", [table.pathologies for table in found])
    rows.add_counts("not stated", [table.unstated for table in found])
    return rows.table
