"""The flow from a published dataset run to a trained, evaluated model."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from pydantic import BaseModel

from flows import artifacts
from flows.metrics import counting_runs
from flows.parameters import over_deployment
from flows.progress import Stage, Stages
from flows.steps import step
from flows.workspace_parameter import WorkspaceParameter
from mammo_etl import catalog
from mammo_etl.places import Place, place_of, shown
from mammo_etl.workspace import Workspace
from mammo_model.progress import Progress
from mammo_model.settings import TrainingSettings

if TYPE_CHECKING:
    from mammo_model.model_run import ModelRun


class Figure(BaseModel):
    """One figure of the test split, with its 95% bootstrap interval by patient; None where it does not exist."""

    name: str
    value: float | None
    low: float | None
    high: float | None


class TrainSummary(BaseModel):
    """What a training came to."""

    model_id: str
    run_id: str
    folder: Path | str
    """A local path, or an URL of an object store."""
    report: Path | str
    new: bool
    """False if the very same model was there already."""
    phantom: bool
    """The model knows phantoms only."""
    figures: list[Figure]
    timings: list[dict[str, Any]]


@counting_runs
@flow(
    name="train-model",
    flow_run_name="train-model in {workspace}",
    persist_result=False,
    # Prefect keeps the exception of a failed run all the same, and would pickle it.
    result_serializer="json",
)
def train_model(
    workspace: WorkspaceParameter, settings: TrainingSettings = TrainingSettings(), run_id: str | None = None
) -> TrainSummary:
    """Trains a model on a dataset run (the published one, if none is named), and evaluates it on its test split.

    A training that was stopped goes on; one that is finished is not done again.
    """
    settings = over_deployment("settings", settings)
    stages = Stages()
    place = place_of(workspace).absolute()
    catalog.check_formats(place)
    run = step("train and evaluate", train, place, settings, run_id, stages)
    test = run.metrics["splits"]["test"]
    names = ("accuracy", "balanced_accuracy", "weighted_precision", "weighted_recall", "weighted_f1")
    summary = TrainSummary(
        model_id=run.model_id,
        run_id=run.manifest["run_id"],
        folder=shown(run.folder),
        report=shown(run.folder / "report.html"),
        new=not run.reused,
        phantom=run.manifest["phantom"],
        figures=[Figure(name=name.replace("_", " "), **test[name]) for name in names],
        timings=stages.timings,
    )
    catalog.write_catalog(place)
    figures = {"Confusion matrix, test split": "confusion_test", "Course of the training": "learning"}
    artifacts.leave(
        "training",
        _as_markdown(summary, settings),
        [figure.model_dump() for figure in summary.figures],
        {"report": summary.report, "catalog": shown(Workspace(place).catalog)},
        lambda: [
            artifacts.Picture.of_file(title, run.folder / "figures" / f"{name}.png") for title, name in figures.items()
        ],
        summary.phantom,
    )
    return summary


def train(workspace: Place, settings: TrainingSettings, run_id: str | None, stages: Stages) -> "ModelRun":
    """Trains and evaluates in this process, with a bar for each stage."""
    # TensorFlow takes ten seconds to import, which no other use of this module should pay.
    from mammo_model.model_run import train_and_evaluate

    with ExitStack() as bars:
        return train_and_evaluate(workspace, settings, run_id, _progress(stages, settings.epochs, bars))


def _progress(stages: Stages, epochs: int, bars: ExitStack) -> Progress:
    """Draws the stages of a model run one after another; `bars` closes the last."""
    current: list[Stage] = []
    done_before = 0

    def on_stage(name: str) -> None:
        nonlocal done_before
        done_before = 0
        bars.close()
        counted = name in {"training", "evaluation"}
        current[:] = [bars.enter_context(stages.stage(name, "batches" if counted else "step"))]
        if not counted:
            bars.callback(current[0].advance)

    def on_batch(done: int, total: int) -> None:
        stage = current[0]
        if stage.total is None:
            stage.expect(total * (epochs if stage.name == "training" else 1))
        stage.advance(done_before + done - stage.done)

    def on_epoch(epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        nonlocal done_before
        done_before = current[0].done
        current[0].note(
            f"epoch {epoch}/{epochs}: loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}; "
            f"validation {row['val_loss']:.3f}, {row['val_accuracy']:.3f}"
        )

    return Progress(on_stage=on_stage, on_batch=on_batch, on_epoch=on_epoch)


def _as_markdown(summary: TrainSummary, settings: TrainingSettings) -> str:
    def show(figure: Figure) -> str:
        if figure.value is None:
            return f"| {figure.name} | - | |"
        interval = f"{figure.low:.3f} to {figure.high:.3f}" if figure.low is not None else ""
        return f"| {figure.name} | {figure.value:.3f} | {interval} |"

    lines = [
        f"# Model `{summary.model_id}`",
        f"Trained on `{summary.run_id}`; figures of the test split, 95% intervals by patient.",
        "",
        "| figure | value | interval |",
        "|---|---:|---|",
        *map(show, summary.figures),
        "",
        *artifacts.settings_lines(settings),
        "",
        f"Report: `{summary.report}`",
    ]
    if summary.phantom:
        lines.insert(2, "**Phantoms: these figures prove that the plumbing works; they say nothing about medicine.**")
    return "\n".join(lines)
