"""What a film's statistics see, and above all what they do not."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_etl.breast import Breast, find_breast
from mammo_etl.film import Film
from mammo_etl.film_statistics import film_statistics
from mammo_etl.records import Box
from mammo_etl.roi import Region
from mammo_etl.settings import CleaningSettings


def region(y: int, x: int, height: int, width: int) -> Region:
    return Region("f", 1, Box(y, x, height, width), np.full((height, width), 255, np.uint8))


def film(rows: int = 1700, columns: int = 900) -> tuple[NDArray[np.uint8], Breast]:
    """Noisy tissue of grey level 100 to 140 in the left half, black of 0 to 4 beside it."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 5, (rows, columns), dtype=np.uint8)
    grey[:, : columns // 2] = rng.integers(100, 141, (rows, columns // 2), dtype=np.uint8)
    mask = np.zeros((rows, columns), np.uint8)
    mask[:, : columns // 2] = 255
    return grey, Breast(mask, Box(0, 0, rows, columns // 2), 0.5, 1.0, 0.5, 1.0, 1.0)


def test_no_pixel_of_a_lesion_counts() -> None:
    grey, breast = film()
    # One in the tissue, one across the skin line, and one over the film's corner; their edges lie on no round number.
    lesions = [region(301, 57, 333, 211), region(1000, 401, 97, 133), region(1693, 881, 7, 19)]
    before = film_statistics(Film(grey, 8), breast, lesions)
    rng = np.random.default_rng(1)
    for lesion in lesions:
        box = lesion.box
        grey[box.y : box.bottom, box.x : box.right] = rng.integers(0, 256, (box.height, box.width))
    assert film_statistics(Film(grey, 8), breast, lesions) == before
    assert film_statistics(Film(grey, 8), breast, []) != before


def test_pixels_beside_a_lesion_count() -> None:
    # A film so low that every row is looked at.
    grey, breast = film(rows=200)
    lesion = region(61, 57, 33, 211)
    before = film_statistics(Film(grey, 8), breast, [lesion])
    for y, x in [(60, 57), (61, 56), (93, 268), (94, 267)]:
        other = grey.copy()
        other[y, x] = 255
        assert film_statistics(Film(other, 8), breast, [lesion]) != before
    grey[[61, 93], [57, 267]] = 255
    assert film_statistics(Film(grey, 8), breast, [lesion]) == before


def test_by_hand() -> None:
    grey, breast = film()
    values = film_statistics(Film(grey, 8), breast, [])
    assert values["aspect"] == pytest.approx(1700 / 900, abs=1e-5)
    assert values["tissue_p50"] == pytest.approx(120, abs=1)
    assert values["tissue_p05"] == pytest.approx(102, abs=1)
    assert values["tissue_spread"] == pytest.approx(math.sqrt((41**2 - 1) / 12), rel=0.02)
    # Mean difference of two independent draws from n equal levels: (n * n - 1) / (3 n).
    assert values["tissue_noise"] == pytest.approx((41**2 - 1) / (3 * 41), rel=0.02)
    assert values["background_noise"] == pytest.approx((5**2 - 1) / (3 * 5), rel=0.02)
    assert values["tissue_sharpness"] == pytest.approx(1, rel=0.02)
    for part in ("background", "border"):
        assert values[f"{part}_zero"] == pytest.approx(0.2, abs=0.01)
        assert values[f"{part}_mean"] == pytest.approx(2, abs=0.1)
    # The strip of 17 pixels takes 2 * 17 rows of the right half, and 17 columns at the right.
    assert values["background_share"] == pytest.approx((1700 - 34) * (450 - 17) / (1700 * 900), abs=0.01)
    assert values["white"] == 0


def test_a_blurred_film_is_less_sharp_and_a_clamped_one_less_noisy() -> None:
    grey, breast = film()
    sharp = film_statistics(Film(grey, 8), breast, [])
    blurred = film_statistics(Film(np.asarray(cv2.GaussianBlur(grey, (7, 7), 0), np.uint8), 8), breast, [])
    assert blurred["tissue_sharpness"] < 0.8 * sharp["tissue_sharpness"]
    clamped = film_statistics(Film(np.where(grey < 5, 0, grey).astype(np.uint8), 8), breast, [])
    assert clamped["background_noise"] == 0
    assert clamped["background_zero"] == clamped["border_zero"] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 40), (1023, 700)])
@pytest.mark.parametrize("everything", [0, 255])
def test_films_without_a_part_give_numbers(shape: tuple[int, int], everything: int) -> None:
    breast = Breast(np.full(shape, everything, np.uint8), Box(0, 0, *shape), 1.0, 1.0, 1.0, 1.0, 1.0)
    grey = np.full(shape, 255, np.uint8)
    for lesions in ([], [region(0, 0, *shape)]):
        values = film_statistics(Film(grey, 8), breast, lesions)
        assert all(type(value) is float and math.isfinite(value) for value in values.values())
        assert values["white"] == (0 if lesions else 1)
        json.dumps(values, allow_nan=False)


def test_a_real_film(realdata: Path) -> None:
    grey = np.asarray(cv2.imread(str(realdata / "cbis_png" / "P_00060_RIGHT_CC.png"), cv2.IMREAD_GRAYSCALE), np.uint8)
    breast = find_breast(grey, CleaningSettings())
    assert breast is not None
    values = film_statistics(Film(grey, 8), breast, [])
    assert values["tissue_p05"] < values["tissue_p50"] < values["tissue_p95"] <= 255
    assert values["background_mean"] < values["tissue_p05"]
    assert 0 < values["tissue_sharpness"] < 1
    assert values == film_statistics(Film(grey.copy(), 8), breast, [])
