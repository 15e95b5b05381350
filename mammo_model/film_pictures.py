"""Pictures of a scored film: each class's probability over the film, and the lesion candidates."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.cleaning import to_8bit
from mammo_etl.dicom import Pixels
from mammo_etl.records import Box
from mammo_model.heatmap import Heatmap, LesionCandidate

Picture = NDArray[np.uint8]
"""(rows, columns, 3), blue, green and red, as OpenCV takes it."""

LARGEST = 1200
"""Most rows or columns of the film on a picture."""

_HEADER, _BAR, _MARGIN = 56, 76, 12
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _GREY, _BOX = (240, 240, 240), (150, 150, 150), (90, 220, 255)
_OPACITY = 0.6
"""Of the colour where the probability is 1."""


def class_picture(
    image: Pixels, box: Box, shape: tuple[int, int], heatmap: Heatmap, index: int, title: str, note: str
) -> Picture:
    """The film, rows x columns of `shape`, coloured by the probability of the class of that index, with a scale beside it."""
    film, scale = _film(image, box, shape)
    rows, columns = heatmap.breast.shape
    size = (max(1, round(columns * heatmap.cell * scale)), max(1, round(rows * heatmap.cell * scale)))
    probability = np.asarray(
        cv2.resize(heatmap.probabilities[..., index], size, interpolation=cv2.INTER_LINEAR), np.float32
    )
    top = min(round(heatmap.box.y * scale), film.shape[0] - 1)
    left = min(round(heatmap.box.x * scale), film.shape[1] - 1)
    part = film[top : top + probability.shape[0], left : left + probability.shape[1]]
    shown = probability[: part.shape[0], : part.shape[1], np.newaxis]
    # Outside the breast nothing was asked.
    opacity = _OPACITY * np.sqrt(shown) * (part.max(axis=2, keepdims=True) > 0)
    part[:] = np.rint(part * (1 - opacity) + _coloured(shown[..., 0]) * opacity).astype(np.uint8)
    return _framed(film, title, note, _scale_bar(film.shape[0]))


def candidates_picture(
    image: Pixels, box: Box, shape: tuple[int, int], lesions: list[LesionCandidate], title: str, note: str
) -> Picture:
    """The film with a box, number and score for each candidate."""
    film, scale = _film(image, box, shape)
    for number, lesion in enumerate(lesions, start=1):
        corners = np.array([[lesion.box.x, lesion.box.y], [lesion.box.right, lesion.box.bottom]]) * scale
        (x0, y0), (x1, y1) = np.rint(corners).astype(int).tolist()
        cv2.rectangle(film, (x0, y0), (x1, y1), _BOX, 2)
        text = f"{number}: {lesion.label_name} {lesion.scores['abnormal']:.2f}"
        (width, height), _ = cv2.getTextSize(text, _FONT, 0.5, 1)
        x = min(max(x0, 2), max(film.shape[1] - width - 4, 2))
        y = y0 - 6 if y0 > height + 10 else min(y1 + height + 6, film.shape[0] - 4)
        cv2.rectangle(film, (x - 2, y - height - 2), (x + width + 2, y + 4), (0, 0, 0), cv2.FILLED)
        _write(film, text, (x, y), 0.5, _BOX)
    return _framed(film, title, note, np.zeros((film.shape[0], 0, 3), np.uint8))


def encoded(picture: Picture) -> bytes:
    """A picture as PNG."""
    ok, content = cv2.imencode(".png", picture)
    assert ok
    return bytes(content)


def _film(image: Pixels, box: Box, shape: tuple[int, int]) -> tuple[Picture, float]:
    """The film in its frame, reduced, and how far: cleaned pixels `image` of `box`, black elsewhere."""
    scale = min(1.0, LARGEST / max(shape))
    whole = np.zeros(shape, np.uint8)
    # Breast stays above 0, as it is where there is colour.
    whole[box.y : box.bottom, box.x : box.right] = np.maximum(to_8bit(image, image.dtype.itemsize * 8), image > 0)
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    reduced = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(reduced, cv2.COLOR_GRAY2BGR), np.uint8), scale


def _coloured(probability: NDArray[np.float32]) -> Picture:
    levels = np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)


def _scale_bar(rows: int) -> Picture:
    """The colours from 0 to 1, (rows, _BAR)."""
    bar = np.zeros((rows, _BAR, 3), np.uint8)
    height = max(rows - 2 * _MARGIN, 2)
    levels = np.linspace(1, 0, height, dtype=np.float32)[:, np.newaxis]
    bar[_MARGIN : _MARGIN + height, 14:34] = _coloured(np.repeat(levels, 20, axis=1))
    for value in (0.0, 0.5, 1.0):
        y = _MARGIN + round((1 - value) * (height - 1))
        _write(bar, f"{value:.1f}", (40, min(max(y + 5, 14), rows - 4)), 0.45, _WHITE)
    return bar


def _framed(film: Picture, title: str, note: str, beside: Picture) -> Picture:
    """The film below a title and a smaller note."""
    body = np.concatenate([film, beside], axis=1)
    lines = ((title, 24, 0.6, _WHITE), (note, 46, 0.42, _GREY))
    width = max(body.shape[1], *(cv2.getTextSize(text, _FONT, size, 1)[0][0] + 20 for text, _, size, _ in lines))
    page = np.zeros((_HEADER + body.shape[0], width, 3), np.uint8)
    page[_HEADER:, : body.shape[1]] = body
    for text, y, size, colour in lines:
        _write(page, text, (8, y), size, colour)
    return page


def _write(picture: Picture, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, place, _FONT, size, colour, 1, cv2.LINE_AA)
