"""The services of `mammo ops up` under supervisord, which starts what dies anew."""

import http.client
import json
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from flows.ops.certificates import write_private
from flows.ops.installation import MARK, Installation
from mammo_etl.settings import SettingsError

_LONGEST_SOCKET = 100
"""Bytes of the path of a socket, a little fewer than Linux' 107: supervisord makes it under a longer name first."""

_STOP_SECONDS = 30
"""What a service is given to end by itself: a build under way stops in order."""

LOST = (OSError, http.client.HTTPException)
"""How a supervisor that is not there shows."""


@dataclass(frozen=True)
class Service:
    """A program that runs for as long as the services do."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what all services have; no secrets."""


@dataclass(frozen=True)
class State:
    """How supervisord sees a service."""

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF (waits before the next start), FATAL, STOPPED and others, as supervisord has them."""
    description: str


def start(installation: Installation, services: Sequence[Service], environment: Mapping[str, str]) -> None:
    """Starts supervisord, which starts nothing yet.

    Raises SettingsError if its socket's path is too long for the system, and CalledProcessError if it cannot start.
    """
    if len(bytes(installation.socket)) > _LONGEST_SOCKET:
        raise SettingsError(
            f"{installation.socket}: too long for the path of a socket; set XDG_STATE_HOME to a shorter one"
        )
    write_private(installation.configuration, _configuration(installation, services))
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(installation.configuration)]
    subprocess.run(command, check=True, env=dict(environment), stdin=subprocess.DEVNULL, cwd=installation.folder)


def _configuration(installation: Installation, services: Sequence[Service]) -> str:
    """Supervisor's settings: no secrets, as services inherit its environment; no port, as it listens on a file."""
    lines = [
        "[supervisord]",
        f"logfile={_value(installation.logs / 'supervisord.log')}",
        f"pidfile={_value(installation.folder / 'supervisord.pid')}",
        f"directory={_value(installation.folder)}",
        f"childlogdir={_value(installation.logs)}",
        "[unix_http_server]",
        f"file={_value(installation.socket)}",
        "chmod=0600",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for service in services:
        lines += [
            f"[program:{service.name}]",
            f"command={_value(shlex.join(service.command))}",
            f"stdout_logfile={_value(installation.logs / f'{service.name}.log')}",
            f"environment={','.join(f'{key}={json.dumps(value)}'.replace('%', '%%') for key, value in service.environment.items())}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=3",
            "redirect_stderr=true",
            "autostart=false",
            "autorestart=true",
            "startsecs=5",
            # Pauses grow by a second with each: half an hour of trying in all.
            "startretries=60",
            f"stopwaitsecs={_STOP_SECONDS}",
            # What a service has started ends with it.
            "stopasgroup=true",
            "killasgroup=true",
        ]
    return "\n".join([*lines, ""])


def _value(text: object) -> str:
    """As supervisor's settings have it: `%` stands for a variable there."""
    return str(text).replace("%", "%%")


def _rpc(installation: Installation) -> Any:
    """Supervisor's functions; calls raise one of LOST where it is not running."""
    transport = SupervisorTransport(None, None, f"unix://{installation.socket}")
    # The address is for show: the transport has its own.
    return cast("Any", xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)).supervisor


def states(installation: Installation) -> list[State] | None:
    """How each service is; None where supervisord does not run. Raises SettingsError while it is stopping."""
    try:
        rows = _rpc(installation).getAllProcessInfo()
    except LOST:
        return None
    except xmlrpc.client.Fault as error:
        raise SettingsError("ops: the services are being stopped; try again when that is done") from error
    return [State(row["name"], row["statename"], row["description"]) for row in rows]


def run(installation: Installation, service: str) -> None:
    """Has supervisord start a service, if it has not."""
    try:
        # Not waited for: that is seconds for each, and whether a service works is asked of itself.
        _rpc(installation).startProcess(service, False)
    except xmlrpc.client.Fault as error:
        if error.faultCode != Faults.ALREADY_STARTED:
            raise SettingsError(f"ops: {service} cannot be started: {error.faultString}") from error


def stop(installation: Installation) -> None:
    """Ends supervisord and all that it has started, and whatever of that a lost supervisord has left."""
    # Flows first, while there is a server to which they can tell their end: they are not in their worker's group.
    _end(left_over(installation, "prefect.engine"))
    with suppress(*LOST, xmlrpc.client.Fault):
        _rpc(installation).shutdown()
        # One after another.
        end = time.monotonic() + 10 * _STOP_SECONDS
        while time.monotonic() < end and _stopping(installation):
            time.sleep(0.2)
    _end(left_over(installation))
    installation.socket.unlink(missing_ok=True)


def _stopping(installation: Installation) -> bool:
    """Whether supervisord is still there: while it stops its services, it refuses all that is asked."""
    try:
        with suppress(xmlrpc.client.Fault):
            _rpc(installation).getState()
    except LOST:
        return False
    return True


def _end(processes: Sequence[psutil.Process]) -> None:
    """Has processes end by themselves, and those that do not in time be ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, living = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
    for process in living:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(living, timeout=10)


def left_over(installation: Installation, word: str = "") -> list[psutil.Process]:
    """Processes of the installation, whoever their parents are by now, other than this one; with `word`, those that have it in their command."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ours = process.pid != psutil.Process().pid and process.environ().get(MARK) == str(installation.folder)
            if ours and (not word or word in process.cmdline()):
                found.append(process)
    return found
