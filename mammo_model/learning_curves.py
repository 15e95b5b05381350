"""The trainings of several models side by side: the seed work's Figure 7."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TRAIN, VALIDATION = "#1f77b4", "#ff7f0e"
"""Colours of the splits."""


def curves_figure(histories: Mapping[str, pd.DataFrame], kept: Mapping[str, int]) -> Figure:
    """Loss above and accuracy below, train and validation, by epoch: one column per model, all on the same scales.

    `histories` are tables as `history.csv`, by the name that the model is given; `kept` the epoch whose model was kept.
    """
    figure = Figure(figsize=(2.7 * len(histories) + 0.8, 5.4), layout="constrained")
    grid = figure.subplots(2, len(histories), sharex=True, sharey="row", squeeze=False)
    for row, measure in zip(grid, ("loss", "accuracy"), strict=True):
        row[0].set_ylabel(measure)
        for axes, (name, history) in zip(row, histories.items(), strict=True):
            axes.plot(history["epoch"], history[measure], color=TRAIN, marker=".", label="train")
            axes.plot(history["epoch"], history[f"val_{measure}"], color=VALIDATION, marker=".", label="validation")
            axes.axvline(kept[name], color="#888888", linestyle="--", linewidth=1, label="kept")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(alpha=0.3)
            if measure == "loss":
                axes.set_title(name, fontsize=10)
            else:
                axes.set_xlabel("epoch")
    # One loss that has run away would flatten all others.
    grid[0, 0].set_ylim(0, 1.1 * _usual_loss(histories.values()))
    grid[1, 0].set_ylim(0, 1.02)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _usual_loss(histories: Any) -> float:
    """Twice the 90th percentile of all losses that are numbers, or the largest if that is less."""
    losses = pd.concat([history[column] for history in histories for column in ("loss", "val_loss")])
    losses = losses[np.isfinite(losses)]
    return float(min(losses.max(), 2 * losses.quantile(0.9)))
