"""Random textures."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def power_law_noise(rng: np.random.Generator, rows: int, columns: int, beta: float, *, stretch: float = 1.0) -> Floats:
    """Noise of mean 0 and standard deviation 1 whose power falls as 1/f^beta; mammograms have a beta of about 3.

    `stretch` above 1 draws structures out along the rows, below 1 along the columns.

    Source: Burgess, Jacobson and Judy, Human observer detection experiments with mammograms and power-law noise, Med Phys 28,
    2001.
    """
    # Fourier transforms are slow at sizes with large prime factors, and noise made by them repeats at the borders.
    height, width = cv2.getOptimalDFTSize(rows + rows // 8), cv2.getOptimalDFTSize(columns + columns // 8)
    fy = np.fft.fftfreq(height)[:, None].astype(np.float32)
    fx = np.fft.rfftfreq(width)[None, :].astype(np.float32) * np.float32(stretch)
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), np.float32)) * frequency ** (-beta / 2)
    noise = np.fft.irfft2(spectrum, (height, width))[:rows, :columns]
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def rescaled(image: Floats, rows: int, columns: int) -> Floats:
    """The image enlarged or reduced to (rows, columns), bilinearly."""
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


def smooth_noise(rng: np.random.Generator, rows: int, columns: int, wavelength: float) -> Floats:
    """Noise of mean 0 and standard deviation 1 without structure finer than `wavelength` pixels."""
    step = max(1.0, wavelength / 4)
    coarse = rng.standard_normal((round(rows / step) + 3, round(columns / step) + 3), np.float32)
    coarse = np.asarray(cv2.GaussianBlur(coarse, (0, 0), 1.0), np.float32)
    noise = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)
