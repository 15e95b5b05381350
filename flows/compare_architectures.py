"""The flow that trains one network after another on the same run, and shows how each learned."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from prefect import flow
from pydantic import BaseModel

from flows.progress import Stages
from flows.steps import step
from flows.train_model import train
from flows.workspace_parameter import WorkspaceParameter
from mammo_etl import catalog
from mammo_etl.files import digest_of
from mammo_etl.formats import MODEL_VERSION
from mammo_etl.places import Place, place_of, shown
from mammo_etl.reader import open_run
from mammo_etl.workspace import Workspace, write_bytes
from mammo_model.settings import SEED_STEPS, ArchitectureName, TrainingSettings

if TYPE_CHECKING:
    from mammo_model.model_run import ModelRun

FIGURES = ("accuracy", "balanced_accuracy", "weighted_precision", "weighted_recall", "weighted_f1", "macro_f1")
"""Figures of the table, for each of the two splits."""


class ComparisonSummary(BaseModel):
    """What a comparison of architectures came to."""

    run_id: str
    folder: Path | str
    """Folder with `learning.png`, `results.parquet` and `results.csv`; a local path, or an URL of an object store."""
    figure: Path | str
    results: list[dict[str, Any]]
    """Rows of the table: architecture, model_id, parameters, epochs, best_epoch, seconds, and each figure of the validation and the test
    split with its 95% interval by patient, in the order of training."""
    diverged: list[str]
    """Architectures whose loss was never a number: they are neither in the table nor in the figure."""
    phantom: bool
    timings: list[dict[str, Any]]


@flow(
    name="compare-architectures",
    flow_run_name="compare-architectures in {workspace}",
    persist_result=False,
    # Prefect keeps the exception of a failed run all the same, and would pickle it.
    result_serializer="json",
)
def compare_architectures(
    workspace: WorkspaceParameter,
    settings: TrainingSettings = TrainingSettings(),
    run_id: str | None = None,
    architectures: tuple[ArchitectureName, ...] = SEED_STEPS,
) -> ComparisonSummary:
    """Trains each architecture under the same settings on a dataset run (the published one, if none is named), and draws how they learned.

    Each is an ordinary model run: one that is finished is not done again, and one that was stopped goes on. The rest go on without one that diverges.
    """
    from mammo_model.training import DivergedError

    stages = Stages()
    place = place_of(workspace).absolute()
    catalog.check_formats(place)
    # What is published meanwhile is another run.
    run_id = open_run(place, run_id).run_id
    runs: dict[str, ModelRun] = {}
    diverged: list[str] = []
    for architecture in architectures:
        of_this = settings.model_copy(update={"architecture": architecture})
        try:
            runs[architecture] = step(f"train and evaluate {architecture}", train, place, of_this, run_id, stages)
        except DivergedError:
            diverged.append(architecture)
            if len(diverged) == len(architectures):
                raise
    folder = comparison_folder(place, runs)
    results = [_row(name, run) for name, run in runs.items()]
    table = catalog.versioned(pa.Table.from_pylist(results), MODEL_VERSION)
    catalog.write_table(folder / "results.parquet", table)
    write_bytes(folder / "results.csv", pd.DataFrame(results).to_csv(index=False).encode())
    _draw(runs, folder / "learning.png")
    catalog.write_catalog(place)
    return ComparisonSummary(
        run_id=run_id,
        folder=shown(folder),
        figure=shown(folder / "learning.png"),
        results=results,
        diverged=diverged,
        phantom=any(run.manifest["phantom"] for run in runs.values()),
        timings=stages.timings,
    )


def comparison_folder(workspace: Place, runs: "dict[str, ModelRun]") -> Place:
    """Where the comparison of these models lies: the same models, the same folder."""
    run_id = next(iter(runs.values())).manifest["run_id"]
    models = "\n".join(run.model_id for run in runs.values())
    return Workspace(workspace).models / f"{run_id}-architectures-{digest_of(models.encode())[:12]}"


def _row(architecture: str, run: "ModelRun") -> dict[str, Any]:
    manifest = run.manifest
    row: dict[str, Any] = {
        "architecture": architecture,
        "model_id": run.model_id,
        **{name: manifest[name] for name in ("parameters", "epochs", "best_epoch")},
        "seconds": manifest["timings"]["training_seconds"],
    }
    for split in ("validation", "test"):
        for name in FIGURES:
            figure = run.metrics["splits"][split][name]
            row[f"{split}_{name}"] = figure["value"]
            row |= {f"{split}_{name}_{end}": figure[end] for end in ("low", "high")}
    return row


def _draw(runs: "dict[str, ModelRun]", path: Place) -> None:
    from mammo_model.figures import save
    from mammo_model.learning_curves import curves_figure
    from mammo_model.training import TrainedModel

    models = {name: TrainedModel(run.model_id, run.folder) for name, run in runs.items()}
    histories = {name: model.history() for name, model in models.items()}
    save(curves_figure(histories, {name: model.best_epoch() for name, model in models.items()}), path)
