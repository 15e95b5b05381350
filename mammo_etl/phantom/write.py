"""Phantom patients on disk: films with known truth, as real files of CBIS-DDSM and DDSM.

Same seed and size give the same bytes, whatever the number of workers; more patients leave the earlier ones as they are.
"""

import json
import signal
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mammo_etl.inventory import PHANTOM_MARK
from mammo_etl.phantom.cbis_ddsm import TABLE_FAULTS, TableRow, write_cbis_patient, write_cbis_tables
from mammo_etl.phantom.cbis_extras import EXTRAS_FAULTS, WrittenImage
from mammo_etl.phantom.ddsm import write_ddsm_patient
from mammo_etl.phantom.film import Film, make_film
from mammo_etl.phantom.plan import CbisPatient, DdsmPatient, plan_patient
from mammo_etl.phantom.source_faults import Fault
from mammo_etl.phantom.truth import FaultTruth, Truth, write_truth_tables
from mammo_etl.workspace import write_bytes

SMALLEST_HEIGHT, SMALLEST_WIDTH = 320, 200
"""Below this, lesions would be a few pixels wide."""

_MARK_TEXT = "The films in this folder are phantoms: drawn by a program, of nobody. Their truth is in ../truth.\n"


@dataclass(frozen=True)
class PhantomSummary:
    """What has been written."""

    patients: int
    films: int
    """Images: a film listed both as a mass and as a calcification image counts twice."""
    findings: int
    normal_films: int
    """Images of normal cases."""
    findings_by_label: dict[str, int]


@dataclass(frozen=True)
class _Settings:
    """What decides the bytes of a patient."""

    seed: int
    height: int
    width: int
    faults: tuple[Fault, ...]

    def note(self) -> dict[str, Any]:
        """What `phantom.json` says of them."""
        note = asdict(self)
        return note if self.faults else {name: value for name, value in note.items() if name != "faults"}


@dataclass(frozen=True)
class _Written:
    """What a patient adds to the tables."""

    truths: tuple[Truth, ...]
    table_rows: tuple[TableRow, ...] = ()
    images: tuple[WrittenImage, ...] = ()
    """CBIS-DDSM's files."""


def write_phantoms(
    out: Path,
    patients: int,
    seed: int,
    *,
    height: int = 4800,
    width: int = 3000,
    workers: int = 1,
    on_patient: Callable[[int, int], None] | None = None,
    faults: Collection[Fault] = (),
) -> PhantomSummary:
    """Write `out/cbis-ddsm`, `out/ddsm` and `out/truth` for a number of patients (16 have every class and normals).

    `height` and `width` are the nominal size of a film in pixels; what the film shows scales with them (a pixel is 50 um at
    4,800 rows). `workers` processes share the work. `on_patient(done, patients)` is called as each patient is finished.
    `faults` of files, headers and tables are injected beside those that the sources' usual mix has; `out/truth/source_faults.csv` says where.

    Raises ValueError for numbers out of range, and FileExistsError if `out` holds phantoms of another seed, size, or other faults, or of
    more patients.
    """
    if patients < 1 or seed < 0 or workers < 1:
        raise ValueError(
            f"patients and workers must be at least 1 and seed at least 0, not {patients}, {workers}, {seed}"
        )
    if height < SMALLEST_HEIGHT or width < SMALLEST_WIDTH:
        raise ValueError(
            f"films of {height} x {width} pixels are too small: {SMALLEST_HEIGHT} x {SMALLEST_WIDTH} at least"
        )
    settings = _Settings(seed, height, width, tuple(fault for fault in Fault if fault in faults))
    _claim(out, settings, patients)
    for source in ("cbis-ddsm", "ddsm"):
        write_bytes(out / source / PHANTOM_MARK, _MARK_TEXT.encode())
    written: dict[int, _Written] = {}
    for index, result in _run(out, settings, patients, workers):
        written[index] = result
        if on_patient is not None:
            on_patient(len(written), patients)
    in_order = [written[index] for index in range(patients)]
    truths = [truth for result in in_order for truth in result.truths]
    cbis = out / "cbis-ddsm"
    write_cbis_tables(cbis, [row for result in in_order for row in result.table_rows], settings.faults)
    for fault in settings.faults:
        if fault in EXTRAS_FAULTS:
            EXTRAS_FAULTS[fault](cbis, [image for result in in_order for image in result.images])
    whole = {Fault.UPPER_CASE, *TABLE_FAULTS, *EXTRAS_FAULTS}
    of_source = tuple(FaultTruth(fault, "", "", "") for fault in settings.faults if fault in whole)
    write_truth_tables(out / "truth", [Truth((), (), of_source), *truths])
    films = [film for truth in truths for film in truth.films]
    labels = [finding.label_name for truth in truths for finding in truth.findings]
    return PhantomSummary(
        patients=patients,
        films=len(films),
        findings=len(labels),
        normal_films=sum(film.normal for film in films),
        findings_by_label={label: labels.count(label) for label in sorted(set(labels))},
    )


def _claim(out: Path, settings: _Settings, patients: int) -> None:
    """Refuse to mix two sets of phantoms in one folder."""
    note = out / "truth" / "phantom.json"
    wanted = settings.note() | {"patients": patients}
    if note.exists():
        found = json.loads(note.read_text())
        same = json.dumps(found | {"patients": patients}, sort_keys=True) == json.dumps(wanted, sort_keys=True)
        if not same or patients < found["patients"]:
            raise FileExistsError(
                f"{out} holds phantoms made with {found}, not {wanted}: give an empty folder, or the same "
                "settings and at least as many patients"
            )
    write_bytes(note, (json.dumps(wanted) + "\n").encode())


def _run(out: Path, settings: _Settings, patients: int, workers: int) -> Iterator[tuple[int, _Written]]:
    """Write each patient; yields them as they are finished."""
    if workers == 1:
        for index in range(patients):
            yield index, _write_patient(out, settings, index)
        return
    # Forked children would inherit locks of OpenCV's threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), _settle) as pool:
        futures = {pool.submit(_write_patient, out, settings, index): index for index in range(patients)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            # Else an interrupted command would go on to the last patient.
            pool.shutdown(cancel_futures=True)


def _settle() -> None:
    """What a worker process does first: one thread is its share, and Ctrl-C is for the command, which stops its workers in order."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_patient(out: Path, settings: _Settings, index: int) -> _Written:
    patient = plan_patient(settings.seed, index, settings.faults)
    films = _films(settings, index, patient)
    rng = np.random.default_rng([settings.seed, index, 3])
    number = index // 2
    if isinstance(patient, CbisPatient):
        written = write_cbis_patient(
            out / "cbis-ddsm",
            out / "truth",
            patient,
            films,
            number=number,
            rng=rng,
            seed=settings.seed,
            faults=settings.faults,
        )
        return _Written(written.truths, written.table_rows, written.images)
    return _Written(
        write_ddsm_patient(out / "ddsm", out / "truth", patient, films, number=number, rng=rng, faults=settings.faults)
    )


def _films(settings: _Settings, index: int, patient: CbisPatient | DdsmPatient) -> Iterator[Film]:
    """Make a patient's films, one at a time: at full size a film takes hundreds of megabytes."""
    breast_size = float(np.random.default_rng([settings.seed, index, 1]).uniform())
    for number, plan in enumerate(patient.films):
        rng = np.random.default_rng([settings.seed, index, 2, number + 1])
        yield make_film(rng, plan, patient.density, breast_size, settings.height, settings.width)
