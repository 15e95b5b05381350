"""A model run from a published dataset run to its report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.files import digest_of_file
from mammo_etl.formats import MODEL_VERSION
from mammo_etl.lock import locked
from mammo_etl.places import Place, files_below, name_below, place_of
from mammo_etl.reader import PublishedRun, open_run
from mammo_etl.records import Split
from mammo_etl.settings import digest
from mammo_etl.store import read_rows
from mammo_etl.workspace import UNFINISHED, Workspace, write_bytes, write_json
from mammo_model import backend, figures, report
from mammo_model.errors import ERRORS, worst_errors
from mammo_model.evaluation import EVALUATED, evaluate
from mammo_model.finished import read_finished
from mammo_model.onnx_export import TOLERANCE, ExportError, can_export, export_onnx
from mammo_model.progress import SILENT, Progress
from mammo_model.settings import TrainingSettings
from mammo_model.training import TrainedModel, model_id_of, task_of, train

EXPORT_CHECKED = 32
"""Patches on which an export must answer as the model does."""


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A finished model run."""

    model_id: str
    """Name: run and settings."""
    folder: Place
    """WORKSPACE/models/<model_id>."""
    manifest: dict[str, Any]
    """Content of manifest.json."""
    metrics: dict[str, Any]
    """Content of metrics.json."""
    reused: bool
    """True if it was finished before, so that nothing was done."""


def train_and_evaluate(
    workspace: str | Place, settings: TrainingSettings, run_id: str | None = None, progress: Progress = SILENT
) -> ModelRun:
    """Trains on the published run (or the one named), evaluates, draws and reports, all in WORKSPACE/models/<model_id>/.

    `manifest.json` is written last: where it stands, the model run is whole, and is returned as it is. A run that was stopped goes on where it
    was: training where it last saved its state, everything after training from its start.

    Raises mammo_etl.reader.ReaderError without such a run, mammo_etl.lock.WorkspaceInUseError while another process is at this model, and mammo_model.training.TrainingError if it cannot be learned from.
    """
    workspace = place_of(workspace)
    run = open_run(workspace, run_id)
    models_folder = Workspace(workspace).models
    model_id = model_id_of(run.run_id, settings)
    folder = models_folder / model_id
    finished = read_finished(folder)
    if finished is not None:
        return ModelRun(model_id, folder, *finished, True)
    # What cannot be learned from leaves nothing behind, which `gc` would take for a training under way.
    task_of(run, settings)
    # Before the first epoch, which may take hours: what has a model is not cleared up.
    write_json(folder / "training.json", {"run_id": run.run_id, "settings": settings.model_dump(mode="json")})
    with locked(folder, "a training"):
        return _work(workspace, run, settings, models_folder, progress)


