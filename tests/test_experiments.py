"""What the experiments make of a run: labels dealt out anew, and folds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chance import by_naming, share_as_high
from changed_run import changed, permuted_labels
from folds import FOLDS, folds_of, split_by_fold

from mammo_etl.reader import PublishedRun


def patches(women: int = 30) -> pd.DataFrame:
    """Six patches a woman: normal ones, and two of another class."""
    rows = [
        {
            "patient_id": f"w{woman}",
            "label": woman % 4 + 1 if index < 2 else 0,
            "split": ("train", "train", "validation", "test")[woman % 4],
        }
        for woman in range(women)
        for index in range(6)
    ]
    return pd.DataFrame(rows)


def test_permuted_labels_leave_the_test_split_alone() -> None:
    table = patches()
    labels = table["label"].to_numpy()
    permuted = permuted_labels(table, seed=0)
    tested = (table["split"] == "test").to_numpy()
    assert (permuted[tested] == labels[tested]).all()
    assert (np.sort(permuted[~tested]) == np.sort(labels[~tested])).all()
    # Of nine patches ten, no more agree than by chance: a third are abnormal, of four classes.
    assert (permuted[~tested] == labels[~tested]).mean() < 0.7
    assert (permuted_labels(table, seed=1) != permuted).any()


def test_no_woman_is_in_two_splits_of_a_fold() -> None:
    table = patches()
    folds = folds_of(table, seed=0)
    tested = []
    for fold in range(FOLDS):
        split = table.assign(split=split_by_fold(folds, fold))
        assert (split.groupby("patient_id")["split"].nunique() == 1).all()
        assert set(split["split"]) == {"train", "validation", "test"}
        tested += split.index[split["split"] == "test"].tolist()
    assert sorted(tested) == list(range(len(table)))


def test_women_of_each_class_are_in_all_folds() -> None:
    table = patches()
    spread = table.assign(fold=folds_of(table, seed=0)).groupby("label")["fold"].nunique()
    assert (spread == FOLDS).all()


def test_a_changed_run_has_the_pixels_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = patches()
    monkeypatch.setattr(PublishedRun, "patches", lambda _: table)
    run = PublishedRun("run-1", tmp_path, {})
    other = changed(run, "other", label=0)
    assert (other.run_id, other.folder) == ("run-1-other", tmp_path)
    assert (other.patches()["label"] == 0).all()
    assert table["label"].any()


def test_all_ways_to_name_the_answers_are_chance_together() -> None:
    confusion = np.random.default_rng(0).integers(1, 100, (5, 5))
    scores = by_naming(confusion)
    assert len(scores) == 120
    assert scores.mean() == pytest.approx(0.2)
    assert scores[0] == pytest.approx((np.diag(confusion) / confusion.sum(1)).mean())


def test_answers_that_are_true_fit_one_naming_only() -> None:
    right = np.diag([10, 20, 30, 40, 50])
    assert share_as_high(by_naming(right)) == pytest.approx(1 / 120)
    always_one = np.outer([10, 20, 30, 40, 50], [1, 0, 0, 0, 0])
    assert share_as_high(by_naming(always_one)) == 1
