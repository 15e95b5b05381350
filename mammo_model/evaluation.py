"""What a trained model answers on the validation and test splits, and how good that is.

Nothing is chosen here: the model was picked by its macro F1 on the validation split, and the answer is the most probable class.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from mammo_etl.reader import PublishedRun
from mammo_etl.records import Split
from mammo_etl.workspace import replacing, write_json
from mammo_model import confusion
from mammo_model.progress import SILENT, Progress
from mammo_model.settings import FORMAT_VERSION, TrainingSettings
from mammo_model.training import TrainedModel, feed_of

EVALUATED = (Split.TEST, Split.VALIDATION)
"""Splits that predictions are made for."""

CURVE_POINTS = 200
"""Most points of a precision-recall curve in metrics.json; predictions.parquet holds what the whole curve follows from."""

LEAST_PATIENTS = 5
"""A source or scanner with fewer patients in the test split gets no figures: they would be those of a few women."""

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


def evaluate(
    run: PublishedRun, settings: TrainingSettings, trained: TrainedModel, progress: Progress = SILENT
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions and metrics of the model, also written to `predictions.parquet` and `metrics.json` in its folder."""
    predictions = predict(run, settings, trained, progress)
    metrics = {
        "format_version": FORMAT_VERSION,
        "model_id": trained.model_id,
        "run_id": run.run_id,
        # Runs made before the split could be chosen were split by patient.
        "split_by": run.manifest["settings"]["plan"].get("split", "patient"),
        "classes": list(settings.classes),
        "intervals": {
            "level": confusion.LEVEL,
            "unit": "patient",
            "resamples": confusion.RESAMPLES,
            "method": "percentile bootstrap",
        },
        "splits": {
            split.value: metrics_of(predictions[predictions["split"] == split], settings.classes) for split in EVALUATED
        },
        "test_groups": {
            "least_patients": LEAST_PATIENTS,
            "source": metrics_by(predictions[predictions["split"] == Split.TEST], ["source"], settings.classes),
            "scanner": metrics_by(
                predictions[predictions["split"] == Split.TEST], ["source", "scanner"], settings.classes
            ),
        },
    }
    with replacing(trained.folder / "predictions.parquet") as temporary:
        pq.write_table(pa.Table.from_pandas(predictions, preserve_index=False), temporary)
    write_json(trained.folder / "metrics.json", metrics)
    return predictions, metrics


def predict(
    run: PublishedRun, settings: TrainingSettings, trained: TrainedModel, progress: Progress = SILENT
) -> pd.DataFrame:
    """One row per patch of the validation and test splits, by row of the store.

    Columns: row, patch_id, source, scanner, patient_id, split, label (0 to 4, as in the patch table), target (the class that the network should
    answer), predicted (the class that it answered), p0 ... (float32, the probability that it gave to each class).
    """
    patches = run.patches()
    patches = patches[patches["split"].isin(EVALUATED)].sort_values("row", ignore_index=True)
    feed = feed_of(run, patches, settings)
    model = trained.load()
    parts = []
    for done, (batch, _) in enumerate(feed.in_order(), start=1):
        parts.append(np.asarray(model.predict_on_batch(batch)))
        progress.on_batch(done, len(feed))
    probabilities = np.concatenate(parts)
    table = patches[["row", "patch_id", "source", "scanner", "patient_id", "split", "label"]].copy()
    table["target"] = feed.targets
    table["predicted"] = probabilities.argmax(1)
    for index in range(len(settings.classes)):
        table[f"p{index}"] = probabilities[:, index]
    return table


def probabilities_of(predictions: pd.DataFrame, classes: int) -> NDArray[np.float64]:
    """The probabilities of a table of predictions, (patches, classes)."""
    return predictions[[f"p{index}" for index in range(classes)]].to_numpy(np.float64)


