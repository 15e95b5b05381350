"""Saving a training, also within an epoch, and taking it up again.

Keras' BackupAndRestore writes weights and epoch number into two files, one after the other: killed between them, it repeats an epoch
on weights that have already learned it; killed in the very first backup, it can never start again. Its ModelCheckpoint forgets
the best model over a restart, and neither keeps the state of random numbers and metrics. Here one file, renamed when it is whole, is the state.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_etl.places import Place
from mammo_etl.workspace import entries, replacing
from mammo_model.feed import Position

Row = dict[str, float]
"""One epoch: epoch (from 1), loss, accuracy, val_loss, val_accuracy, val_macro_f1, seconds."""


def write_history(path: Path, rows: Sequence[Row]) -> None:
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


def best_epoch(rows: Sequence[Row]) -> int | None:
    """Epoch, from 1, with the highest macro F1 on the validation split, of equal ones that with the least loss there; None before the first
    whose loss is a number."""
    numbers = [row for row in rows if np.isfinite(row["val_loss"])]
    best = max(numbers, key=lambda row: (row["val_macro_f1"], -row["val_loss"]), default=None)
    return None if best is None else int(best["epoch"])


@dataclass(frozen=True)
class Progressed:
    """How far a training is, besides its variables."""

    precision: str
    """Dtype policy of the network: with another one it has other variables."""
    rows: list[Row] = field(default_factory=list)
    """One per whole epoch."""
    step: int = 0
    """Batches of the epoch after them."""
    seconds: float = 0.0
    """Time that these took."""

    @property
    def position(self) -> Position:
        """Where the feed goes on."""
        return Position(len(self.rows), self.step)


def variables_of(model: Any) -> list[Any]:
    """Everything that training changes: weights, states of random numbers, the optimiser and, for the epoch under way, the metrics."""
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


@dataclass(frozen=True)
class Checkpoints:
    """What is kept of a training in progress.

    `state.npz` holds all of its state; `best-N.keras` the network of the best epoch so far. The state is written last: what is not in it is done
    again, and as it holds the random numbers' state too, done in the same way.
    """

    folder: Place
    """Folder of those files."""
    history_path: Place
    """history.csv: one row per epoch since the first, whatever the restarts."""

    @property
    def state_path(self) -> Place:
        """The state."""
        return self.folder / "state.npz"

    def read(self) -> tuple[Progressed, list[NDArray[Any]]] | None:
        """How far the training is and the values of its variables; None if there is no state."""
        if not self.state_path.exists():
            return None
        with np.load(io.BytesIO(self.state_path.read_bytes()), allow_pickle=False) as state:
            about = json.loads(str(state["about"]))
            return Progressed(**about), [state[f"v{index}"] for index in range(len(state.files) - 1)]

    def best_path(self, rows: Sequence[Row]) -> Place | None:
        """The network of the best of these epochs."""
        best = best_epoch(rows)
        return None if best is None else self.folder / f"best-{best}.keras"

    def save(self, model: Any, progressed: Progressed) -> None:
        """Saves the state of a model in training."""
        values = {f"v{index}": np.asarray(variable) for index, variable in enumerate(variables_of(model))}
        with replacing(self.state_path) as temporary:
            np.savez(temporary, allow_pickle=False, about=np.array(json.dumps(asdict(progressed))), **values)

    def save_epoch(self, model: Any, network: Any, progressed: Progressed) -> None:
        """Saves the state at the end of an epoch, its row of the history being the last, and the network, which has the model's weights, if that epoch is
        the best so far."""
        rows = progressed.rows
        best = self.best_path(rows)
        if best is not None and best_epoch(rows) == len(rows):
            with replacing(best) as temporary:
                network.save(temporary)
        with replacing(self.history_path) as temporary:
            write_history(temporary, rows)
        self.save(model, progressed)
        for path in entries(self.folder):
            if path not in (self.state_path, best):
                path.unlink()
