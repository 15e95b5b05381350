"""A network with all that training it needs: loss, optimiser, schedule."""

from typing import Any

import keras
import numpy as np
from keras import ops

from mammo_model import backend
from mammo_model.architectures import build_network
from mammo_model.settings import TrainingSettings
from mammo_model.task import Task


def learning_rate(settings: TrainingSettings, steps: int) -> Any:
    """Step size at each of so many steps in all."""
    warmup = round(settings.warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else settings.learning_rate,
        decay_steps=max(steps - warmup, 1),
        # Share of the step size that it falls to.
        alpha=0.0 if settings.schedule == "cosine" else 1.0,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def focal_loss(gamma: float, classes: int) -> Any:
    """Keras' focal loss for targets that are numbers of classes; Keras' own takes one-hot rows only."""

    def loss(targets: Any, probabilities: Any) -> Any:
        one_hot = ops.one_hot(ops.reshape(targets, (-1,)), classes)
        return keras.losses.categorical_focal_crossentropy(one_hot, probabilities, alpha=1.0, gamma=gamma)

    return loss


def compiled(task: Task, precision: str) -> Any:
    """The network to be trained, with an optimiser and metrics whose variables are there."""
    settings = task.settings
    with backend.precision(precision):
        model = build_network(task.feed.size, settings, task.feed.dtype, training=True)
    optimizer = keras.optimizers.Adam(
        learning_rate(settings, task.steps * settings.epochs),
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        weight_decay=settings.weight_decay or None,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    gamma = settings.focal_gamma
    model.compile(
        optimizer=optimizer,
        loss=focal_loss(gamma, len(settings.classes)) if gamma else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=backend.jit_compile(settings),
    )
    model.optimizer.build(model.trainable_variables)
    # Keras makes the metrics' variables when it sees the first answer.
    model.compute_metrics(None, np.zeros(1, np.int64), np.ones((1, len(settings.classes)), np.float32))
    model.reset_metrics()
    return model
