"""A trained model over whole films: every patch of a grid over the breast is put to it, as the patches were that it has learned from.

The networks pad with zeros at a patch's edge, so that convolving a film as a whole gives other answers than the model gives to the patches. Of a model trained on
phantoms, the probabilities of 561 patches of 128 pixels were off by 0.04 in the median, 0.36 in one of twenty, and 0.88 at most. So patches are scored as
they are, many at a time; temperature, thresholds and figures of the model's report hold for them.
"""

import functools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_etl.candidates import BoxSums, grid, on
from mammo_etl.cleaning import CleanFilm
from mammo_etl.dicom import Pixels
from mammo_etl.extract import cut
from mammo_etl.files import SourceFileError, digest_of, digest_of_file, fingerprint_of, read_bytes
from mammo_etl.film_files import FilmFile, clean_alone, with_ics
from mammo_etl.formats import MODEL_VERSION, OLDEST_MODEL, check_format, version_of
from mammo_etl.places import Place, local_copy
from mammo_etl.reader import open_run
from mammo_etl.records import Reason, Rejection
from mammo_etl.schema import FORMAT_VERSION as FILMS_VERSION
from mammo_etl.settings import CleaningSettings, digest
from mammo_etl.workspace import Workspace, entries, read_json, read_sealed, write_bytes, write_sealed
from mammo_model.film_pictures import candidates_picture, class_picture, encoded
from mammo_model.finished import TRAIN_AGAIN, finished_models, read_finished, what_there_is
from mammo_model.heatmap import find_lesions, heatmap_of
from mammo_model.levels import questions
from mammo_model.scoring_settings import ScoringSettings

FORMAT_VERSION = 1
"""Version of what scoring writes."""

BATCH = 16
"""Patches put to the model at a time; always as many, so that it is compiled once. More were no faster on two cores."""

_log = logging.getLogger(__name__)

NOT_MEDICINE = "Research software, not a medical device."
PHANTOM = "The model knows phantoms only: this proves plumbing, and says nothing about medicine."


class ScoringError(Exception):
    """Films or a model that cannot be used for scoring, in one sentence."""


@dataclass(frozen=True, slots=True)
class AppliedModel:
    """A model, and what a film needs to be put to it."""

    model_id: str
    run_id: str
    path: Place
    """Its model.keras."""
    sha256: str
    """Of that file."""
    classes: tuple[str, ...]
    size: int
    """Height and width of its patches, pixels."""
    cleaning: CleaningSettings
    """How the films that it has learned from were cleaned."""
    phantom: bool
    """It knows phantoms only."""

    @property
    def note(self) -> str:
        """What stands beside whatever it says."""
        return f"{NOT_MEDICINE} {PHANTOM}" if self.phantom else NOT_MEDICINE


@dataclass(frozen=True, slots=True)
class ScoredFilm:
    """What became of one film."""

    film: FilmFile
    skipped: bool
    """It was scored before, by the same model under the same settings."""
    basis: str = ""
    """Digest of all that decides its figures; empty if it could not be scored."""
    rejection: Rejection | None = None
    """Why it could not be scored."""


def check_output(out: Place) -> None:
    """Raises FormatError if a newer mammo has scored into a folder: its tables are not written over."""
    path = out / "manifest.json"
    found = read_json(path)
    if found is not None and (version_of(found) or 0) > FORMAT_VERSION:
        check_format(path, found, FORMAT_VERSION, "")


