"""Time of the inventory as `mammo inspect` makes it, on CBIS-like DICOM files, beside a plain pydicom loop over the same files.

    python tests/benchmarks/inventory.py [--files 10000] [--workers 2] [--side 64] [--profile]

A film has one finding: its cut-out and its mask share a series, and each file has the header fields of the collection. Pixels are few, for
the disk's sake: the inventory reads the first 64 KB of a file, so `--side 192` and more costs a little more time and much more disk.
Everything is in the page cache: on a cold disk or an object store the reads themselves cost what they cost there.
"""

import argparse
import cProfile
import csv
import pstats
import resource
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

_HEADER = [
    "patient_id",
    "breast_density",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "mass shape",
    "mass margins",
    "assessment",
    "pathology",
    "subtlety",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
]
_UID = "1.3.6.1.4.1.9590.100.1.2.1234567890123456789012345678"
"""Begin of the UIDs, which are as long as the collection's."""
_FOLDER = "Mass-Training_P_00000_LEFT_CC"


def write_films(root: Path, files: int, side: int) -> int:
    """Writes that many files and a table of them; returns their size in bytes. What is over after whole films is in no table."""
    film, crop = np.full((side, side), 900, np.uint16), np.full((side // 3, side // 3), 900, np.uint16)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    # pydicom takes milliseconds to write a file: each kind is written once, and its numbers are then replaced.
    roles = (
        _Role(_FOLDER, f"{_UID}1000000", 0, "full mammogram images", film),
        _Role(f"{_FOLDER}_1", f"{_UID}2000000", 0, "cropped images", crop),
        _Role(f"{_FOLDER}_1", f"{_UID}2000000", 1, "cropped images", mask),
    )
    size = sum(roles[index % 3].write(root, index // 3) for index in range(files))
    rows = []
    for number in range(files // 3):
        image, cut, roi = (role.listed(number) for role in roles)
        described = ("LEFT", "CC", 1, "mass", "OVAL", "SPICULATED", 4, "MALIGNANT", 3)
        rows.append((f"P_{number:05d}", 3, *described, image, cut, f"{roi}\n"))
    with (root / "mass_case_description_train_set.csv").open("w", newline="") as table:
        csv.writer(table).writerows([_HEADER, *rows])
    return size


class _Role:
    """Film, cut-out or mask: the bytes of its files, but for their numbers."""

    def __init__(
        self, patient: str, series: str, number: int, described: str, pixels: NDArray[np.uint8] | NDArray[np.uint16]
    ) -> None:
        self.patient, self.series, self.number, self.described = patient, series, number, described
        stream = BytesIO()
        pydicom.dcmwrite(stream, _image(patient, series, number, described, pixels), enforce_file_format=True)
        self.content = stream.getvalue()

    def write(self, root: Path, film: int) -> int:
        """Writes the file of a film; returns its size."""
        content = self.content.replace(b"P_00000", f"P_{film:05d}".encode())
        content = content.replace(self.series.encode(), self.series_of(film).encode())
        folder = f"1.000000-{self.described}-{film:05d}"
        path = root / self.patient_of(film) / "07-20-2016-DDSM-NA-74994" / folder / f"1-{self.number + 1}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.write_bytes(content)

    def listed(self, film: int) -> str:
        """Path of the file in the table."""
        return f"{self.patient_of(film)}/1.2/{self.series_of(film)}/{self.number:06d}.dcm"

    def patient_of(self, film: int) -> str:
        return self.patient.replace("P_00000", f"P_{film:05d}")

    def series_of(self, film: int) -> str:
        return f"{self.series[:-6]}{film:06d}"


def _image(
    patient: str, series: str, number: int, described: str, pixels: NDArray[np.uint8] | NDArray[np.uint16]
) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{series}.{number}")
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.StudyDate = image.ContentDate = "20160720"
    image.StudyTime = image.ContentTime = "131140"
    image.AccessionNumber = image.ReferringPhysicianName = image.StudyID = ""
    image.Modality = "MG"
    image.ConversionType = "WSD"
    image.SeriesDescription = described
    image.PatientName = image.PatientID = patient
    image.PatientBirthDate = image.PatientSex = ""
    image.BodyPartExamined = "BREAST"
    image.SecondaryCaptureDeviceManufacturer = "MathWorks"
    image.SecondaryCaptureDeviceManufacturerModelName = "MATLAB"
    image.StudyInstanceUID = f"{_UID}7"
    image.SeriesInstanceUID = series
    image.SeriesNumber = image.InstanceNumber = number + 1
    image.PatientOrientation = "CC"
    image.Laterality = "L"
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = pixels.itemsize * 8
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = 0
    image.SmallestImagePixelValue, image.LargestImagePixelValue = int(pixels.min()), int(pixels.max())
    image.PixelData = pixels.tobytes()
    return image


def read_plainly(root: Path) -> int:
    """The alternative: each header by pydicom, in this process, and the fields that a join needs."""
    series = set()
    for path in root.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        series.add((header.SeriesInstanceUID, header.PatientID, header.Rows, header.Columns, header.BitsAllocated))
    return len(series)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="rows and columns of a film")
    parser.add_argument("--profile", action="store_true", help="where a worker's time goes, in this process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        size = write_films(root, arguments.files, arguments.side)
        print(f"{arguments.files} files, {size / 1e6:.0f} MB, written in {time.perf_counter() - started:.1f} s\n")
        if arguments.profile:
            _profile(root)
        else:
            _compare(root, arguments.files, arguments.workers)


def _compare(root: Path, files: int, workers: int) -> None:
    started, used = time.perf_counter(), time.process_time()
    read_plainly(root)
    plain = time.perf_counter() - started
    figures = {"pydicom.dcmread, one process": (plain, time.process_time() - used)}
    memory = _peak_memory()
    started = time.perf_counter()
    # Not at the top: each worker process imports this file anew, and has no use for Prefect.
    from flows.clusters import ClusterSettings, open_client
    from flows.progress import Stages
    from flows.read_sources import read_sources
    from mammo_etl.inspection import Inspected, inspect
    from mammo_etl.inventory import list_sources
    from mammo_etl.settings import SourceSettings

    source = SourceSettings(kind="cbis-ddsm", path=str(root))
    imports = time.perf_counter() - started
    started = time.perf_counter()
    listed = list_sources([source])
    listing = time.perf_counter() - started
    started = time.perf_counter()
    with open_client(ClusterSettings(workers=workers)) as client:
        start = time.perf_counter() - started
        for title in ("cold: workers import the readers", "warm"):
            started, used = time.perf_counter(), _processor_seconds()
            found = read_sources(client, listed, Stages())["cbis-ddsm"]
            figures[title] = (time.perf_counter() - started, _processor_seconds() - used)
    started = time.perf_counter()
    counts = inspect({"cbis-ddsm": Inspected(found, len(listed[0].files), False)}).all
    numbers = time.perf_counter() - started
    print(f"{counts.films} films, {counts.findings} findings, verdicts {counts.verdicts}\n")
    print(
        f"imports {imports:.1f} s, listing {listing:.2f} s, start of {workers} workers {start:.1f} s, numbers {numbers:.2f} s"
    )
    print(f"peak memory of this process: {memory / 1e6:.0f} MB before, {_peak_memory() / 1e6:.0f} MB after\n")
    print("| inventory | seconds | files/s | pydicom's time over it | processor seconds |\n|---|---|---|---|---|")
    for title, (seconds, used) in figures.items():
        print(f"| {title} | {seconds:.2f} | {files / seconds:.0f} | {plain / seconds:.2f} | {used:.1f} |")


def _profile(root: Path) -> None:
    from mammo_etl.inventory import assemble, list_sources, read_headers
    from mammo_etl.settings import SourceSettings

    profile = cProfile.Profile()
    (listed,) = list_sources([SourceSettings(kind="cbis-ddsm", path=str(root))])
    read_headers(listed.kind, listed.with_headers[:64])
    with profile:
        headers = dict(read_headers(listed.kind, listed.with_headers))
        assemble(listed, headers)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def _processor_seconds() -> float:
    """Of this process and its workers so far: what contends with others for the cores shows less in it."""
    workers = (worker.cpu_times() for worker in psutil.Process().children(recursive=True))
    return time.process_time() + float(sum(times.user + times.system for times in workers))


def _peak_memory() -> int:
    """Of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
