"""The uncertainty of a figure: a percentile bootstrap that resamples patients.

Patients, not patches, are drawn with replacement (Efron and Tibshirani 1993, chapter 13; clusters as in Field and Welsh 2007): patches
of one patient resemble each other, and counting them as independent makes intervals too narrow.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RESAMPLES = 1000
"""Resamples of the bootstrap."""

LEVEL = 0.95
"""Probability that an interval is meant to hold."""

LEAST_DEFINED = 0.95
"""An interval is given only if its figure is defined in at least this share of the resamples: with a class seen in one or two patients,
resamples often lack it, and those that have it tell nothing of other patients."""

Figure = dict[str, float | None]
"""A figure and its interval, ready for JSON: value, low, high; null where one is not defined."""

UNDEFINED: Figure = {"value": None, "low": None, "high": None}
"""A figure that does not exist."""


def patient_numbers(table: pd.DataFrame) -> NDArray[np.int64]:
    """Number of each row's patient, from 0. Patients are told apart by source and patient_id, since sources number theirs independently."""
    return table.groupby(["source", "patient_id"]).ngroup().to_numpy().astype(np.int64)


def draw(patients: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each of so many patients is in each resample, (RESAMPLES, patients)."""
    if not patients:
        return np.zeros((RESAMPLES, 0), np.int64)
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES)


def interval(resampled: NDArray[np.float64], patients: int) -> NDArray[np.float64]:
    """Low and high of one or many figures, (RESAMPLES, ...) -> (2, ...); NaN where none can be given: one patient, or undefined too often."""
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    trusted = np.isfinite(resampled).mean(0) >= (LEAST_DEFINED if patients > 1 else np.inf)
    # NaN columns would make nanpercentile warn; they are given no interval below.
    low_high = np.nanpercentile(np.where(trusted, resampled, 0.0), tails, axis=0)
    result: NDArray[np.float64] = np.where(trusted, low_high, np.nan)
    return result


def figure(value: Any, bounds: NDArray[np.float64]) -> Figure:
    """A figure with the bounds that `interval` gave."""
    return {"value": number(value), "low": number(bounds[0]), "high": number(bounds[1])}


def number(value: Any) -> float | None:
    """A float for JSON; None where it is not finite."""
    return float(value) if np.isfinite(value) else None
