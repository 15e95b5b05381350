"""Saving a training at the end of each epoch, and taking it up again.

Keras' BackupAndRestore writes weights and epoch number into two files, one after the other: killed between them, it repeats an epoch
on weights that have already learned it; killed in the very first backup, it can never start again. Its ModelCheckpoint forgets
the best loss over a restart. Here one renamed file is the state, and its name is its epoch.
"""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mammo_etl.places import Place, local_copy
from mammo_etl.workspace import entries, replacing

_STATE = re.compile(r"state-(\d+)\.weights\.h5")

Row = dict[str, float]
"""One epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, seconds."""


def write_history(path: Path, rows: list[Row]) -> None:
    """Rows as CSV; every float is written so that it reads back exactly."""
    with path.open("w", encoding="ascii", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_history(path: Place) -> list[Row]:
    """Rows of a file that `write_history` wrote."""
    return [
        {name: int(text) if name == "epoch" else float(text) for name, text in row.items()}
        for row in csv.DictReader(path.read_text(encoding="ascii").splitlines())
    ]


@dataclass
class Checkpoints:
    """What is kept of a training in progress.

    `state-N.weights.h5` holds weights and optimiser after N epochs; `best-N.keras` the model of the epoch with the least
    validation loss so far. The state is written last: an epoch whose state is missing is trained again.
    """

    folder: Place
    """Folder of those files."""
    history_path: Place
    """history.csv: one row per epoch since the first, whatever the restarts."""
    rows: list[Row] = field(default_factory=list)
    """Rows of the history, in order; `epoch` counts from 1."""

    @classmethod
    def restore(cls, folder: Place, history_path: Place, model: Any) -> Self:
        """Brings a compiled model to the last saved state, if there is one."""
        checkpoints = cls(folder, history_path)
        epochs = [int(match[1]) for path in entries(folder) if (match := _STATE.fullmatch(path.name))]
        if epochs:
            done = max(epochs)
            model.optimizer.build(model.trainable_variables)
            with local_copy(checkpoints._state(done)) as file:
                model.load_weights(file)
            checkpoints.rows = read_history(history_path)[:done]
        return checkpoints

    @property
    def done(self) -> int:
        """Epochs trained so far."""
        return len(self.rows)

    @property
    def best_epoch(self) -> int | None:
        """Epoch, from 1, with the least validation loss; None before the first whose loss is a number."""
        losses = {int(row["epoch"]): row["val_loss"] for row in self.rows if row["val_loss"] == row["val_loss"]}
        return min(losses, key=lambda epoch: losses[epoch]) if losses else None

    @property
    def best_path(self) -> Place | None:
        """The model of the best epoch."""
        return None if self.best_epoch is None else self.folder / f"best-{self.best_epoch}.keras"

    def save(self, model: Any, row: Row) -> None:
        """Saves the model at the end of an epoch with that epoch's row of the history."""
        self.rows.append(row)
        if self.best_epoch == self.done and self.best_path is not None:
            with replacing(self.best_path) as temporary:
                model.save(temporary)
        with replacing(self.history_path) as temporary:
            write_history(temporary, self.rows)
        with replacing(self._state(self.done)) as temporary:
            model.save_weights(temporary)
        self._forget_others()

    def _state(self, epochs: int) -> Place:
        return self.folder / f"state-{epochs}.weights.h5"

    def _forget_others(self) -> None:
        for path in entries(self.folder):
            if path not in (self._state(self.done), self.best_path):
                path.unlink()
