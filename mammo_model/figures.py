"""Pictures of a model run, as PNG files."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mammo_etl.places import Place
from mammo_etl.workspace import replacing

DOTS_PER_INCH = 120

RIGHT, WRONG = "#1f5fbf", "#c62828"
"""Colours of a right and of a wrong answer."""

COLOURS = ("#4d4d4d", "#1f77b4", "#2ca02c", "#ff7f0e", "#d62728")
"""One per class."""

EXAMPLES_PER_CLASS = 6
"""Columns of the sheet of examples."""


def save(figure: Figure, path: Place) -> Place:
    """Writes a figure as PNG."""
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)
    return path


def confusion_figure(metrics: dict[str, Any], classes: tuple[str, ...], title: str, unit: str = "Patches") -> Figure:
    """Confusion matrix: cases counted, patches or what `unit` says, and as shares of each true class; classes without any are marked."""
    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    counts = np.array(metrics["confusion"])
    shares = np.array([row or [np.nan] * len(classes) for row in metrics["confusion_normalised"]], float)
    # Colours follow the shares in both panels: with 85% normal patches, colours by count would show one dark cell.
    for axes, name, texts in (
        (left, unit, [[f"{count:,}" for count in row] for row in counts]),
        (right, "Share of each true class", [["-" if np.isnan(s) else f"{s:.1%}" for s in row] for row in shares]),
    ):
        axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
        axes.set_title(name, fontsize=11)
        labels = [label.replace(" ", "\n") for label in classes]
        axes.set_xticks(range(len(classes)), labels, fontsize=8)
        axes.set_yticks(range(len(classes)), labels, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        for row, column in np.ndindex(counts.shape):
            dark = shares[row, column] > 0.5
            axes.text(column, row, texts[row][column], ha="center", va="center", color="white" if dark else "black")
    return figure


def precision_recall_figure(metrics: dict[str, Any], title: str) -> Figure:
    """Precision against recall of each class, with lines of equal F1; the legend gives average precision, F1 and patches."""
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(f1 / 2 + 1e-3, 1, 200)
        precision = f1 * recall / (2 * recall - f1)
        axes.plot(recall, precision, color="#bbbbbb", linewidth=0.8, zorder=1)
        axes.annotate(
            f"F1 = {f1:.1f}",
            (1.0, f1 / (2 - f1)),
            (-3, 4),
            textcoords="offset points",
            ha="right",
            color="#888888",
            fontsize=8,
        )
    for entry, colour in zip(metrics["per_class"], COLOURS, strict=False):
        curve = entry["precision_recall_curve"]
        if curve is None:
            axes.plot(
                [], [], color=colour, linestyle=":", label=f"{entry['name']}: no curve ({entry['support']} patches)"
            )
            continue
        f1 = entry["f1"]["value"]
        figures = f"AP {entry['average_precision']['value']:.3f}, F1 {'-' if f1 is None else format(f1, '.3f')}"
        axes.step(
            curve["recall"],
            curve["precision"],
            where="post",
            color=colour,
            linewidth=1.6,
            zorder=2,
            label=f"{entry['name']}: {figures} ({entry['support']:,} patches)",
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
    # Below the axes: nowhere inside is free of curves for every model.
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def roc_figure(levels: dict[str, Any], title: str) -> Figure:
    """Sensitivity against false positives, a panel per question and in it a curve per level; the legend gives the area with its interval."""
    questions = list(levels["patch"]["questions"])
    figure = Figure(figsize=(11.8, 5.6), layout="constrained")
    figure.suptitle(title)
    for axes, question in zip(figure.subplots(1, len(questions), squeeze=False).flat, questions, strict=True):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
        for colour, (level, entry) in zip(COLOURS, levels.items(), strict=False):
            if question not in entry["questions"]:
                continue
            answers = entry["questions"][question]
            curve, area = answers["roc_curve"], answers["roc_auc"]
            if curve is None:
                axes.plot([], [], color=colour, linestyle=":", label=f"{level}: no curve")
                continue
            interval = "" if area["low"] is None else f" ({area['low']:.3f} to {area['high']:.3f})"
            axes.plot(
                curve["false_positive_rate"],
                curve["sensitivity"],
                color=colour,
                linewidth=1.6,
                label=f"{level}: {area['value']:.3f}{interval}",
            )
        axes.set(
            title=question.capitalize(),
            xlabel="1 - specificity",
            ylabel="sensitivity",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.02),
            aspect="equal",
        )
        axes.legend(loc="lower right", fontsize=9, title="area under the curve, by", title_fontsize=9)
    return figure


def reliability_figure(calibration: dict[str, Any], bins: int, title: str) -> Figure:
    """Share of right answers against confidence, before and after temperature scaling, and below how many patches are that confident."""
    figure = Figure(figsize=(11, 5.8), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    for column, when in enumerate(("before", "after")):
        curve, counts = grid[0][column], grid[1][column]
        entries = calibration[when]["reliability"]
        confidence = np.array([entry["confidence"] for entry in entries])
        accuracy = np.array([entry["accuracy"]["value"] for entry in entries])
        bounds = np.array([[entry["accuracy"]["low"], entry["accuracy"]["high"]] for entry in entries], float)
        curve.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
        # What has no interval gets no bar: NaN is not drawn. A value can lie outside its percentile interval.
        bars = np.maximum(np.stack([accuracy - bounds[:, 0], bounds[:, 1] - accuracy]), 0)
        curve.errorbar(confidence, accuracy, bars, color=RIGHT, marker="o", markersize=4, capsize=2, linewidth=1.2)
        ece = calibration[when]["ece"]["value"]
        curve.set(title=f"{when.capitalize()} temperature scaling: ECE {ece:.3f}", xlim=(0, 1), ylim=(-0.02, 1.02))
        counts.bar(confidence, [entry["patches"] for entry in entries], width=0.8 / bins, color="#8fa8c8")
        counts.set(xlabel="confidence", yscale="log", ylim=(0.5, None))
    grid[0][0].set_ylabel("share of right answers")
    grid[1][0].set_ylabel("patches")
    return figure


def learning_figure(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Loss and accuracy on the train and validation splits by epoch; the epoch of the model that was kept is marked."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column, label, colour in ((name, "train", "#1f77b4"), (f"val_{name}", "validation", "#ff7f0e")):
            axes.plot(history["epoch"], history[column], marker="o", markersize=4, color=colour, label=label)
        axes.axvline(best_epoch, color="#888888", linestyle="--", linewidth=1, label=f"kept: epoch {best_epoch}")
        axes.set(title=name.capitalize(), xlabel="epoch", xlim=(0.5, history["epoch"].max() + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    return figure


def examples_figure(
    patches: NDArray[np.uint8] | NDArray[np.uint16], examples: pd.DataFrame, classes: tuple[str, ...], title: str
) -> Figure:
    """Patches (n, size, size) with the answer to each and its probability, right ones in blue, wrong ones in red.

    One row of pictures per true class that has any; `examples` has the columns target, predicted and probability.
    """
    targets = examples["target"].to_numpy()
    there = [index for index in range(len(classes)) if (targets == index).any()]
    height = 2.35 * len(there) + 0.5
    figure = Figure(figsize=(13, height), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(there), EXAMPLES_PER_CLASS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for cells, target in zip(grid, there, strict=True):
        for cell, place in zip(cells, np.flatnonzero(targets == target), strict=False):
            _example(cell, patches[place], examples.iloc[place], classes)
    return figure


def errors_figure(
    patches: NDArray[np.uint8] | NDArray[np.uint16], errors: pd.DataFrame, classes: tuple[str, ...], title: str
) -> Figure:
    """Patches (n, size, size), numbered from 1, with P(abnormal), what is true, and the finding, or the film where there is none.

    `errors` has the columns abnormal, target, finding_id and image_id.
    """
    rows = -(-len(errors) // EXAMPLES_PER_CLASS)
    # Room for heading and name of each: axes of a fixed aspect are not shrunk for them.
    figure = Figure(figsize=(13, 2.85 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, EXAMPLES_PER_CLASS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (axes, patch, error) in enumerate(
        zip(grid.flat, patches, errors.to_dict("records"), strict=False), start=1
    ):
        _show_patch(axes, patch, WRONG)
        heading = f"{number}. P(abnormal) {error['abnormal']:.3f}\ntrue: {classes[error['target']]}"
        axes.set_title(heading, fontsize=9, color=WRONG)
        name = textwrap.fill(error["finding_id"] or error["image_id"], 36, break_on_hyphens=False)
        axes.set_xlabel(name, fontsize=7, color="#444444")
    return figure


def _example(
    axes: Axes, patch: NDArray[np.uint8] | NDArray[np.uint16], example: pd.Series, classes: tuple[str, ...]
) -> None:
    right = example["predicted"] == example["target"]
    colour = RIGHT if right else WRONG
    _show_patch(axes, patch, colour)
    answer = f"{classes[example['predicted']]} {example['probability']:.0%}"
    axes.set_title(f"{answer}\ntrue: {classes[example['target']]}", fontsize=8, color=colour)


def _show_patch(axes: Axes, patch: NDArray[np.uint8] | NDArray[np.uint16], colour: str) -> None:
    axes.set_axis_on()
    axes.imshow(patch, cmap="gray", vmin=0, vmax=np.iinfo(patch.dtype).max)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)


def pick_examples(predictions: pd.DataFrame, classes: tuple[str, ...], seed: int) -> pd.DataFrame:
    """Up to EXAMPLES_PER_CLASS rows of each true class, at random whether right or wrong, with the answer's probability."""
    shuffled = predictions.sample(frac=1, random_state=seed)
    picked = shuffled.groupby("target").head(EXAMPLES_PER_CLASS).sort_values("target", kind="stable")
    columns = picked[[f"p{index}" for index in range(len(classes))]].to_numpy()
    return picked.assign(probability=columns.max(axis=1))
