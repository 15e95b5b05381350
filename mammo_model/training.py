"""Training a network on a published run."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from mammo_etl.places import Place, local_copy, move, remove_tree
from mammo_etl.reader import PublishedRun
from mammo_etl.records import Split
from mammo_model.architectures import build_network
from mammo_model.checkpoints import Checkpoints, read_history
from mammo_model.feed import Batch, PatchFeed
from mammo_model.progress import SILENT, Progress
from mammo_model.settings import TrainingSettings


class TrainingError(Exception):
    """A run or settings that no model can be trained with, in one sentence."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A finished training."""

    model_id: str
    """Name: run and settings."""
    folder: Place
    """Folder with `model.keras` and `history.csv`."""

    @property
    def model_path(self) -> Place:
        """The network of the epoch with the least validation loss; written last, so that it marks the training as finished."""
        return self.folder / "model.keras"

    @property
    def history_path(self) -> Place:
        """Table: epoch (from 1), loss, accuracy, val_loss, val_accuracy, seconds."""
        return self.folder / "history.csv"

    def history(self) -> pd.DataFrame:
        """The table at `history_path`."""
        return pd.DataFrame(read_history(self.history_path))

    def best_epoch(self) -> int:
        """Epoch, from 1, whose model was kept."""
        history = self.history()
        return int(history["epoch"].to_numpy()[history["val_loss"].argmin()])

    def load(self) -> Any:
        """The Keras model, for prediction."""
        with local_copy(self.model_path) as file:
            return keras.saving.load_model(file, compile=False)


def model_id_of(run_id: str, settings: TrainingSettings) -> str:
    """Name of the model that these settings give on that run."""
    return f"{run_id}-{settings.digest()[:12]}"


def feed_of(run: PublishedRun, patches: pd.DataFrame, settings: TrainingSettings) -> PatchFeed:
    """Some rows of the run's patch table, in the order given, as a feed."""
    return PatchFeed(
        run.open_patches(),
        patches["row"].to_numpy(np.int64),
        settings.targets(patches["label"].to_numpy()),
        settings.batch_size,
    )


def train(
    run: PublishedRun, settings: TrainingSettings, models_folder: Place, progress: Progress = SILENT
) -> TrainedModel:
    """Trains on the run's train split and keeps the model of the epoch with the least loss on its validation split.

    A finished training is returned at once; one that was stopped goes on after its last whole epoch. On a CPU the same run and settings
    give the same model, stopped or not.

    Raises TrainingError if a split is empty, the training patches are all of one class, the patches are too small for the depth, or the
    loss was never a number.
    """
    trained = TrainedModel(model_id_of(run.run_id, settings), models_folder / model_id_of(run.run_id, settings))
    working = trained.folder / "checkpoints"
    if trained.model_path.exists():
        if working.is_dir():
            remove_tree(working)
        return trained
    patches = run.patches()
    check_splits(run, patches, settings)
    feeds = {
        split: feed_of(run, patches[patches["split"] == split], settings) for split in (Split.TRAIN, Split.VALIDATION)
    }
    size = feeds[Split.TRAIN].size
    if size < 2**settings.depth:
        raise TrainingError(f"run {run.run_id}: patches of {size} pixels are too small for a depth of {settings.depth}")

    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    keras.utils.set_random_seed(settings.seed)
    if not on_gpu:
        tf.config.experimental.enable_op_determinism()
    model = build_network(size, settings, feeds[Split.TRAIN].dtype)
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # On a CPU XLA trains no faster (measured at width 8), and has to compile first.
        jit_compile="auto" if on_gpu else False,
    )
    checkpoints = Checkpoints.restore(working, trained.history_path, model)
    _fit(model, feeds[Split.TRAIN], feeds[Split.VALIDATION], settings, checkpoints, progress)
    if checkpoints.best_path is None:
        raise TrainingError(
            f"run {run.run_id}: the validation loss was never a number; try a learning rate below {settings.learning_rate}"
        )
    move(checkpoints.best_path, trained.model_path)
    remove_tree(working)
    return trained


def check_splits(run: PublishedRun, patches: pd.DataFrame, settings: TrainingSettings) -> None:
    """Raises TrainingError unless every split has patches, and the train split more than one class."""
    for split in Split:
        if not (patches["split"] == split).any():
            raise TrainingError(
                f"run {run.run_id} has no {split} patches: build a run with more patients, or a larger share for that split"
            )
    targets = np.unique(settings.targets(patches.loc[patches["split"] == Split.TRAIN, "label"].to_numpy()))
    if len(targets) == 1:
        raise TrainingError(
            f"run {run.run_id}: all train patches are {settings.classes[targets[0]]}, so there is nothing to tell apart"
        )


def _fit(
    model: Any,
    train_feed: PatchFeed,
    validation_feed: PatchFeed,
    settings: TrainingSettings,
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    """Trains the epochs that are left, saving after each."""
    epochs = range(checkpoints.done, settings.epochs)
    if not epochs:
        return
    started = time.perf_counter()

    def begin_epoch(epoch: int, logs: dict[str, float] | None) -> None:
        _seed_dropout(model, settings.seed, epoch)

    def end_epoch(epoch: int, logs: dict[str, float]) -> None:
        nonlocal started
        measures = {name: float(logs[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        seconds = round(time.perf_counter() - started, 3)
        checkpoints.save(model, {"epoch": epoch + 1, **measures, "seconds": seconds})
        started = time.perf_counter()
        progress.on_epoch(epoch + 1, settings.epochs, checkpoints.rows[-1])

    model.fit(
        # One stream through all epochs: reading ahead does not pause between them, and each has its own order.
        _as_dataset(lambda: train_feed.shuffled(settings.seed, epochs), train_feed, len(train_feed) * len(epochs)),
        steps_per_epoch=len(train_feed),
        validation_data=_as_dataset(validation_feed.in_order, validation_feed, len(validation_feed)),
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        verbose=0,
        # The feed has shuffled already; fit cannot shuffle a stream, and warns if it is asked to.
        shuffle=False,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_begin=begin_epoch,
                on_epoch_end=end_epoch,
                on_train_batch_end=lambda batch, logs: progress.on_batch(batch + 1, len(train_feed)),
            )
        ],
    )


def _seed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Starts the random numbers of an epoch anew: Keras does not save their state, so a training taken up again would repeat old ones."""
    seeds = np.random.default_rng((seed, epoch)).integers(2**31, size=len(model.layers))
    for layer, layer_seed in zip(model.layers, seeds, strict=True):
        if isinstance(layer, keras.layers.Dropout) and layer.rate > 0:
            layer.seed_generator.state.assign([layer_seed, 0])


def _as_dataset(batches: Callable[[], Iterator[Batch]], feed: PatchFeed, count: int) -> Any:
    """Batches as a tf.data pipeline that holds two of them ready."""
    signature = (
        tf.TensorSpec((None, feed.size, feed.size, 1), feed.dtype),
        tf.TensorSpec((None,), tf.int64),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)
