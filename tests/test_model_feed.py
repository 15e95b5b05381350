"""Batches of patches, and settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mammo_etl.settings import StoreSettings
from mammo_etl.store import create_patches, open_patches, write_shard
from mammo_model.feed import PatchFeed, epoch_order
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


def test_each_epoch_is_another_permutation(store: Any) -> None:
    feed = PatchFeed(store, ROWS, ROWS % 5, 4)
    fed = rows_fed(feed.shuffled(7, range(3)))
    epochs = [fed[start : start + len(ROWS)] for start in range(0, len(fed), len(ROWS))]
    assert len(epochs) == 3
    for rows in epochs:
        assert sorted(rows) == ROWS.tolist()
    assert epochs[0] != epochs[1] != epochs[2] != ROWS.tolist()
    assert rows_fed(feed.shuffled(7, range(1, 3))) == epochs[1] + epochs[2]
    assert rows_fed(feed.shuffled(8, [0])) != epochs[0]


def test_the_shuffle_is_global() -> None:
    order = epoch_order(10_000, 0, 0)
    assert sorted(order) == list(range(10_000))
    # A shuffle through a buffer would keep late rows late.
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05


def test_settings_digest_names_their_content() -> None:
    assert TrainingSettings().digest() == TrainingSettings(width=32).digest()
    assert TrainingSettings().digest() != TrainingSettings(width=16).digest()
    assert len(TrainingSettings().digest()) == 64


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"dropout": 1}, {"epochs": 0}, {"learning_rate": 0}, {"optimiser": "sgd"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(wrong)


def test_targets() -> None:
    labels = np.array([0, 1, 2, 3, 4], np.int32)
    assert TrainingSettings().targets(labels).tolist() == [0, 1, 2, 3, 4]
    assert TrainingSettings(binary=True).targets(labels).tolist() == [0, 1, 1, 1, 1]
    assert len(TrainingSettings().classes) == 5
