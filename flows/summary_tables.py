"""What commands print of builds, trainings and studies."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from flows.tune_summary import SHOWN
from mammo_etl.records import REASONS, Reason
from mammo_model.studies import ranked

if TYPE_CHECKING:
    from flows.build_summary import BuildSummary
    from flows.compare_architectures import ComparisonSummary
    from flows.score_scans import ScoreSummary
    from flows.train_model import TrainSummary
    from flows.tune_summary import TuneSummary

PHANTOMS = "on phantoms: these figures prove that the plumbing works, they say nothing about medicine."
"""Stands beside every figure of a model that knows phantoms only, after what was done on them."""


def shown_figure(value: float | None, style: str = ".3f") -> str:
    """A figure in a table; a dash where it does not exist."""
    return "-" if value is None else format(value, style)


def counted(count: int, plural: str) -> str:
    """A number of things by their name in English, as `1 patch` or `2,000 patches`."""
    singular = plural.removesuffix("es") if plural.endswith("ches") else plural.removesuffix("s")
    return f"{count:,} {singular if count == 1 else plural}"


def show_build(summary: "BuildSummary", console: Console) -> None:
    """Prints a row per stage, what the run holds, and what a user should know."""
    table = Table("stage", "items", "skipped", "seconds", title=f"Dataset run {summary.run_id}")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary.timings:
        table.add_row(row["stage"], f"{row['items']:,} {row['unit']}", f"{row['skipped']:,}", f"{row['seconds']:.1f}")
    console.print(table if summary.timings else table.title)
    console.print(", ".join(counted(count, name.replace("_", " ")) for name, count in summary.counts.items()))
    for reason, count in summary.rejects.items():
        console.print(f"rejected: {count:,} {reason} ({REASONS[Reason(reason)]})", markup=False, highlight=False)
    for warning in summary.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    if not summary.new:
        console.print("Nothing has changed: this run was there already.")
    console.print(f"Report: {summary.report}", soft_wrap=True, markup=False, highlight=False)


def show_training(summary: "TrainSummary", console: Console) -> None:
    """Prints the figures of the test split."""
    table = Table("figure on the test split", "value", "95% interval by patient", title=f"Model {summary.model_id}")
    for figure in summary.figures:
        low, high = figure.low, figure.high
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        table.add_row(figure.name, shown_figure(figure.value), interval)
    console.print(table)
    if summary.phantom:
        console.print(f"Trained {PHANTOMS}")
    if not summary.new:
        console.print("Nothing has changed: this model was there already.")
    console.print(f"Report: {summary.report}", soft_wrap=True, markup=False, highlight=False)


def show_study(summary: "TuneSummary", console: Console) -> None:
    """Prints the best trials, and the command that trains a model under the best settings."""
    best = ranked(summary.trials)[:SHOWN]
    names = [f"trial {trial['number']}{', pruned' if trial['state'] == 'pruned' else ''}" for trial in best]
    title = f"Study {summary.study_id}: {counted(len(summary.trials), 'trials')}, best first"
    table = Table("on the validation split", *names, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("macro F1", *(shown_figure(trial["value"]) for trial in best))
    table.add_row("epochs", *(str(trial["epochs"]) for trial in best), end_section=True)
    for name in summary.best["params"]:
        table.add_row(name, *(f"{trial['params'][name]:.4g}" for trial in best))
    console.print(table)
    if summary.phantom:
        console.print(f"Tuned {PHANTOMS}")
    if not summary.new:
        console.print("Nothing has changed: this study has as many trials already.")
    console.print(f"Train the best: {summary.command}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Report: {summary.report}", soft_wrap=True, markup=False, highlight=False)


def show_architectures(summary: "ComparisonSummary", console: Console) -> None:
    """Prints a row per network, and where the figure is."""
    table = Table("network", "parameters", "epochs", "accuracy", "balanced accuracy", "macro F1", title="Test split")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary.results:
        figures = (shown_figure(row[f"test_{name}"]) for name in ("accuracy", "balanced_accuracy", "macro_f1"))
        table.add_row(row["architecture"], f"{row['parameters']:,}", str(row["epochs"]), *figures)
    console.print(table)
    for name in summary.diverged:
        console.print(f"left out: {name}, whose loss was never a number; try a lower training.learning_rate")
    if summary.phantom:
        console.print(f"Trained {PHANTOMS}")
    console.print(f"How each learned: {summary.figure}", soft_wrap=True, markup=False, highlight=False)


def show_scores(summary: "ScoreSummary", console: Console) -> None:
    """Prints how much was scored, what could not be, and where the page is."""
    console.print(f"Scored by {summary.model_id}", soft_wrap=True, markup=False, highlight=False)
    counts = ("images", "patients", "candidates", "windows")
    console.print(", ".join(counted(summary.counts[name], name) for name in counts))
    for reason, count in summary.rejects.items():
        console.print(f"not scored: {count:,} {reason} ({REASONS[Reason(reason)]})", markup=False, highlight=False)
    if summary.phantom:
        console.print(f"The model was trained {PHANTOMS}")
    if summary.skipped:
        console.print(f"{counted(summary.skipped, 'films')} scored before, unchanged.")
    console.print("Research software, not a medical device.")
    console.print(f"Page: {summary.page}", soft_wrap=True, markup=False, highlight=False)
