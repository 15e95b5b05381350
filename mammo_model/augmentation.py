"""Random changes of training patches, as layers of the network that is trained; they do nothing when it predicts."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from mammo_model.settings import TrainingSettings


class RandomTranspose(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Swaps rows and columns of every other square patch, (batch, size, size, channels), at random.

    With RandomFlip this gives all mirror images and quarter turns, without a grey level being interpolated; Keras has no such layer.
    """

    def __init__(self, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, patches: Any, training: bool = False) -> Any:
        """The patches, changed only in training."""
        if not training:
            return patches
        swapped = keras.random.uniform((ops.shape(patches)[0], 1, 1, 1), seed=self.seed_generator) < 0.5
        return ops.where(swapped, ops.transpose(patches, (0, 2, 1, 3)), patches)


def augmented(patches: Any, settings: TrainingSettings, seeds: Iterator[int]) -> Any:
    """The patches, (batch, size, size, 1) of 0..1, behind the layers that the settings ask for, each with the next seed.

    What a rotation or shift brings in from outside is the patch mirrored at its edge: black would be a border that no film has there.
    """
    if not settings.augmentation:
        return patches
    # float32 whatever the precision, as grey levels come.
    exact: dict[str, Any] = {"dtype": "float32"}
    if settings.flips:
        # Two layers: one of both directions flips in both or in none (Keras 3.15).
        for direction in ("horizontal", "vertical"):
            patches = layers.RandomFlip(direction, seed=next(seeds), **exact)(patches)
        patches = RandomTranspose(seed=next(seeds), **exact)(patches)
    turned = []
    if settings.rotation:
        turned.append(layers.RandomRotation(settings.rotation / 360, fill_mode="reflect", seed=next(seeds), **exact))
    if settings.shift:
        shift = settings.shift
        turned.append(layers.RandomTranslation(shift, shift, fill_mode="reflect", seed=next(seeds), **exact))
    for layer in turned:
        # Keras (3.15) says that they cannot be compiled, which is so of TensorFlow's XLA alone. JAX would run all of the network uncompiled, 15 times as long.
        layer.supports_jit = keras.backend.backend() == "jax"
        patches = layer(patches)
    if settings.contrast:
        patches = layers.RandomContrast(settings.contrast, value_range=(0, 1), seed=next(seeds), **exact)(patches)
    return patches
