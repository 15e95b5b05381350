"""One full-size CBIS-DDSM film, from its DICOM file to the cleaned PNG with receipt and candidates, on one thread.

    python tests/benchmarks/convert.py [--rounds 7]

Beside `convert_film`, in turn and in the same process:

- the usual script: pydicom, scaling in floating point, Otsu's threshold, the largest object, holes filled, an opening
  and a closing by a disc of 25 pixels, all at full scale, OpenCV's default PNG;
- the floor, what no converter can do without: read the file, one pass to 8 bits, encode the part that shows the breast as the fastest PNG.

Medians. The films are phantoms with the usual faults and, where there is real data (MAMMO_REALDATA), a film of CBIS-DDSM.
Then the memory: how much a process that converts films grows, beyond what it takes before its first film.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit

import cv2
import numpy as np
import pydicom
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from flows.clusters import WORKER_ENVIRONMENT
from mammo_etl.convert import convert_film, read_receipt
from mammo_etl.film_work import FilmWork
from mammo_etl.phantom.film import make_film
from mammo_etl.phantom.plan import FilmPlan
from mammo_etl.records import Laterality, Scan, View
from mammo_etl.settings import CleaningSettings, PatchSettings

_SIZES = [(4560, 2864), (5400, 3600)]
_CLEANING, _PATCHES = CleaningSettings(), PatchSettings()

_FASTEST_PNG = [
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_UP,
]
"""Of OpenCV's."""

_MEMORY = """
import runpy, sys
from pathlib import Path
convert = runpy.run_path(sys.argv[3])
work = convert["film_work_of"](Path(sys.argv[1]))
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
convert["ours"](work, Path(sys.argv[2]))
print(peak() - before)
"""


def phantom(rows: int, columns: int, view: View) -> np.ndarray:
    """A phantom film, (rows, columns) of 16 bits."""
    film = make_film(
        np.random.default_rng([rows, len(view)]), FilmPlan(Laterality.LEFT, view, ()), 2, 0.5, rows, columns
    )
    return cv2.resize(film.pixels, (columns, rows), interpolation=cv2.INTER_NEAREST)


def real_film(rows: int, columns: int) -> np.ndarray | None:
    """A film of CBIS-DDSM, (rows, columns); its copy of 8 bits is brought back to 16 with noise in the low ones. None without real data."""
    folder = Path(os.environ.get("MAMMO_REALDATA", Path(__file__).resolve().parents[3] / "shared" / "realdata"))
    grey = cv2.imread(str(folder / "cbis_png" / "P_00060_RIGHT_CC.png"), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        return None
    fine = cv2.resize(grey.astype(np.float32) * 257, (columns, rows), interpolation=cv2.INTER_LINEAR)
    noise = np.random.default_rng(0).uniform(-128, 128, fine.shape)
    return np.where(fine > 0, (fine + noise).clip(1, 65535), 0).astype(np.uint16)


def write_film(path: Path, pixels: np.ndarray) -> None:
    """An image as a DICOM file as CBIS-DDSM's are: implicit VR, uncompressed."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def film_work_of(path: Path) -> FilmWork:
    """The film as a unit of work: a normal one, so that places for patches are looked for."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    scan = Scan(
        image_id=path.stem,
        source="cbis-ddsm",
        patient_id="P_00001",
        laterality=Laterality.LEFT,
        view=View.CC,
        normal=True,
        path=str(path),
        rows=header.Rows,
        columns=header.Columns,
        bits=16,
    )
    return FilmWork(scan, ())


def ours(work: FilmWork, workspace: Path) -> None:
    """The whole step, in a workspace that has nothing of the film yet."""
    result = convert_film(work, workspace, _CLEANING, _PATCHES)
    assert result.png
    assert not result.image_skipped


def usual_script(source: Path, target: Path) -> None:
    """What hand-written scripts do with a film: scale, threshold, largest object, fill its holes, smooth its outline, write."""
    pixels = pydicom.dcmread(source).pixel_array.astype(np.float64)
    grey = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).astype(np.uint8)
    _, binary = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    mask = np.where(labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA]), 255, 0).astype(np.uint8)
    y, x = np.argwhere(labels == 0)[0]
    flooded = mask.copy()
    cv2.floodFill(flooded, np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8), (int(x), int(y)), 255)
    mask |= cv2.bitwise_not(flooded)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (25, 25))
    mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    cv2.imwrite(str(target), cv2.bitwise_and(grey, mask))


def floor(source: Path, target: Path, rows: int, columns: int, box: tuple[int, int, int, int]) -> None:
    """Read, one pass to 8 bits, encode the breast's box, write; the place of pixels and breast is known."""
    content = source.read_bytes()
    pixels = np.frombuffer(content, np.uint16, rows * columns, len(content) - 2 * rows * columns)
    grey = cv2.convertScaleAbs(pixels.reshape(rows, columns), alpha=255 / 65535)
    y, x, height, width = box
    cv2.imwrite(str(target), grey[y : y + height, x : x + width], _FASTEST_PNG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    arguments = parser.parse_args()
    if not WORKER_ENVIRONMENT.items() <= os.environ.items():
        # All three run as a worker's process does: some of it is read when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | WORKER_ENVIRONMENT)
    memory = Path("/dev/shm")
    print("| film | mammo, ms | usual script, ms | floor, ms | times faster than the script | times the floor |")
    print("|---|---|---|---|---|---|")
    peaks = []
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        for rows, columns in _SIZES:
            films = {"phantom CC": phantom(rows, columns, View.CC), "phantom MLO": phantom(rows, columns, View.MLO)}
            if (real := real_film(rows, columns)) is not None:
                films["real CC"] = real
            for kind, pixels in films.items():
                path = folder / f"{kind.replace(' ', '-')}-{rows}.dcm"
                write_film(path, pixels)
                work = film_work_of(path)
                ours(work, folder / "first")
                box = tuple(read_receipt(folder / "first", _CLEANING, path.stem)["box"])
                times: list[list[float]] = [[], [], []]
                for number in range(max(5, arguments.rounds)):
                    workspace = folder / f"{path.stem}-{number}"
                    times[0].append(timeit(partial(ours, work, workspace), number=1))
                    times[1].append(timeit(partial(usual_script, path, folder / "script.png"), number=1))
                    times[2].append(timeit(partial(floor, path, folder / "floor.png", rows, columns, box), number=1))
                mine, script, least = (1e3 * median(part) for part in times)
                title = f"{kind}, {rows} x {columns}"
                print(
                    f"| {title} | {mine:.0f} | {script:.0f} | {least:.0f} | {script / mine:.1f} | {mine / least:.2f} |",
                    flush=True,
                )
                grown = subprocess.run(
                    [sys.executable, "-c", _MEMORY, str(path), str(folder / f"memory-{path.stem}"), __file__],
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=Path(__file__).parents[2],
                )
                peaks.append((title, int(grown.stdout) * 1024, 2 * rows * columns))
    print("\n| film | memory for it, MB | its pixels, MB | ratio |\n|---|---|---|---|")
    for title, peak, raw in peaks:
        print(f"| {title} | {peak / 1e6:.0f} | {raw / 1e6:.0f} | {peak / raw:.1f} |")


if __name__ == "__main__":
    main()
