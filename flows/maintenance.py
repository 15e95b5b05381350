"""Looking after a workspace: verifying a run, and removing what nothing needs. Plain functions with a bar, without Prefect or a cluster."""

from collections import Counter
from collections.abc import Iterator

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from flows.progress import Stages
from flows.summary_tables import counted
from mammo_etl.catalog import verify_files
from mammo_etl.formats import check_format
from mammo_etl.garbage import Garbage, Kind, find_garbage, remove
from mammo_etl.latest import forget
from mammo_etl.lock import locked
from mammo_etl.places import Place
from mammo_etl.reader import DamagedRunError, ReaderError, open_run
from mammo_etl.schema import FORMAT_VERSION
from mammo_etl.verify import Verification, verify_films
from mammo_etl.workspace import Workspace


class GarbageGroup(BaseModel):
    """What is not needed for one reason."""

    kind: Kind
    items: int
    """Files, or folders of runs."""
    bytes: int


class GarbageSummary(BaseModel):
    """What a gc found, and whether it is gone."""

    deleted: bool
    groups: list[GarbageGroup]


def verify(workspace: Place, run_id: str | None, deep: bool) -> Verification:
    """Re-reads a run (the published one, if none is named) against its digests; `deep`: also against its films and their sources.

    Where there is a fault, the next build compares by content: a disk's errors leave stamps as they were. Raises ReaderError if there is no such run, and
    FormatError if it is of a format that is not known or, `deep`, of an older one.
    """
    found = _verification(workspace, run_id, deep)
    if found.faults:
        forget(workspace)
    return found


def _verification(workspace: Place, run_id: str | None, deep: bool) -> Verification:
    try:
        run = open_run(workspace, run_id)
    except DamagedRunError as error:
        return Verification(run_id=run_id or "", files=0, films=0, faults=[str(error)])
    if deep:
        remedy = "verify it without --deep, as its films were cleaned otherwise than they are now"
        check_format(run.folder / "manifest.json", run.manifest, FORMAT_VERSION, remedy)
    stages = Stages()
    faults: list[str] = []
    with stages.stage("files", "files", len(run.manifest["digests"])) as files:
        for fault in verify_files(run):
            faults += [fault] if fault else []
            files.advance()
    if not deep:
        return Verification(run_id=run.run_id, files=files.done, films=0, faults=faults)
    if faults:
        faults.append(f"{run.folder}: damaged, so that its films were not compared; the next build mends it")
        return Verification(run_id=run.run_id, files=files.done, films=0, faults=faults)
    with stages.stage("films", "films", run.manifest["counts"]["scans"]) as films:
        for found in verify_films(workspace, run):
            faults += found
            films.advance()
    return Verification(run_id=run.run_id, files=files.done, films=films.done, faults=faults)


def clear_up(workspace: Place, keep: int | None, delete: bool) -> GarbageSummary:
    """What no kept run or model needs, removed if `delete` says so.

    Raises ReaderError if there is no workspace, or it cannot be told, and WorkspaceInUseError while a build is at work in the workspace.
    """
    if not workspace.is_dir():
        raise ReaderError(f"{workspace}: no such folder")
    places = Workspace(workspace)
    if not places.lock.exists() and not places.runs.is_dir():
        raise ReaderError(f"{workspace}: no workspace: expected a folder that `mammo build` has worked in")
    with locked(workspace, "mammo gc") as check, Stages().stage("gc", "items") as stage:

        def counted(garbage: Iterator[Garbage]) -> Iterator[Garbage]:
            for item in garbage:
                stage.advance()
                yield item

        def checked(garbage: Iterator[Garbage]) -> Iterator[Garbage]:
            for item in garbage:
                check()
                yield item

        found = find_garbage(workspace, keep)
        groups = _grouped(counted(remove(workspace, checked(found)) if delete else found))
    return GarbageSummary(deleted=delete, groups=groups)


def _grouped(garbage: Iterator[Garbage]) -> list[GarbageGroup]:
    items: Counter[Kind] = Counter()
    sizes: Counter[Kind] = Counter()
    for item in garbage:
        items[item.kind] += 1
        sizes[item.kind] += item.size
    return [GarbageGroup(kind=kind, items=items[kind], bytes=sizes[kind]) for kind in Kind if items[kind]]


def show_verification(found: Verification, console: Console) -> None:
    """Prints a sentence per fault, or that there is none."""
    for fault in found.faults:
        console.print(fault, style="red", soft_wrap=True, markup=False, highlight=False)
    films = f" and {counted(found.films, 'films')}" if found.films else ""
    verdict = counted(len(found.faults), "faults") if found.faults else "as published"
    read = f"{counted(found.files, 'files')}{films}"
    console.print(f"{found.run_id}: {read} read: {verdict}", soft_wrap=True, highlight=False)


def show_garbage(summary: GarbageSummary, console: Console) -> None:
    """Prints a row per group, and what to do about it."""
    if not summary.groups:
        console.print("Nothing to remove: kept runs and models need all that is here.")
        return
    table = Table("removed" if summary.deleted else "not needed", "items", "MB")
    for column in table.columns[1:]:
        column.justify = "right"
    for group in summary.groups:
        table.add_row(group.kind.value, f"{group.items:,}", f"{group.bytes / 1e6:,.1f}")
    console.print(table)
    if not summary.deleted:
        console.print("Nothing was removed: --delete does that.")
