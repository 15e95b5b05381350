"""Batches of patches, and settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from mammo_etl.settings import StoreSettings
from mammo_etl.store import create_patches, open_patches, write_shard
from mammo_model.feed import PatchFeed, Position
from mammo_model.sampling import Sampling, SamplingError, SamplingPlan, plan_epochs
from mammo_model.settings import TrainingSettings

ROWS = np.array([3, 5, 8, 9, 14, 17, 21, 22, 30, 33, 39])


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """40 patches of 16 pixels, each filled with its row number."""
    path = tmp_path / "patches.zarr"
    create_patches(path, 40, 16, StoreSettings(shard_rows=40))
    write_shard(path, range(40), np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 16, 16)))
    return open_patches(path)


def rows_fed(batches: Any) -> list[int]:
    fed = []
    for patches, targets in batches:
        assert patches.dtype == np.uint8
        assert patches.shape[1:] == (16, 16, 1)
        assert (patches == patches[:, :1, :1]).all()
        np.testing.assert_array_equal(patches[:, 0, 0, 0] % 5, targets)
        fed += patches[:, 0, 0, 0].tolist()
    return fed


def test_in_order(store: Any) -> None:
    feed = PatchFeed(store, ROWS, ROWS % 5, 4)
    assert len(feed) == 3
    assert rows_fed(feed.in_order()) == ROWS.tolist()


def test_16_bits_are_fed_as_they_are_stored(tmp_path: Path) -> None:
    create_patches(tmp_path / "deep", 5, 16, StoreSettings(), bits=16)
    patches = np.random.default_rng(0).integers(0, 2**16, (5, 16, 16)).astype(np.uint16)
    write_shard(tmp_path / "deep", range(5), patches)
    feed = PatchFeed(open_patches(tmp_path / "deep"), np.arange(5), np.zeros(5, np.int64), 5)
    [(fed, _)] = feed.in_order()
    assert feed.dtype == fed.dtype == np.uint16
    assert np.array_equal(fed[..., 0], patches)


def natural(targets: NDArray[np.int64]) -> SamplingPlan:
    return plan_epochs(targets, "natural", np.zeros(len(targets), bool))


def test_each_epoch_is_another_permutation(store: Any) -> None:
    feed = PatchFeed(store, ROWS, ROWS % 5, 4)
    plan = natural(feed.targets)
    fed = rows_fed(feed.shuffled(plan, 7, 3))
    epochs = [fed[start : start + len(ROWS)] for start in range(0, len(fed), len(ROWS))]
    assert len(epochs) == 3
    for rows in epochs:
        assert sorted(rows) == ROWS.tolist()
    assert epochs[0] != epochs[1] != epochs[2] != ROWS.tolist()
    assert rows_fed(feed.shuffled(plan, 7, 3, Position(1))) == epochs[1] + epochs[2]
    assert rows_fed(feed.shuffled(plan, 8, 1)) != epochs[0]


@pytest.mark.parametrize("sampling", ["natural", "balanced", "over", "under"])
def test_taken_up_within_an_epoch_it_feeds_what_was_left(store: Any, sampling: Sampling) -> None:
    feed = PatchFeed(store, ROWS, ROWS % 5, 2)
    plan = plan_epochs(feed.targets, sampling, ROWS > 20)
    whole = rows_fed(feed.shuffled(plan, 7, 2))
    steps = feed.batches_of(len(plan))
    assert steps > 1
    for epoch in (0, 1):
        for step in range(steps):
            left = rows_fed(feed.shuffled(plan, 7, 2, Position(epoch, step)))
            assert left == whole[epoch * len(plan) + 2 * step :]


def test_the_shuffle_is_global() -> None:
    order = natural(np.zeros(10_000, np.int64)).epoch(0, 0)
    assert sorted(order) == list(range(10_000))
    # A shuffle through a buffer would keep late rows late.
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


TARGETS = np.repeat([0, 1, 3], [70, 20, 10])


@pytest.mark.parametrize(
    ("sampling", "counts"),
    [("natural", [70, 20, 10]), ("over", [70, 70, 70]), ("under", [10, 10, 10]), ("balanced", [33, 33, 34])],
)
def test_classes_are_drawn_as_the_plan_says(sampling: Sampling, counts: list[int]) -> None:
    plan = plan_epochs(TARGETS, sampling, np.zeros(100, bool))
    first, second = plan.epoch(0, 0), plan.epoch(0, 1)
    assert len(plan) == len(first) == len(second) == sum(counts)
    for drawn in (first, second):
        assert np.bincount(TARGETS[drawn])[[0, 1, 3]].tolist() == counts
        for target, count in zip((0, 1, 3), counts, strict=True):
            # None far more often than another of its class.
            members = np.flatnonzero(np.equal(TARGETS, target))
            times = np.bincount(drawn, minlength=100)[members]
            assert set(times) <= {count // len(members), -(-count // len(members))}
    if sampling != "natural":
        assert sorted(first) != sorted(second), "what is left out or repeated is the same in each epoch"


def test_hard_normals_get_their_share() -> None:
    hard = np.arange(100) < 5
    plan = plan_epochs(TARGETS, "under", hard, hard_share=0.3)
    drawn = plan.epoch(3, 4)
    assert np.bincount(TARGETS[drawn])[[0, 1, 3]].tolist() == [10, 10, 10]
    assert hard[drawn].sum() == 3
    assert not hard[plan_epochs(TARGETS, "natural", hard, hard_share=0).epoch(0, 0)].any()


@pytest.mark.parametrize(("hard", "share", "lacking"), [(False, 0.5, "hard"), (True, 0.5, "other")])
def test_hard_normals_that_are_not_there(hard: bool, share: float, lacking: str) -> None:
    with pytest.raises(SamplingError, match=f"hard_share=0.5 asks for {lacking} normal patches"):
        plan_epochs(TARGETS, "natural", np.full(100, hard), share)


def test_settings_digest_names_their_content() -> None:
    assert TrainingSettings().digest() == TrainingSettings(width=32).digest()
    assert TrainingSettings().digest() != TrainingSettings(width=16).digest()
    assert len(TrainingSettings().digest()) == 64


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"dropout": 1},
        {"epochs": 0},
        {"learning_rate": 0},
        {"optimiser": "sgd"},
        {"architecture": "vgg5"},
        {"sampling": "balanced", "class_weights": "balanced"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(wrong)


def test_targets() -> None:
    labels = np.array([0, 1, 2, 3, 4], np.int32)
    assert TrainingSettings().targets(labels).tolist() == [0, 1, 2, 3, 4]
    assert TrainingSettings(binary=True).targets(labels).tolist() == [0, 1, 1, 1, 1]
    assert len(TrainingSettings().classes) == 5
