"""Speed of extracting one shard beside what no way of making it can do without, on one core.

    python tests/benchmarks/extract.py [--films 64] [--patches 1024] [--size 256] [--bits 8] [--pairs 5]

The floor decodes the PNG of each film once, compresses each patch by Zstandard at the store's level, and writes all into one file. Extracting
adds to it: reading and checking what was planned, digests of the films and of the shard, moments of each patch, Zarr's layout, the receipt. Films are phantoms as
cleaned, cropped to the breast, of 4560 x 2864 pixels before. The two take turns, each pair on one core, and the medians are of the pairs.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median
from timeit import timeit

import cv2
import numpy as np
import pandas as pd
from numcodecs.zstd import Zstd

from mammo_etl import store
from mammo_etl.extract import ShardWork, extract_shard, receipt_path
from mammo_etl.files import digest_of
from mammo_etl.phantom.breast import make_breast
from mammo_etl.png import encode_png
from mammo_etl.records import View
from mammo_etl.settings import StoreSettings

ROWS, COLUMNS = 4560, 2864
BREASTS = 4


def cleaned_phantom(seed: int, bits: int) -> np.ndarray:
    """A phantom breast with the grain of film, 0 outside it, cropped to it."""
    generator = np.random.default_rng(seed)
    view = View.MLO if seed % 2 else View.CC
    breast = make_breast(generator, view, 0.6 + 0.1 * seed, 1 + seed % 4, ROWS, COLUMNS, 240 / ROWS)
    grain = generator.standard_normal((ROWS, COLUMNS), np.float32) * 0.006
    top = 2**bits - 1
    grey = np.clip(np.rint((breast.tissue + grain) * top), 1, top) * (breast.mask > 0)
    x, y, width, height = cv2.boundingRect(breast.mask)
    return grey[y : y + height, x : x + width].astype(f"uint{bits}")


def write_films(folder: Path, films: int, bits: int) -> tuple[dict[str, tuple[str, tuple[int, int, int, int]]], float]:
    """Writes PNGs, each breast as it is and mirrored in turn; returns what a shard's work says of them, and their mean size in MB."""
    breasts = [cleaned_phantom(seed, bits) for seed in range(BREASTS)]
    images, written = {}, 0
    for number in range(films):
        image = breasts[number % BREASTS]
        flips = number // BREASTS % 4
        image = np.ascontiguousarray(image[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1])
        png = encode_png(image)
        (folder / f"film{number:03d}.png").write_bytes(png)
        images[f"film{number:03d}"] = digest_of(png), (0, 0, *image.shape)
        written += len(png)
    return images, written / films / 1e6


def plan(images: dict[str, tuple[str, tuple[int, int, int, int]]], patches: int, size: int) -> pd.DataFrame:
    """Places at random within the films, evenly over them, in a plan's order."""
    generator = np.random.default_rng(0)
    names = sorted(list(images)[number % len(images)] for number in range(patches))
    boxes = [images[name][1] for name in names]
    return pd.DataFrame(
        {
            "image_id": names,
            "y": [int(generator.integers(0, height - size)) for _, _, height, _ in boxes],
            "x": [int(generator.integers(0, width - size)) for _, _, _, width in boxes],
            "size": size,
        }
    )


def floor(patches: pd.DataFrame, images: Path, output: Path, level: int) -> None:
    """Decodes each film once, compresses each patch, writes one file."""
    zstd = Zstd(level)
    chunks = []
    for name, rows in patches.groupby("image_id", sort=False):
        film = cv2.imdecode(np.fromfile(images / f"{name}.png", np.uint8), cv2.IMREAD_UNCHANGED)
        for y, x, size in zip(rows["y"], rows["x"], rows["size"], strict=True):
            chunks.append(zstd.encode(np.ascontiguousarray(film[y : y + size, x : x + size])))
    output.write_bytes(b"".join(chunks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--patches", type=int, default=1024)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8)
    parser.add_argument("--pairs", type=int, default=5, help="at least 5")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        # Threads of any library share the one core.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    settings = StoreSettings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, megabytes = write_films(folder, arguments.films, arguments.bits)
        patches = plan(images, arguments.patches, arguments.size)
        work = ShardWork(0, 0, patches, images)
        run = folder / "run"
        store.create_patches(run / "patches.zarr", len(patches), arguments.size, settings, arguments.bits)
        shard, simplest = store.shard_path(run / "patches.zarr", 0), folder / "floor"

        def extract() -> None:
            receipt_path(run, 0).unlink(missing_ok=True)
            assert not extract_shard(work, run, folder).skipped

        def least() -> None:
            floor(patches, folder, simplest, settings.zstd_level)

        extract()
        least()
        ours, theirs = [], []
        for _ in range(max(5, arguments.pairs)):
            theirs.append(timeit(least, number=1))
            ours.append(timeit(extract, number=1))
        ratios = [here / there for here, there in zip(ours, theirs, strict=True)]
        print(
            f"{len(patches):,} patches of {arguments.size} x {arguments.size}, {arguments.bits} bits, from {len(images)} films of "
            f"{megabytes:.1f} MB as PNG; {len(ours)} pairs on one core\n"
        )
        print(
            "| | s, median | patches/s | shard, MB | times the floor: median | most of the pairs |\n|---|---|---|---|---|---|"
        )
        for title, seconds, file, ratio in (
            ("floor", theirs, simplest, "|"),
            ("extract_shard", ours, shard, f"{median(ratios):.2f} | {max(ratios):.2f}"),
        ):
            speed = f"{median(seconds):.2f} | {len(patches) / median(seconds):,.0f}"
            print(f"| {title} | {speed} | {file.stat().st_size / 1e6:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
