"""What is foretold of memory and disk against what is measured, and what cannot fit refused before its work is sent."""

import gzip
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from flows.build_dataset import build_dataset
from flows.clusters import WORKER_ENVIRONMENT, ClusterSettings
from mammo_etl import limits, store
from mammo_etl.convert import convert_film
from mammo_etl.extract import ShardWork, extract_shard
from mammo_etl.files import digest_of
from mammo_etl.film_work import FilmWork, film_work
from mammo_etl.inventory import assemble, list_sources, read_headers
from mammo_etl.phantom.ljpeg_writer import encode
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.plan import PlanError
from mammo_etl.records import Abnormality, Finding, Label, Laterality, Pathology, RoiKind, Scan, View
from mammo_etl.reuse import Parent
from mammo_etl.settings import BuildSettings, CleaningSettings, PatchSettings, SourceSettings, StoreSettings

ROWS, COLUMNS = 4800, 3000

_PEAK = """
import json, pickle, sys
from pathlib import Path
import distributed, mammo_etl.convert, mammo_etl.extract, mammo_etl.ljpeg
def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
calls, film = pickle.loads(Path(sys.argv[1]).read_bytes())
mammo_etl.ljpeg.decode(film)
base = status("VmRSS")
results = [call() for call in calls]
print(json.dumps([base, status("VmHWM") - base, [len(getattr(result, "rejects", ())) for result in results]]))
"""


def peak_of(folder: Path, *calls: "partial[Any]") -> int:
    """By how much a process as a worker's grows at most while it makes these calls, bytes, beyond what it has loaded before."""
    film = encode(np.zeros((16, 16), np.uint16), 12)
    (folder / "calls").write_bytes(pickle.dumps((calls, film)))
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(folder / "calls")],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | WORKER_ENVIRONMENT,
    )
    base, grown, rejects = json.loads(done.stdout)
    assert base <= limits.WORKER
    assert not any(rejects)
    return int(grown)


