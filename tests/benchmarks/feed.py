"""Speed of the feed beside the usual ways of feeding Keras, each as `fit` would consume it.

    python tests/benchmarks/feed.py [--patches 30000] [--size 256] [--fit-steps 12] [--width 32] [--repeats 3] [--zstd-level 1]

feed: the store's patches in a true shuffle over all of them. TFRecord: uncompressed, shuffled through a buffer of 2,048. PNG: Keras'
`image_dataset_from_directory`. All give batches of 32 as tf.data pipelines, are read once for warming the page cache, and then take turns; the
figures are the medians. `fit` trains the network of the default settings for some steps from the feed, and from one batch in memory that is
repeated, in turns. Memory is what the process holds more after a turn of the feed than before the first. The patches are cut from phantom breasts with the grain of
film.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import keras
import numpy as np
import psutil
import tensorflow as tf

from mammo_etl import store
from mammo_etl.phantom.breast import make_breast
from mammo_etl.records import View
from mammo_etl.settings import StoreSettings
from mammo_model import backend
from mammo_model.compiling import compiled
from mammo_model.feed import START, PatchFeed
from mammo_model.sampling import plan_epochs
from mammo_model.settings import TrainingSettings
from mammo_model.task import Task

BATCH = 32
BUFFER = 2048
CLASSES = 5


def write_data(folder: Path, patches: int, size: int, settings: StoreSettings) -> None:
    """The same patches as store, TFRecord and PNG files by class."""
    generator = np.random.default_rng(0)
    rows, columns = 9 * size, 6 * size
    breast = make_breast(generator, View.MLO, 0.7, 2, rows, columns, 240 / rows)
    grain = generator.standard_normal((rows, columns), np.float32) * 0.006
    film = (np.clip(np.rint((breast.tissue + grain) * 255), 1, 255) * (breast.mask > 0)).astype(np.uint8)
    store.create_patches(folder / "patches.zarr", patches, size, settings)
    for target in range(CLASSES):
        (folder / "png" / str(target)).mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "patches.tfrecord")) as records:
        for shard in store.shard_ranges(patches, settings.shard_rows):
            tops = generator.integers(0, rows - size, len(shard))
            lefts = generator.integers(0, columns // 2, len(shard))
            cut = np.stack([film[y : y + size, x : x + size] for y, x in zip(tops, lefts, strict=True)])
            store.write_shard(folder / "patches.zarr", shard, cut)
            for row, patch in zip(shard, cut, strict=True):
                cv2.imwrite(str(folder / "png" / str(row % CLASSES) / f"{row}.png"), patch)
                features = {
                    "patch": tf.train.Feature(bytes_list=tf.train.BytesList(value=[patch.tobytes()])),
                    "target": tf.train.Feature(int64_list=tf.train.Int64List(value=[row % CLASSES])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                records.write(example.SerializeToString())


def tfrecord(folder: Path, size: int) -> Any:
    """The usual pipeline over the records."""
    features = {"patch": tf.io.FixedLenFeature((), tf.string), "target": tf.io.FixedLenFeature((), tf.int64)}

    def parse(examples: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_example(examples, features)
        return tf.reshape(tf.io.decode_raw(parsed["patch"], tf.uint8), (-1, size, size, 1)), parsed["target"]

    records = tf.data.TFRecordDataset(str(folder / "patches.tfrecord"))
    return (
        records.shuffle(BUFFER).batch(BATCH).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    )


def png(folder: Path, size: int) -> Any:
    """Keras' loader."""
    return keras.utils.image_dataset_from_directory(
        folder / "png", color_mode="grayscale", image_size=(size, size), batch_size=BATCH, verbose=False
    )


def fed(task: Task, epochs: int = 1) -> Any:
    """The feed as `fit` gets it in training."""
    return backend.as_input(lambda: task.batches(START, epochs), task.feed, task.steps * epochs)


def speed(dataset: Any, patches: int) -> float:
    """Patches per second of one pass."""
    started = time.perf_counter()
    for _ in dataset:
        pass
    return patches / (time.perf_counter() - started)


def fit_speed(model: Any, dataset: Any, steps: int) -> float:
    """Patches per second of training."""
    started = time.perf_counter()
    model.fit(dataset, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False)
    return steps * BATCH / (time.perf_counter() - started)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--fit-steps", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--zstd-level", type=int, default=StoreSettings().zstd_level)
    arguments = parser.parse_args()
    settings = TrainingSettings(width=arguments.width, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, arguments.patches, arguments.size, StoreSettings(zstd_level=arguments.zstd_level))
        rows = np.arange(arguments.patches)
        feed = PatchFeed(store.open_patches(folder / "patches.zarr"), rows, rows % CLASSES, BATCH)
        plan = plan_epochs(feed.targets, "natural", np.zeros(len(rows), bool))
        task = Task(settings, feed, plan, feed, np.ones(CLASSES, np.float32))
        ways: dict[str, Callable[[], Any]] = {
            "feed": lambda: fed(task),
            "TFRecord": lambda: tfrecord(folder, arguments.size),
            "PNG": lambda: png(folder, arguments.size),
        }
        process = psutil.Process()
        figures: dict[str, list[float]] = {way: [] for way in ways}
        memory: list[float] = []
        for turn in range(arguments.repeats + 1):
            for way, dataset in ways.items():
                before = process.memory_info().rss
                figure = speed(dataset(), arguments.patches)
                if way == "feed":
                    memory.append((process.memory_info().rss - before) / 1e6)
                if turn:
                    figures[way].append(figure)
        print(f"{arguments.patches:,} patches of {arguments.size} x {arguments.size}; {arguments.repeats} turns\n")
        print("| | patches/s | times the feed's |\n|---|---|---|")
        for way, values in figures.items():
            print(f"| {way} | {median(values):,.0f} | {median(values) / median(figures['feed']):.3f} |")
        print(
            f"\nThe feed's memory, MB more after each turn: {', '.join(f'{more:.0f}' for more in memory)}\n", flush=True
        )
        model = compiled(task, "float32")
        batch = next(iter(fed(task)))
        repeated = tf.data.Dataset.from_tensors(batch).repeat()
        fits: dict[str, list[float]] = {"fit from the feed": [], "fit from one batch in memory": []}
        for turn in range(arguments.repeats + 1):
            for way, dataset in zip(fits, (fed(task), repeated), strict=True):
                figure = fit_speed(model, dataset, arguments.fit_steps)
                if turn:
                    fits[way].append(figure)
        print("| | patches/s | times the feed's |\n|---|---|---|")
        for way, values in fits.items():
            print(f"| {way} | {median(values):,.1f} | {median(values) / median(fits['fit from the feed']):.3f} |")


if __name__ == "__main__":
    main()
