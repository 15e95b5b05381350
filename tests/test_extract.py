"""One shard: its patches are what the cleaned films hold, in their depth."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mammo_etl import store
from mammo_etl.extract import ShardWork, extract_shard, valid_receipt
from mammo_etl.files import digest_of
from mammo_etl.png import decode_png
from mammo_etl.settings import StoreSettings
from mammo_etl.workspace import DamagedFileError

SIZE = 33
BOX = (40, 30, 120, 90)
"""Breast box of each film: y, x, height, width."""


def shard_of(images: Path, bits: int) -> tuple[ShardWork, dict[str, np.ndarray]]:
    """Twelve patches of three films, some reaching over the breast box; and the films as they are, (rows, columns)."""
    generator = np.random.default_rng(0)
    films, sources = {}, {}
    for name in ("a", "b", "c"):
        y, x, height, width = BOX
        cropped = generator.integers(0, 2**bits, (height, width)).astype(f"uint{bits}")
        png = cv2.imencode(".png", cropped)[1].tobytes()
        (images / f"{name}.png").write_bytes(png)
        sources[name] = digest_of(png), BOX
        films[name] = np.zeros((200, 150), cropped.dtype)
        films[name][y : y + height, x : x + width] = cropped
    rows = [(name, y, x, SIZE) for name in films for y, x in ((60, 50), (0, 0), (41, 100), (150, 20))]
    patches = pd.DataFrame(rows, columns=["image_id", "y", "x", "size"])
    return ShardWork(0, 0, patches, sources), films


@pytest.mark.parametrize("bits", [8, 16])
def test_patches_are_the_films_pixels_in_their_depth(tmp_path: Path, bits: int) -> None:
    work, films = shard_of(tmp_path, bits)
    run = tmp_path / "run"
    store.create_patches(run / "patches.zarr", 12, SIZE, StoreSettings(), bits)
    assert not extract_shard(work, run, tmp_path).skipped
    stored = store.open_patches(run / "patches.zarr").read().result()
    assert stored.dtype == np.dtype(f"uint{bits}")
    receipt = valid_receipt(run, 0)
    assert receipt is not None
    for row in work.patches.itertuples():
        expected = films[row.image_id][row.y : row.y + SIZE, row.x : row.x + SIZE]
        assert np.array_equal(stored[row.Index], expected)
        assert receipt["mean"][row.Index] == pytest.approx(expected.mean())
        assert receipt["std"][row.Index] == pytest.approx(expected.std())
    assert stored.max() > 0.9 * 2**bits
    assert extract_shard(work, run, tmp_path).skipped


def test_a_film_of_another_depth_than_the_array_is_refused(tmp_path: Path) -> None:
    work, _ = shard_of(tmp_path, 16)
    store.create_patches(tmp_path / "run" / "patches.zarr", 12, SIZE, StoreSettings(), 8)
    with pytest.raises(DamagedFileError, match=r"a.png: the cleaned film is uint16, the patches are to be uint8"):
        extract_shard(work, tmp_path / "run", tmp_path)


def test_a_film_that_is_gone_or_changed_is_refused(tmp_path: Path) -> None:
    work, _ = shard_of(tmp_path, 8)
    store.create_patches(tmp_path / "run" / "patches.zarr", 12, SIZE, StoreSettings())
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(DamagedFileError, match=r"b.png: the cleaned film was changed"):
        extract_shard(work, tmp_path / "run", tmp_path)
    (tmp_path / "b.png").unlink()
    with pytest.raises(DamagedFileError, match=r"b.png: the cleaned film is gone"):
        extract_shard(work, tmp_path / "run", tmp_path)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_keeps_its_depth(bits: int) -> None:
    pixels = np.arange(256, dtype=f"uint{bits}").reshape(16, 16) * (2 ** (bits - 8))
    decoded = decode_png(cv2.imencode(".png", pixels)[1].tobytes())
    assert decoded.dtype == pixels.dtype
    assert np.array_equal(decoded, pixels)
