"""From the answers to a film's patches to a map over the film, and to places that may be lesions."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.dicom import Pixels
from mammo_etl.records import Box
from mammo_model.levels import questions
from mammo_model.scoring_settings import ScoringSettings

CELLS = 32
"""Cells of the map along a patch: 8 pixels each, of patches of 256."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Probability of each class over a film's breast."""

    box: Box
    """What it covers of the film."""
    cell: int
    """Height and width of a cell, pixels."""
    probabilities: NDArray[np.float32]
    """(cell rows, cell columns, classes); 0 where no patch was scored."""
    breast: NDArray[np.bool_]
    """(cell rows, cell columns): whether there is any breast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionCandidate:
    """A place on a film that may be a lesion."""

    box: Box
    """The connected place above the threshold."""
    y: int
    """Row of its highest score, pixels of the film."""
    x: int
    """Column, likewise."""
    label_name: str
    """The most probable abnormal class there."""
    scores: dict[str, float]
    """`abnormal` and, of five classes, `malignant`, there: by these candidates are ranked."""
    probabilities: tuple[float, ...]
    """Of each class, there."""


def heatmap_of(places: NDArray[np.int64], answers: NDArray[np.float32], size: int, image: Pixels, box: Box) -> Heatmap:
    """The map of a film whose cleaned pixels are `image`, (box.height, box.width), 0 outside the breast.

    `places`: (n, 2) rows and columns of patches of `size` on the film; `answers`: (n, classes). Each cell has the mean of the patches over it, a patch weighing most
    in its middle and falling evenly to nothing at its edge. At half a patch's stride that interpolates between the patches' centres.
    """
    cell = max(1, size // CELLS)
    span = -(-size // cell)
    centres = (np.arange(span) + 0.5) * cell
    tent = np.maximum(1 - np.abs(2 * centres / size - 1), 1e-3).astype(np.float32)
    weight = np.outer(tent, tent)
    rows, columns = -(-box.height // cell), -(-box.width // cell)
    # Patches may begin above the box, or end below it, where the breast is smaller than one.
    sums = np.zeros((rows + 2 * span, columns + 2 * span, answers.shape[1]), np.float32)
    weights = np.zeros(sums.shape[:2], np.float32)
    for (y, x), answer in zip(places, answers, strict=True):
        top = round((y - box.y) / cell) + span
        left = round((x - box.x) / cell) + span
        sums[top : top + span, left : left + span] += weight[..., np.newaxis] * answer
        weights[top : top + span, left : left + span] += weight
    inside = np.s_[span : span + rows, span : span + columns]
    whole = np.zeros((rows * cell, columns * cell), np.bool_)
    whole[: box.height, : box.width] = image > 0
    breast = np.asarray(whole.reshape(rows, cell, columns, cell).any(axis=(1, 3)))
    # Where there is no patch, 0 of 0.
    probabilities = np.divide(sums[inside], np.maximum(weights[inside], 1e-9)[..., np.newaxis], dtype=np.float32)
    return Heatmap(box, cell, probabilities, breast)


def find_lesions(heatmap: Heatmap, classes: tuple[str, ...], settings: ScoringSettings) -> list[LesionCandidate]:
    """Connected places above the threshold, the highest score first."""
    asked = questions(classes)
    abnormal = heatmap.probabilities[..., asked["abnormal"]].sum(-1) * heatmap.breast
    count, numbers, boxes, _ = cv2.connectedComponentsWithStats(
        (abnormal > settings.threshold).astype(np.uint8), connectivity=8
    )
    found = []
    for number in range(1, count):
        row, column = divmod(int(np.where(numbers == number, abnormal, -1).argmax()), abnormal.shape[1])
        there = heatmap.probabilities[row, column]
        left, top, width, height = (int(value) * heatmap.cell for value in boxes[number][:4])
        found.append(
            LesionCandidate(
                box=Box(
                    heatmap.box.y + top,
                    heatmap.box.x + left,
                    min(height, heatmap.box.height - top),
                    min(width, heatmap.box.width - left),
                ),
                y=heatmap.box.y + min(int((row + 0.5) * heatmap.cell), heatmap.box.height - 1),
                x=heatmap.box.x + min(int((column + 0.5) * heatmap.cell), heatmap.box.width - 1),
                label_name=classes[1 + int(there[1:].argmax())],
                scores={name: float(there[positive].sum()) for name, positive in asked.items()},
                probabilities=tuple(map(float, there)),
            )
        )
    found.sort(key=lambda lesion: (-lesion.scores["abnormal"], lesion.y, lesion.x))
    return found[: settings.most_candidates]