def find_model(workspace: Place, model_id: str | None = None) -> AppliedModel:
    """The model of that name, or the one that was finished last.

    Raises ScoringError if there is none, or not of that name, ReaderError if its dataset run is gone, and FormatError if a model or its run is of a
    format that cannot be scored by.
    """
    models = Workspace(workspace).models
    there = finished_models(workspace)
    names = there if model_id is None else [name for name in there if name == model_id]
    found = {name: read_json(models / name / "manifest.json") for name in names}
    for name, manifest in found.items():
        if manifest is not None:
            check_format(models / name / "manifest.json", manifest, MODEL_VERSION, TRAIN_AGAIN, OLDEST_MODEL)
    manifests = [manifest for manifest in found.values() if manifest is not None]
    if not manifests:
        asked = "" if model_id is None else f" {model_id}"
        raise ScoringError(f"{workspace}: no finished model{asked} here{what_there_is(there)}")
    folder = models / max(manifests, key=lambda found: (found["finished"], found["model_id"]))["model_id"]
    finished = read_finished(folder)
    if finished is None:
        raise ScoringError(f"{folder}: metrics.json is missing or damaged; train the model again")
    manifest, metrics = finished
    run = open_run(workspace, manifest["run_id"])
    # Another version cleans films otherwise: the model would be asked about films unlike those that it has learned from.
    check_format(
        run.folder / "manifest.json", run.manifest, FILMS_VERSION, "build a run and train a model anew to score by it"
    )
    settings = run.manifest["settings"]
    path = folder / "model.keras"
    sha256 = digest_of_file(path) if path.exists() else None
    if sha256 is None or sha256 != manifest["files"]["model.keras"]:
        raise ScoringError(f"{path}: missing, or changed after it was written; train the model again")
    return AppliedModel(
        model_id=manifest["model_id"],
        run_id=manifest["run_id"],
        path=path,
        sha256=sha256,
        classes=tuple(metrics["classes"]),
        size=int(settings["patches"]["size"]),
        cleaning=CleaningSettings.model_validate(settings["cleaning"]),
        phantom=bool(manifest["phantom"]),
    )


def score_film(
    film: FilmFile, out: Place, model: AppliedModel, settings: ScoringSettings, threads: int = 1
) -> ScoredFilm:
    """Scores a film into OUT/films/<image_id>/: a PNG per class, `candidates.png` and, last, `scores.json` with all figures.

    Where they hold for the film's content, the model, the settings and the versions of what computes, nothing is done. What cannot be scored comes back as a rejection.
    So many `threads` put patches to the model at a time, which changes no figure.
    """
    folder = out / "films" / film.image_id
    try:
        film = with_ics(film)
        content = read_bytes(film.path)
        described = {name: value for name, value in asdict(film).items() if name != "path"}
        identity = asdict(model) | {"path": None, "cleaning": model.cleaning.model_dump(mode="json")}
        basis = digest(fingerprint_of(content), described, identity, settings, engine(), version=FORMAT_VERSION)
        if _holds(folder, basis):
            return ScoredFilm(film, True, basis)
        clean, rows, columns = clean_alone(film, content, model.cleaning)
        if rows < model.size or columns < model.size:
            raise SourceFileError(
                Reason.TOO_SMALL,
                f"The film has {rows} x {columns} pixels, less than a patch of {model.size} x {model.size}.",
            )
    except SourceFileError as error:
        _log.info("not scored, %s: %s", error.code, error.message)
        return left_out(film, error.code, error.message)
    places = places_of(clean, rows, columns, model.size, settings)
    answers = ask(loaded(model.path, model.sha256), clean.image, _box(clean), places, model.size, threads)
    _write(folder, basis, clean, (rows, columns), places, answers, film, model, settings)
    return ScoredFilm(film, False, basis)


def left_out(film: FilmFile, code: Reason, message: str) -> ScoredFilm:
    """A film that could not be scored."""
    row = Rejection(
        stage="score", code=code, message=message, source=film.source, path=film.path, image_id=film.image_id
    )
    return ScoredFilm(film, False, rejection=row)


