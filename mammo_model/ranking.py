"""Figures of scores that rank positives above negatives, and their uncertainty.

Values and curves are scikit-learn's. It has no bootstrap, and its figures with `sample_weight` take a sort each: a thousand resamples of
ten thousand patches, for each class and level, would take minutes. Here the scores are sorted once, and all figures of a resample follow from
the running sums of its weights, which `tests/test_ranking.py` holds against scikit-learn's.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from mammo_model import bootstrap

SPECIFICITIES = (0.8, 0.9)
"""Specificities that sensitivity is given at: screening programmes work at about 0.9 (Lehman et al. 2017, Radiology 283, 49 to 58: 0.889)."""

CURVE_POINTS = 200
"""Most points of a curve in metrics.json; predictions.parquet holds what the whole curve follows from."""

BLOCK = 500_000
"""Weights that are summed at a time: 4 MB an array. With eight times as many, which no cache holds, it takes twice as long."""

ROUNDING = 1e-9
"""Slack of false positives against their limit, in patches: 0.1 is not exact in binary."""


def ranking(positive: NDArray[np.bool_], scores: NDArray[np.float64], patients: NDArray[np.int64]) -> dict[str, Any]:
    """`roc_auc` and `average_precision` as {value, low, high}, `sensitivity_at` as a list of these with their `specificity`, `roc_curve` and
    `precision_recall_curve`; all null without positives, or without negatives. `patients` numbers the patients from 0.

    The sensitivity at a specificity is the largest at any threshold that is at least as specific. So the threshold is chosen on the very cases
    that it is judged on: one that is fixed beforehand does somewhat worse.
    """
    if positive.all() or not positive.any():
        return {
            "roc_auc": bootstrap.UNDEFINED,
            "average_precision": bootstrap.UNDEFINED,
            "sensitivity_at": [{"specificity": specificity, **bootstrap.UNDEFINED} for specificity in SPECIFICITIES],
            "roc_curve": None,
            "precision_recall_curve": None,
        }
    count = int(patients.max()) + 1
    drawn = resampled(positive, scores, patients, bootstrap.draw(count))
    bounds = {name: bootstrap.interval(values, count) for name, values in drawn.items()}
    false_rate, sensitivity, _ = roc_curve(positive, scores, drop_intermediate=False)
    negatives = np.count_nonzero(~positive)
    at = [
        sensitivity[false_rate * negatives <= (1 - specificity) * negatives + ROUNDING].max()
        for specificity in SPECIFICITIES
    ]
    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
    false_rate, sensitivity, _ = roc_curve(positive, scores)
    return {
        "roc_auc": bootstrap.figure(roc_auc_score(positive, scores), bounds["roc_auc"]),
        "average_precision": bootstrap.figure(average_precision_score(positive, scores), bounds["average_precision"]),
        "sensitivity_at": [
            {"specificity": specificity, **bootstrap.figure(value, low_high)}
            for specificity, value, low_high in zip(SPECIFICITIES, at, bounds["sensitivity_at"].T, strict=True)
        ],
        "roc_curve": _curve(false_positive_rate=false_rate, sensitivity=sensitivity),
        "precision_recall_curve": _curve(recall=recall, precision=precision),
    }


def resampled(
    positive: NDArray[np.bool_],
    scores: NDArray[np.float64],
    patients: NDArray[np.int64],
    weights: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """`roc_auc` and `average_precision`, (resamples,), and `sensitivity_at`, (resamples, SPECIFICITIES), of cases that count `weights[:, patients]`
    times; NaN for a resample without positives, or without negatives. Equal scores share a threshold, as in scikit-learn.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    parts: dict[str, list[NDArray[np.float64]]] = {"roc_auc": [], "average_precision": [], "sensitivity_at": []}
    for block in _blocks(weights, len(scores)):
        counts = block[:, patients[order]].astype(np.float64)
        hits = np.cumsum(counts * positive[order], axis=1)[:, ends]
        alarms = np.cumsum(counts, axis=1)[:, ends] - hits
        with np.errstate(invalid="ignore"):
            sensitivity, precision = hits / hits[:, -1:], hits / np.maximum(hits + alarms, 1)
            false_rate = alarms / alarms[:, -1:]
        both = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
        steps = np.diff(sensitivity, axis=1, prepend=0.0)
        heights = sensitivity - steps / 2
        auc = (np.diff(false_rate, axis=1, prepend=0.0) * heights).sum(1)
        parts["roc_auc"].append(np.where(both, auc, np.nan))
        parts["average_precision"].append(np.where(both, (steps * precision).sum(1), np.nan))
        at = [_sensitivity_at(sensitivity, alarms, specificity) for specificity in SPECIFICITIES]
        parts["sensitivity_at"].append(np.where(both[:, np.newaxis], np.stack(at, axis=1), np.nan))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _sensitivity_at(
    sensitivity: NDArray[np.float64], alarms: NDArray[np.float64], specificity: float
) -> NDArray[np.float64]:
    """Of each resample, the largest sensitivity whose false alarms are few enough; 0 where none are: a threshold above all scores."""
    allowed = alarms <= (1 - specificity) * alarms[:, -1:] + ROUNDING
    result: NDArray[np.float64] = np.max(np.where(allowed, sensitivity, 0.0), axis=1)
    return result


def _blocks(weights: NDArray[np.int64], cases: int) -> Iterator[NDArray[np.int64]]:
    step = max(BLOCK // cases, 1)
    for start in range(0, len(weights), step):
        yield weights[start : start + step]


def _curve(**axes: NDArray[np.float64]) -> dict[str, list[float]]:
    """At most CURVE_POINTS points of a curve, the first and the last among them."""
    count = len(next(iter(axes.values())))
    kept = np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).round().astype(int))
    return {name: values[kept].tolist() for name, values in axes.items()}
