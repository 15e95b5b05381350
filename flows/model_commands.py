"""The commands of models: trained, tuned, compared, and put to work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from flows.command import (
    BuiltWorkspaceOption,
    RunError,
    SetOption,
    SettingsOption,
    UsageError,
    console,
    prepare_prefect,
)
from flows.summary_tables import show_architectures, show_scores, show_study, show_training
from mammo_etl.places import Place, place_of, shown
from mammo_etl.reader import open_run, read_table
from mammo_model.settings import ArchitectureName

if TYPE_CHECKING:
    from flows.score_scans import ScoreSummary
    from flows.train_model import TrainSummary
    from flows.tune_summary import TuneSummary

app = typer.Typer()


@app.command()
def train(
    workspace: BuiltWorkspaceOption,
    run: Annotated[str | None, typer.Option(help="Dataset run; the published one by default.")] = None,
    binary: Annotated[bool | None, typer.Option("--binary/--five-class", help="Normal against abnormal.")] = None,
    width: Annotated[int | None, typer.Option(help="Filters of the first block.")] = None,
    architecture: Annotated[str | None, typer.Option(help=f"Network: {', '.join(get_args(ArchitectureName))}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training patches.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and shuffling.")] = None,
    settings: SettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Train a model on a dataset run, and evaluate it."""
    flags = {"binary": binary, "architecture": architecture, "width": width, "epochs": epochs, "seed": seed}
    overrides = [f"training.{key}={str(value).lower()}" for key, value in flags.items() if value is not None]
    show_training(train_run(place_of(workspace), run, settings, [*(set_ or []), *overrides]), console)


def train_run(workspace: Place, run: str | None, settings: Path | None, overrides: list[str]) -> "TrainSummary":
    from flows.settings import load_settings

    job = load_settings(settings, overrides)
    open_run(workspace, run)
    from flows.train_model import train_model
    from mammo_model.training import TrainingError

    prepare_prefect(TrainingError)
    try:
        return train_model(shown(workspace), job.training, run)
    except TrainingError as error:
        raise RunError(str(error)) from error


@app.command()
def tune(
    workspace: BuiltWorkspaceOption,
    run: Annotated[str | None, typer.Option(help="Dataset run; the published one by default.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trainings in all, those already done included.")] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the study; by default it has that of its run and settings."),
    ] = None,
    settings: SettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Look for better settings of a training, by the validation split."""
    overrides = [*(set_ or []), *([f"tuning.trials={trials}"] if trials is not None else [])]
    show_study(_tune(place_of(workspace), run, study, settings, overrides), console)


def _tune(
    workspace: Place, run: str | None, name: str | None, settings: Path | None, overrides: list[str]
) -> "TuneSummary":
    from flows.settings import load_settings
    from flows.tune_summary import TuneSummary
    from mammo_model.studies import StudyError, check_installed, study_of

    job = load_settings(settings, overrides)
    try:
        study = study_of(workspace.absolute(), job.training, job.tuning, run, name)
        result = study.result()
        if result is not None:
            return TuneSummary.of(study, result, False, [])
        check_installed()
    except StudyError as error:
        raise UsageError(str(error)) from error
    from flows.tune_model import tune_model
    from mammo_model.training import TrainingError

    prepare_prefect(StudyError, TrainingError)
    try:
        return tune_model(shown(workspace), job.training, job.tuning, study.run_id, name, job.cluster)
    except (StudyError, TrainingError) as error:
        raise RunError(str(error)) from error


@app.command()
def compare(
    workspace: BuiltWorkspaceOption,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL_A MODEL_B]", help="Two models of the workspace; none: train and compare networks."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Dataset run to train on; the published one by default.")] = None,
    settings: SettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Compare two models on the same test patches, or train the seed work's seven networks on one run and draw how each learned."""
    place = place_of(workspace)
    if models:
        if len(models) != 2:
            raise UsageError(f"expected two models, or none: {' '.join(models)}")
        _compare_models(place, *models)
    else:
        _compare_architectures(place, run, settings, set_ or [])


def _compare_models(workspace: Place, model_a: str, model_b: str) -> None:
    from flows.comparison import compare_models, show_comparison
    from mammo_model.comparison import ComparisonError

    try:
        show_comparison(compare_models(workspace, model_a, model_b), console)
    except ComparisonError as error:
        raise UsageError(str(error)) from error


def _compare_architectures(workspace: Place, run: str | None, settings: Path | None, overrides: list[str]) -> None:
    from flows.settings import load_settings

    job = load_settings(settings, overrides)
    open_run(workspace, run)
    from flows.compare_architectures import compare_architectures
    from mammo_model.training import TrainingError

    prepare_prefect(TrainingError)
    try:
        summary = compare_architectures(shown(workspace), job.training, run)
    except TrainingError as error:
        raise RunError(str(error)) from error
    show_architectures(summary, console)


@app.command()
def score(
    scans: Annotated[
        str,
        typer.Argument(
            metavar="SCAN|FOLDER|KIND=PATH",
            help="A film, a folder, zip archive or prefix of films, or a source as `mammo build` takes it.",
        ),
    ],
    workspace: BuiltWorkspaceOption,
    out: Annotated[
        str, typer.Option(metavar="FOLDER|s3://BUCKET/PREFIX", help="Folder for pictures, tables and page.")
    ],
    model: Annotated[str | None, typer.Option(help="Model of the workspace; the one finished last by default.")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Step between patches, pixels; half a patch by default.")
    ] = None,
    settings: SettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Score whole films by a trained model: maps of each class, lesion candidates, scores of films and patients."""
    overrides = [*(set_ or []), *([f"scoring.stride={stride}"] if stride is not None else [])]
    show_scores(_score(scans, place_of(workspace), place_of(out), model, settings, overrides), console)


def _score(
    scans: str, workspace: Place, out: Place, model: str | None, settings: Path | None, overrides: list[str]
) -> "ScoreSummary":
    from flows.settings import load_settings

    job = load_settings(settings, overrides)
    from flows import score_scans
    from mammo_etl.film_files import is_single
    from mammo_model.scoring import ScoringError, find_model

    try:
        # Before a server and a cluster are started.
        model = find_model(workspace, model).model_id
        score_scans.check_places(scans, workspace.absolute(), out.absolute())
        if is_single(scans):
            summary = score_scans.score_one(scans, workspace.absolute(), out.absolute(), model, job.scoring)
            # Of many films the rest goes on; of one, nothing is left.
            for row in read_table(out / "rejects.parquet").to_pylist():
                raise RunError(f"{scans}: not scored: {row['code']}: {row['message']}")
            return summary
        prepare_prefect(ScoringError)
        return score_scans.score_scans(scans, shown(workspace), shown(out), model, job.scoring, job.cluster)
    except ScoringError as error:
        raise UsageError(str(error)) from error