def places_of(clean: CleanFilm, rows: int, columns: int, size: int, settings: ScoringSettings) -> NDArray[np.int64]:
    """Places of the patches that are scored, (n, 2) rows and columns on the film, row by row: a grid over the breast's box, as far as they hold enough
    breast; the one that holds most if none does. None reaches over the film's edge."""
    box = clean.breast.box
    stride = settings.stride or max(1, size // 2)
    starts = [
        np.unique(np.minimum(grid(start, length, size, stride), end - size))
        for start, length, end in ((box.y, box.height, rows), (box.x, box.width, columns))
    ]
    places = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
    breast = BoxSums(on(clean.image), box)(places[:, 0], places[:, 1], size) / size**2
    chosen = breast >= min(settings.min_breast, breast.max())
    found: NDArray[np.int64] = places[chosen]
    return found


def ask(
    model: Any,
    image: Pixels,
    box: tuple[int, int, int, int],
    places: NDArray[np.int64],
    size: int,
    threads: int = 1,
) -> NDArray[np.float32]:
    """The model's answers to the patches at these places, (n, classes), from a film's cleaned pixels within its box (y, x, height, width)."""
    batches = _batches(image, box, places, size)
    answers: list[NDArray[np.float32]] = []
    with ThreadPoolExecutor(threads) as pool:
        # No more batches are cut than are being asked about: a small stride has more than fit in memory.
        while some := list(islice(batches, threads)):
            answers += pool.map(lambda batch: np.asarray(model.predict_on_batch(batch)), some)
    return np.concatenate(answers)[: len(places)]


def _batches(
    image: Pixels, box: tuple[int, int, int, int], places: NDArray[np.int64], size: int
) -> Iterator[NDArray[Any]]:
    """The patches, (BATCH, size, size, 1); the last batch is filled up with black ones."""
    for start in range(0, len(places), BATCH):
        batch = np.zeros((BATCH, size, size, 1), image.dtype)
        for index, (y, x) in enumerate(places[start : start + BATCH]):
            batch[index, ..., 0] = cut(image, box, int(y), int(x), size)
        yield batch


@functools.lru_cache(maxsize=1)
def loaded(path: Place, sha256: str) -> Any:
    """The Keras model in a file of that digest, kept for the next film."""
    import keras

    del sha256  # Only tells files of one name apart.
    _one_thread_each()
    with local_copy(path) as file:
        model = keras.saving.load_model(file, compile=False)
    # Here, not by several threads at once.
    model.make_predict_function()
    return model


def _one_thread_each() -> None:
    """Has TensorFlow compute each answer in one thread: with another number of them sums are added in another order, and the last digits differ.

    A process that has used TensorFlow before stays as it is.
    """
    from mammo_model.backend import on_tensorflow

    if not on_tensorflow():
        return
    import tensorflow as tf

    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)


def engine() -> dict[str, str]:
    """Versions of what computes the answers."""
    found = {}
    for name in ("keras", "tensorflow", "tensorflow-cpu", "jax"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _write(
    folder: Place,
    basis: str,
    clean: CleanFilm,
    shape: tuple[int, int],
    places: NDArray[np.int64],
    answers: NDArray[np.float32],
    film: FilmFile,
    model: AppliedModel,
    settings: ScoringSettings,
) -> None:
    """Pictures and figures of a film."""
    box = clean.breast.box
    heatmap = heatmap_of(places, answers, model.size, clean.image, box)
    lesions = find_lesions(heatmap, model.classes, settings)
    asked = questions(model.classes)
    scores = {name: float(answers[:, positive].sum(1).max()) for name, positive in asked.items()}
    title = " ".join(part for part in (film.image_id, film.laterality, film.view) if part)
    pictures = {
        f"{file_name(name)}.png": class_picture(
            clean.image, box, shape, heatmap, index, f"P({name}), {title}", model.note
        )
        for index, name in enumerate(model.classes)
    }
    told = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    pictures["candidates.png"] = candidates_picture(
        clean.image, box, shape, lesions, f"{title}: {told}; candidates: {len(lesions)}", model.note
    )
    for old in entries(folder):
        # Of a model with other classes.
        if old.name.endswith(".png") and old.name not in pictures:
            old.unlink()
    digests = {}
    for name, picture in pictures.items():
        content = encoded(picture)
        write_bytes(folder / name, content)
        digests[name] = digest_of(content)
    found = {
        "format_version": FORMAT_VERSION,
        "basis": basis,
        "image_id": film.image_id,
        "rows": shape[0],
        "columns": shape[1],
        "box": list(_box(clean)),
        "size": model.size,
        "scores": scores,
        "probabilities": [float(value) for value in answers.max(0)],
        "candidates": [asdict(lesion) for lesion in lesions],
        "places": places.tolist(),
        "answers": [[float(value) for value in row] for row in answers],
        "pictures": digests,
    }
    write_sealed(folder / "scores.json", found, indent=None)


def _holds(folder: Place, basis: str) -> bool:
    known = read_sealed(folder / "scores.json")
    if known is None or known.get("basis") != basis:
        return False
    try:
        return all(digest_of((folder / name).read_bytes()) == sha256 for name, sha256 in known["pictures"].items())
    except FileNotFoundError:
        return False


def _box(clean: CleanFilm) -> tuple[int, int, int, int]:
    box = clean.breast.box
    return box.y, box.x, box.height, box.width


def file_name(class_name: str) -> str:
    """A class in names of files and columns: `benign-mass`."""
    return class_name.lower().replace(" ", "-")
