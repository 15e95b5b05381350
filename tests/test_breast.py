"""Finding the breast."""

import cv2
import numpy as np
import pytest

from mammo_etl.breast import blacken, find_breast, to_8bit
from mammo_etl.settings import CleaningSettings

ROWS, COLUMNS = 1200, 800


def film(left: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A breast at one edge, a label, a frame along the edges and a scratch; and the breast alone."""
    random = np.random.default_rng(1)
    truth = np.zeros((ROWS, COLUMNS), np.uint8)
    cv2.ellipse(truth, (0, ROWS // 2), (500, 450), 0, -90, 90, 255, cv2.FILLED)
    grey = random.normal(12, 2, truth.shape) + (truth > 0) * random.normal(110, 15, truth.shape)
    grey[100:160, 600:760] = 240
    grey[:6], grey[-6:] = 250, 250
    grey[:, -6:] = 250
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    cv2.line(grey, (550, 0), (700, ROWS), 200, 2)
    return (grey, truth) if left else (grey[:, ::-1].copy(), truth[:, ::-1].copy())


@pytest.mark.parametrize("left", [True, False])
def test_the_breast_is_kept_and_everything_else_blackened(left: bool) -> None:
    grey, truth = film(left)
    breast = find_breast(grey, CleaningSettings())
    assert breast is not None
    found, known = breast.mask > 0, truth > 0
    assert (found & known).sum() / (found | known).sum() > 0.98
    clean = blacken(grey, breast.mask)
    assert np.array_equal(clean > 0, found)
    assert np.array_equal(clean[found], np.maximum(grey, 1)[found])
    box = breast.box
    assert found[box.y : box.bottom, box.x : box.right].sum() == found.sum()
    assert found[box.y].any()
    assert found[:, box.x].any()
    assert 0.36 < breast.area_share < 0.38
    assert breast.solidity > 0.97
    assert 0 < breast.border_contact < 0.4


def test_holes_are_filled() -> None:
    grey, _truth = film()
    cv2.circle(grey, (200, 600), 60, 5, cv2.FILLED)
    breast = find_breast(grey, CleaningSettings())
    assert breast is not None
    assert breast.mask[600, 200] == 255


def test_a_film_without_a_breast() -> None:
    assert find_breast(np.zeros((ROWS, COLUMNS), np.uint8), CleaningSettings()) is None


def test_sixteen_and_twelve_bits_keep_their_scale() -> None:
    assert to_8bit(np.array([[0, 257, 32896, 65535]], np.uint16), 16).tolist() == [[0, 1, 128, 255]]
    assert to_8bit(np.array([[0, 2048, 4095, 5000]], np.uint16), 12).tolist() == [[0, 128, 255, 255]]
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(to_8bit(eight, 8), eight)
