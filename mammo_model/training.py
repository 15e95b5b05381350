"""Training a network on a published run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from mammo_etl.places import Place, local_copy, move, remove_tree
from mammo_etl.reader import PublishedRun
from mammo_etl.records import Split
from mammo_model import backend
from mammo_model.architectures import build_network, least_size
from mammo_model.checkpoints import Checkpoints, Progressed, best_epoch, read_history, variables_of
from mammo_model.compiling import compiled
from mammo_model.course import Course
from mammo_model.feed import PatchFeed
from mammo_model.progress import SILENT, Progress
from mammo_model.sampling import SamplingError, plan_epochs
from mammo_model.settings import TrainingSettings
from mammo_model.task import Task

SAVE_SECONDS = 60.0
"""Time between two checkpoints within an epoch: what a kill costs at most."""


class TrainingError(Exception):
    """A run or settings that no model can be trained with, in one sentence."""


class DivergedError(TrainingError):
    """A training whose loss on the validation split was never a number."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A finished training."""

    model_id: str
    """Name: run and settings."""
    folder: Place
    """Folder with `model.keras` and `history.csv`."""

    @property
    def model_path(self) -> Place:
        """The network of the best epoch; written last, so that it marks the training as finished."""
        return self.folder / "model.keras"

    @property
    def history_path(self) -> Place:
        """Table: epoch (from 1), loss, accuracy, val_loss, val_accuracy, val_macro_f1, seconds."""
        return self.folder / "history.csv"

    def history(self) -> pd.DataFrame:
        """The table at `history_path`."""
        return pd.DataFrame(read_history(self.history_path))

    def best_epoch(self) -> int:
        """Epoch, from 1, whose model was kept: see `mammo_model.checkpoints.best_epoch`."""
        best = best_epoch(read_history(self.history_path))
        if best is None:
            raise ValueError(f"{self.history_path}: no epoch with a validation loss")
        return best

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
    run: PublishedRun,
    settings: TrainingSettings,
    models_folder: Place,
    progress: Progress = SILENT,
    save_seconds: float = SAVE_SECONDS,
) -> TrainedModel:
    """Trains on the run's train split and keeps the model of the epoch with the highest macro F1 on its validation split.

    A finished training is returned at once; one that was stopped goes on where it last saved its state, which it does after each epoch and, within
    one, each time that `save_seconds` have passed. On a CPU the same run and settings give the same model, stopped or not.

    Raises TrainingError if a split is empty, the patches of train or validation are all of one class, or the former not those that the settings ask for, the patches are too
    small for the architecture, and DivergedError if the loss was never a number.
    """
    trained = TrainedModel(model_id_of(run.run_id, settings), models_folder / model_id_of(run.run_id, settings))
    checkpoints = Checkpoints(trained.folder / "checkpoints", trained.history_path)
    if trained.model_path.exists():
        if checkpoints.folder.is_dir():
            remove_tree(checkpoints.folder)
        return trained
    task = task_of(run, settings)
    backend.start_from(settings.seed)
    saved = checkpoints.read()
    progressed = saved[0] if saved else Progressed(backend.precision_of(settings))
    network = build_network(task.feed.size, settings, task.feed.dtype)
    with backend.on_all_gpus():
        model = compiled(task, progressed.precision)
    if saved:
        for variable, value in zip(variables_of(model), saved[1], strict=True):
            variable.assign(value)
    course = Course(task, model, network, checkpoints, progressed, progress, save_seconds)
    # TensorFlow's writers know no object store.
    rows = course.follow(backend.tensorboard(trained.folder / "logs") if isinstance(trained.folder, Path) else [])
    best = checkpoints.best_path(rows)
    if best is None:
        raise DivergedError(
            f"run {run.run_id}: the validation loss was never a number; try a learning rate below {settings.learning_rate}"
        )
    move(best, trained.model_path)
    remove_tree(checkpoints.folder)
    return trained


def task_of(run: PublishedRun, settings: TrainingSettings) -> Task:
    """What is to be learned from a run; raises TrainingError as `train` does."""
    patches = run.patches()
    check_splits(run, patches, settings)
    of_split = {split: patches[patches["split"] == split] for split in (Split.TRAIN, Split.VALIDATION)}
    feeds = {split: feed_of(run, of_split[split], settings) for split in of_split}
    feed = feeds[Split.TRAIN]
    if feed.size < least_size(settings):
        raise TrainingError(
            f"run {run.run_id}: patches of {feed.size} pixels are too small for {settings.architecture}, which needs {least_size(settings)}"
        )
    try:
        hard = (of_split[Split.TRAIN]["origin"] == "hard").to_numpy()
        plan = plan_epochs(feed.targets, settings.sampling, hard, settings.hard_share)
    except SamplingError as error:
        raise TrainingError(f"run {run.run_id}: {error}") from error
    return Task(settings, feed, plan, feeds[Split.VALIDATION], class_weights(feed.targets, settings))


def check_splits(run: PublishedRun, patches: pd.DataFrame, settings: TrainingSettings) -> None:
    """Raises TrainingError unless every split has patches, and those that are learned from and chosen by more than one class."""
    for split in Split:
        if not (patches["split"] == split).any():
            raise TrainingError(
                f"run {run.run_id} has no {split} patches: build a run with more patients, or a larger share for that split"
            )
    for split, consequence in (
        (Split.TRAIN, "there is nothing to tell apart"),
        (
            Split.VALIDATION,
            "no model can be chosen by them; build a run with more patients, or a larger plan.validation",
        ),
    ):
        targets = np.unique(settings.targets(patches.loc[patches["split"] == split, "label"].to_numpy()))
        if len(targets) == 1:
            raise TrainingError(
                f"run {run.run_id}: all {split} patches are {settings.classes[targets[0]]}, so {consequence}"
            )


def class_weights(targets: NDArray[np.int64], settings: TrainingSettings) -> NDArray[np.float32]:
    """Weight of each class in the loss, (classes,); a class without patches has 1."""
    weights = np.ones(len(settings.classes), np.float32)
    if settings.class_weights == "balanced":
        there = np.unique(targets)
        weights[there] = compute_class_weight("balanced", classes=there, y=targets)
    return weights
