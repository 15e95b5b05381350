"""How a DICOM file's maker means its pixels to be shown."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing


@dataclass(frozen=True, slots=True)
class Window:
    """The first window of a file (PS3.3 C.11.2)."""

    centre: float
    width: float
    function: str
    """LINEAR, LINEAR_EXACT or SIGMOID."""
    slope: float
    """Of the rescaling that comes before the window (PS3.3 C.11.1)."""
    intercept: float


def parse_window(text: Callable[[str], str]) -> Window | None:
    """The first window of a header, of which `text` gives the fields by keyword.

    None if there is none, or none that can be used: the pixels then speak for themselves.
    """
    function = text("VOILUTFunction").upper() or "LINEAR"
    try:
        centre, width = (float(text(keyword).split("\\")[0]) for keyword in ("WindowCenter", "WindowWidth"))
        slope, intercept = float(text("RescaleSlope") or 1), float(text("RescaleIntercept") or 0)
    except ValueError:
        return None
    window = Window(centre, width, function, slope, intercept)
    least = 1 if function == "LINEAR" else 0
    usable = width > least and slope > 0 and all(map(math.isfinite, (centre, width, slope, intercept)))
    return window if usable and function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else None


def display_of(window: Window, bits: int) -> NDArray[np.uint16]:
    """Grey level, 0 to 65535, of each stored value below 2**bits; it rises with the value, whatever its photometric interpretation."""
    dataset = Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelRepresentation = 0
    dataset.BitsStored = bits
    dataset.WindowCenter, dataset.WindowWidth = window.centre, window.width
    dataset.VOILUTFunction = window.function
    levels = np.arange(1 << bits, dtype=np.float64)
    shown = apply_windowing(levels * window.slope + window.intercept, dataset)
    return np.rint(shown * (65535 / (len(levels) - 1))).astype(np.uint16)
