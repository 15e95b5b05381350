"""Two models on the same test patches: what one is better at, and whether that could be chance.

The bootstrap is paired: both models are judged on the same resample of patients, so that what makes a patient hard for both cancels out, and the
interval of the difference is narrower than those of the two figures suggest.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel

from mammo_etl.places import Place
from mammo_etl.reader import read_table
from mammo_etl.records import Split
from mammo_etl.workspace import Workspace
from mammo_model import bootstrap, confusion, ranking
from mammo_model.finished import finished_models, read_finished, what_there_is
from mammo_model.levels import probabilities_of, questions, with_scores

Values = dict[str, NDArray[np.float64]]
"""Figures of each resample, (resamples,)."""


class ComparisonError(Exception):
    """Two models that cannot be compared, in one sentence."""


class Difference(BaseModel):
    """One figure of both models, and how far they are apart; None where it is not defined."""

    name: str
    """accuracy, balanced accuracy, macro F1, macro ROC AUC (mean over classes of one against the rest), or ROC AUC of a question."""
    a: float | None
    b: float | None
    difference: float | None
    """b - a."""
    low: float | None
    high: float | None
    """95% percentile interval of the difference."""
    p: float | None
    """Two-sided, of no difference: twice the share of resamples on the far side of 0, or on it, each counted with one more (Davison and Hinkley 1997)."""


class Comparison(BaseModel):
    """What a comparison of two models came to."""

    model_a: str
    model_b: str
    patches: int
    """Patches of the test split, the same for both."""
    patients: int
    resamples: int
    phantom: bool
    """The models were tested on phantoms: the figures prove plumbing, and say nothing about medicine."""
    differences: list[Difference]


@dataclass(frozen=True, slots=True)
class _Tested:
    """A model run, as far as it is compared."""

    model_id: str
    classes: tuple[str, ...]
    phantom: bool
    predictions: pd.DataFrame
    """Rows of its test split, sorted by source and patch_id."""


def compare(workspace: Place, model_a: str, model_b: str) -> Comparison:
    """The figures of two model runs of the workspace on their test split, b against a.

    Raises ComparisonError if one is not there or not finished, they are one and the same, or if they differ in their classes, or in their test patches
    or what is true of these, and mammo_etl.formats.FormatError if one is of a format that is not known.
    """
    if model_a == model_b:
        raise ComparisonError(f"{model_a} twice: expected two models{what_there_is(finished_models(workspace))}")
    a, b = (_tested(workspace, model_id) for model_id in (model_a, model_b))
    _check_alike(a, b)
    patients = bootstrap.patient_numbers(a.predictions)
    once = np.ones((1, int(patients.max()) + 1), np.int64)
    drawn = bootstrap.draw(once.shape[1])
    value_a, value_b = (_figures(model, patients, once) for model in (a, b))
    drawn_a, drawn_b = (_figures(model, patients, drawn) for model in (a, b))
    return Comparison(
        model_a=a.model_id,
        model_b=b.model_id,
        patches=len(patients),
        patients=once.shape[1],
        resamples=len(drawn),
        phantom=a.phantom or b.phantom,
        differences=[
            _difference(name, value_a[name][0], value_b[name][0], drawn_b[name] - drawn_a[name], once.shape[1])
            for name in value_a
        ],
    )


def _tested(workspace: Place, model_id: str) -> _Tested:
    folder = Workspace(workspace).models / model_id
    finished = read_finished(folder)
    if finished is None:
        there = what_there_is(finished_models(workspace))
        raise ComparisonError(f"{folder}: no finished model run{there}")
    manifest, metrics = finished
    predictions = read_table(folder / "predictions.parquet").to_pandas()
    test = predictions[predictions["split"] == Split.TEST].sort_values(["source", "patch_id"], ignore_index=True)
    return _Tested(model_id, tuple(metrics["classes"]), bool(manifest["phantom"]), test)


def _check_alike(a: _Tested, b: _Tested) -> None:
    if a.classes != b.classes:
        raise ComparisonError(
            f"{a.model_id} tells {len(a.classes)} classes apart and {b.model_id} {len(b.classes)}: expected the same classes; "
            "their reports give the figures for normal against abnormal of both"
        )
    key = ["source", "patient_id", "patch_id", "target"]
    if not a.predictions[key].equals(b.predictions[key]):
        shared = len(a.predictions[key].merge(b.predictions[key]))
        raise ComparisonError(
            f"{a.model_id} was tested on {len(a.predictions):,} patches and {b.model_id} on {len(b.predictions):,}, of which {shared:,} are the same "
            "with the same class: expected the same test split; train both on one dataset run"
        )


def _figures(model: _Tested, patients: NDArray[np.int64], weights: NDArray[np.int64]) -> Values:
    """The figures compared, of each row of `weights`, which says how often each patient counts."""
    table = with_scores(model.predictions, model.classes)
    truth, answers = table["target"].to_numpy(np.int64), table["predicted"].to_numpy(np.int64)
    classes = len(model.classes)
    matrices = confusion.by_patient(truth, answers, patients, classes)
    measures = confusion.measures_of(np.tensordot(weights, matrices, axes=1), matrices.sum(0))
    probabilities = probabilities_of(table, classes)

    def auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return ranking.resampled(positive, scores, patients, weights)["roc_auc"]

    of_classes = np.stack([auc(truth == index, probabilities[:, index]) for index in range(classes)], axis=1)
    # Over the classes that there are; a resample that lacks one of them has none.
    known = [index for index in range(classes) if 0 < (truth == index).sum() < len(truth)]
    macro = of_classes[:, known].mean(1) if known else np.full(len(weights), np.nan)
    return {
        "accuracy": measures["accuracy"],
        "balanced accuracy": measures["balanced_accuracy"],
        "macro F1": measures["macro_f1"],
        "macro ROC AUC": macro,
        **{
            f"ROC AUC, {question}": auc(table[f"is_{question}"].to_numpy(bool), table[question].to_numpy(np.float64))
            for question in questions(model.classes)
        },
    }


def _difference(name: str, a: float, b: float, drawn: NDArray[np.float64], patients: int) -> Difference:
    low, high = bootstrap.interval(drawn, patients)
    defined = drawn[np.isfinite(drawn)]
    below, above = (drawn <= 0).sum(), (drawn >= 0).sum()
    p = min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1)) if np.isfinite(low) else np.nan
    number = bootstrap.number
    return Difference(
        name=name, a=number(a), b=number(b), difference=number(b - a), low=number(low), high=number(high), p=number(p)
    )