def breast(rows: int, columns: int) -> np.ndarray:
    """A breast of noise that nearly fills its film, (rows, columns) of 16 bits: the worst there is to be compressed."""
    inside = np.zeros((rows, columns), np.uint8)
    cv2.ellipse(inside, (columns // 2, rows // 2), (int(columns * 0.49), int(rows * 0.49)), 0, 0, 360, 1, cv2.FILLED)
    noise = np.random.default_rng(0).integers(0, 256, (rows, columns), np.uint8).astype(np.uint16)
    return np.where(inside > 0, 20000 + 150 * noise, 300 + noise)


def write_dicom(path: Path, pixels: np.ndarray, *, windowed: bool, compressed: bool) -> str:
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1" if windowed else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    if windowed:
        dataset.WindowCenter, dataset.WindowWidth = 35000, 60000
        pixels = 65535 - pixels
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else ImplicitVRLittleEndian
    dataset.PixelData = pixels.tobytes()
    if compressed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


def scan_of(path: str, rows: int = ROWS, columns: int = COLUMNS, **fields: Any) -> Scan:
    fields = {"source": "cbis-ddsm", "bits": 16, **fields}
    return Scan(
        image_id="film",
        patient_id="P",
        laterality=Laterality.LEFT,
        view=View.CC,
        normal=True,
        path=path,
        rows=rows,
        columns=columns,
        **fields,
    )


def finding_of(kind: RoiKind, **fields: Any) -> Finding:
    return Finding(
        finding_id="film_1",
        image_id="film",
        source="cbis-ddsm",
        patient_id="P",
        abnormality=Abnormality.MASS,
        pathology=Pathology.BENIGN,
        pathology_listed="BENIGN",
        label=Label.BENIGN_MASS,
        roi_kind=kind,
        **fields,
    )


def dicom_film(folder: Path, *, rows: int = ROWS, columns: int = COLUMNS, worst: bool = False) -> FilmWork:
    """A film as CBIS-DDSM's with a mask that nearly fills it; at worst inverted, with a window, compressed, and the mask of 16 bits."""
    film = write_dicom(folder / "film.dcm", breast(rows, columns), windowed=worst, compressed=worst)
    bits = 16 if worst else 8
    pixels = np.zeros((rows, columns), f"uint{bits}")
    pixels[9:-9, 9:-9] = 2**bits - 1
    mask = write_dicom(folder / "mask.dcm", pixels, windowed=False, compressed=worst)
    finding = finding_of(RoiKind.MASK, roi_path=mask, mask_rows=rows, mask_columns=columns, mask_bits=bits)
    return FilmWork(scan_of(film, rows, columns), (finding,))


def ljpeg_film(folder: Path) -> FilmWork:
    """A film as DDSM's, gzipped, with an outline around a third of it and another beside it."""
    content = encode(breast(ROWS, COLUMNS) >> 4, 12)
    (folder / "film.LJPEG.gz").write_bytes(gzip.compress(content, 1))
    chains = tuple(f"{x} 100 " + "4" * 4000 + "2" * 1200 + "0" * 4000 + "6" * 1200 for x in (100, 1500))
    findings = tuple(
        replace(finding_of(RoiKind.OUTLINE, roi_outlines=(chain,)), finding_id=f"film_{number}")
        for number, chain in enumerate(chains)
    )
    scan = scan_of(str(folder / "film.LJPEG.gz"), source="ddsm", bits=12, scanner="LUMISYS", institution="WFU")
    return FilmWork(scan, findings)


def plain_film(folder: Path) -> FilmWork:
    """A film as mini-MIAS's, but of the original's size, and written in decimal numbers."""
    rows, columns = 1800, 1400
    numbers = " ".join(map(str, breast(rows, columns).ravel().tolist()))
    (folder / "film.pgm").write_text(f"P2 {columns} {rows} 65535\n{numbers}\n")
    circle = finding_of(RoiKind.CIRCLE, roi_y=900.0, roi_x=700.0, roi_radius=400.0)
    return FilmWork(scan_of(str(folder / "film.pgm"), rows, columns, source="mini-mias"), (circle,))


WORST, LARGEST = partial(dicom_film, worst=True), partial(dicom_film, rows=6500, columns=4300)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize(
    ("film", "cleaning", "patches"),
    [
        (dicom_film, {}, {}),
        (partial(dicom_film, rows=2400, columns=1500, worst=True), {"bits": 16}, {"hard_normals": 0.5}),
        (ljpeg_film, {"bits": 16}, {}),
        pytest.param(plain_film, {}, {}, marks=pytest.mark.slow),
        pytest.param(partial(dicom_film, rows=2400, columns=1500), {"scale": 1}, {}, marks=pytest.mark.slow),
        pytest.param(dicom_film, {"bits": 16}, {"hard_normals": 0.5}, marks=pytest.mark.slow),
        pytest.param(ljpeg_film, {}, {"hard_normals": 0.5}, marks=pytest.mark.slow),
        pytest.param(WORST, {}, {"hard_normals": 0.5}, marks=pytest.mark.slow),
        pytest.param(WORST, {"bits": 16}, {"hard_normals": 0.5}, marks=pytest.mark.slow),
        pytest.param(LARGEST, {}, {}, marks=pytest.mark.slow),
        pytest.param(partial(LARGEST, worst=True), {"bits": 16}, {}, marks=pytest.mark.slow),
    ],
)
def test_a_film_takes_no_more_memory_than_foretold(
    tmp_path: Path, film: Callable[[Path], FilmWork], cleaning: dict[str, Any], patches: dict[str, Any]
) -> None:
    work = film(tmp_path)
    cleaned, cut = CleaningSettings(**cleaning), PatchSettings(**patches)
    measured = peak_of(tmp_path, partial(convert_film, work, tmp_path / "ws", cleaned, cut))
    foretold = limits.film_memory(work, cleaned, cut)
    print(f"measured {measured / 1e6:.0f} MB, foretold {foretold / 1e6:.0f} MB, {foretold / measured:.2f}")
    assert measured <= foretold <= 3 * measured


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16])
def test_many_films_take_no_more_memory_than_the_largest(tmp_path: Path, bits: int) -> None:
    """What a worker keeps of one film, it has for the next."""
    write_phantoms(tmp_path, 4, 0, workers=2)
    works = [*films_of("cbis-ddsm", tmp_path / "cbis-ddsm"), *films_of("ddsm", tmp_path / "ddsm")]
    cleaning = CleaningSettings.model_validate({"bits": bits})
    patches = PatchSettings(normals="background")
    calls = [partial(convert_film, work, tmp_path / "ws", cleaning, patches) for work in works]
    measured = peak_of(tmp_path, *calls)
    foretold = max(limits.film_memory(work, cleaning, patches) for work in works)
    print(f"measured {measured / 1e6:.0f} MB, foretold {foretold / 1e6:.0f} MB, {foretold / measured:.2f}")
    assert measured <= foretold <= 4 * measured


