"""What a trained model answers on the validation and test splits, and how good that is.

Nothing is chosen here but a temperature, on the validation split: the model was picked there too, and the answer is the most probable class.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mammo_etl.catalog import versioned, write_table
from mammo_etl.formats import METRICS_VERSION
from mammo_etl.reader import PublishedRun, read_table
from mammo_etl.records import Split
from mammo_etl.workspace import write_json
from mammo_model import bootstrap
from mammo_model.calibration import BINS, TEMPERATURES, calibration, fit_temperature, scaled
from mammo_model.classification import groups_of, metrics_of
from mammo_model.errors import as_rows, worst_errors
from mammo_model.levels import by_finding, level_metrics, probabilities_of
from mammo_model.progress import SILENT, Progress
from mammo_model.settings import TrainingSettings
from mammo_model.training import TrainedModel, feed_of

EVALUATED = (Split.TEST, Split.VALIDATION)
"""Splits that predictions are made for."""


def evaluate(
    run: PublishedRun, settings: TrainingSettings, trained: TrainedModel, progress: Progress = SILENT
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions and metrics of the model, also written to `predictions.parquet` and `metrics.json` in its folder."""
    predictions = predict(run, settings, trained, progress)
    metrics = {
        "format_version": METRICS_VERSION,
        "model_id": trained.model_id,
        "run_id": run.run_id,
        # Runs made before the split could be chosen were split by patient.
        "split_by": run.manifest["settings"]["plan"].get("split", "patient"),
        **metrics_of_all(predictions, settings.classes),
    }
    table = pa.Table.from_pandas(predictions, preserve_index=False)
    write_table(trained.folder / "predictions.parquet", versioned(table, METRICS_VERSION))
    write_json(trained.folder / "metrics.json", metrics)
    return predictions, metrics


def metrics_of_all(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """All of metrics.json that follows from the predictions. Where a figure is {value, low, high}, its 95% interval is by `intervals`.

    classes       names, in the order of the network's outputs
    intervals     how they were made
    splits        test and validation: figures of the classes over patches, as `mammo_model.classification.metrics_of`
    findings      the same over findings of the test split, each with the mean of its patches; all are abnormal
    levels        patch, finding, image, patient, of the test split: abnormal or not, malignant or not; as `mammo_model.levels.level_metrics`
    calibration   `temperature`, fitted on the validation split, `at_limit` if it is the least or greatest that is tried; for both splits `before` and `after` it, as `mammo_model.calibration.calibration`
    test_groups   by source, scanner, density, subtlety and diameter; as `mammo_model.classification.groups_of`
    test_errors   the worst, `missed` and `false_alarms`; as `mammo_model.errors`
    """
    by_split = {split: predictions[predictions["split"] == split] for split in EVALUATED}
    test = by_split[Split.TEST]
    return {
        "classes": list(classes),
        "intervals": {
            "level": bootstrap.LEVEL,
            "unit": "patient",
            "resamples": bootstrap.RESAMPLES,
            "method": "percentile bootstrap",
        },
        "splits": {split.value: metrics_of(part, classes) for split, part in by_split.items()},
        "findings": metrics_of(by_finding(test, classes), classes, "findings"),
        "levels": level_metrics(test, classes),
        "calibration": calibration_metrics(by_split, classes),
        "test_groups": groups_of(test, classes),
        "test_errors": {name: as_rows(errors, classes) for name, errors in worst_errors(test, classes).items()},
    }


def calibration_metrics(by_split: dict[Split, pd.DataFrame], classes: tuple[str, ...]) -> dict[str, Any]:
    """The temperature that the validation split asks for, and how both splits are calibrated before and after it."""
    validation = by_split[Split.VALIDATION]
    temperature = fit_temperature(probabilities_of(validation, len(classes)), validation["target"].to_numpy(np.int64))
    result: dict[str, Any] = {
        "temperature": temperature,
        "at_limit": bool(np.isclose(temperature, TEMPERATURES, rtol=1e-3).any()),
        "fitted_on": Split.VALIDATION.value,
        "bins": BINS,
    }
    for split, part in by_split.items():
        probabilities = probabilities_of(part, len(classes))
        truth, patients = part["target"].to_numpy(np.int64), bootstrap.patient_numbers(part)
        result[split.value] = {
            "before": calibration(probabilities, truth, patients),
            "after": calibration(scaled(probabilities, temperature), truth, patients),
        }
    return result


def predict(
    run: PublishedRun, settings: TrainingSettings, trained: TrainedModel, progress: Progress = SILENT
) -> pd.DataFrame:
    """One row per patch of the validation and test splits, by row of the store.

    Columns: those of `described_patches`, target (the class that the network should answer), predicted (the class that it answered),
    p0 ... (float32, the probability that it gave to each class).
    """
    table = described_patches(run)
    feed = feed_of(run, table, settings)
    model = trained.load()
    parts = []
    for done, (batch, _) in enumerate(feed.in_order(), start=1):
        parts.append(np.asarray(model.predict_on_batch(batch)))
        progress.on_batch(done, len(feed))
    probabilities = np.concatenate(parts)
    table["target"] = feed.targets
    table["predicted"] = probabilities.argmax(1)
    for index in range(len(settings.classes)):
        table[f"p{index}"] = probabilities[:, index]
    return table


def described_patches(run: PublishedRun) -> pd.DataFrame:
    """The patches of the validation and test splits, by row of the store, with what their figures are grouped by.

    Columns of the patch table: row, patch_id, source, scanner, patient_id, image_id, finding_id (empty for normal tissue), split, label (0 to 4),
    y, x, size. From `scans`: density; from `findings`: subtlety (both Int64, null if not stated). diameter: that of the circle of the
    ROI's area, pixels of the film as scanned; NaN for normal tissue. The ROI's area follows from how much of it a patch holds, and of the patch it covers.
    """
    patches = run.patches()
    patches = patches[patches["split"].isin(EVALUATED)].sort_values("row", ignore_index=True)
    columns = ["row", "patch_id", "source", "scanner", "patient_id", "image_id", "finding_id", "split", "label"]
    table = patches[[*columns, "y", "x", "size"]].copy()
    for column, name, key in (("density", "scans", "image_id"), ("subtlety", "findings", "finding_id")):
        stated = read_table(run.folder / f"{name}.parquet", [key, column]).to_pandas().set_index(key)[column]
        table[column] = table[key].map(stated.astype("Int64"))
    of_finding = patches["finding_id"] != ""
    area = (patches["roi_coverage"] * patches["size"] ** 2 / patches["roi_fraction"]).where(of_finding)
    table["diameter"] = 2 * np.sqrt(area / np.pi)
    return table
