"""What a network is to learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_model.feed import PatchFeed, Position
from mammo_model.sampling import SamplingPlan
from mammo_model.settings import TrainingSettings

WeightedBatch = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32]]
"""Patches (batch, size, size, 1), their classes (batch,) and their weights in the loss (batch,)."""


@dataclass(frozen=True)
class Task:
    """What is to be learned."""

    settings: TrainingSettings
    feed: PatchFeed
    """The train split."""
    plan: SamplingPlan
    """What an epoch takes of it."""
    validation: PatchFeed
    """The validation split."""
    weights: NDArray[np.float32]
    """Weight of each class in the loss, (classes,)."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return self.feed.batches_of(len(self.plan))

    def batches(self, start: Position, epochs: int) -> Iterator[WeightedBatch]:
        """What is fed from `start` on until so many epochs are done."""
        for patches, targets in self.feed.shuffled(self.plan, self.settings.seed, epochs, start):
            yield patches, targets, self.weights[targets]
