"""Pictures of a study: how its trials went, and what they say of the settings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mammo_model.tuning import TrialResult, best_of
from mammo_model.tuning_settings import LOGARITHMIC

WHOLE, PRUNED, BEST = "#1f77b4", "#9a9a9a", "#d62728"
"""Colours of trials."""

SCORE = "macro F1, validation split"

COLUMNS = 4
"""Panels of the slices in a row."""


def history_figure(results: Sequence[TrialResult]) -> Figure:
    """Value of each trial, and the best so far."""
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="trial", ylabel=SCORE)
    _scatter(axes, results, lambda result: result.number)
    whole = sorted((result for result in results if not result.pruned), key=lambda result: result.number)
    last = max(result.number for result in results)
    axes.step(
        [*(result.number for result in whole), last],
        [*np.maximum.accumulate([result.value for result in whole]), max(result.value for result in whole)],
        where="post",
        color=BEST,
        linewidth=1.2,
        label="best so far",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def importances_figure(importances: dict[str, float]) -> Figure:
    """Share of each parameter in the variance of the values, the largest above."""
    figure = Figure(figsize=(8.6, 0.45 * len(importances) + 1.1), layout="constrained")
    axes = figure.subplots()
    names = sorted(importances, key=lambda name: importances[name])
    bars = axes.barh(names, [importances[name] for name in names], color=WHOLE)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the variance of values", xlim=(0, 1.1 * max(importances.values())))
    return figure


def slices_figure(results: Sequence[TrialResult]) -> Figure:
    """Value against each parameter, a panel each."""
    names = list(results[0].parameters)
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(12.5, 3.1 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        scale = Scale(name, results)
        _scatter(axes, results, lambda result, scale=scale: scale.place(result))
        scale.ticks(axes)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    for row in grid:
        row[0].set_ylabel(SCORE)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def parallel_figure(results: Sequence[TrialResult]) -> Figure:
    """Each whole trial as a line through its parameters, coloured by its value; the best in bold. Pruned ones are thin and grey."""
    names = list(results[0].parameters)
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    axes = figure.subplots()
    whole = [result for result in results if not result.pruned]
    values = [result.value for result in whole]
    colours = ScalarMappable(Normalize(min(values), max(values)), "viridis")
    shades = dict(zip(values, colours.to_rgba(np.array(values)), strict=True))
    scales = [Scale(name, results) for name in names]
    best = best_of(list(results))
    for result in sorted(results, key=lambda one: (not one.pruned, one.value, one is best)):
        heights = [scale.height(result) for scale in scales]
        if result.pruned:
            axes.plot(heights, color=PRUNED, linewidth=0.7, alpha=0.5)
        else:
            width = 3.2 if result is best else 1.4
            axes.plot(heights, color=tuple(shades[result.value]), linewidth=width, alpha=1 if result is best else 0.8)
    for column, scale in enumerate(scales):
        axes.axvline(column, color="black", linewidth=0.8)
        for height, text in scale.marks():
            axes.annotate(
                text,
                (column, height),
                (-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )
    axes.set_xticks(range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.85), ylim=(-0.05, 1.05), yticks=[])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", length=0)
    figure.colorbar(colours, ax=axes, label=SCORE, pad=0.01)
    return figure


def curves_figure(results: Sequence[TrialResult]) -> Figure:
    """Macro F1 on the validation split by epoch of each trial; a pruned one ends in a cross."""
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = figure.subplots()
    best = best_of(list(results))
    for result in sorted(results, key=lambda one: (not one.pruned, one is best)):
        colour = BEST if result is best else PRUNED if result.pruned else WHOLE
        epochs, scores = list(result.curve), list(result.curve.values())
        axes.plot(
            epochs,
            scores,
            color=colour,
            alpha=1.0 if result is best else 0.6,
            linewidth=2.2 if result is best else 1.0,
            marker="." if len(epochs) == 1 and not result.pruned else None,
        )
        if result.pruned:
            axes.plot(epochs[-1], scores[-1], color=PRUNED, marker="x", markersize=6)
    axes.set(xlabel="epoch", ylabel=SCORE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    handles = [
        Line2D([], [], color=BEST, linewidth=2.2, label=f"best (trial {best.number})"),
        Line2D([], [], color=WHOLE, label="whole"),
        Line2D([], [], color=PRUNED, marker="x", label="pruned"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


class Scale:
    """How a parameter is laid along an axis: by its logarithm, as it is, or, where trials had to choose, in even steps."""

    def __init__(self, name: str, results: Sequence[TrialResult]) -> None:
        self.name = name
        self.values = sorted({result.parameters[name] for result in results})
        self.chosen = all(isinstance(value, int) for value in self.values)
        ends = (
            self._laid(np.array([self.values[0], self.values[-1]], float)) if not self.chosen else np.array([0.0, 0.0])
        )
        self.low, self.span = float(ends[0]), float(ends[1] - ends[0]) if not self.chosen else len(self.values) - 1.0

    def place(self, result: TrialResult) -> float:
        """Where a trial lies in a panel's units."""
        value = result.parameters[self.name]
        return float(self.values.index(value)) if self.chosen else float(value)

    def height(self, result: TrialResult) -> float:
        """Where a trial lies between 0 and 1; in the middle where all are the same."""
        place = self.place(result)
        laid = place if self.chosen else float(self._laid(np.array(place)))
        return (laid - self.low) / self.span if self.span else 0.5

    def marks(self) -> list[tuple[float, str]]:
        """Heights and texts along an axis of heights."""
        if not self.span:
            return [(0.5, f"{self.values[0]:.4g}")]
        if self.chosen:
            return [(index / self.span, str(value)) for index, value in enumerate(self.values)]
        heights = np.linspace(0, 1, 5)
        laid = self.low + heights * self.span
        values = 10**laid if self.name in LOGARITHMIC else laid
        return [(float(height), f"{value:.4g}") for height, value in zip(heights, values, strict=True)]

    def ticks(self, axes: Axes) -> None:
        """Sets a panel's horizontal axis."""
        if self.chosen:
            axes.set_xticks(range(len(self.values)), [str(value) for value in self.values])
            axes.set_xlim(-0.5, len(self.values) - 0.5)
        elif self.name in LOGARITHMIC:
            axes.set_xscale("log")
            # Matplotlib's own marks run into each other where the range is less than a decade.
            places = np.geomspace(self.values[0], self.values[-1], 3)
            axes.set_xticks(places, [f"{place:.2g}" for place in places])
            axes.set_xticks([], minor=True)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))

    def _laid(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log10(values) if self.name in LOGARITHMIC else values


def _scatter(axes: Axes, results: Sequence[TrialResult], place: Any) -> None:
    best = best_of(list(results))
    for label, colour, marker, some in (
        ("pruned", PRUNED, "x", [result for result in results if result.pruned]),
        ("whole", WHOLE, "o", [result for result in results if not result.pruned and result is not best]),
        ("best", BEST, "o", [best]),
    ):
        if some:
            places, values = [place(result) for result in some], [result.value for result in some]
            axes.scatter(places, values, color=colour, marker=marker, s=28, label=label, zorder=3)
