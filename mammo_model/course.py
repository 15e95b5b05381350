"""The course of a training: Keras' `fit`, and what happens as it goes on."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from mammo_model import backend
from mammo_model.checkpoints import Checkpoints, Progressed, Row, best_epoch
from mammo_model.feed import Position
from mammo_model.progress import Progress
from mammo_model.task import Task, WeightedBatch

MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1")
"""What the history holds of an epoch."""


def validate(model: Any, network: Any, task: Task) -> dict[str, float]:
    """val_loss, val_accuracy and val_macro_f1, the mean over the classes that the validation split has, of the network by the model's loss."""
    answers = [network.predict_on_batch(patches) for patches, _ in task.validation.in_order()]
    probabilities = np.concatenate([np.asarray(answer, np.float32) for answer in answers])
    targets, predicted = task.validation.targets, probabilities.argmax(1)
    loss = model.compute_loss(None, targets, probabilities, task.weights[targets], training=False)
    there = np.unique(targets)
    return {
        "val_loss": float(loss),
        "val_accuracy": float(accuracy_score(targets, predicted)),
        "val_macro_f1": float(f1_score(targets, predicted, labels=there, average="macro", zero_division=0)),
    }


class Course(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Follows `fit`: validates, saves, tells how far it is, and stops it when nothing gets better."""

    def __init__(
        self,
        task: Task,
        trained: Any,
        network: Any,
        checkpoints: Checkpoints,
        progressed: Progressed,
        progress: Progress,
        save_seconds: float,
    ) -> None:
        """`trained` is the model in its state so far, `network` the one without augmentation, which is what is kept."""
        super().__init__()
        self.task, self.trained, self.network, self.checkpoints = task, trained, network, checkpoints
        self.progressed, self.progress, self.save_seconds = progressed, progress, save_seconds
        self.started = self.saved = time.perf_counter()
        self.metrics = [np.asarray(variable).copy() for variable in trained.metrics_variables]

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or as many as the settings' patience have brought nothing better."""
        rows, settings = self.progressed.rows, self.task.settings
        waited = len(rows) - (best_epoch(rows) or 0)
        return len(rows) >= settings.epochs or (settings.patience > 0 and waited >= settings.patience)

    def follow(self, callbacks: Sequence[Any]) -> Sequence[Row]:
        """Trains what is left to train, with further callbacks; the whole history."""
        self._start_clock()
        if self.progressed.step and not self.ended:
            self._fit(self.progressed.position, len(self.progressed.rows) + 1, callbacks)
        if not self.ended:
            # One stream through all epochs: reading ahead does not pause between them.
            self._fit(self.progressed.position, self.task.settings.epochs, callbacks)
        return self.progressed.rows

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Gives the metrics back what they were when the epoch was interrupted: `fit` has set them to 0."""
        if self.progressed.step:
            for variable, value in zip(self.model.metrics_variables, self.metrics, strict=True):
                variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves the state if it is time; after the last batch its epoch's end does, which cannot be gone on from without a batch."""
        self.progressed = replace(self.progressed, step=self.progressed.step + 1)
        if self.progressed.step < self.task.steps and time.perf_counter() - self.saved >= self.save_seconds:
            self.checkpoints.save(self.model, replace(self.progressed, seconds=self._seconds()))
            self.saved = time.perf_counter()
        self.progress.on_batch(self.progressed.step, self.task.steps)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Validates and saves; callbacks after this one find the figures of the validation in `logs`."""
        # Of what would be kept, which computes in float32, and on one GPU.
        self.network.set_weights(self.model.get_weights())
        logs.update(validate(self.model, self.network, self.task))
        measures = {name: float(logs[name]) for name in MEASURES}
        row: Row = {"epoch": epoch + 1, **measures, "seconds": round(self._seconds(), 3)}
        self.progressed = Progressed(self.progressed.precision, [*self.progressed.rows, row])
        self.checkpoints.save_epoch(self.model, self.network, self.progressed)
        self._start_clock()
        if self.ended:
            self.model.stop_training = True
        self.progress.on_epoch(epoch + 1, self.task.settings.epochs, row)

    def _fit(self, start: Position, epochs: int, callbacks: Sequence[Any]) -> None:
        # The task alone: TensorFlow keeps what feeds it, and would keep the model with this callback.
        task, faults = self.task, list[Exception]()

        def batches() -> Iterator[WeightedBatch]:
            try:
                yield from task.batches(start, epochs)
            except Exception as error:
                faults.append(error)
                raise

        steps = task.steps - start.step
        try:
            self.trained.fit(
                backend.as_input(batches, task.feed, steps * (epochs - start.epoch)),
                steps_per_epoch=steps,
                initial_epoch=start.epoch,
                epochs=epochs,
                verbose=0,
                # The feed has shuffled already; fit cannot shuffle a stream, and warns if it is asked to.
                shuffle=False,
                callbacks=[self, *callbacks],
            )
        except Exception:
            if faults:
                # TensorFlow makes an error of its own of it.
                raise faults[0] from None
            raise

    def _start_clock(self) -> None:
        self.started = self.saved = time.perf_counter()

    def _seconds(self) -> float:
        """Time that the epoch under way has taken, before restarts too."""
        return self.progressed.seconds + time.perf_counter() - self.started
