"""Whether the latest build in a workspace is what a build would come to now: told by stamps alone, as by `make`, in a moment.

A build leaves a digest of all that it followed from, and one of all that it consists of. Where both are the same there is nothing to do; where
they are not, a build compares by content, film by film. See `mammo_etl.files.stamp_of` for what a stamp is.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from mammo_etl.files import NOT_READ, stamp_of
from mammo_etl.formats import version_of
from mammo_etl.inventory import SourceFiles
from mammo_etl.places import Place, files_below, stamp_at
from mammo_etl.reader import PublishedRun, ReaderError, open_run
from mammo_etl.records import Reason, Rejection
from mammo_etl.schema import FORMAT_VERSION
from mammo_etl.settings import BuildSettings, SourceSettings, digest
from mammo_etl.versions import package_versions
from mammo_etl.workspace import Workspace, read_sealed, write_sealed

_PASSING = {Reason.UNREADABLE_FOLDER, Reason.UNREACHABLE, Reason.WORKER_DIED, Reason.TOO_SLOW}
"""Reasons that lie in no file: the next build has to try again."""

_PROGRAM = {".py", ".j2"}
"""Endings of the files that the program consists of: code, and templates of pages."""


def basis_of(sources: Sequence[SourceSettings], files: Sequence[SourceFiles], settings: BuildSettings) -> str:
    """Digest of all that a build follows from: sources as given, their files by stamps, settings, and the program itself with
    the packages that it stands on.

    Empty if there is no telling whether a source is still the same. `files` must have been listed before any of them was read.
    """
    stamps = [source.stamp for source in files]
    if not all(stamps):
        return ""
    here = Path(__file__).parent
    parts = [
        path for package in (here, here.with_name("flows")) for path in package.rglob("*") if path.suffix in _PROGRAM
    ]
    program = [stamp_of(str(path)) for path in sorted(parts)]
    versions = {**package_versions(), **{name: version(name) for name in ("numba", "pandas")}}
    return digest(settings, [source.model_dump() for source in sources], stamps, program, versions, sys.version)


def up_to_date(workspace: Place, basis: str, settings: BuildSettings) -> PublishedRun | None:
    """The published run, if the latest build followed from that basis, and nothing of what it left has been touched since.

    A training writes the catalog anew: one with another stamp is mended, if it has to be.
    """
    known = read_sealed(Workspace(workspace).latest)
    if not basis or known is None or version_of(known) != FORMAT_VERSION or known["basis"] != basis:
        return None
    if known["result"] != _result(workspace, known["run_id"], settings):
        return None
    try:
        run = open_run(workspace)
    except ReaderError:
        return None
    if run.run_id != known["run_id"]:
        return None
    if stamp_at(Workspace(workspace).catalog) != known["catalog"]:
        # Takes a second to import, which a build that finds nothing to do need not spend otherwise.
        from mammo_etl.catalog import write_catalog

        write_catalog(workspace)
    return run


def remember(
    workspace: Place, basis: str, run: PublishedRun, settings: BuildSettings, rejects: Iterable[Rejection]
) -> None:
    """Notes that a build from that basis came to that published run, leaving out `rejects`.

    Nothing is noted, so that the next build tries again, where something was left out for a reason that may pass.
    """
    passing = any(row.code in _PASSING or row.message.startswith(NOT_READ) for row in rejects)
    if not basis or passing:
        forget(workspace)
        return
    content = {
        "format_version": FORMAT_VERSION,
        "basis": basis,
        "run_id": run.run_id,
        "result": _result(workspace, run.run_id, settings),
        "catalog": stamp_at(Workspace(workspace).catalog),
    }
    write_sealed(Workspace(workspace).latest, content)


def forget(workspace: Place) -> None:
    """Has the next build compare by content."""
    # Where it cannot be removed, no build can be made either.
    with suppress(OSError):
        Workspace(workspace).latest.unlink(missing_ok=True)


def _result(workspace: Place, run_id: str, settings: BuildSettings) -> str:
    """Digest of the stamps of all that a build leaves behind."""
    places = Workspace(workspace)
    images = places.images(digest(settings.cleaning))
    candidates = places.candidates(digest(settings.cleaning, settings.patches))
    files = [entry for folder in (places.run(run_id), images, candidates) for entry in files_below(folder)]
    pointers = [stamp_at(place) for place in (places.current, places.rejects)]
    # Names within the workspace, which may be given in more than one way.
    return digest([(str(entry.place).removeprefix(str(workspace)), entry.stamp) for entry in files], pointers)
