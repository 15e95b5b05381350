"""How a model run tells its caller how far it is; the work itself prints nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _ignore(*_: object) -> None:
    """Hears and says nothing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Functions that are called as the work goes on, in the thread that does it. What they raise ends the work."""

    on_stage: Callable[[str], None] = _ignore
    """A stage begins: training, evaluation, figures, export (where it can be done) or report."""
    on_epoch: Callable[[int, int, Mapping[str, float]], None] = _ignore
    """An epoch is done and saved: epochs done, epochs in all, and its row of history.csv."""
    on_batch: Callable[[int, int], None] = _ignore
    """A batch is done: batches done, batches in all, of this epoch in training or of all splits in evaluation."""


SILENT = Progress()
"""Tells nobody."""
