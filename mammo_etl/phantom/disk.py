"""Writing whole files: readers find a file complete or not at all."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def write_file(path: Path, content: bytes) -> None:
    """Write a file, with the folders above it, by renaming a finished one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write a mask of 0 and 255 as a PNG of one bit per pixel."""
    done, png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1])
    if not done:
        raise RuntimeError(f"{path}: OpenCV could not encode the mask as PNG")
    write_file(path, png.tobytes())
