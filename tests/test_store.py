"""The patch store: whole shards only, readable by any Zarr reader."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from mammo_etl import store
from mammo_etl.settings import StoreSettings

PATCHES = np.random.default_rng(0).integers(0, 256, (23, 16, 16)).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    array = tmp_path / "patches.zarr"
    store.create_patches(array, 23, 16, StoreSettings(shard_rows=10))
    return array


def test_shards_written_in_any_order_read_back_with_zarr_and_tensorstore(path: Path) -> None:
    ranges = store.shard_ranges(23, 10)
    assert [(rows.start, rows.stop) for rows in ranges] == [(0, 10), (10, 20), (20, 23)]
    for rows in reversed(ranges):
        store.write_shard(path, rows, PATCHES[rows.start : rows.stop])
    array = zarr.open_array(path, mode="r")
    assert (array.shape, array.chunks, array.shards) == ((23, 16, 16), (1, 16, 16), (10, 16, 16))
    assert np.array_equal(array[:], PATCHES)
    order = [22, 0, 13, 9]
    assert np.array_equal(store.open_patches(path)[order].read().result(), PATCHES[order])
    assert all(store.shard_path(path, shard).is_file() for shard in range(3))


def test_a_path_by_way_of_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = Path("../there/patches.zarr")
    store.create_patches(path, 2, 4, StoreSettings())
    store.write_shard(path, range(2), np.ones((2, 4, 4), np.uint8))
    assert store.open_patches(path).read().result().sum() == 32
    assert store.open_patches(tmp_path / "there" / "patches.zarr").read().result().sum() == 32


@pytest.mark.parametrize("rows", [range(0, 5), range(5, 15), range(0, 20), range(20, 22)])
def test_part_of_a_shard_or_two_are_refused(path: Path, rows: range) -> None:
    with pytest.raises(ValueError, match="not one whole shard"):
        store.write_shard(path, rows, PATCHES[rows.start : rows.stop])


def test_a_shard_written_twice_has_the_same_bytes(path: Path) -> None:
    store.write_shard(path, range(0, 10), PATCHES[:10])
    first = store.shard_path(path, 0).read_bytes()
    store.write_shard(path, range(0, 10), PATCHES[:10])
    assert store.shard_path(path, 0).read_bytes() == first


def test_a_shard_of_black_patches_has_a_file(path: Path) -> None:
    store.write_shard(path, range(0, 10), np.zeros_like(PATCHES[:10]))
    assert store.shard_path(path, 0).is_file()


@pytest.mark.parametrize("damage", [b"", b'{"shape": [23, 16'])
def test_damaged_metadata_is_mended_and_shards_are_kept(path: Path, damage: bytes) -> None:
    for rows in store.shard_ranges(23, 10):
        store.write_shard(path, rows, PATCHES[rows.start : rows.stop])
    before = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(damage)
    store.create_patches(path, 23, 16, StoreSettings(shard_rows=10))
    assert (path / "zarr.json").read_bytes() == before
    assert np.array_equal(store.open_patches(path).read().result(), PATCHES)


def test_patches_of_16_bits_and_none_of_another_depth(tmp_path: Path) -> None:
    array = tmp_path / "deep.zarr"
    store.create_patches(array, 23, 16, StoreSettings(shard_rows=23), bits=16)
    deep = PATCHES.astype(np.uint16) * 257
    with pytest.raises(ValueError, match=r"patches are uint8, .* holds uint16"):
        store.write_shard(array, range(0, 23), PATCHES)
    store.write_shard(array, range(0, 23), deep)
    assert np.array_equal(zarr.open_array(array, mode="r")[:], deep)
    assert store.open_patches(array).read().result().dtype == np.uint16


def test_fewer_patches_than_a_shard(tmp_path: Path) -> None:
    array = tmp_path / "small.zarr"
    store.create_patches(array, 3, 16, StoreSettings())
    store.write_shard(array, range(0, 3), PATCHES[:3])
    assert np.array_equal(zarr.open_array(array, mode="r")[:], PATCHES[:3])


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no patch store"):
        store.open_patches(tmp_path / "none.zarr")
