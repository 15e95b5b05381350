"""Batches of patches, straight from the store, as NumPy arrays: no framework is needed here.

The store reads single patches so fast that every epoch can visit all of them in a new random order: no shuffle buffer, no second copy.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_etl.store import telling_faults
from mammo_model.sampling import SamplingPlan

Batch = tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.int64]]
"""Patches (batch, size, size, 1) and their classes (batch,)."""

READ_AHEAD = 4
"""Batches being read, on TensorStore's own threads, while one is in use: 10 MB at 32 patches of 256 pixels and 8 bits."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training is in its feed. The seed does the rest: nothing else is needed to feed on from there."""

    epoch: int = 0
    """Whole epochs fed."""
    step: int = 0
    """Batches fed of the epoch after them."""


START = Position()


@dataclass(frozen=True, eq=False)
class PatchFeed:
    """The patches of one split."""

    store: Any
    """TensorStore, (N, size, size) uint8 or uint16."""
    rows: NDArray[np.int64]
    """Rows of the store that belong to the split, (n,)."""
    targets: NDArray[np.int64]
    """Class of each of those rows, (n,)."""
    batch_size: int
    """Patches in a batch; the last one of an epoch may be smaller."""

    @property
    def size(self) -> int:
        """Height and width of a patch, pixels."""
        return int(self.store.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel as stored; its full range is what black to white is."""
        dtype: np.dtype[Any] = self.store.dtype.numpy_dtype
        return dtype

    def batches_of(self, patches: int) -> int:
        """Batches that so many patches make."""
        return -(-patches // self.batch_size)

    def __len__(self) -> int:
        """Batches of all patches of the split."""
        return self.batches_of(len(self.rows))

    def in_order(self) -> Iterator[Batch]:
        """Every patch once, in the order of `rows`."""
        return self._read(self._batches(np.arange(len(self.rows))))

    def shuffled(self, plan: SamplingPlan, seed: int, epochs: int, start: Position = START) -> Iterator[Batch]:
        """The batches of `epochs` epochs in all, from `start` on: each in its own order over the whole split, one right after the other."""

        def positions() -> Iterator[NDArray[np.int64]]:
            for epoch in range(start.epoch, epochs):
                skipped = start.step * self.batch_size if epoch == start.epoch else 0
                yield from self._batches(plan.epoch(seed, epoch)[skipped:])

        return self._read(positions())

    def _batches(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _read(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[Batch]:
        ahead: deque[tuple[Any, NDArray[np.int64]]] = deque()
        for positions in batches:
            ahead.append((self.store[self.rows[positions]].read(), self.targets[positions]))
            if len(ahead) > READ_AHEAD:
                yield _read_ahead(*ahead.popleft())
        for reading, targets in ahead:
            yield _read_ahead(reading, targets)


def _read_ahead(reading: Any, targets: NDArray[np.int64]) -> Batch:
    """A batch once TensorStore has read it; raises as `mammo_etl.store.read_rows`."""
    with telling_faults():
        return reading.result()[..., np.newaxis], targets
