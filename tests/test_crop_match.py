"""A cut-out is found at its own place, and at no other."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mammo_etl.crop_match import match_crop
from mammo_etl.records import Box

SCALE = 50 / 43.5


def tissue(seed: int, rows: int = 1200, columns: int = 900) -> NDArray[np.uint16]:
    """Clouds of several sizes, with grain: 16 bits."""
    random = np.random.default_rng(seed)
    film = np.zeros((rows, columns), np.float32)
    for octave in (8, 16, 32, 64, 128):
        noise = random.standard_normal((rows // octave + 2, columns // octave + 2)).astype(np.float32)
        film += octave**0.7 * cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)
    film += 2 * random.standard_normal((rows, columns)).astype(np.float32)
    film = (film - film.min()) / (film.max() - film.min())
    return np.asarray(60000 * film, np.uint16)


FILM = tissue(0)


def cut(box: Box, margin: int = 0, film: NDArray[np.uint16] = FILM) -> NDArray[np.uint16]:
    return film[max(0, box.y - margin) : box.bottom + margin, max(0, box.x - margin) : box.right + margin]


places = st.tuples(st.integers(0, 1000), st.integers(0, 700), st.integers(12, 200), st.integers(12, 200))


@settings(deadline=None, max_examples=40)
@given(place=places, margin=st.integers(0, 60), gain=st.floats(0.2, 1.0), offset=st.integers(0, 5000))
def test_an_exact_copy_is_found_whatever_its_margin_and_linear_scale(
    place: tuple[int, int, int, int], margin: int, gain: float, offset: int
) -> None:
    """At the film's edges too, where the margin is cut off on one side."""
    box = Box(*place)
    crop = np.asarray(cut(box, margin) * gain + offset, np.uint16)
    match = match_crop(FILM, crop, box, [(1.0, 1.0)])
    assert match is not None
    assert match.found
    assert match.score > 0.98
    assert match.place == Box(max(0, box.y - margin), max(0, box.x - margin), *crop.shape)
    assert match.frames(box, *FILM.shape)


@settings(deadline=None, max_examples=40)
@given(place=places, margin=st.integers(0, 60))
def test_another_films_cut_out_is_not_found(place: tuple[int, int, int, int], margin: int) -> None:
    box = Box(*place)
    match = match_crop(FILM, cut(box, margin, tissue(1)), box, [(1.0, 1.0), (SCALE, SCALE)])
    assert match is not None
    assert not match.found


@pytest.mark.parametrize("size", [60, 200, 700])
def test_a_cut_out_from_elsewhere_on_the_film_is_not_found(size: int) -> None:
    crop = cut(Box(20, 30, size, size))
    far = Box(FILM.shape[0] - 60, FILM.shape[1] - 60, 40, 40)
    match = match_crop(FILM, crop, far, [(1.0, 1.0)])
    assert match is None or not match.found


@pytest.mark.parametrize("size", [120, 250, 600])
def test_a_cut_out_of_the_masks_scale_is_found_at_that_scale_alone(size: int) -> None:
    box = Box(150, 120, size, size)
    small = cv2.resize(cut(box, 10), None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA).astype(np.uint16)
    own = match_crop(FILM, small, box, [(1.0, 1.0)])
    both = match_crop(FILM, small, box, [(1.0, 1.0), (SCALE, SCALE)])
    assert own is not None
    assert both is not None
    assert (own.found, both.found) == (False, True)


def test_no_more_scales_are_tried_than_needed() -> None:
    box = Box(300, 300, 120, 90)
    scales = iter([(1.5, 1.5), (1.0, 1.0), (1.2, 1.2)])
    match = match_crop(FILM, cut(box), box, scales)
    assert match is not None
    assert match.found
    assert list(scales) == [(1.2, 1.2)]


def test_eight_bits_against_sixteen() -> None:
    box = Box(300, 300, 120, 90)
    match = match_crop(FILM, np.asarray(cut(box, 20) >> 8, np.uint8), box, [(1.0, 1.0)])
    assert match is not None
    assert match.found


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        (FILM[:7, :100], Box(0, 0, 7, 100)),
        (np.full((60, 60), 500, np.uint16), Box(10, 10, 60, 60)),
        (tissue(2, 400, 2000), Box(10, 10, 400, 800)),
    ],
    ids=["too small", "of one grey", "wider than the film"],
)
def test_what_tells_nothing(crop: NDArray[np.uint16], box: Box) -> None:
    film = FILM if crop.shape[1] < 1000 else FILM[:, :300]
    assert match_crop(film, crop, box, [(1.0, 1.0)]) is None


def test_a_black_film_shows_nothing() -> None:
    box = Box(300, 300, 90, 90)
    match = match_crop(np.zeros_like(FILM), cut(box), box, [(1.0, 1.0)])
    assert match is not None
    assert (match.score, match.found) == (0, False)
