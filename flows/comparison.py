"""Comparing two models of a workspace, and showing it. Plain functions, without Prefect or a cluster."""

from rich.console import Console
from rich.table import Table

from flows.summary_tables import PHANTOMS, counted, shown_figure
from mammo_etl.places import Place, place_of
from mammo_model.comparison import Comparison, compare


def compare_models(workspace: Place | str, model_a: str, model_b: str) -> Comparison:
    """The figures of two finished models on the same test patches, the second against the first.

    Raises mammo_model.comparison.ComparisonError if they are not there, or were not tested alike.
    """
    return compare(place_of(workspace), model_a, model_b)


def show_comparison(found: Comparison, console: Console) -> None:
    """Prints a row per figure, and what the interval and p are."""
    table = Table("figure on the test split", "A", "B", "B - A", "95% interval", "p")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found.differences:
        interval = "" if row.low is None or row.high is None else f"{row.low:+.3f} to {row.high:+.3f}"
        table.add_row(
            row.name,
            shown_figure(row.a),
            shown_figure(row.b),
            shown_figure(row.difference, "+.3f"),
            interval,
            shown_figure(row.p),
        )
    console.print(f"A: {found.model_a}\nB: {found.model_b}", soft_wrap=True, markup=False, highlight=False)
    console.print(table)
    console.print(
        f"{counted(found.patches, 'test patches')} of {counted(found.patients, 'patients')}; paired bootstrap, {found.resamples:,} resamples of patients.",
        soft_wrap=True,
        highlight=False,
    )
    if found.phantom:
        console.print(f"Tested {PHANTOMS}")
