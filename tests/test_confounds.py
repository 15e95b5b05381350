"""The confound audit, on tables in which it is known what tells the label and what does not."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo_etl.confounds import CLUES, TASKS, audit
from mammo_etl.phantom.plan import DdsmPatient, plan_patient
from mammo_etl.records import Laterality, Scan, View
from mammo_etl.settings import BuildSettings, NormalSettings, PatchSettings

Film = tuple[str, str, str, str, dict[int, int]]
"""Source, patient, scanner, split, and patches of each label."""


def made(films: Sequence[Film]) -> tuple[list[Scan], pd.DataFrame]:
    """Scans and patch table of some films."""
    scans, rows = [], []
    for number, (source, patient, scanner, split, labels) in enumerate(films):
        image_id = f"{source}_{patient}_{number:04d}"
        scans.append(
            Scan(
                image_id=image_id,
                source=source,
                patient_id=patient,
                laterality=Laterality.LEFT,
                view=View.CC,
                normal=0 in labels,
                path="",
                rows=4000 + number,
                columns=3000,
                bits=16 if scanner == "DBA" else 12,
                scanner=scanner,
                institution="MGH" if scanner else "",
            )
        )
        common = {"source": source, "image_id": image_id, "patient_id": patient, "split": split}
        rows += [{**common, "label": label} for label, count in labels.items() for _ in range(count)]
    return scans, pd.DataFrame(rows)


def told(result: dict[str, Any], clue: str, task: str = "binary") -> dict[str, Any]:
    return next(row for row in result["told"] if (row["clue"], row["task"]) == (clue, task))


def ddsm(normal_dba: float, abnormal_dba: float, patients: int = 240) -> list[Film]:
    """Half normal, half of the four other classes, two films each; the shares are those that DBA digitised."""
    rng = np.random.default_rng(0)
    films: list[Film] = []
    for patient in range(patients):
        label = patient // 2 % 4 + 1 if patient % 2 else 0
        dba = rng.random() < (abnormal_dba if label else normal_dba)
        split = ("train", "train", "validation", "test")[patient // 8 % 4]
        films += [("ddsm", f"P{patient}", "DBA" if dba else "HOWTEK", split, {label: 3 if label else 17})] * 2
    return films


def noise(scans: Sequence[Scan], seed: int = 0) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    return {scan.image_id: {"border_mean": rng.normal(), "tissue_p50": rng.normal()} for scan in scans}


def test_ddsms_scanners_tell_its_normal_cases() -> None:
    # DBA digitised 61.9% of DDSM's normal cases and 5.0% of the others: calling DBA's films normal is right in the mean of 61.9% and 95.0%.
    result = audit(*made(ddsm(0.619, 0.05)), {})
    row = told(result, "scanner")
    balanced = row["balanced_accuracy"]
    assert balanced["value"] == pytest.approx((0.619 + 0.95) / 2, abs=0.05)
    assert balanced["low"] > balanced["chance"] == 0.5
    assert balanced["low"] < balanced["value"] < balanced["high"]
    assert row["accuracy"]["chance"] == 0.85
    assert row["above_chance"] is True
    assert row["cannot"] == ""
    (warning,) = result["warnings"]
    assert warning.startswith("the scanner alone tells normal from abnormal with a balanced accuracy of ")
    assert "chance 50%" in warning
    assert "normals.match_scanner" in warning


def test_the_phantoms_imitate_it() -> None:
    films: list[Film] = []
    for index in range(1, 400, 2):
        patient = plan_patient(0, index)
        assert isinstance(patient, DdsmPatient)
        labels = {0: 5} if patient.normal else {4: 5}
        films += [("ddsm", patient.case, patient.scanner.name, "train", labels)] * 2
    result = audit(*made(films), {})
    assert told(result, "scanner")["above_chance"]
    assert result["warnings"][0].startswith("the scanner alone tells normal from abnormal")


def test_a_scanner_that_says_nothing_warns_of_nothing() -> None:
    scans, patches = made(ddsm(0.4, 0.4))
    # Of such seeds one in forty is above chance by luck, as an interval of 95% says.
    result = audit(scans, patches, noise(scans, 1))
    assert result["warnings"] == []
    for clue in ("scanner", "statistics", "tissue"):
        row = told(result, clue)
        assert not row["cannot"]
        assert row["balanced_accuracy"]["low"] <= 0.5
        assert row["accuracy"]["value"] == pytest.approx(0.85, abs=0.01)


def test_patches_count_as_a_scanner_matched_run_balances_them() -> None:
    # Most of the normal films are DBA's, yet of the normal patches, as of the abnormal ones, a third.
    films: list[Film] = []
    for patient in range(120):
        films.append(("ddsm", f"N{patient}", "DBA", "train", {0: 5}))
        films.append(("ddsm", f"M{patient}", "HOWTEK", "train", {0: 10}))
        films.append(("ddsm", f"A{patient}", "HOWTEK" if patient % 3 else "DBA", "train", {2: 5}))
    assert audit(*made(films), {})["warnings"] == []


def test_statistics_are_judged_on_patients_not_learned_from() -> None:
    # A figure that names each patient fits perfectly and tells nothing; one that follows the label tells all.
    films = ddsm(0.4, 0.4)
    scans, patches = made(films)
    rng = np.random.default_rng(1)
    of_patient = {f"P{number}": rng.normal(size=12) for number in range(240)}
    named = {
        scan.image_id: {f"tissue_{place}": float(value) for place, value in enumerate(of_patient[scan.patient_id])}
        for scan in scans
    }
    assert not told(audit(scans, patches, named), "tissue")["above_chance"]
    telling = {scan.image_id: {"border_mean": 0.0 if scan.normal else 1.0, "tissue_p50": 0.0} for scan in scans}
    result = audit(scans, patches, telling)
    assert told(result, "statistics")["balanced_accuracy"]["value"] == 1
    assert not told(result, "tissue")["above_chance"]
    assert [warning.split(" alone")[0] for warning in result["warnings"]] == [CLUES["statistics"]]


def test_the_five_classes_warn_where_normal_and_abnormal_look_alike() -> None:
    films: list[Film] = [
        ("ddsm", f"P{patient}", "DBA" if patient % 4 < 2 else "HOWTEK", "train", {(0, 1, 0, 4)[patient % 4]: 1})
        for patient in range(200)
    ]
    result = audit(*made(films), {})
    assert not told(result, "scanner")["above_chance"]
    five = told(result, "scanner", "five")
    # Classes 1 and 4 are told apart for certain; normal films are told from neither.
    assert five["balanced_accuracy"]["value"] == pytest.approx(2 / 3, abs=0.05)
    assert five["balanced_accuracy"]["chance"] == pytest.approx(1 / 3, abs=1e-4)
    assert "the five classes" in result["warnings"][0]


def test_sources_that_hold_one_class_each() -> None:
    films: list[Film] = [("ddsm", f"P{n}", "DBA", "train", {0: 9}) for n in range(30)]
    films += [("cbis-ddsm", f"P{n}", "", "train", {3: 1}) for n in range(30)]
    result = audit(*made(films), {})
    row = told(result, "source")
    assert row["balanced_accuracy"] == {"value": 1, "low": 1, "high": 1, "chance": 0.5}
    assert told(result, "scanner")["cannot"] == "cannot be told: the scanner is the source"
    assert len(result["warnings"]) == 1
    assert "patches.normals = background" in result["warnings"][0]


def test_no_advice_that_was_followed_already() -> None:
    films: list[Film] = [("ddsm", f"P{n}", "DBA", "train", {0: 9}) for n in range(30)]
    films += [("cbis-ddsm", f"P{n}", "", "train", {3: 1}) for n in range(30)]
    background = BuildSettings(patches=PatchSettings(normals="background"))
    (warning,) = audit(*made(films), {}, background)["warnings"]
    assert warning.endswith("; compare within one source")
    matched = BuildSettings(normals=NormalSettings(match_scanner=True))
    (warning,) = audit(*made(ddsm(0.619, 0.05)), {}, matched)["warnings"]
    assert warning.endswith("; compare within one scanner")


def test_two_sources_without_scanners_are_not_one_scanner() -> None:
    films: list[Film] = [("a", f"P{n}", "", "train", {0: 1}) for n in range(30)]
    films += [("b", f"P{n}", ("", "DBA")[n % 2], "train", {3: 1}) for n in range(30)]
    assert told(audit(*made(films), {}), "scanner")["balanced_accuracy"]["value"] == 1


def test_tables_count_by_class_and_split() -> None:
    films: list[Film] = [
        ("ddsm", "P1", "DBA", "train", {0: 4}),
        ("ddsm", "P1", "DBA", "train", {0: 3, 2: 1}),
        ("ddsm", "P2", "HOWTEK", "test", {0: 2}),
        ("cbis-ddsm", "P1", "", "train", {0: 1}),
    ]
    tables = audit(*made(films), {})["tables"]
    row = {"split": "train", "label": 0, "value": "ddsm", "patches": 7, "films": 2, "patients": 1}
    assert row in tables["source"]
    assert {**row, "split": "all", "patches": 9, "films": 3, "patients": 2} in tables["source"]
    assert {**row, "value": "ddsm: DBA MGH"} in tables["scanner"]
    assert [row["value"] for row in tables["scanner"] if row["split"] == "test"] == ["ddsm: HOWTEK MGH"]
    assert {**row, "value": 16} in tables["bits"]
    assert {
        "split": "train",
        "label": 0,
        "films": 3,
        "rows": [4000.0, 4001.0, 4003.0],
        "columns": [3000.0, 3000.0, 3000.0],
    } in tables["size"]
    assert [row["split"] for row in tables["size"]] == ["train", "train", "test", "all", "all"]
    assert [type(value) for value in tables["bits"][0].values()] == [str, int, int, int, int, int]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("films", "reason"),
    [
        ([("ddsm", f"P{n}", "DBA", "train", {0: 2}) for n in range(9)], "all patches are of one class"),
        ([("ddsm", f"P{n % 4}", "DBA", "train", {n % 2: 2}) for n in range(9)], "4 patients are too few for 5 parts"),
        ([("ddsm", f"P{n}", "DBA", "train", {n % 2: 2}) for n in range(9)], "all films are of one scanner"),
    ],
)
def test_what_cannot_be_told_is_said(films: list[Film], reason: str) -> None:
    result = audit(*made(films), {})
    assert told(result, "scanner")["cannot"] == f"cannot be told: {reason}"
    assert told(result, "scanner")["accuracy"] is None
    assert len(result["told"]) == len(TASKS) * len(CLUES)
    assert result["warnings"] == []
    json.dumps(result, allow_nan=False)


def test_films_without_statistics_are_counted() -> None:
    scans, patches = made(ddsm(0.5, 0.5, 20))
    some = noise(scans[:30])
    result = audit(scans, patches, some)
    assert told(result, "tissue")["cannot"] == "cannot be told: 10 of 40 films have no statistics"
    assert told(result, "scanner")["cannot"] == ""


@pytest.mark.filterwarnings("error")
def test_a_class_of_one_patient_and_one_seen_only_in_the_answers() -> None:
    films: list[Film] = [("ddsm", f"P{n:02d}", ("DBA", "HOWTEK")[n % 2], "train", {0: 1}) for n in range(12)]
    films.append(("ddsm", "Q", "LUMISYS", "train", {4: 1}))
    scans, patches = made(films)
    result = audit(scans, patches, noise(scans))
    assert not any(row["cannot"] for row in result["told"] if row["clue"] != "source")
    assert told(result, "scanner")["balanced_accuracy"]["value"] <= 0.5
    json.dumps(result, allow_nan=False)


def test_the_order_of_rows_changes_nothing() -> None:
    scans, patches = made(ddsm(0.6, 0.2, 60))
    statistics = noise(scans)
    result = audit(scans, patches, statistics)
    turned = dict(reversed(statistics.items()))
    assert audit(scans[::-1], patches.sample(frac=1, random_state=3), turned) == result
    assert result == audit(scans, patches, statistics)


def test_films_without_patches_do_not_count() -> None:
    scans, patches = made(ddsm(0.6, 0.2, 60))
    more, _ = made([("mini-mias", f"M{n}", "", "train", {0: 1}) for n in range(50)])
    assert audit([*scans, *more], patches, {}) == audit(scans, patches, {})
