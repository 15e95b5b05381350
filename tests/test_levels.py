"""From patches to findings, films and patients, on tables small enough to work out by hand; and which errors are the worst."""

import json

import numpy as np
import pandas as pd
import pytest

from mammo_model.errors import MOST, as_rows, worst_errors
from mammo_model.levels import answers, by_finding, by_maximum, level_metrics, with_scores
from mammo_model.settings import TrainingSettings

FIVE = TrainingSettings().classes
TWO = TrainingSettings(binary=True).classes
PATCHES = [
    # image, finding, target, p0 ... p4
    ("a1", "a1-1", 4, 0.1, 0.0, 0.5, 0.1, 0.3),
    ("a1", "a1-1", 4, 0.3, 0.0, 0.0, 0.0, 0.7),
    ("a1", "", 0, 0.8, 0.2, 0.0, 0.0, 0.0),
    ("a2", "", 0, 1.0, 0.0, 0.0, 0.0, 0.0),
    ("b1", "b1-1", 1, 0.6, 0.4, 0.0, 0.0, 0.0),
    ("c1", "", 0, 0.4, 0.2, 0.1, 0.2, 0.1),
]


def table() -> pd.DataFrame:
    found = pd.DataFrame(PATCHES, columns=["image_id", "finding_id", "target", *(f"p{index}" for index in range(5))])
    probabilities = found[[f"p{index}" for index in range(5)]].to_numpy()
    found["predicted"] = probabilities.argmax(1)
    found["source"] = "phantom"
    found["patient_id"] = found["image_id"].str[0]
    found["subtlety"] = pd.array([3, 3, None, None, None, None], "Int64")
    found["diameter"] = np.where(found["finding_id"] == "", np.nan, 100.0)
    found["row"] = np.arange(len(found))
    found["y"] = found["x"] = 0
    found["size"] = 256
    return found


def test_scores_are_sums_of_classes() -> None:
    scored = with_scores(table(), FIVE)
    assert scored["abnormal"].to_numpy() == pytest.approx(1 - scored["p0"].to_numpy())
    assert scored["malignant"].to_list() == pytest.approx([0.4, 0.7, 0, 0, 0, 0.3])
    assert scored["is_malignant"].to_list() == [True, True, False, False, False, False]
    assert scored["is_abnormal"].to_list() == [True, True, False, False, True, False]
    binary = with_scores(table().assign(target=[1, 1, 0, 0, 1, 0]).rename(columns={"p1": "was_p1", "p2": "p1"}), TWO)
    assert binary["abnormal"].to_list() == binary["p1"].to_list()
    assert "malignant" not in binary


def test_a_finding_is_answered_by_the_mean_of_its_patches() -> None:
    findings = by_finding(table(), FIVE)
    assert findings["finding_id"].to_list() == ["a1-1", "b1-1"]
    assert findings.loc[0, [f"p{index}" for index in range(5)]].to_list() == pytest.approx([0.2, 0, 0.25, 0.05, 0.5])
    # One patch says benign mass, the other malignant mass; their mean the latter.
    assert findings["predicted"].to_list() == [4, 0]
    assert findings["target"].to_list() == [4, 1]
    assert findings["patient_id"].to_list() == ["a", "b"]
    assert findings["subtlety"].isna().to_list() == [False, True]


def test_films_and_patients_are_as_abnormal_as_their_worst_patch() -> None:
    scored = with_scores(table(), FIVE)
    films = by_maximum(scored, ["source", "patient_id", "image_id"], FIVE)
    assert films["image_id"].to_list() == ["a1", "a2", "b1", "c1"]
    assert films["abnormal"].to_list() == pytest.approx([0.9, 0, 0.4, 0.6])
    assert films["is_abnormal"].to_list() == [True, False, True, False]
    assert films["malignant"].to_list() == pytest.approx([0.7, 0, 0, 0.3])
    patients = by_maximum(scored, ["source", "patient_id"], FIVE)
    assert patients["patient_id"].to_list() == ["a", "b", "c"]
    assert patients["abnormal"].to_list() == pytest.approx([0.9, 0.4, 0.6])
    assert patients["is_malignant"].to_list() == [True, False, False]


def test_figures_of_each_level() -> None:
    levels = level_metrics(table(), FIVE)
    assert {level: entry["count"] for level, entry in levels.items()} == {
        "patch": 6,
        "finding": 2,
        "image": 4,
        "patient": 3,
    }
    assert set(levels["finding"]["questions"]) == {"malignant"}
    assert levels["finding"]["patients"] == 2
    image = levels["image"]["questions"]["abnormal"]
    # a1 found, a2 left alone, b1 missed, c1 a false alarm.
    assert image["confusion"] == [[1, 1], [1, 1]]
    assert (image["count"], image["positives"]) == (4, 2)
    assert image["sensitivity"]["value"] == image["specificity"]["value"] == image["precision"]["value"] == 0.5
    assert image["roc_auc"]["value"] == 0.75  # of four pairs only b1 below c1 is out of order
    assert levels["patient"]["questions"]["malignant"]["roc_auc"]["value"] == 1
    assert set(level_metrics(table().assign(target=[1, 1, 0, 0, 1, 0]), TWO)["finding"]["questions"]) == set()
    json.dumps(levels, allow_nan=False)


@pytest.mark.filterwarnings("error")
def test_without_findings_there_is_nothing_to_say_of_them() -> None:
    normal = table()[lambda found: found["finding_id"] == ""]
    levels = level_metrics(normal, FIVE)
    assert levels["finding"]["count"] == 0
    assert levels["finding"]["questions"]["malignant"]["accuracy"]["value"] is None
    assert levels["image"]["questions"]["abnormal"]["balanced_accuracy"]["value"] is None
    json.dumps(levels, allow_nan=False)


def test_one_half_is_no_yes() -> None:
    got = answers(np.array([True, True]), np.array([0.5, 0.51]), np.arange(2))
    assert got["confusion"] == [[0, 0], [1, 1]]


def test_the_worst_errors_come_first_and_of_each_finding_once() -> None:
    found = pd.concat([table(), table().assign(row=np.arange(6) + 6)], ignore_index=True)
    found.loc[0, ["p0", "p4"]] = [0.95, 0.05]
    found.loc[0, ["p1", "p2", "p3"]] = 0
    found.loc[6, "p0"] = 0.97
    found.loc[6, ["p1", "p2", "p3", "p4"]] = 0.0075
    errors = worst_errors(found, FIVE)
    assert errors["missed"]["row"].to_list() == [6, 4]
    assert errors["missed"]["abnormal"].to_list() == pytest.approx([0.03, 0.4])
    assert errors["false_alarms"]["row"].to_list() == [5]
    (row,) = as_rows(errors["false_alarms"], FIVE)
    assert row == {
        "number": 1,
        "row": 5,
        "y": 0,
        "x": 0,
        "size": 256,
        "finding_id": "",
        "image_id": "c1",
        "target": "Normal",
        "predicted": "Normal",
        "abnormal": pytest.approx(0.6),
    }
    json.dumps(as_rows(errors["missed"], FIVE))


def test_a_sheet_has_an_end() -> None:
    many = pd.concat([table().iloc[[4]]] * 40, ignore_index=True)
    many["finding_id"] = [f"f{index}" for index in range(40)]
    many["row"] = np.arange(40)
    assert worst_errors(many, FIVE)["missed"]["row"].to_list() == list(range(MOST))
