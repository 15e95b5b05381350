"""Figures of the classes that a model answered, over all cases and group by group. A case is a patch, or a finding with the mean answer of its patches."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_model import confusion
from mammo_model.bootstrap import UNDEFINED, Figure, figure, number, patient_numbers
from mammo_model.levels import by_finding, probabilities_of, with_scores
from mammo_model.ranking import ranking

LEAST_PATIENTS = 5
"""A group with fewer patients in the test split gets no figures: they would be those of a few women."""

DIAMETERS = (0, 64, 128, 256, 512, math.inf)
"""Edges of the bins of lesion sizes, pixels of the film as scanned: octaves around the patch of 256. Films of unlike pitch differ in what that is in
millimetres, which CBIS-DDSM does not state."""

_OVERALL = (
    "accuracy",
    "balanced_accuracy",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
)


def metrics_of(predictions: pd.DataFrame, classes: tuple[str, ...], unit: str = "patches") -> dict[str, Any]:
    """All figures of some cases, ready for JSON: null where a figure or its interval is not defined. `unit` names the count of cases.

    Of the figures with intervals each is {value, low, high}. A class without a case is listed in `missing_classes`, its figures are null, and means over
    classes (`balanced_accuracy`, `macro_*`) leave it out; one that is there and was never answered counts as precision 0 in them.
    """
    truth = predictions["target"].to_numpy(np.int64)
    patients = patient_numbers(predictions)
    matrices = _matrices(predictions, len(classes))
    total = matrices.sum(0)
    values, bounds = confusion.measures(total), confusion.intervals(matrices)
    probabilities = probabilities_of(predictions, len(classes))
    support = total.sum(1)
    per_class = [
        {
            "name": name,
            "support": int(support[index]),
            "patients": int((matrices[:, index].sum(1) > 0).sum()),
            "predicted": int(total[:, index].sum()),
            **{
                measure: figure(values[measure][index], bounds[measure][:, index])
                for measure in ("precision", "recall", "f1")
            },
            **ranking(truth == index, probabilities[:, index], patients),
        }
        for index, name in enumerate(classes)
    ]
    return {
        unit: len(predictions),
        "patients": len(matrices),
        "missing_classes": [entry["name"] for entry in per_class if entry["support"] == 0],
        "majority_share": number(values["majority_share"]),
        **{name: figure(values[name], bounds[name]) for name in _OVERALL},
        "per_class": per_class,
        "confusion": total.tolist(),
        "confusion_normalised": [(row / row.sum()).tolist() if row.any() else None for row in total],
    }


def groups_of(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """`metrics_by` of one split's predictions: patches by `source`, `scanner` and `density` of the breast, findings by `subtlety` and `diameter`.

    What belongs to a finding is asked of findings: of patches, the large ones would have most.
    """
    findings = by_finding(predictions, classes)
    return {
        "least_patients": LEAST_PATIENTS,
        "source": metrics_by(predictions, ["source"], classes),
        "scanner": metrics_by(predictions, ["source", "scanner"], classes),
        "density": metrics_by(predictions, ["density"], classes),
        "subtlety": metrics_by(findings, ["subtlety"], classes, "findings"),
        "diameter": metrics_by(
            findings.assign(diameter=diameter_bins(findings["diameter"])), ["diameter"], classes, "findings"
        ),
    }


def diameter_bins(diameters: pd.Series) -> pd.Series:
    """Name of each diameter's bin; categories in the order of their size. Bins hold their lower edge, and not their upper one."""
    names = [
        f"{low:,.0f} and more" if math.isinf(high) else f"{low:,.0f} to {high:,.0f}"
        for low, high in itertools.pairwise(DIAMETERS)
    ]
    return pd.cut(diameters, list(DIAMETERS), right=False, labels=names)


def metrics_by(
    predictions: pd.DataFrame, columns: list[str], classes: tuple[str, ...], unit: str = "patches"
) -> list[dict[str, Any]]:
    """Figures of each group of cases that agree in `columns`, sorted by these: a model that has learned the scanner shows it here. What is not
    stated is a group of its own, null, the last.

    Each has the count of its cases, named by `unit`, patients, and as {value, low, high}: accuracy; balanced_accuracy (null unless the group
    shows two classes); normal_recall, the share of normal cases called normal; abnormal_recall, that of abnormal cases called abnormal, of
    whatever class; abnormal_roc_auc, that of P(abnormal). All are null with fewer than LEAST_PATIENTS patients.
    """
    return [
        {
            **{column: _plain(name) for column, name in zip(columns, names, strict=True)},
            unit: len(group),
            **_group_metrics(group, classes),
        }
        for names, group in predictions.groupby(columns, observed=True, dropna=False)
    ]


def _group_metrics(group: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    matrices = _matrices(group, len(classes))
    if len(matrices) < LEAST_PATIENTS:
        names = ("accuracy", "balanced_accuracy", "normal_recall", "abnormal_recall", "abnormal_roc_auc")
        return {"patients": len(matrices), **dict.fromkeys(names, UNDEFINED)}
    # Class 0 is Normal, for two classes and for five.
    binary = np.add.reduceat(np.add.reduceat(matrices, [0, 1], axis=1), [0, 1], axis=2)
    values, bounds = confusion.measures(matrices.sum(0)), confusion.intervals(matrices)
    recall, recall_bounds = confusion.measures(binary.sum(0))["recall"], confusion.intervals(binary)["recall"]
    two_classes = np.count_nonzero(matrices.sum((0, 2))) > 1
    scored = with_scores(group, classes)
    ranked = ranking(
        scored["is_abnormal"].to_numpy(bool), scored["abnormal"].to_numpy(np.float64), patient_numbers(group)
    )
    balanced: Figure = figure(values["balanced_accuracy"], bounds["balanced_accuracy"]) if two_classes else UNDEFINED
    return {
        "patients": len(matrices),
        "accuracy": figure(values["accuracy"], bounds["accuracy"]),
        "balanced_accuracy": balanced,
        "normal_recall": figure(recall[0], recall_bounds[:, 0]),
        "abnormal_recall": figure(recall[1], recall_bounds[:, 1]),
        "abnormal_roc_auc": ranked["roc_auc"],
    }


def _matrices(predictions: pd.DataFrame, classes: int) -> NDArray[np.int64]:
    """Confusion matrix of each patient, (patients, classes, classes)."""
    truth = predictions["target"].to_numpy(np.int64)
    answers = predictions["predicted"].to_numpy(np.int64)
    return confusion.by_patient(truth, answers, patient_numbers(predictions), classes)


def _plain(name: Any) -> Any:
    """A group's name for JSON: null for what is not stated, whole numbers as such."""
    if pd.isna(name):
        return None
    return int(name) if isinstance(name, int | float | np.number) else str(name)
