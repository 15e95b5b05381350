"""From patches to findings, films and patients: what is asked at each level, and how the answers of patches become one.

- A finding's probabilities are the mean over its patches. They are repeated looks at one lesion of one class, for which the mean is the rule that
  suffers least from the error of a single look (the sum rule of Kittler et al. 1998, "On combining classifiers"); a maximum would
  favour large findings, which have more patches.
- A film's score is the maximum over its patches, and a patient's that over her films, for these are abnormal if anything in them is (the
  assumption of multiple-instance learning: Dietterich et al. 1997, "Solving the multiple instance problem"). The more patches, the higher
  the maximum of mere noise.

Truth follows the same rules, from the patches at hand. They are a choice of places, of lesions mostly their middle, and not the whole film: figures
of films and patients tell how well these patches speak for their film, not how well lesions would be found on it.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.records import Label
from mammo_model import confusion
from mammo_model.bootstrap import UNDEFINED, figure, interval, patient_numbers
from mammo_model.ranking import ranking

RULES = {
    "patch": "every patch by itself",
    "finding": "mean of the probabilities over the finding's patches",
    "image": "maximum of the score over the film's patches",
    "patient": "maximum of the score over all patches of the patient",
}
"""Levels, and how a score comes about at each."""

POSITIVE = {
    "abnormal": ("Abnormal", *(label.title for label in Label if label != Label.NORMAL)),
    "malignant": (Label.MALIGNANT_CALCIFICATION.title, Label.MALIGNANT_MASS.title),
}
"""Questions with two answers, and the classes that are a yes to each; the score is the sum of their probabilities, so that for `abnormal` it is
1 - P(Normal), of five classes and of two."""

THRESHOLD = 0.5
"""Scores above it are a yes: of two classes, the more probable one."""


def questions(classes: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """Questions that these classes can answer, with the indices of the classes that are a yes: two classes know no `malignant`."""
    indices = {name: np.flatnonzero(np.isin(classes, positive)) for name, positive in POSITIVE.items()}
    return {name: found for name, found in indices.items() if len(found)}


def probabilities_of(predictions: pd.DataFrame, classes: int) -> NDArray[np.float64]:
    """The probabilities of a table of predictions, (patches, classes)."""
    return predictions[[f"p{index}" for index in range(classes)]].to_numpy(np.float64)


def with_scores(predictions: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """The table with two columns more per question: `is_abnormal`, the truth, and `abnormal`, the score; and so on."""
    probabilities = probabilities_of(predictions, len(classes))
    columns: dict[str, Any] = {}
    for name, positive in questions(classes).items():
        columns[f"is_{name}"] = predictions["target"].isin(positive).to_numpy()
        columns[name] = probabilities[:, positive].sum(1)
    return predictions.assign(**columns)


def by_finding(predictions: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per finding that has patches, sorted: finding_id, image_id, source, patient_id, subtlety, diameter, target, predicted, p0 ...

    All patches of a finding have its class, so `target` is that of any.
    """
    names = [f"p{index}" for index in range(len(classes))]
    of_findings = predictions[predictions["finding_id"] != ""].astype(dict.fromkeys(names, np.float64))
    kept = ["image_id", "source", "patient_id", "subtlety", "diameter", "target"]
    groups = of_findings.groupby("finding_id")
    table = groups[kept].first().join(groups[names].mean()).reset_index()
    return table.assign(predicted=table[names].to_numpy().argmax(1) if len(table) else np.zeros(0, np.int64))


def by_maximum(scored: pd.DataFrame, columns: list[str], classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per film or patient, told by `columns` (source and patient_id among them): its columns as in `with_scores`, each the maximum."""
    names = [column for name in questions(classes) for column in (f"is_{name}", name)]
    return scored.groupby(columns)[names].max().reset_index()


def level_metrics(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """Of each level its `rule`, how many there are (`count`), patients, and for each question figures as from `answers`.

    All findings are abnormal: they are only asked whether they are malignant.
    """
    scored = with_scores(predictions, classes)
    findings = with_scores(by_finding(predictions, classes), classes)
    tables = {
        "patch": scored,
        "finding": findings,
        "image": by_maximum(scored, ["source", "patient_id", "image_id"], classes),
        "patient": by_maximum(scored, ["source", "patient_id"], classes),
    }
    return {
        level: {
            "rule": RULES[level],
            "count": len(table),
            "patients": len(table[["source", "patient_id"]].drop_duplicates()),
            "questions": {
                name: answers(table[f"is_{name}"].to_numpy(bool), table[name].to_numpy(float), patient_numbers(table))
                for name in questions(classes)
                if (level, name) != ("finding", "abnormal")
            },
        }
        for level, table in tables.items()
    }


def answers(truth: NDArray[np.bool_], scores: NDArray[np.float64], patients: NDArray[np.int64]) -> dict[str, Any]:
    """Figures of one question: `positives` of `count`; `ranking`'s, which no threshold decides; and at THRESHOLD `confusion`, (no, yes), and as {value, low, high}
    `accuracy`, `balanced_accuracy`, `precision`, `sensitivity` (recall of the yes), `specificity` (recall of the no) and `f1`.

    The balanced accuracy is null where all are yes, or all no.
    """
    answered = scores > THRESHOLD
    matrices = confusion.by_patient(truth.astype(np.int64), answered.astype(np.int64), patients, 2)
    total = matrices.sum(0)
    values, drawn = confusion.measures(total), confusion.resampled_measures(matrices)

    def shown(name: str, index: int | None = None) -> dict[str, float | None]:
        at = ... if index is None else (..., index)
        return figure(values[name][at], interval(drawn[name][at], len(matrices)))

    both = truth.any() and not truth.all()
    return {
        "count": len(truth),
        "positives": int(truth.sum()),
        "confusion": total.tolist(),
        "accuracy": shown("accuracy"),
        "balanced_accuracy": shown("balanced_accuracy") if both else UNDEFINED,
        "precision": shown("precision", 1),
        "sensitivity": shown("recall", 1),
        "specificity": shown("recall", 0),
        "f1": shown("f1", 1),
        **ranking(truth, scores, patients),
    }
