"""A cluster as others run it: `dask scheduler` and `dask worker` processes on the loopback interface."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from flows.clusters import WORKER_ENVIRONMENT

_SECONDS = 60
"""What a process is given to start."""

_ENVIRONMENT = {
    **WORKER_ENVIRONMENT,
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "60 s",
}
"""What infra/README.md asks of such a cluster."""


@contextmanager
def dask_scheduler(
    log: Path, python: str = sys.executable, port: int = 0
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A scheduler's process and its address; killed at the end, if it has not ended by then."""
    options = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    with _started(log, python, "distributed.cli.dask_scheduler", *options) as process:
        yield process, _said(process, log, "Scheduler at:").split()[-1]


@contextmanager
def dask_workers(
    address: str, logs: Sequence[Path], pythons: Sequence[str] = ()
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Nannies' processes of workers of one thread, one per log, each the leader of a group that its worker belongs to."""
    options = [address, "--host", "127.0.0.1", "--no-dashboard", "--nthreads", "1", "--memory-limit", "2GB"]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_started(log, python, "distributed.cli.dask_worker", *options))
            for log, python in zip(logs, pythons or [sys.executable] * len(logs), strict=True)
        ]
        for process, log in zip(processes, logs, strict=True):
            _said(process, log, "Registered to:")
        yield processes


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process that leads a group, and all of the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _started(log: Path, python: str, module: str, *options: object) -> Iterator["subprocess.Popen[bytes]"]:
    command = [python, "-m", module, *map(str, options)]
    environment = os.environ | _ENVIRONMENT
    if python != sys.executable:
        # What is imported is what is installed there.
        environment.pop("PYTHONPATH", None)
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        kill_group(process)


def _said(process: "subprocess.Popen[bytes]", log: Path, text: str) -> str:
    """The first line of a log with that text."""
    end = time.monotonic() + _SECONDS
    while True:
        for line in log.read_text().splitlines():
            if text in line:
                return line
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
