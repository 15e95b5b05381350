"""The `mammo` command."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows import data_commands, model_commands
from flows.command import GO_ON, NOT_WRITTEN, RUN_FAILURES, RunError, UsageError, console
from flows.data_commands import build_run, make_phantoms
from flows.model_commands import train_run
from flows.ops.commands import app as ops
from flows.signals import code_of_signal, ended_by_sigterm
from flows.summary_tables import show_build, show_training
from mammo_etl.formats import FormatError
from mammo_etl.places import PlaceError
from mammo_etl.reader import ReaderError
from mammo_etl.settings import SettingsError, SourceSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raw mammography scans in, a patch store and a trained, evaluated model out. Research software, not a medical device.",
)
_demo = typer.Typer()
app.add_typer(data_commands.app)
app.add_typer(model_commands.app)
app.add_typer(_demo)
app.add_typer(ops, name="ops")

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
        _fail(RunError(f"interrupted; {GO_ON}"), code)


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


@_demo.command()
def demo(
    workspace: Annotated[Path, typer.Option(help="Folder of phantoms, run and model.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=16, help="Phantom patients.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantoms.")] = 0,
) -> None:
    """Make phantoms, build a dataset run from them, train a small model, and evaluate it."""
    films = workspace / "phantoms"
    make_phantoms(films, patients, seed, *DEMO_FILM, None)
    sources = [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")]
    built = build_run(sources, workspace, None, DEMO_SETTINGS)
    show_build(built, console)
    trained = train_run(workspace, built.run_id, None, DEMO_SETTINGS)
    show_training(trained, console)
    console.print(f"Data report:  {built.report}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Model report: {trained.report}", soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    main()
