"""Film labels with text: lead letters and stickers.

Each function gives a grey picture and a mask (0 to 255) of how opaque it is, both (height, width).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.noise import Floats

Mask = NDArray[np.uint8]


def _glyphs(text: str, size: float) -> Mask:
    """Text as a tight mask, `size` pixels high."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = size / 22
    thickness = max(1, round(size / 7))
    (width, height), base = cv2.getTextSize(text, font, scale, thickness)
    canvas = np.zeros((height + base + 2 * thickness, width + 2 * thickness), np.uint8)
    cv2.putText(canvas, text, (thickness, height + thickness), font, scale, 255, thickness, cv2.LINE_AA)
    x, y, w, h = cv2.boundingRect(canvas)
    return canvas[y : y + h, x : x + w]


def lead_letters(rng: np.random.Generator, text: str, size: float) -> tuple[Floats, Mask]:
    """Letters of lead laid on the film: blurred, grey to white, in any direction."""
    glyphs = _glyphs(text, size)
    half = round(np.hypot(*glyphs.shape) / 2) + 2
    angle = float(rng.choice([0.0, 90.0, rng.uniform(-60, 60)]))
    turn = cv2.getRotationMatrix2D((glyphs.shape[1] / 2, glyphs.shape[0] / 2), angle, 1)
    turn[:, 2] += half - np.array([glyphs.shape[1] / 2, glyphs.shape[0] / 2])
    turned = cv2.warpAffine(glyphs, turn, (2 * half, 2 * half))
    x, y, w, h = cv2.boundingRect(turned)
    shape = cv2.GaussianBlur(turned[y : y + h, x : x + w], (0, 0), max(0.4, size / 60))
    return np.full(shape.shape, rng.uniform(0.3, 0.9), np.float32), np.asarray(shape, np.uint8)


def sticker(rng: np.random.Generator, text: str, size: float) -> tuple[Floats, Mask]:
    """A white label with dark text and lines of smaller print below."""
    glyphs = _glyphs(text, size)
    pad = round(size / 2)
    height, width = glyphs.shape[0] * 2 + 2 * pad, glyphs.shape[1] + 2 * pad
    picture = np.full((height, width), rng.uniform(0.8, 0.95), np.float32)
    ink = cv2.copyMakeBorder(
        glyphs, pad, height - pad - glyphs.shape[0], pad, width - pad - glyphs.shape[1], cv2.BORDER_CONSTANT
    )
    for line in range(2):
        y = pad + round(glyphs.shape[0] * (1.45 + 0.35 * line))
        step = max(2, round(size / 5))
        for x in range(pad, width - pad - step, step):
            if rng.random() < 0.75:
                ink[y : y + max(1, step // 2), x : x + max(1, step * 2 // 3)] = 255
    picture *= 1 - 0.7 * ink.astype(np.float32) / 255
    if rng.random() < 0.4:
        picture = np.ascontiguousarray(np.rot90(picture))
    return picture, np.full(picture.shape, 255, np.uint8)
