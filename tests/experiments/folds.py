"""Cross-validation over women."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from mammo_etl.records import Split

FOLDS = 5
"""Folds that the women are dealt out to."""


def folds_of(patches: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Fold of each patch, (n,): all patches of a woman are in one, and women of each class are in as many folds as can be."""
    women = patches.drop_duplicates(["patient_id", "label"])
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    of_woman: dict[str, int] = {}
    for fold, (_, tested) in enumerate(folds.split(women, women["label"], women["patient_id"])):
        of_woman |= dict.fromkeys(women["patient_id"].iloc[tested], fold)
    return np.array([of_woman[woman] for woman in patches["patient_id"]], np.int64)


def split_by_fold(folds: NDArray[np.int64], fold: int) -> NDArray[np.object_]:
    """Split of each patch, (n,), where `fold` is tested, by the fold that each is in: the next fold is for validation, the others for training."""
    validation = (fold + 1) % (int(folds.max()) + 1)
    return np.select(
        [folds == fold, folds == validation], [Split.TEST.value, Split.VALIDATION.value], Split.TRAIN.value
    )