def metrics_of(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """All figures of some predictions, ready for JSON: null where a figure or its interval is not defined.

    Of the figures with intervals each is {value, low, high}. Patients are told apart by source and patient_id, since sources
    number theirs independently.
    """
    truth = predictions["target"].to_numpy(np.int64)
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
                measure: _figure(values[measure][index], bounds[measure][:, index])
                for measure in ("precision", "recall", "f1")
            },
            **_precision_recall(truth == index, probabilities[:, index]),
        }
        for index, name in enumerate(classes)
    ]
    return {
        "patches": len(predictions),
        "patients": len(matrices),
        "majority_share": _number(values["majority_share"]),
        **{name: _figure(values[name], bounds[name]) for name in _OVERALL},
        "per_class": per_class,
        "confusion": total.tolist(),
        "confusion_normalised": [(row / row.sum()).tolist() if row.any() else None for row in total],
    }


def metrics_by(predictions: pd.DataFrame, columns: list[str], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Figures of each group of predictions that agree in `columns`, sorted by these: a model that has learned the scanner shows it here.

    Each has patches, patients, and as {value, low, high}: accuracy; balanced_accuracy (null unless the group shows two classes);
    normal_recall, the share of normal patches called normal; abnormal_recall, that of abnormal patches called abnormal, of whatever class.
    All are null with fewer than LEAST_PATIENTS patients.
    """
    return [
        {**dict(zip(columns, names, strict=True)), **_group_metrics(_matrices(group, len(classes)))}
        for names, group in predictions.groupby(columns)
    ]


def _group_metrics(matrices: NDArray[np.int64]) -> dict[str, Any]:
    """`matrices` as from `mammo_model.confusion.by_patient`."""
    # Class 0 is Normal, for two classes and for five.
    binary = np.add.reduceat(np.add.reduceat(matrices, [0, 1], axis=1), [0, 1], axis=2)
    values, bounds = confusion.measures(matrices.sum(0)), confusion.intervals(matrices)
    recall, recall_bounds = confusion.measures(binary.sum(0))["recall"], confusion.intervals(binary)["recall"]
    enough = len(matrices) >= LEAST_PATIENTS
    figures = {
        "accuracy": (values["accuracy"], bounds["accuracy"], enough),
        "balanced_accuracy": (
            values["balanced_accuracy"],
            bounds["balanced_accuracy"],
            enough and np.count_nonzero(matrices.sum((0, 2))) > 1,
        ),
        "normal_recall": (recall[0], recall_bounds[:, 0], enough),
        "abnormal_recall": (recall[1], recall_bounds[:, 1], enough),
    }
    return {
        "patches": int(matrices.sum()),
        "patients": len(matrices),
        **{
            name: _figure(value, low_high) if given else {"value": None, "low": None, "high": None}
            for name, (value, low_high, given) in figures.items()
        },
    }


def _matrices(predictions: pd.DataFrame, classes: int) -> NDArray[np.int64]:
    """Confusion matrix of each patient, (patients, classes, classes)."""
    truth = predictions["target"].to_numpy(np.int64)
    answers = predictions["predicted"].to_numpy(np.int64)
    patients = predictions.groupby(["source", "patient_id"]).ngroup().to_numpy().astype(np.int64)
    return confusion.by_patient(truth, answers, patients, classes)


def _precision_recall(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, Any]:
    """Average precision of one class against the rest, and its curve; null without patches of the class, or without others."""
    if positive.all() or not positive.any():
        return {"average_precision": None, "precision_recall_curve": None}
    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
    kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), CURVE_POINTS)).round().astype(int))
    return {
        "average_precision": float(average_precision_score(positive, scores)),
        "precision_recall_curve": {"recall": recall[kept].tolist(), "precision": precision[kept].tolist()},
    }


def _figure(value: Any, bounds: NDArray[np.float64]) -> dict[str, float | None]:
    return {"value": _number(value), "low": _number(bounds[0]), "high": _number(bounds[1])}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
