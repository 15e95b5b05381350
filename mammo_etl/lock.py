"""One writer of a workspace at a time."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from mammo_etl.workspace import Workspace, read_json


class WorkspaceInUseError(Exception):
    """Another build or gc works in the workspace, in one sentence."""


@contextmanager
def locked(workspace: Path, work: str) -> Iterator[None]:
    """Keeps other builds and gcs out of a workspace that is there; `work` is what they are told goes on.

    The lock is the operating system's: it ends with the process that holds it, however that ends. Raises WorkspaceInUseError naming who holds it,
    and OSError if the workspace cannot be written to.
    """
    path = Workspace(workspace).lock
    # Never deleted: whoever waits on a deleted file would share the workspace with whoever makes it anew.
    # Not inherited by workers, which may outlive the process for a moment: Python closes it in the programs that it starts.
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceInUseError(f"{workspace}: {_holder(path)}; wait until that has ended") from error
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"work": work, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
        # On a full disk gc has to work, too.
        with suppress(OSError):
            file.write(json.dumps(holder).encode())
        try:
            yield
        finally:
            file.truncate(0)


def _holder(path: Path) -> str:
    holder = read_json(path)
    if not isinstance(holder, dict):
        # It has just begun, or has just ended.
        return "another build or gc is at work here"
    return f"{holder['work']} is at work here (host {holder['host']}, process {holder['pid']}, since {holder['since']})"
