"""The network."""

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import DTypeLike

from mammo_model.settings import TrainingSettings

DENSE_UNITS = 128
"""Units of the dense layer before the output."""

MOMENTUM = 0.9
"""Share of the old value in each step of batch normalisation's running mean and variance. With Keras' 0.99 they need several hundred steps
to leave their start, and until then the validation loss, by which the model is chosen, is noise: small data sets train for less."""


def dropout_rates(settings: TrainingSettings) -> list[float]:
    """Dropout rate after each block, rising evenly from 0.4 times `settings.dropout` to all of it."""
    steps = max(settings.depth - 1, 1)
    return [settings.dropout * (1.0 - 0.6 * (steps - block) / steps) for block in range(settings.depth)]


def build_network(size: int, settings: TrainingSettings, dtype: DTypeLike = np.uint8) -> Any:
    """The seed work's final network (2020) as a Keras model: (batch, size, size, 1) of `dtype` -> (batch, classes) float32 probabilities.

    Blocks of two 3x3 convolutions (ReLU, He-uniform, same padding, each followed by batch normalisation), 2x2 maximum pooling and
    dropout; then a dense layer of 128 with batch normalisation and dropout, and softmax. Grey levels, of all that `dtype` (uint8 or uint16)
    can hold, are scaled to 0..1 inside the model, so that what is stored is what it takes.

    The seed flattened the last block's maps. At 256 pixels, width 32 and depth 4 that alone would be 8.4 million weights, seven times all
    convolutions together, tied to one patch size. Here each map is pooled to its average (how much of a texture there is) and its maximum
    (whether there is a spot anywhere, as a single calcification): 512 features, and 1,242,341 parameters in all for five classes, which
    meets the 1.24 million known of the seed's network; average pooling alone would give 1,209,573.

    Raises ValueError if `size` is less than 2 ** depth.
    """
    if size < 2**settings.depth:
        raise ValueError(f"patches of {size} pixels cannot be halved {settings.depth} times")
    patches = keras.Input((size, size, 1), dtype=np.dtype(dtype).name, name="patches")
    x = layers.Rescaling(1 / np.iinfo(dtype).max, name="scale")(patches)
    for block, rate in enumerate(dropout_rates(settings)):
        for _ in range(2):
            x = layers.Conv2D(
                settings.width * 2**block,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_uniform",
            )(x)
            x = layers.BatchNormalization(momentum=MOMENTUM)(x)
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(rate)(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    x = layers.Dense(DENSE_UNITS, activation="relu", kernel_initializer="he_uniform")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.Dropout(settings.dropout)(x)
    probabilities = layers.Dense(len(settings.classes), activation="softmax", name="probabilities")(x)
    return keras.Model(patches, probabilities, name="patch_classifier")