def _work(
    workspace: Place, run: PublishedRun, settings: TrainingSettings, models_folder: Place, progress: Progress
) -> ModelRun:
    """All of it, by the only process that is at this model."""
    model_id = model_id_of(run.run_id, settings)
    folder = models_folder / model_id
    timings: dict[str, float] = {}
    progress.on_stage("training")
    trained = train(run, settings, models_folder, progress)
    history = trained.history()
    timings["training_seconds"] = round(float(history["seconds"].sum()), 3)
    with _stage("evaluation", timings, progress):
        predictions, metrics = evaluate(run, settings, trained, progress)
    with _stage("figures", timings, progress):
        pictures = draw(run, settings, trained, predictions, metrics)
    onnx: dict[str, Any] | None = None
    if can_export():
        with _stage("export", timings, progress):
            onnx = _exported(trained, example_patches(run, predictions))
    manifest = {
        "format_version": MODEL_VERSION,
        "model_id": model_id,
        "run_id": run.run_id,
        "phantom": bool(run.manifest.get("phantom", False)),
        # Below the workspace.
        "cleaned_films": name_below(_cleaned_films(workspace, run), workspace),
        "settings": settings.model_dump(mode="json"),
        "settings_digest": settings.digest(),
        "epochs": len(history),
        "best_epoch": trained.best_epoch(),
        "parameters": int(trained.load().count_params()),
        "device": "GPU" if backend.on_gpu() else "CPU",
        "precision": backend.precision_of(settings),
        "onnx": onnx,
        "versions": backend.versions(),
        "timings": timings,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with _stage("report", timings, progress):
        page = report.render(manifest, settings, metrics, run.patches(), pictures)
        write_bytes(folder / "report.html", page.encode())
    files = []
    for entry in files_below(folder):
        if entry.place.name.startswith(UNFINISHED):
            entry.place.unlink()
        elif entry.place.name != "lock":
            files.append(entry.place)
    manifest["files"] = {name_below(file, folder): digest_of_file(file) for file in files}
    write_json(folder / "manifest.json", manifest)
    return ModelRun(model_id, folder, manifest, metrics, False)


def _exported(trained: TrainedModel, patches: NDArray[Any]) -> dict[str, Any]:
    """Writes the model as ONNX; what the manifest says of it. An export that answers otherwise than the model is left out, with the reason: the model is whole
    without it."""
    try:
        difference = export_onnx(trained.load(), trained.folder / "model.onnx", patches)
    except ExportError as error:
        return {"left_out": str(error), "tolerance": TOLERANCE}
    return {"largest_difference": difference, "tolerance": TOLERANCE}


def draw(
    run: PublishedRun,
    settings: TrainingSettings,
    trained: TrainedModel,
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
) -> dict[str, Place]:
    """Draws all figures into the model's folder `figures`; name, as the report asks for it -> file, which is NAME.png.

    There is no sheet of errors of a kind that the model did not make, and no confusion matrix of findings without any.
    """
    classes, test = settings.classes, predictions[predictions["split"] == Split.TEST]
    store = run.open_patches()

    def patches_of(table: pd.DataFrame) -> Any:
        return read_rows(store, table["row"].to_numpy(np.int64))

    of_test = metrics["splits"][Split.TEST.value]
    drawn = {
        f"confusion_{split}": figures.confusion_figure(
            metrics["splits"][split.value], classes, f"Confusion matrix, {split} split"
        )
        for split in EVALUATED
    }
    if metrics["findings"]["findings"]:
        drawn["confusion_findings"] = figures.confusion_figure(
            metrics["findings"], classes, "Confusion matrix of findings, test split", "Findings"
        )
    drawn["precision_recall"] = figures.precision_recall_figure(of_test, "Precision and recall, test split")
    drawn["roc"] = figures.roc_figure(metrics["levels"], "Receiver operating characteristic, test split")
    drawn["reliability"] = figures.reliability_figure(
        metrics["calibration"][Split.TEST.value], metrics["calibration"]["bins"], "Reliability, test split"
    )
    drawn["learning"] = figures.learning_figure(trained.history(), trained.best_epoch())
    examples = figures.pick_examples(test, classes, settings.seed)
    drawn["examples"] = figures.examples_figure(patches_of(examples), examples, classes, "Examples, test split")
    for name, errors in worst_errors(test, classes).items():
        if len(errors):
            title = f"{ERRORS[name].capitalize()}, worst first, test split"
            drawn[f"errors_{name}"] = figures.errors_figure(patches_of(errors), errors, classes, title)
    return {name: figures.save(figure, trained.folder / "figures" / f"{name}.png") for name, figure in drawn.items()}


def _cleaned_films(workspace: Place, run: PublishedRun) -> Place:
    """Folder of the films that the run's patches were cut from."""
    cleaning = run.manifest["settings"]["cleaning"]
    return Workspace(workspace).images(digest(cleaning, version=run.manifest["format_version"]))


def example_patches(run: PublishedRun, predictions: pd.DataFrame) -> NDArray[Any]:
    """The first patches of the validation and test splits, (n, size, size, 1), on which an export is checked."""
    rows = predictions["row"].to_numpy(np.int64)[:EXPORT_CHECKED]
    patches: NDArray[Any] = read_rows(run.open_patches(), rows)[..., np.newaxis]
    return patches


@contextmanager
def _stage(name: str, timings: dict[str, float], progress: Progress) -> Iterator[None]:
    """Announces a stage and notes its seconds."""
    progress.on_stage(name)
    started = time.perf_counter()
    yield
    timings[f"{name}_seconds"] = round(time.perf_counter() - started, 3)