def films_of(kind: str, path: Path) -> list[FilmWork]:
    (files,) = list_sources([SourceSettings(kind=kind, path=str(path))])
    inventory = assemble(files, dict(read_headers(kind, files.with_headers)))
    return film_work(inventory.scans, inventory.findings, inventory.rejects)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize(
    ("bits", "copied"),
    [
        (8, False),
        (16, True),
        pytest.param(16, False, marks=pytest.mark.slow),
        pytest.param(8, True, marks=pytest.mark.slow),
    ],
)
def test_a_shard_takes_no_more_memory_than_foretold(tmp_path: Path, bits: int, copied: bool) -> None:
    """Noise, which cannot be compressed, is the worst there is; cut from films, or copied from the run before."""
    noise = np.random.default_rng(0).integers(0, 2**bits, (1200, 900)).astype(f"uint{bits}")
    png = cv2.imencode(".png", noise)[1].tobytes()
    (tmp_path / "a.png").write_bytes(png)
    patches = pd.DataFrame({"image_id": "a", "y": np.arange(1024) % 900, "x": np.arange(1024) % 600, "size": 256})
    work = ShardWork(0, 0, patches, {"a": (digest_of(png), (0, 0, 1200, 900))})
    for run in ("parent", "run"):
        store.create_patches(tmp_path / run / "patches.zarr", 1024, 256, StoreSettings(), bits)
    if copied:
        extract_shard(work, tmp_path / "parent", tmp_path)
        array = tmp_path / "parent" / "patches.zarr"
        digests = {0: digest_of(store.shard_path(array, 0).read_bytes())}
        work = replace(work, parent=Parent(array, digests, 1024, np.arange(1024)))
    measured = peak_of(tmp_path, partial(extract_shard, work, tmp_path / "run", tmp_path))
    foretold = limits.shard_memory(1024, 256, bits, noise.size)
    print(f"measured {measured / 1e6:.0f} MB, foretold {foretold / 1e6:.0f} MB, {foretold / measured:.2f}")
    assert measured <= foretold <= 3 * measured


FILM = FilmWork(replace(scan_of("film.dcm", 6511, 4291), image_id="ddsm_A-1_LEFT_MLO"), ())
NEEDED = limits.film_memory(FILM, CleaningSettings(), PatchSettings())


