"""The `mammo` command."""

import errno
import logging
import os
import sys
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.ops.commands import app as ops
from flows.signals import code_of_signal, ended_by_sigterm
from flows.summary_tables import counted, show_architectures, show_build, show_scores, show_study, show_training
from mammo_etl.files import SourceFileError
from mammo_etl.formats import FormatError
from mammo_etl.inventory import InventoryError, list_sources
from mammo_etl.lock import WorkspaceInUseError, locked
from mammo_etl.phantom.source_faults import FAULTS, Fault, parse_faults
from mammo_etl.places import Place, PlaceError, place_of, shown
from mammo_etl.presets import PRESETS
from mammo_etl.reader import ReaderError, open_run, read_table
from mammo_etl.settings import SettingsError, SourceSettings
from mammo_etl.workspace import DamagedFileError
from mammo_model.settings import ArchitectureName

if TYPE_CHECKING:
    from flows.build_summary import BuildSummary
    from flows.score_scans import ScoreSummary
    from flows.train_model import TrainSummary
    from flows.tune_summary import TuneSummary
    from mammo_etl.inspection import Inspection
    from mammo_etl.settings import BuildSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw mammography scans in, a patch store and a trained, evaluated model out. Research software, not a medical device.",
)
app.add_typer(ops, name="ops")
console = Console()

DEMO_SETTINGS = [
    # The phantoms' DDSM cases are nobody's but their own, so the abnormal ones may stand beside CBIS-DDSM's.
    "inventory.mixed_ddsm=all",
    "patches.size=128",
    "patches.stride=64",
    "patches.min_distance=32",
    # So few patients that a split of the usual size could lack a class: larger ones, and a seed by which none does.
    "plan.validation=0.2",
    "plan.test=0.2",
    "plan.seed=1",
    # As many normal patches as abnormal ones: fewer to train on, and more to learn from each.
    "plan.normal_share=0.5",
    "training.width=8",
    "training.epochs=6",
    "training.batch_size=16",
    "training.learning_rate=0.0005",
    "training.dropout=0.1",
]
"""Settings of the demo: films of a fifth of the usual size, so smaller patches, and a small network."""

DEMO_FILM = (960, 600)
"""Rows and columns of the demo's films."""

