"""Distances inside masks."""

import cv2
import numpy as np
from numpy.typing import NDArray


def distance_to_edge(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Euclidean distance in pixels from each pixel of the mask to the nearest one outside it; 0 outside.

    The frame's border does not count as outside.
    """
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    # OpenCV's last bit depends on the number of its threads; the square is a whole number.
    return np.asarray(np.sqrt(np.rint(distance * distance)), np.float32)
