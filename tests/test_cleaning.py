"""From a film's pixels to a cleaned image."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_etl.cleaning import blacken, clean_film, to_8bit, to_16bit
from mammo_etl.files import SourceFileError
from mammo_etl.film import Film
from mammo_etl.records import Reason
from mammo_etl.settings import CleaningSettings


def film(bits: int) -> NDArray[np.uint16]:
    """A breast at the left edge of a film of that depth."""
    mask = np.zeros((900, 600), np.uint8)
    cv2.ellipse(mask, (0, 450), (380, 340), 0, -90, 90, 255, cv2.FILLED)
    random = np.random.default_rng(0)
    levels = random.normal(0.04, 0.004, mask.shape) + (mask > 0) * random.normal(0.4, 0.06, mask.shape)
    return np.clip(levels * (2**bits - 1), 0, 2**bits - 1).astype(np.uint16)


def test_sixteen_and_twelve_bits_keep_their_scale() -> None:
    assert to_8bit(np.array([[0, 257, 32896, 65535]], np.uint16), 16).tolist() == [[0, 1, 128, 255]]
    assert to_8bit(np.array([[0, 2048, 4095, 5000]], np.uint16), 12).tolist() == [[0, 128, 255, 255]]
    assert to_16bit(np.array([[0, 2048, 4095, 5000]], np.uint16), 12).tolist() == [[0, 32776, 65535, 65535]]
    assert to_8bit(np.array([[300]], np.uint16), 8).tolist() == [[255]]
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(to_8bit(eight, 8), eight)
    assert np.array_equal(to_16bit(eight, 8), eight.astype(np.uint16) * 257)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_mask_can_be_had_back_from_the_image(dtype: type) -> None:
    grey = np.random.default_rng(0).integers(0, 3, (40, 30)).astype(dtype)
    mask = np.where(np.random.default_rng(1).random(grey.shape) > 0.5, 255, 0).astype(np.uint8)
    cleaned = blacken(grey, mask)
    assert cleaned.dtype == dtype
    assert np.array_equal(cleaned > 0, mask > 0)
    assert np.array_equal(cleaned[mask > 0], np.maximum(grey, 1)[mask > 0])


@pytest.mark.parametrize("bits", [12, 16])
def test_eight_or_sixteen_bits(bits: int) -> None:
    pixels = film(bits)
    eight = clean_film(Film(pixels, bits), bits, "", "", CleaningSettings())
    sixteen = clean_film(Film(pixels, bits), bits, "", "", CleaningSettings(bits=16))
    box = eight.breast.box
    assert sixteen.breast.box == box
    assert (eight.image.dtype, sixteen.image.dtype) == (np.uint8, np.uint16)
    assert eight.image.shape == sixteen.image.shape == (box.height, box.width)
    inside = eight.image > 0
    assert np.array_equal(sixteen.image > 0, inside)
    whole = pixels[box.y : box.bottom, box.x : box.right]
    assert np.abs(eight.image[inside] - whole[inside] * (255 / (2**bits - 1))).max() <= 0.51
    assert np.abs(sixteen.image[inside] - whole[inside] * (65535 / (2**bits - 1))).max() <= 0.51


def test_the_window_decides_the_grey_levels_and_not_the_mask() -> None:
    pixels = film(12)
    # All below half of the scale is shown black, skin and fat among it.
    display = np.clip((np.arange(4096) - 1800) * 40, 0, 65535).astype(np.uint16)
    plain = clean_film(Film(pixels, 12), 12, "", "", CleaningSettings())
    shown = clean_film(Film(pixels, 12, display), 12, "", "", CleaningSettings())
    assert np.array_equal(shown.breast.mask, plain.breast.mask)
    box, inside = shown.breast.box, shown.image > 0
    expected = np.rint(display[pixels[box.y : box.bottom, box.x : box.right]] / 257)
    assert np.abs(shown.image[inside] - np.maximum(expected, 1)[inside]).max() <= 1


def test_a_window_that_shows_nothing_of_the_breast_is_not_used() -> None:
    pixels = film(12)
    plain = clean_film(Film(pixels, 12), 12, "", "", CleaningSettings())
    for display in (np.zeros(4096, np.uint16), np.full(4096, 65535, np.uint16)):
        shown = clean_film(Film(pixels, 12, display), 12, "", "", CleaningSettings())
        assert np.array_equal(shown.image, plain.image)


def test_no_breast() -> None:
    with pytest.raises(SourceFileError) as raised:
        clean_film(Film(np.zeros((900, 600), np.uint16), 16), 16, "", "", CleaningSettings())
    assert raised.value.code is Reason.NO_BREAST
