"""The networks by name."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import DTypeLike

from mammo_model.augmentation import augmented
from mammo_model.settings import ArchitectureName, TrainingSettings

DENSE_UNITS = 128
"""Units of the dense layer before the output."""

MOMENTUM = 0.9
"""Share of the old value in each step of batch normalisation's running mean and variance. With Keras' 0.99 they need several hundred steps
to leave their start, and until then validation, by which the model is chosen, is noise: small data sets train for less."""

L2 = 1e-3
"""Strength of the kernel regulariser. The seed work does not state its own."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What tells one network from the others."""

    blocks: int
    """Blocks of two convolutions, each block halving height and width."""
    dropout: bool = False
    batch_norm: bool = False
    l2: float = 0.0
    residual: bool = False
    """Each block adds to what it gets, brought to its filters by a 1x1 convolution (He et al. 2016)."""


ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    "vgg1": Architecture(1),
    "vgg2": Architecture(2),
    "vgg3": Architecture(3),
    "vgg3-dropout": Architecture(3, dropout=True),
    "vgg3-dropout-bn": Architecture(3, dropout=True, batch_norm=True),
    "vgg3-dropout-bn-l2": Architecture(3, dropout=True, batch_norm=True, l2=L2),
    "vgg4-dropout-bn": Architecture(4, dropout=True, batch_norm=True),
    "resnet": Architecture(4, dropout=True, batch_norm=True, residual=True),
}
"""The seed work's seven steps (2020) in its order, and a residual network of the size of the last."""


def least_size(settings: TrainingSettings) -> int:
    """Least height and width of a patch, pixels: each block halves them."""
    return 1 << ARCHITECTURES[settings.architecture].blocks


def dropout_rates(blocks: int, dropout: float) -> list[float]:
    """Dropout rate after each block, rising evenly from 0.4 times `dropout` to all of it."""
    steps = max(blocks - 1, 1)
    return [dropout * (1.0 - 0.6 * (steps - block) / steps) for block in range(blocks)]


def build_network(size: int, settings: TrainingSettings, dtype: DTypeLike = np.uint8, training: bool = False) -> Any:
    """A network as a Keras model: (batch, size, size, 1) of `dtype` -> (batch, classes) float32 probabilities.

    Blocks of two 3x3 convolutions (ReLU, He-uniform, same padding) and 2x2 maximum pooling; then a dense layer of 128, and softmax. With
    batch normalisation it follows each convolution and the dense layer; with dropout it follows each block and the dense layer. Grey levels,
    of all that `dtype` (uint8 or uint16) can hold, are scaled to 0..1 inside the model, so that what is stored is what it takes.

    Every layer has a seed of its own from the settings' seed: Keras would draw them from Python's `random`, whose state is the whole process's,
    and Dask's and Prefect's threads draw from it meanwhile.

    The one for `training` has the augmentation of the settings behind its input; its weights are those of the one without.

    The seed flattened the last block's maps. At 256 pixels, width 32 and four blocks that alone would be 8.4 million weights, seven times all
    convolutions together, tied to one patch size. Here each map is pooled to its average (how much of a texture there is) and its maximum
    (whether there is a spot anywhere, as a single calcification): 512 features, and 1,242,341 parameters in all for five classes, which
    meets the 1.24 million known of the seed's network; average pooling alone would give 1,209,573. The residual network has 1,296,229.

    Raises ValueError if `size` is less than `least_size`.
    """
    architecture = ARCHITECTURES[settings.architecture]
    seeds = seeds_from(settings.seed)
    if size < least_size(settings):
        raise ValueError(f"patches of {size} pixels cannot be halved {architecture.blocks} times")
    patches = keras.Input((size, size, 1), dtype=np.dtype(dtype).name, name="patches")
    # float32 here and at the end whatever the precision: float16 is too coarse for 16 bits, and has too few small numbers for probabilities.
    x = layers.Rescaling(1 / np.iinfo(dtype).max, dtype="float32", name="scale")(patches)
    if training:
        x = augmented(x, settings, seeds)
    block = _residual_block if architecture.residual else _vgg_block
    rates = dropout_rates(architecture.blocks, settings.dropout if architecture.dropout else 0.0)
    for number, rate in enumerate(rates):
        x = block(x, settings.width * 2**number, architecture, seeds)
        x = layers.MaxPooling2D()(x)
        x = layers.Dropout(rate, seed=next(seeds))(x) if rate else x
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    x = _normalised(
        layers.Dense(
            DENSE_UNITS,
            activation="relu",
            kernel_initializer=keras.initializers.HeUniform(next(seeds)),
            kernel_regularizer=_regulariser(architecture),
        )(x),
        architecture,
    )
    x = layers.Dropout(rates[-1], seed=next(seeds))(x) if rates[-1] else x
    probabilities = layers.Dense(
        len(settings.classes),
        activation="softmax",
        kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
        dtype="float32",
        name="probabilities",
    )(x)
    return keras.Model(patches, probabilities, name="patch_classifier")


def seeds_from(seed: int) -> Iterator[int]:
    """Seeds of layers, as many as are asked for."""
    rng = random.Random(seed)
    while True:
        yield rng.randint(1, 10**9)


def _vgg_block(x: Any, filters: int, architecture: Architecture, seeds: Iterator[int]) -> Any:
    for _ in range(2):
        x = _normalised(_convolution(filters, architecture, seeds, activation="relu")(x), architecture)
    return x


def _residual_block(x: Any, filters: int, architecture: Architecture, seeds: Iterator[int]) -> Any:
    shortcut = _normalised(_convolution(filters, architecture, seeds, kernel=1)(x), architecture)
    x = layers.ReLU()(_normalised(_convolution(filters, architecture, seeds)(x), architecture))
    x = _normalised(_convolution(filters, architecture, seeds)(x), architecture)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _convolution(
    filters: int, architecture: Architecture, seeds: Iterator[int], kernel: int = 3, activation: str | None = None
) -> Any:
    return layers.Conv2D(
        filters,
        kernel,
        padding="same",
        activation=activation,
        kernel_initializer=keras.initializers.HeUniform(next(seeds)),
        kernel_regularizer=_regulariser(architecture),
    )


def _normalised(x: Any, architecture: Architecture) -> Any:
    return layers.BatchNormalization(momentum=MOMENTUM)(x) if architecture.batch_norm else x


def _regulariser(architecture: Architecture) -> Any:
    return keras.regularizers.L2(architecture.l2) if architecture.l2 else None