def test_a_film_that_no_worker_could_hold_is_refused_by_name() -> None:
    small = replace(FILM, scan=replace(FILM.scan, image_id="small", rows=600))
    check = partial(limits.check_film_memory, [small, FILM, small], CleaningSettings(), PatchSettings())
    enough = -(-10 * (limits.WORKER + NEEDED) // 8)
    for workers in ([], [(0, 8)], [(enough, 1)], [(0, 1), (enough, 1)]):
        check(workers)
    with pytest.raises(PlanError) as refused:
        check([(enough, 1), (enough - 10, 1)])
    said = str(refused.value)
    assert said.startswith("convert: ddsm_A-1_LEFT_MLO of 6,511 x 4,291 pixels needs about 0.9 GB with the libraries, ")
    assert "the worker with the least memory gives 0.9 GB (80% of its limit): give each worker at least " in said
    check([(int(1e9 * float(re.findall(r"at least ([\d.]+) GB", said)[0])), 1)])


def test_a_workers_threads_share_its_memory() -> None:
    check = partial(limits.check_film_memory, [FILM], CleaningSettings(), PatchSettings())
    enough = -(-10 * (limits.WORKER + 4 * NEEDED) // 8)
    check([(enough, 4)])
    with pytest.raises(PlanError, match=r"4,291 pixels needs on each of 4 threads about 2\.6 GB with the libraries"):
        check([(enough - 10, 4)])


def test_a_twin_counts_where_it_is_read() -> None:
    work = replace(FILM, scan=replace(FILM.scan, rows=600), twins=((FILM.scan, ()),))
    assert limits.film_memory(work, CleaningSettings(), PatchSettings()) < NEEDED
    assert limits.film_memory(work, CleaningSettings(), PatchSettings(normals="background")) == NEEDED


def test_a_shard_that_no_worker_could_hold_is_refused() -> None:
    enough = -(-10 * (limits.WORKER + limits.shard_memory(1024, 256, 8, 10**7)) // 8)
    limits.check_shard_memory(1024, 256, 8, 10**7, [(enough, 1)])
    with pytest.raises(
        PlanError,
        match=r"a shard of 1,024 patches of 256 x 256 and 8 bits needs .* or set a smaller store\.shard_rows$",
    ):
        limits.check_shard_memory(1024, 256, 8, 10**7, [(enough - 10, 1)])


def settings_of(bits: int) -> BuildSettings:
    patches = {"size": 64, "stride": 32, "normals_per_film": 8, "min_distance": 16, "normals": "background"}
    values = {"cleaning": {"bits": bits}, "patches": patches, "store": {"shard_rows": 50}}
    return BuildSettings.model_validate(values)


@pytest.mark.parametrize(
    ("memory_gb", "sentence"),
    [
        (0.3, "inventory: a worker needs about 0.4 GB"),
        (0.48, r"convert: cbis-ddsm_P_0\S+ of \d+ x \d+ pixels needs about"),
    ],
)
def test_a_build_is_refused_before_work_is_sent_to_workers_that_are_too_small(
    phantoms: Path, tmp_path: Path, memory_gb: float, sentence: str
) -> None:
    source = SourceSettings(kind="cbis-ddsm", path=str(phantoms / "cbis-ddsm"))
    with pytest.raises(PlanError, match=sentence):
        build_dataset.fn([source], tmp_path, settings_of(8), ClusterSettings(workers=1, memory_gb=memory_gb))
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_build_takes_no_more_disk_than_foretold(
    phantoms: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    needs: dict[str, int] = {}

    def note(what: str, needed: int, _: Path) -> None:
        needs[what.split(":")[0]] = needed

    def taken(*names: str) -> int:
        files = [path for name in names for path in (tmp_path / name).rglob("*") if path.is_file()]
        return sum(512 * path.stat().st_blocks for path in files)

    monkeypatch.setattr(limits, "_check_disk", note)
    source = SourceSettings(kind="cbis-ddsm", path=str(phantoms / "cbis-ddsm"))
    build_dataset.fn([source], tmp_path, settings_of(bits), cluster)
    for step, measured in (("convert", taken("images", "candidates")), ("extract", taken("runs"))):
        print(f"{step}: measured {measured / 1e6:.2f} MB, foretold {needs[step] / 1e6:.2f} MB")
        assert measured <= needs[step] <= 3 * measured
    needs.clear()
    pictures = sorted((tmp_path / "images").rglob("*.png"))
    pictures[0].unlink()
    size = cv2.imread(str(pictures[1]), cv2.IMREAD_GRAYSCALE).size
    build_dataset.fn([source], tmp_path, settings_of(bits), cluster)
    assert 0 < needs["convert"] < 2 * bits * size
    assert "extract" not in needs, "nothing of the run has to be written"
