"""Cleaned films as PNG files."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mammo_etl.png import decode_png, encode_png


@given(arrays(st.sampled_from([np.uint8, np.uint16]), array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_what_is_written_is_read(image: np.ndarray) -> None:
    content = encode_png(image)
    read = decode_png(content)
    assert read.dtype == image.dtype
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_other_readers_read_it(dtype: type) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (61, 47), dtype=dtype, endpoint=True)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)


def test_a_film_is_as_small_as_opencv_makes_it() -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (900, 700), np.uint8), (0, 0), 6)
    smooth[:, 300:] = 0
    _, others = cv2.imencode(".png", smooth, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    assert len(encode_png(smooth)) < 1.1 * len(others)
