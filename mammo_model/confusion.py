"""Figures that follow from a confusion matrix, and their uncertainty.

A confusion matrix counts patches, (true class, predicted class), and matrices of separate patients add up. So a bootstrap over patients
needs no second look at the predictions: each resample is a weighted sum of the patients' matrices.
"""

import numpy as np
from numpy.typing import NDArray

from mammo_model import bootstrap

Measures = dict[str, NDArray[np.float64]]


def by_patient(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], patients: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Confusion matrix of each patient, (patients, classes, classes); `patients` numbers them from 0, one number per patch."""
    count = int(patients.max()) + 1 if len(patients) else 0
    matrices = np.zeros((count, classes, classes), np.int64)
    np.add.at(matrices, (patients, truth, predicted), 1)
    return matrices


def measures(confusion: NDArray[np.integer]) -> Measures:
    """Figures of one or many confusion matrices, (..., classes, classes); NaN where a figure is not defined.

    Of a class, (..., classes): `precision` is undefined if the class was never predicted, `recall` if there is no patch of it, `f1` if
    both. Over all, (...): `accuracy`; `balanced_accuracy`, the mean recall of the classes that are there; `macro_*`, means over those
    classes, and `weighted_*`, means weighted by their patches. In these means a class that is there but was never predicted has
    precision 0, as in scikit-learn: leaving it out would reward never predicting the hard classes. `majority_share` is the accuracy of
    always predicting the most frequent class.
    """
    counts = confusion.astype(np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    support, predicted = counts.sum(-1), counts.sum(-2)
    total = support.sum(-1)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    there = (support > 0).astype(np.float64)
    result = {
        "accuracy": _ratio(hits.sum(-1), total),
        "balanced_accuracy": _mean(recall, there),
        "majority_share": _ratio(support.max(-1), total),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
    for name in ("precision", "recall", "f1"):
        result[f"macro_{name}"] = _mean(result[name], there)
        result[f"weighted_{name}"] = _mean(result[name], support)
    return result


def intervals(matrices: NDArray[np.int64], seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """95% bootstrap intervals of all figures of `measures`, (2, ...): low and high, NaN where none can be given. `matrices` as from `by_patient`."""
    return {
        name: bootstrap.interval(values, len(matrices)) for name, values in resampled_measures(matrices, seed).items()
    }


def resampled_measures(matrices: NDArray[np.int64], seed: int = 0) -> Measures:
    """`measures` of each resample of the patients, (RESAMPLES, ...)."""
    return measures_of(resampled(matrices, seed), matrices.sum(0))


def measures_of(drawn: NDArray[np.integer], whole: NDArray[np.integer]) -> Measures:
    """`measures` of samples, (..., classes, classes), of a whole, (classes, classes). Means over classes that weigh each alike are NaN of a sample that lacks one of
    the whole's: they would be means over others."""
    values = measures(drawn)
    lacks = ((drawn.sum(-1) == 0) & (whole.sum(-1) > 0)).any(-1)
    alike = [name for name in values if name.startswith("macro_") or name == "balanced_accuracy"]
    return values | {name: np.where(lacks, np.nan, values[name]) for name in alike}


def resampled(matrices: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Confusion matrix of each resample of the patients, (RESAMPLES, classes, classes)."""
    return np.tensordot(bootstrap.draw(len(matrices), seed), matrices, axes=1)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, NaN where whole is 0."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean over the last axis with NaN counted as 0; NaN where all weights are 0."""
    return _ratio((np.nan_to_num(values) * weights).sum(-1), weights.sum(-1))
