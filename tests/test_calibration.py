"""Calibration on answers whose true temperature is known, and against values worked out by hand and by scikit-learn."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator

from mammo_model import bootstrap
from mammo_model.calibration import BINS, TEMPERATURES, calibration, fit_temperature, negative_log_likelihood, scaled


def answers(cases: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of five classes that are too sure by a temperature, and classes drawn by what they should be."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(cases, 5))
    truth = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    return softmax(logits * temperature, axis=1), truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    probabilities, truth = answers(6000, temperature)
    assert fit_temperature(probabilities, truth) == pytest.approx(temperature, rel=0.06)


def test_as_scikit_learn_fits_it() -> None:
    class Logits(ClassifierMixin, BaseEstimator):
        def fit(self, x: np.ndarray, y: np.ndarray) -> "Logits":
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(1)

    probabilities, truth = answers(800, 2.0)
    logits = np.log(probabilities)
    theirs = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, truth)), method="temperature").fit(
        logits, truth
    )
    ours = scaled(probabilities, fit_temperature(probabilities, truth))
    assert ours == pytest.approx(theirs.predict_proba(logits), abs=1e-4)


def test_scaling_keeps_every_answer_and_mends_what_was_too_sure() -> None:
    probabilities, truth = answers(6000, 2.5)
    unseen, unseen_truth = answers(6000, 2.5, seed=1)
    after = scaled(unseen, fit_temperature(probabilities, truth))
    assert (after.argmax(1) == unseen.argmax(1)).all()
    assert after.sum(1) == pytest.approx(np.ones(6000))
    first, second = (calibration(table, unseen_truth, np.arange(6000)) for table in (unseen, after))
    assert first["ece"]["value"] > 0.15
    assert second["ece"]["value"] < 0.03
    assert second["negative_log_likelihood"] < first["negative_log_likelihood"]


def test_ece_by_hand() -> None:
    # Two answers of confidence 0.9, one right; two of 0.6, both right: (2 * |0.5 - 0.9| + 2 * |1 - 0.6|) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    got = calibration(probabilities, np.array([0, 1, 1, 1]), np.arange(4))
    assert got["ece"]["value"] == pytest.approx(0.4)
    assert got["negative_log_likelihood"] == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean())
    low, high = got["reliability"]
    assert (low["patches"], low["confidence"], low["accuracy"]["value"]) == (2, pytest.approx(0.6), 1)
    assert (high["patches"], high["confidence"], high["accuracy"]["value"]) == (2, pytest.approx(0.9), 0.5)


def test_the_curve_as_scikit_learn_draws_it() -> None:
    probabilities, truth = answers(500, 1.5)
    probabilities[0] = [1, 0, 0, 0, 0]
    probabilities[1] = [0.4, 0.15, 0.15, 0.15, 0.15]  # on the edge of two bins
    right, confidence = probabilities.argmax(1) == truth, probabilities.max(1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS)
    got = calibration(probabilities, truth, np.arange(500))["reliability"]
    assert [entry["accuracy"]["value"] for entry in got] == pytest.approx(accuracy.tolist())
    assert [entry["confidence"] for entry in got] == pytest.approx(mean.tolist())


def test_intervals_as_a_loop_over_patients_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    probabilities, truth = answers(300, 1.5)
    patients = np.arange(300) // 15
    got = calibration(probabilities, truth, patients)["ece"]
    drawn = []
    for counts in bootstrap.draw(20):
        rows = np.repeat(np.arange(300), counts[patients])
        drawn.append(calibration(probabilities[rows], truth[rows], np.arange(len(rows)))["ece"]["value"])
    assert [got["low"], got["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]))


@pytest.mark.filterwarnings("error")
def test_certain_answers_have_figures() -> None:
    certain = np.array([[1, 0], [0, 1], [1, 0]], np.float64)
    assert fit_temperature(certain, np.array([0, 1, 0])) >= TEMPERATURES[0]
    assert np.isfinite(negative_log_likelihood(certain, np.array([1, 1, 1])))
    json.dumps(calibration(scaled(certain, 0.05), np.array([1, 1, 1]), np.zeros(3, np.int64)), allow_nan=False)
