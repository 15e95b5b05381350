"""Figures of scores against scikit-learn, and their intervals against a plain loop over resamples."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mammo_model import bootstrap, ranking

RNG = np.random.default_rng(7)
PATIENTS = np.sort(RNG.integers(0, 30, 400))
POSITIVE = RNG.random(400) < 0.1 + 0.4 * (PATIENTS % 3 == 0)
SCORES = np.round(RNG.normal(size=400) + POSITIVE + 0.3 * (PATIENTS % 5), 1)  # rounded, so that many are equal


def sensitivity_at(positive: np.ndarray, scores: np.ndarray, specificity: float, weights: np.ndarray) -> float:
    false_rate, sensitivity, _ = roc_curve(positive, scores, sample_weight=weights, drop_intermediate=False)
    return sensitivity[false_rate <= 1 - specificity + 1e-12].max()


def test_by_hand() -> None:
    # Ranked: hit, miss, hit, miss, miss; 5 of 6 pairs of a hit and a miss are in order.
    positive = np.array([True, False, True, False, False])
    got = ranking.ranking(positive, np.array([0.9, 0.8, 0.7, 0.2, 0.1]), np.arange(5))
    assert got["roc_auc"]["value"] == pytest.approx(5 / 6)
    assert got["average_precision"]["value"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # A specificity of 0.8 or more allows none of three misses.
    assert [(at["specificity"], at["value"]) for at in got["sensitivity_at"]] == [(0.8, 0.5), (0.9, 0.5)]
    assert got["roc_curve"]["sensitivity"][-1] == got["roc_curve"]["false_positive_rate"][-1] == 1


def test_a_limit_that_is_no_binary_fraction_is_met() -> None:
    # One of ten negatives lies above the second positive: a specificity of exactly 0.9.
    scores = np.array([1.0, 0.9, 0.8, *np.linspace(0.7, 0.1, 9)])
    positive = np.array([True, False, True] + [False] * 9)
    got = ranking.ranking(positive, scores, np.arange(12))
    assert (got["sensitivity_at"][1]["specificity"], got["sensitivity_at"][1]["value"]) == (0.9, 1)


def test_resamples_as_scikit_learn_weighs_them() -> None:
    weights = bootstrap.draw(30)[:40]
    got = ranking.resampled(POSITIVE, SCORES, PATIENTS, weights)
    for index, counts in enumerate(weights):
        of_cases = counts[PATIENTS]
        assert got["roc_auc"][index] == pytest.approx(roc_auc_score(POSITIVE, SCORES, sample_weight=of_cases))
        wanted = average_precision_score(POSITIVE, SCORES, sample_weight=of_cases)
        assert got["average_precision"][index] == pytest.approx(wanted)
        for column, specificity in enumerate(ranking.SPECIFICITIES):
            wanted = sensitivity_at(POSITIVE, SCORES, specificity, of_cases)
            assert got["sensitivity_at"][index, column] == pytest.approx(wanted)


def test_intervals_as_a_loop_over_patients_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    got = ranking.ranking(POSITIVE, SCORES, PATIENTS)
    areas = []
    for counts in bootstrap.draw(30):
        rows = np.concatenate(
            [np.flatnonzero(patient == PATIENTS) for patient in range(30) for _ in range(counts[patient])]
        )
        areas.append(roc_auc_score(POSITIVE[rows], SCORES[rows]))
    assert [got["roc_auc"]["low"], got["roc_auc"]["high"]] == pytest.approx(np.percentile(areas, [2.5, 97.5]))
    assert got["roc_auc"]["value"] == pytest.approx(roc_auc_score(POSITIVE, SCORES))
    by_patch = ranking.ranking(POSITIVE, SCORES, np.arange(400))["roc_auc"]
    assert got["roc_auc"]["high"] - got["roc_auc"]["low"] > 1.2 * (by_patch["high"] - by_patch["low"])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = bootstrap.draw(30)[:50]
    whole = ranking.resampled(POSITIVE, SCORES, PATIENTS, weights)
    monkeypatch.setattr(ranking, "BLOCK", 400 * 7)
    for name, values in ranking.resampled(POSITIVE, SCORES, PATIENTS, weights).items():
        np.testing.assert_array_equal(values, whole[name])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("positive", [np.ones(6, bool), np.zeros(6, bool), np.zeros(0, bool)])
def test_nothing_to_rank_is_null(positive: np.ndarray) -> None:
    got = ranking.ranking(positive, np.linspace(0, 1, len(positive)), np.arange(len(positive)))
    assert got["roc_auc"] == got["average_precision"] == bootstrap.UNDEFINED
    assert got["roc_curve"] is got["precision_recall_curve"] is None
    assert [at["value"] for at in got["sensitivity_at"]] == [None, None]
    json.dumps(got, allow_nan=False)


@pytest.mark.filterwarnings("error")
def test_positives_of_one_patient_give_no_interval() -> None:
    positive = np.arange(40) < 3
    patients = np.where(positive, 0, np.arange(40) - 2)
    got = ranking.ranking(positive, -np.arange(40.0), patients)
    assert got["roc_auc"] == {"value": 1, "low": None, "high": None}
