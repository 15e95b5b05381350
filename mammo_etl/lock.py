"""One writer of a workspace at a time.

On a local disk the lock is the operating system's. An object store has none: there the lock is an object that its holder writes anew every few
seconds, each time on condition that it is still its own. Who finds it waits to see whether it changes, by its own clock: whoever holds it is at
work if it does, and has died if it does not.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammo_etl.places import ObjectPath, Place
from mammo_etl.workspace import Workspace, read_json


class WorkspaceInUseError(Exception):
    """Another build or gc works in the workspace, in one sentence."""


LEASE_SECONDS = 30.0
"""A lock on an object store that does not change for so long is that of a process that has died."""
_RENEWALS = 6
"""In that time."""

_log = logging.getLogger(__name__)


@contextmanager
def locked(workspace: Place, work: str) -> Iterator[None]:
    """Keeps other builds and gcs out of a workspace that is there; `work` is what they are told goes on.

    The lock ends with the process that holds it, however that ends; where that was on another machine, one on an object store is waited for
    LEASE_SECONDS. Raises WorkspaceInUseError naming who holds it, or, at the end, who has taken it over because the store could not be reached
    for so long; and OSError if the workspace cannot be written to.
    """
    path = Workspace(workspace).lock
    with _flocked(path, work) if isinstance(path, Path) else _leased(path, work):
        yield


@contextmanager
def _flocked(path: Path, work: str) -> Iterator[None]:
    # Never deleted: whoever waits on a deleted file would share the workspace with whoever makes it anew.
    # Not inherited by workers, which may outlive the process for a moment: Python closes it in the programs that it starts.
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(path, read_json(path)) from error
        file.truncate(0)
        # On a full disk gc has to work, too.
        with suppress(OSError):
            file.write(json.dumps(_holder(work)).encode())
        try:
            yield
        finally:
            file.truncate(0)


@contextmanager
def _leased(path: ObjectPath, work: str) -> Iterator[None]:
    lease = _Lease(path, {**_holder(work), "key": uuid.uuid4().hex})
    lease.acquire()
    ended = threading.Event()
    thread = threading.Thread(target=lease.renew_until, args=(ended,), name=f"lock of {path}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        lease.release()


class _Lease:
    """A lock on an object store, held by renewing it."""

    def __init__(self, path: ObjectPath, holder: dict[str, Any]) -> None:
        self._path = path
        self._holder = holder
        self._renewed = 0
        self._tag = ""
        """Of the object, as last written by this process; empty if that was another's since."""

    def acquire(self) -> None:
        """Writes the object as this process's; raises WorkspaceInUseError if another holds it."""
        while not self._write(None):
            try:
                content, tag = self._path.read_tagged()
            except FileNotFoundError:
                continue
            holder = _read(content)
            if holder is None or _has_died(holder) or self._stays(tag):
                if self._write(tag):
                    return
            else:
                raise _in_use(self._path, holder)

    def renew_until(self, ended: threading.Event) -> None:
        """Writes the object anew from time to time, until the event is set or the object is another's."""
        while not ended.wait(LEASE_SECONDS / _RENEWALS):
            # A store out of reach is tried again; if that takes too long, somebody takes the object over.
            with suppress(ConnectionError):
                if not self._write(self._tag):
                    return

    def release(self) -> None:
        """Empties the object; raises WorkspaceInUseError if it is another's."""
        if not self._tag or self._path.write_if(b"", self._tag) is None:
            raise _in_use(self._path, _read(self._path.read_tagged()[0]))

    def _write(self, tag: str | None) -> bool:
        self._renewed += 1
        content = json.dumps({**self._holder, "renewed": self._renewed}).encode()
        written = self._path.write_if(content, tag)
        if written is None and tag is not None and _read(self._path.read_tagged()[0]) == json.loads(content):
            # An answer was lost, and the same request sent again.
            written = self._path.read_tagged()[1]
        self._tag = written or ""
        return written is not None

    def _stays(self, tag: str) -> bool:
        """Waits to see whether the object is written anew."""
        _log.warning("%s: somebody may be at work here; waiting up to %g seconds to see", self._path, LEASE_SECONDS)
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            time.sleep(LEASE_SECONDS / _RENEWALS / 3)
            if self._path.read_tagged()[1] != tag:
                return False
        return True


def _holder(work: str) -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"work": work, "host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _read(content: bytes) -> dict[str, Any] | None:
    """Who holds a lock; None if it is empty, and so nobody does."""
    holder: dict[str, Any] | None = json.loads(content) if content else None
    return holder


def _has_died(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine is gone."""
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _in_use(path: Place, holder: Any) -> WorkspaceInUseError:
    said = "another build or gc is at work here"
    # Nobody is named while it is just beginning or ending.
    if isinstance(holder, dict):
        said = f"{holder['work']} is at work here (host {holder['host']}, process {holder['pid']}, since {holder['since']})"
    return WorkspaceInUseError(f"{path.parent}: {said}; wait until that has ended")
