"""What the commands share: their options, the errors that they tell in one sentence, and Prefect made ready for a terminal."""

import errno
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.signals import code_of_signal
from mammo_etl.files import SourceFileError
from mammo_etl.formats import FormatError
from mammo_etl.inventory import InventoryError
from mammo_etl.lock import WorkspaceInUseError
from mammo_etl.settings import SettingsError
from mammo_etl.workspace import DamagedFileError

console = Console()

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


GO_ON = "what is done is kept, and the same command goes on from there"

NOT_WRITTEN = {
    errno.ENOSPC: f"the disk is full. Make room (`mammo gc` lists what can go); {GO_ON}",
    errno.EDQUOT: f"the disk quota is used up. Make room (`mammo gc` lists what can go); {GO_ON}",
    errno.EROFS: f"the disk is read-only. Make it writable; {GO_ON}",
}
"""What a user can do about a file that could not be written, by the number of the error."""


def prepare_prefect(*expected: type[Exception]) -> None:
    """Has Prefect's temporary server outlast Ctrl-C, and keeps Prefect from logging what the command tells in one sentence."""
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
