"""Figures of a classifier against values worked out by hand and by scikit-learn."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from mammo_model import confusion
from mammo_model.classification import LEAST_PATIENTS, diameter_bins, groups_of, metrics_by, metrics_of
from mammo_model.figures import confusion_figure, learning_figure, precision_recall_figure, save
from mammo_model.report import shared_patients
from mammo_model.settings import TrainingSettings

CLASSES = TrainingSettings().classes


def predictions(truth: list[int], answers: list[int], patients: list[str] | None = None) -> pd.DataFrame:
    """Predictions whose answer has probability 0.6."""
    table = pd.DataFrame({"target": truth, "predicted": answers})
    table["source"] = "phantom"
    table["patient_id"] = patients or [str(index) for index in range(len(truth))]
    for index in range(len(CLASSES)):
        table[f"p{index}"] = np.where(table["predicted"] == index, 0.6, 0.1)
    return table


def test_by_hand() -> None:
    matrix = np.array([[8, 2, 0], [1, 3, 0], [1, 0, 0]])
    got = confusion.measures(matrix)
    assert got["accuracy"] == pytest.approx(11 / 15)
    assert got["balanced_accuracy"] == pytest.approx((0.8 + 0.75 + 0) / 3)
    assert got["precision"] == pytest.approx([0.8, 0.6, np.nan], nan_ok=True)
    assert got["recall"] == pytest.approx([0.8, 0.75, 0])
    assert got["f1"] == pytest.approx([0.8, 2 / 3, 0])
    assert got["weighted_precision"] == pytest.approx((10 * 0.8 + 4 * 0.6 + 0) / 15)
    assert got["weighted_recall"] == pytest.approx(got["accuracy"])
    assert got["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert got["majority_share"] == pytest.approx(10 / 15)


@pytest.mark.filterwarnings("error")
def test_as_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth, answers = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    matrix = confusion.by_patient(truth, answers, np.arange(300), 4).sum(0)
    got = confusion.measures(matrix)
    precision, recall, f1, support = precision_recall_fscore_support(truth, answers)
    assert got["precision"] == pytest.approx(precision)
    assert got["recall"] == pytest.approx(recall)
    assert got["f1"] == pytest.approx(f1)
    assert matrix.sum(1).tolist() == support.tolist()
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answers))
    for average in ("macro", "weighted"):
        wanted = precision_recall_fscore_support(truth, answers, average=average)[:3]
        assert [got[f"{average}_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(wanted)


@pytest.mark.filterwarnings("error")
def test_absent_classes_are_null_and_not_zero() -> None:
    metrics = metrics_of(predictions([0, 0, 0, 2, 2], [0, 0, 4, 2, 0]), CLASSES)
    json.dumps(metrics, allow_nan=False)
    absent, answered_only, there = (metrics["per_class"][index] for index in (1, 4, 2))
    assert absent["recall"]["value"] is absent["precision"]["value"] is absent["f1"]["value"] is None
    assert (
        absent["average_precision"]["value"] is absent["roc_auc"]["value"] is absent["precision_recall_curve"] is None
    )
    assert metrics["missing_classes"] == [CLASSES[1], CLASSES[3], CLASSES[4]]
    assert answered_only["recall"]["value"] is None
    assert answered_only["precision"]["value"] == 0
    assert there["recall"]["value"] == 0.5
    assert metrics["confusion_normalised"][1] is None
    assert metrics["balanced_accuracy"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_average_precision_by_hand() -> None:
    table = predictions([1, 0, 1, 0], [1, 1, 0, 0])
    table["p1"] = [0.9, 0.8, 0.7, 0.1]
    # Ranked: hit, miss, hit, miss: precision 1 at recall 1/2, 2/3 at recall 1.
    wanted = 0.5 * 1 + 0.5 * 2 / 3
    assert metrics_of(table, CLASSES)["per_class"][1]["average_precision"]["value"] == pytest.approx(wanted)


def test_intervals_are_by_patient_and_not_by_patch() -> None:
    # Ten patients with 50 patches each, wholly right or wholly wrong: there are ten independent cases, not 500.
    answers = np.repeat([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], 50).tolist()
    clustered = metrics_of(predictions([0] * 500, answers, np.repeat(list("abcdefghij"), 50).tolist()), CLASSES)
    independent = metrics_of(predictions([0] * 500, answers), CLASSES)
    assert clustered["accuracy"]["value"] == independent["accuracy"]["value"] == 0.5
    # Binomial: standard errors of sqrt(0.25 / 10) = 0.158 and sqrt(0.25 / 500) = 0.022.
    assert clustered["accuracy"]["high"] - clustered["accuracy"]["low"] == pytest.approx(4 * 0.158, rel=0.2)
    assert independent["accuracy"]["high"] - independent["accuracy"]["low"] == pytest.approx(4 * 0.022, rel=0.2)


def test_equal_patient_numbers_of_two_sources_are_two_patients() -> None:
    table = predictions([0, 1], [0, 1], ["7", "7"])
    table["source"] = ["ddsm", "mini-mias"]
    assert metrics_of(table, CLASSES)["patients"] == 2


def test_a_model_that_learned_the_scanner_is_seen_by_scanner() -> None:
    # Calls every patch of DBA normal and every other one abnormal; one class in five is answered with another abnormal one.
    truth, answers = [0] * 9 + [1], [0] * 10
    truth, answers = truth + [0] + [2] * 9, answers + [3] + [2] * 4 + [4] * 5
    table = predictions(truth, answers)
    table["scanner"] = ["DBA"] * 10 + [""] * 10
    other, dba = metrics_by(table, ["source", "scanner"], CLASSES)
    assert (dba["source"], dba["scanner"], dba["patches"], dba["patients"]) == ("phantom", "DBA", 10, 10)
    assert dba["accuracy"]["value"] == 0.9
    assert dba["accuracy"]["low"] < 0.9 < dba["accuracy"]["high"]
    assert dba["balanced_accuracy"]["value"] == 0.5
    assert (dba["normal_recall"]["value"], dba["abnormal_recall"]["value"]) == (1, 0)
    assert other["scanner"] == ""
    assert other["accuracy"]["value"] == 0.4
    assert (other["normal_recall"]["value"], other["abnormal_recall"]["value"]) == (0, 1)
    (source,) = metrics_by(table, ["source"], CLASSES)
    assert "scanner" not in source
    assert source["patches"] == 20
    assert source["normal_recall"]["value"] == 0.9
    binary = metrics_by(
        table.assign(target=table["target"].clip(0, 1), predicted=table["predicted"].clip(0, 1)),
        ["source"],
        CLASSES[:2],
    )
    assert binary[0]["abnormal_recall"] == source["abnormal_recall"]


@pytest.mark.filterwarnings("error")
def test_groups_of_few_patients_or_one_class_have_no_such_figures() -> None:
    table = predictions([0, 1] * 10 + [2] * 10, [0, 1] * 10 + [2] * 10, ["a", "b", "c", "d"] * 5 + list("abcdefghij"))
    table["source"] = ["ddsm"] * 20 + ["cbis-ddsm"] * 10
    one_class, few = metrics_by(table, ["source"], CLASSES)
    nothing = {"value": None, "low": None, "high": None}
    assert few["patients"] == 4 < LEAST_PATIENTS
    assert few["accuracy"] == few["balanced_accuracy"] == few["normal_recall"] == few["abnormal_recall"] == nothing
    assert one_class["accuracy"] == {"value": 1, "low": 1, "high": 1}
    assert one_class["balanced_accuracy"] == one_class["normal_recall"] == nothing
    assert one_class["abnormal_recall"]["value"] == 1
    json.dumps([one_class, few], allow_nan=False)


def test_lesions_are_grouped_by_finding_and_what_is_not_stated_is_last() -> None:
    # Ten patients with a finding of 100 pixels in one patch, and one of 600 in three; the large ones are called normal.
    table = predictions([1, 2, 2, 2] * 10, [1, 0, 0, 0] * 10, np.repeat(list("abcdefghij"), 4).tolist())
    table["image_id"] = table["scanner"] = table["patient_id"]
    table["finding_id"] = table["patient_id"] + table["target"].astype(str)
    table["diameter"] = np.where(table["target"] == 1, 100.0, 600.0)
    table["subtlety"] = pd.array([5, None, None, None] * 10, "Int64")
    table["density"] = pd.array([2] * 20 + [None] * 20, "Int64")
    groups = groups_of(table, CLASSES)
    small, large = groups["diameter"]
    assert (small["diameter"], small["findings"], small["abnormal_recall"]["value"]) == ("64 to 128", 10, 1)
    assert (large["diameter"], large["findings"], large["abnormal_recall"]["value"]) == ("512 and more", 10, 0)
    assert [(entry["subtlety"], entry["findings"]) for entry in groups["subtlety"]] == [(5, 10), (None, 10)]
    assert [(entry["density"], entry["patches"]) for entry in groups["density"]] == [(2, 20), (None, 20)]
    json.dumps(groups, allow_nan=False)


def test_a_bin_of_diameters_holds_its_lower_edge() -> None:
    assert diameter_bins(pd.Series([0.5, 63.9, 64.0, 512.0])).tolist() == [
        "0 to 64",
        "0 to 64",
        "64 to 128",
        "512 and more",
    ]


def test_patients_on_both_sides_are_counted() -> None:
    patches = pd.DataFrame(
        {
            "source": ["ddsm", "ddsm", "mini-mias", "ddsm"],
            "patient_id": ["7", "7", "7", "8"],
            "split": ["train", "test", "test", "test"],
        }
    )
    assert shared_patients(patches) == 1


def test_no_interval_from_one_patient() -> None:
    one = metrics_of(predictions([0, 1, 1], [0, 1, 0], ["a", "a", "a"]), CLASSES)
    assert one["accuracy"] == {"value": pytest.approx(2 / 3), "low": None, "high": None}
    # A class that one patient of many shows: a third of the resamples lack it.
    rare = metrics_of(predictions([0] * 20 + [1], [0] * 20 + [1]), CLASSES)
    assert rare["per_class"][1]["recall"] == {"value": 1.0, "low": None, "high": None}
    assert rare["accuracy"]["low"] is not None


def test_figures_of_one_epoch_and_absent_classes(tmp_path) -> None:
    metrics = metrics_of(predictions([0, 0, 0, 2, 2], [0, 0, 4, 2, 0]), CLASSES)
    history = pd.DataFrame({"epoch": [1], "loss": [1.0], "accuracy": [0.5], "val_loss": [2.0], "val_accuracy": [0.4]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, figure in enumerate(
            (
                confusion_figure(metrics, CLASSES, "test"),
                precision_recall_figure(metrics, "test"),
                learning_figure(history, 1),
            )
        ):
            path = save(figure, tmp_path / f"{number}.png")
            assert path.read_bytes().startswith(b"\x89PNG")
