"""What a network scores by luck that has learned nothing true."""

import itertools

import numpy as np
from numpy.typing import NDArray


def by_naming(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Balanced accuracy for each way to name the answers, (classes!,), as they are first; `confusion` is (true class, answer), no true class empty.

    To a network that was trained on permuted labels, names of classes are names only: it could as well have learned its answers under any others. So what it scores
    is one of these by luck, and their mean is exactly chance. They cover what an interval by patient does not: that all patches of a kind are
    answered alike, for whatever reason, makes some names fit well and others badly.
    """
    recall = confusion / confusion.sum(1, keepdims=True)
    classes = np.arange(len(recall))
    return np.array([recall[classes, list(names)].mean() for names in itertools.permutations(classes)])


def share_as_high(scores: NDArray[np.float64]) -> float:
    """Share of the namings that score at least as high as the first."""
    # Sums of the same numbers in another order may differ in their last bit.
    return float((scores >= scores[0] - 1e-12).mean())
