"""The commands of data: what raw scans come to, and the workspace that they are kept in."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.command import (
    BuiltWorkspaceOption,
    JsonOption,
    RunError,
    SetOption,
    SettingsOption,
    SourceOption,
    UsageError,
    WorkspaceOption,
    console,
    prepare_prefect,
)
from flows.summary_tables import counted, show_build
from mammo_etl.files import SourceFileError
from mammo_etl.inventory import InventoryError, list_sources
from mammo_etl.lock import locked
from mammo_etl.phantom.source_faults import FAULTS, Fault, parse_faults
from mammo_etl.places import Place, place_of, shown
from mammo_etl.presets import PRESETS
from mammo_etl.settings import SourceSettings

if TYPE_CHECKING:
    from flows.build_summary import BuildSummary
    from mammo_etl.inspection import Inspection
    from mammo_etl.settings import BuildSettings

app = typer.Typer()


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
    show_build(build_run([SourceSettings.parse(text) for text in source], place, settings, set_ or [], preset), console)


def build_run(
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

    prepare_prefect(IncompleteRunError, LeakError, PlanError)
    try:
        return build_dataset(list(sources), shown(workspace), job.build, job.cluster)
    except (IncompleteRunError, LeakError, PlanError) as error:
        raise RunError(str(error)) from error


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
    make_phantoms(out, patients, seed, height, width, workers, faults)


def make_phantoms(
    out: Path,
    patients: int,
    seed: int,
    height: int,
    width: int,
    workers: int | None,
    faults: Collection[Fault] = (),
) -> None:
    from flows.clusters import cores
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
            workers=workers or cores(),
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
