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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammo_etl.object_path import ObjectPath
from mammo_etl.places import Place
from mammo_etl.workspace import Workspace, read_json


class WorkspaceInUseError(Exception):
    """Another build or gc works in the workspace, in one sentence."""


LEASE_SECONDS = 30.0
"""A lock on an object store that does not change for so long is that of a process that has died."""
_RENEWALS = 6
"""In that time."""

_log = logging.getLogger(__name__)


Check = Callable[[], None]
"""Raises WorkspaceInUseError if a workspace has become another's."""


@contextmanager
def locked(workspace: Place, work: str) -> Iterator[Check]:
    """Keeps other builds and gcs out of a workspace that is there; `work` is what they are told goes on.

    The lock ends with the process that holds it, however that ends; one on an object store is waited for LEASE_SECONDS, unless it is known that the
    process was of this machine. There it is lost, too, where the store could not be reached for so long: what is yielded is to be called before
    anything is done that two at a time must not do. Raises WorkspaceInUseError naming who holds it, and OSError if the workspace cannot be written to.
    """
    path = Workspace(workspace).lock
    with _flocked(path, work) if isinstance(path, Path) else _leased(path, work) as check:
        yield check


@contextmanager
def _flocked(path: Path, work: str) -> Iterator[Check]:
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
            yield lambda: None
        finally:
            file.truncate(0)


@contextmanager
def _leased(path: ObjectPath, work: str) -> Iterator[Check]:
    lease = _Lease(path, {**_holder(work), "key": uuid.uuid4().hex})
    lease.acquire()
    ended = threading.Event()
    thread = threading.Thread(target=lease.renew_until, args=(ended,), name=f"lock of {path}", daemon=True)
    thread.start()
    try:
        yield lease.check
    finally:
        ended.set()
        thread.join()
        # What cannot be emptied now is taken for a dead process's in a while.
        with suppress(OSError):
            lease.release()


class _Lease:
    """A lock on an object store, held by renewing it."""

    def __init__(self, path: ObjectPath, holder: dict[str, Any]) -> None:
        self._path = path
        self._holder = holder
        self._mutex = threading.Lock()
        self._count = 0
        self._renewed = 0.0
        """When the object was last written by this process, by the monotonic clock."""
        self._tag: str | None = None
        """Of the object then; None if it is another's."""

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
        while not ended.wait(LEASE_SECONDS / _RENEWALS) and self._tag is not None:
            # A store out of reach, or a key that has expired, is tried again; if that takes too long, somebody takes the object over.
            with suppress(OSError):
                self._renew()

    def check(self) -> None:
        """Raises WorkspaceInUseError if the object is another's, and ConnectionError if that cannot be told."""
        if time.monotonic() - self._renewed > LEASE_SECONDS / 2:
            self._renew()
        if self._tag is None:
            raise _in_use(self._path, _read(self._path.read_tagged()[0]))

    def release(self) -> None:
        """Empties the object, if it is not another's."""
        with self._mutex:
            if self._tag is not None and self._path.write_if(b"", self._tag) is None:
                content, tag = self._path.read_tagged()
                if self._is_own(content):
                    self._path.write_if(b"", tag)

    def _renew(self) -> None:
        with self._mutex:
            if self._tag is not None:
                self._write(self._tag)

    def _write(self, tag: str | None) -> bool:
        """Writes the object if it has that tag (None: if there is none), and notes whether it is this process's."""
        self._count += 1
        began = time.monotonic()
        written = self._path.write_if(json.dumps({**self._holder, "renewed": self._count}).encode(), tag)
        if written is None:
            # Where an answer was lost, an earlier request may have come through.
            try:
                content, found = self._path.read_tagged()
            except FileNotFoundError:
                content, found = b"", ""
            written = found if self._is_own(content) else None
        if written is not None:
            self._renewed = began
        self._tag = written
        return written is not None

    def _is_own(self, content: bytes) -> bool:
        holder = _read(content)
        return holder is not None and holder.get("key") == self._holder["key"]

    def _stays(self, tag: str) -> bool:
        """Waits to see whether the object is written anew."""
        _log.warning("%s: somebody may be at work here; waiting up to %g seconds to see", self._path, LEASE_SECONDS)
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            time.sleep(LEASE_SECONDS / _RENEWALS / 3)
            try:
                if self._path.read_tagged()[1] != tag:
                    return False
            except FileNotFoundError:
                return True
        return True


def _holder(work: str) -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "work": work,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": since,
        "processes": _processes(),
    }


def _processes() -> str | None:
    """What tells apart tables of processes: this start of the machine, and the container; None where there is no telling."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _read(content: bytes) -> dict[str, Any] | None:
    """Who holds a lock; None if it is empty, and so nobody does. Another version of mammo may say less of itself, and holds it all the same."""
    if not content:
        return None
    try:
        holder = json.loads(content)
    except ValueError:
        holder = None
    return holder if isinstance(holder, dict) else {}


def _has_died(holder: dict[str, Any]) -> bool:
    """Whether it is known that a process, of those that can be seen from here, is gone."""
    processes = _processes()
    if processes is None or holder.get("processes") != processes or "pid" not in holder:
        return False
    try:
        # Another user's process is there, too.
        with suppress(PermissionError):
            os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    return False


def _in_use(path: Place, holder: Any) -> WorkspaceInUseError:
    said = "another build or gc is at work here"
    # Nobody is named while it is just beginning or ending.
    if isinstance(holder, dict) and {"work", "host", "pid", "since"} <= holder.keys():
        said = f"{holder['work']} is at work here (host {holder['host']}, process {holder['pid']}, since {holder['since']})"
    return WorkspaceInUseError(f"{path.parent}: {said}; wait until that has ended")
