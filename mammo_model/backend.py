"""What depends on the framework below Keras: TensorFlow, or JAX with KERAS_BACKEND=jax."""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from mammo_model.feed import PatchFeed
from mammo_model.settings import Precision, TrainingSettings
from mammo_model.task import WeightedBatch


def on_tensorflow() -> bool:
    """Whether it is TensorFlow."""
    return bool(keras.backend.backend() == "tensorflow")


def on_gpu() -> bool:
    """Whether there is a GPU."""
    return bool(gpus())


@contextmanager
def on_all_gpus() -> Iterator[None]:
    """What is compiled in this block is trained on all GPUs, each of which takes its share of every batch; with JAX, on the first."""
    devices = gpus()
    if len(devices) < 2 or not on_tensorflow():
        yield
        return
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(devices).scope():
        yield


def gpus() -> list[str]:
    """Names of the GPUs."""
    return [device for device in map(str, keras.distribution.list_devices()) if not device.lower().startswith("cpu")]


def start_from(seed: int) -> None:
    """Seeds all random numbers; on a CPU, what is computed from them is then the same each time."""
    keras.utils.set_random_seed(seed)
    if on_tensorflow() and not on_gpu():
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def precision_of(settings: TrainingSettings) -> Precision:
    """The precision that is asked for, or suits this machine."""
    if settings.precision != "auto":
        return settings.precision
    return "mixed_float16" if on_gpu() else "float32"


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made in this block have that dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def jit_compile(settings: TrainingSettings) -> bool | str:
    """Keras' option for XLA."""
    if settings.xla != "auto":
        return settings.xla == "on"
    # On a CPU TensorFlow trains no faster by XLA (measured at width 8, and slower at 32), and has to compile first.
    return "auto" if on_gpu() or not on_tensorflow() else False


def as_input(batches: Callable[[], Iterator[WeightedBatch]], feed: PatchFeed, count: int) -> Any:
    """So many batches as `fit` takes them; with TensorFlow, as a tf.data pipeline that holds two of them ready."""
    if not on_tensorflow():
        return batches()
    import tensorflow as tf

    signature = (
        tf.TensorSpec((None, feed.size, feed.size, 1), feed.dtype),
        tf.TensorSpec((None,), tf.int64),
        tf.TensorSpec((None,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def tensorboard(folder: Path) -> list[Any]:
    """The callback that writes TensorBoard's logs into a folder; none without TensorFlow, which it needs."""
    return [keras.callbacks.TensorBoard(folder, write_graph=False)] if on_tensorflow() else []


def versions() -> dict[str, str]:
    """Versions of what decides a model's weights."""
    found = {name: version(name) for name in ("mammo", "keras", "numpy", "scikit-learn", "tensorstore")}
    # TensorFlow is installed under several names, so it is asked itself.
    framework = keras.backend.backend()
    return {"Python": platform.python_version(), **found, framework: str(import_module(framework).__version__)}