SourceOption = Annotated[
    list[str],
    typer.Option("--source", metavar="KIND=PATH", help="A source: cbis-ddsm, ddsm or mini-mias, and where it lies."),
]
WorkspaceOption = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|s3://BUCKET/PREFIX", help="Folder of images, runs and models; made if it is not there."
    ),
]
BuiltWorkspaceOption = Annotated[
    str,
    typer.Option("--workspace", metavar="FOLDER|s3://BUCKET/PREFIX", help="Folder that `mammo build` has worked in."),
]
SettingsOption = Annotated[Path | None, typer.Option("--settings", help="TOML file with a table per stage.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="One setting, laid over the file's.")
]


class UsageError(Exception):
    """A wrong argument, in one sentence."""


class RunError(Exception):
    """A build or training that cannot be done, in one sentence."""


RUN_FAILURES = (InventoryError, SourceFileError, RunError, WorkspaceInUseError, DamagedFileError, ConnectionError)
"""What can end a run through no fault of the program: told in one sentence, exit code 1."""


_GO_ON = "what is done is kept, and the same command goes on from there"

NOT_WRITTEN = {
    errno.ENOSPC: f"the disk is full. Make room (`mammo gc` lists what can go); {_GO_ON}",
    errno.EDQUOT: f"the disk quota is used up. Make room (`mammo gc` lists what can go); {_GO_ON}",
    errno.EROFS: f"the disk is read-only. Make it writable; {_GO_ON}",
}
"""What a user can do about a file that could not be written, by the number of the error."""


def main() -> None:
    """Runs the command; what a user can mend is one sentence on standard error and exit code 2, a failed run exit code 1, one
    that a signal ended that of shells."""
    _quiet()
    try:
        _run()
    except (SettingsError, PlaceError, UsageError, ReaderError, FormatError) as error:
        _fail(error, 2)
    except RUN_FAILURES as error:
        _fail(error, 1)
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        # Where a command should write, there is something else, or nothing may be written.
        _fail(error, 2)
    except OSError as error:
        if error.errno not in NOT_WRITTEN:
            raise
        _fail(RunError(f"{error.filename or 'a file'}: could not be written: {NOT_WRITTEN[error.errno]}"), 1)


def _run() -> None:
    try:
        with ended_by_sigterm():
            app()
    except BaseException as error:
        code = code_of_signal(error)
        if code is None:
            raise
        _fail(RunError(f"interrupted; {_GO_ON}"), code)


def _fail(error: Exception, code: int) -> None:
    Console(stderr=True).print(f"mammo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _quiet() -> None:
    """Settings of the libraries that suit a command; each can be overridden by the same variable outside."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    # Starting the ephemeral server took 15 to 25 seconds where measured; Prefect gives up after 20.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _show_version(shown: bool) -> None:
    if shown:
        console.print(f"mammo {version('mammo')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def build(
    source: SourceOption,
    workspace: WorkspaceOption,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Settings by name, under the file's: {', '.join(sorted(PRESETS))}."),
    ] = None,
    settings: SettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Build a dataset run from raw scans and publish it."""
    place = place_of(workspace)
    show_build(_build([SourceSettings.parse(text) for text in source], place, settings, set_ or [], preset), console)


def _build(
    sources: Sequence[SourceSettings],
    workspace: Place,
    settings: Path | None,
    overrides: list[str],
    preset: str | None = None,
) -> "BuildSummary":
    from flows.settings import load_settings

    job = load_settings(settings, overrides, preset)
    known = _up_to_date(sources, workspace, job.build)
    if known is not None:
        return known
    from flows.build_dataset import build_dataset
    from mammo_etl.catalog import IncompleteRunError
    from mammo_etl.leaks import LeakError
    from mammo_etl.plan import PlanError

    _prepare_prefect(IncompleteRunError, LeakError, PlanError)
    try:
        return build_dataset(list(sources), shown(workspace), job.build, job.cluster)
    except (IncompleteRunError, LeakError, PlanError) as error:
        raise RunError(str(error)) from error


def _prepare_prefect(*expected: type[Exception]) -> None:
    """Has Prefect's temporary server outlast Ctrl-C, and keeps Prefect from logging what `main` tells in one sentence."""
    from flows.temporary_server import DeafServer

    DeafServer()

    def surprising(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return (
            not isinstance(error, (SettingsError, FormatError, *RUN_FAILURES, *expected))
            and not (isinstance(error, OSError) and error.errno in NOT_WRITTEN)
            and code_of_signal(error) is None
            and "Finished in state Failed" not in record.getMessage()
            and "Execution was aborted" not in record.getMessage()
        )

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(surprising)


def _up_to_date(
    sources: Sequence[SourceSettings], workspace: Place, settings: "BuildSettings"
) -> "BuildSummary | None":
    """What the latest build came to, if nothing has changed since.

    That, and wrong paths, are told at once, before a server and a cluster are started.
    """
    try:
        files = list_sources(sources)
        if isinstance(workspace, Path):
            workspace.mkdir(parents=True, exist_ok=True)
    except InventoryError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"--workspace {workspace}: not a folder that can be made: {error.strerror}") from error
    if isinstance(workspace, Path) and not os.access(workspace, os.W_OK):
        raise UsageError(f"--workspace {workspace}: cannot be written to")
    from flows.build_summary import BuildSummary
    from mammo_etl import latest

    workspace = workspace.absolute()
    try:
        with locked(workspace, "a build"):
            known = latest.up_to_date(workspace, latest.basis_of(sources, files, settings), settings)
    except (FileNotFoundError, PermissionError) as error:
        # Of an object store.
        raise UsageError(f"--workspace {workspace}: {error.strerror}") from error
    return BuildSummary.of(known, False, []) if known is not None else None


@app.command()
def inspect(
    source: SourceOption,
    json: JsonOption = False,
    tables_only: Annotated[
        bool,
        typer.Option("--tables-only", help="What the tables list, before any film is there; a PATH may be a table."),
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
) -> None:
    """Say what sources hold, without building anything."""
    from flows.inspection_tables import show_inspection

    try:
        found = _inspect([SourceSettings.parse(text) for text in source], tables_only, workers)
    except InventoryError as error:
        raise UsageError(str(error)) from error
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_inspection(found, console)


def _inspect(sources: Sequence[SourceSettings], tables_only: bool, workers: int | None) -> "Inspection":
    if tables_only:
        from mammo_etl.listed import inspect_tables

        return inspect_tables(sources)
    # Before Dask is imported: a wrong path is told at once.
    files = list_sources(sources)
    from flows.clusters import ClusterSettings
    from flows.inspect_sources import inspect_sources

    return inspect_sources(files, ClusterSettings(workers=workers))


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
    show_training(_train(place_of(workspace), run, settings, [*(set_ or []), *overrides]), console)


def _train(workspace: Place, run: str | None, settings: Path | None, overrides: list[str]) -> "TrainSummary":
    from flows.settings import load_settings

    job = load_settings(settings, overrides)
    open_run(workspace, run)
    from flows.train_model import train_model
    from mammo_model.training import TrainingError

    _prepare_prefect(TrainingError)
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

    _prepare_prefect(StudyError, TrainingError)
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

    _prepare_prefect(TrainingError)
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
        _prepare_prefect(ScoringError)
        return score_scans.score_scans(scans, shown(workspace), shown(out), model, job.scoring, job.cluster)
    except ScoringError as error:
        raise UsageError(str(error)) from error


@app.command()
def verify(
    workspace: BuiltWorkspaceOption,
    run: Annotated[str | None, typer.Option(help="Dataset run; the published one by default.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare its films with their sources, and every patch with its film.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Re-read a run against the digests that it was published with; exit code 1 if anything has changed."""
    from flows import maintenance

    found = maintenance.verify(place_of(workspace).absolute(), run, deep)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        maintenance.show_verification(found, console)
    if found.faults:
        raise typer.Exit(1)


@app.command()
def gc(
    workspace: BuiltWorkspaceOption,
    keep: Annotated[
        int | None,
        typer.Option(min=0, help="Newest runs to keep, besides the published one and those of models; all by default."),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, instead of only listing it.")] = False,
    json: JsonOption = False,
) -> None:
    """List what no kept run or model needs, work of an unfinished build included; remove it with --delete."""
    from flows import maintenance

    summary = maintenance.clear_up(place_of(workspace).absolute(), keep, delete)
    if json:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        maintenance.show_garbage(summary, console)


@app.command(epilog="\n\n".join(["Faults:", *(f"--fault {fault}  {text}" for fault, text in FAULTS.items())]))
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder for cbis-ddsm, ddsm and truth.")],
    patients: Annotated[int, typer.Option(min=1, help="About half CBIS-DDSM patients, half DDSM cases.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    height: Annotated[int, typer.Option(min=320, max=8000, help="Height of a film, pixels.")] = 4800,
    width: Annotated[int, typer.Option(min=200, max=6000, help="Width of a film, pixels.")] = 3000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core by default.")] = None,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A fault to inject, or all; may be given several times.")
    ] = None,
) -> None:
    """Make films with known truth, as real CBIS-DDSM and DDSM files, and with their faults."""
    try:
        faults = parse_faults(fault or [])
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from error
    _phantom(out, patients, seed, height, width, workers, faults)


def _phantom(
    out: Path,
    patients: int,
    seed: int,
    height: int,
    width: int,
    workers: int | None,
    faults: Collection[Fault] = (),
) -> None:
    from mammo_etl.phantom.write import write_phantoms

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: expected a folder, or a place where one can be made: {error.strerror}") from error
    columns = (TextColumn("phantoms"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        patients_bar = bar.add_task("phantoms", total=patients)
        summary = write_phantoms(
            out,
            patients,
            seed,
            height=height,
            width=width,
            workers=workers or os.cpu_count() or 1,
            on_patient=lambda done, total: bar.update(patients_bar, completed=done, total=total),
            faults=faults,
        )
    counts = (counted(getattr(summary, name), name) for name in ("patients", "films", "findings"))
    console.print(f"{', '.join(counts)} in {out}")


@app.command()
def image(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="DICOM, LJPEG (beside its .ics), PGM, PNG or TIFF file.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help=".npy or .png file.")],
    clean: Annotated[
        bool, typer.Option("--clean", help="The cleaned film (of cleaning.bits) instead of its exact pixels.")
    ] = False,
    mask: Annotated[Path | None, typer.Option(help="Also write the breast mask to this .png file.")] = None,
    settings: SettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Convert one film: its exact pixels, or cleaned."""
    from flows.settings import load_settings
    from mammo_etl.image import FORMATS, write_image

    job = load_settings(settings, set_ or [])
    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output}: expected a name that ends in {' or '.join(FORMATS)}")
    if mask is not None and mask.suffix.lower() != ".png":
        raise UsageError(f"--mask {mask}: expected a name that ends in .png")
    if mask is not None and mask.resolve() == output.resolve():
        raise UsageError(f"--mask {mask}: expected another file than the film's")
    if not source.is_file():
        raise UsageError(f"{source}: no such file")
    try:
        rows, columns, bits = write_image(source, output, clean, mask, job.cleaning)
    except SourceFileError as error:
        raise UsageError(f"{source}: {error}") from error
    console.print(f"{rows} x {columns} pixels of {bits} bits: {output}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def demo(
    workspace: Annotated[Path, typer.Option(help="Folder of phantoms, run and model.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=16, help="Phantom patients.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantoms.")] = 0,
) -> None:
    """Make phantoms, build a dataset run from them, train a small model, and evaluate it."""
    films = workspace / "phantoms"
    _phantom(films, patients, seed, *DEMO_FILM, None)
    sources = [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")]
    built = _build(sources, workspace, None, DEMO_SETTINGS)
    show_build(built, console)
    trained = _train(workspace, built.run_id, None, DEMO_SETTINGS)
    show_training(trained, console)
    console.print(f"Data report:  {built.report}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Model report: {trained.report}", soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    main()
