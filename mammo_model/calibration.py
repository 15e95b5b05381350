"""Whether a model is right as often as it says, and what one number mends of that.

All after Guo et al. 2017, "On calibration of modern neural networks": confidence is the probability of the class that was answered; answers
are put into BINS bins of equal width by it, and the expected calibration error (ECE) is the mean over answers of the difference, in their bin,
between the mean confidence and the share that is right. Temperature scaling divides the logits by one number, which leaves every answer as it was.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from mammo_model import bootstrap

BINS = 15
"""Bins of the confidence, as in Guo et al. 2017."""

TEMPERATURES = (0.05, 20.0)
"""Least and greatest temperature that is tried: without a wrong answer in the validation split, the likeliest would be 0."""

_SMALLEST = float(np.finfo(np.float32).tiny)
"""Probability in place of 0, which float32 gives where logits are far apart, and which has no logarithm."""


def fit_temperature(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The temperature within TEMPERATURES that makes the true classes likeliest; to be fitted on the validation split alone."""

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(scaled(probabilities, float(np.exp(logarithm))), truth)

    bounds = tuple(float(np.log(temperature)) for temperature in TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def scaled(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """The probabilities, (cases, classes), at a temperature; their logarithms serve as logits, since softmax ignores what all logits share."""
    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    result: NDArray[np.float64] = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    return result


def negative_log_likelihood(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Mean over cases, in nats: what training minimises, and what a temperature is fitted by."""
    right = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(right, _SMALLEST)).mean())


def calibration(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], patients: NDArray[np.int64]
) -> dict[str, Any]:
    """`ece` as {value, low, high}, `negative_log_likelihood`, and `reliability`, the bins that have answers, from least confident to most: their
    patches, mean confidence and `accuracy` as {value, low, high}. `patients` numbers the patients from 0.

    Chance alone makes the ECE of few answers larger than 0, and that of a resample larger still: its interval lies high.
    """
    predicted = probabilities.argmax(1)
    sums = _sums(probabilities.max(1), predicted == truth, patients)
    total, drawn = sums.sum(0), np.tensordot(bootstrap.draw(len(sums)), sums, axes=1)
    accuracy = bootstrap.interval(_shares(drawn)[..., 1], len(sums))
    return {
        "ece": bootstrap.figure(_ece(total), bootstrap.interval(_ece(drawn), len(sums))),
        "negative_log_likelihood": negative_log_likelihood(probabilities, truth),
        "reliability": [
            {
                "patches": int(total[bin_, 0]),
                "confidence": float(total[bin_, 1] / total[bin_, 0]),
                "accuracy": bootstrap.figure(total[bin_, 2] / total[bin_, 0], accuracy[:, bin_]),
            }
            for bin_ in np.flatnonzero(total[:, 0])
        ],
    }


def _sums(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], patients: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each patient and bin: answers, the sum of their confidence, and how many are right; (patients, BINS, 3)."""
    # Bins hold their upper edge and not their lower one, as in the paper and in scikit-learn.
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    sums = np.zeros((int(patients.max()) + 1, BINS, 3))
    np.add.at(sums, (patients, bins), np.stack([np.ones_like(confidence), confidence, right], axis=1))
    return sums


def _shares(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean confidence and share of right answers of each bin, (..., BINS, 2); NaN in empty ones."""
    counts = sums[..., :1]
    result = np.full((*sums.shape[:-1], 2), np.nan)
    np.divide(sums[..., 1:], counts, out=result, where=counts > 0)
    return result


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.abs(sums[..., 1] - sums[..., 2]).sum(-1) / sums[..., 0].sum(-1)
    return result
