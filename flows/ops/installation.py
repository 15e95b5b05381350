"""What `mammo ops` keeps on a machine: one folder a user, with the services' settings, secrets, database and logs."""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.ops.certificates import CONFIGURATION, write_certificates, write_private
from flows.ops.ops_settings import OpsSettings

USER = "mammo"
"""User name of the server's only account."""

HEARTBEAT_SECONDS = 30
"""A flow run says that it lives as often: the least that Prefect allows."""

MARK = "MAMMO_OPS"
"""Environment variable of all processes of an installation: its folder. By it they are found when their parents are gone."""


@dataclass(frozen=True)
class Installation:
    """The folder of one user's services."""

    folder: Path

    @classmethod
    def of_user(cls) -> "Installation":
        """`~/.local/state/mammo/ops`, or below XDG_STATE_HOME (XDG Base Directory Specification)."""
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return cls(Path(state) / "mammo" / "ops")

    @property
    def configuration(self) -> Path:
        """Supervisor's own."""
        return self.folder / "supervisord.conf"

    @property
    def socket(self) -> Path:
        """Where supervisor listens: a file of the user alone, no port."""
        return self.folder / "supervisor.sock"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def metrics(self) -> Path:
        """Where flows write their counters."""
        return self.folder / "metrics"

    @property
    def job(self) -> Path:
        """What the last `mammo ops up` was asked for."""
        return self.folder / "job.json"

    @property
    def previous_profile(self) -> Path:
        """Name of the Prefect profile that was active before."""
        return self.folder / "previous-profile"

    def prepare(self) -> None:
        """Makes folder, password and certificates where they are not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.logs, self.metrics, self.folder / "prefect", self.folder / "dask"):
            folder.mkdir(exist_ok=True)
        if not (self.folder / "password").exists():
            write_private(self.folder / "password", f"{USER}:{secrets.token_urlsafe(24)}\n")
        if not (self.folder / "tls" / CONFIGURATION).exists():
            write_certificates(self.folder / "tls")

    @property
    def account(self) -> str:
        """`user:password` of the server."""
        return (self.folder / "password").read_text().strip()

    def client_environment(self, ops: OpsSettings) -> dict[str, str]:
        """What a process needs to talk with the server."""
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{ops.server_port}/api",
            "PREFECT_API_AUTH_STRING": self.account,
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        }

    def process_environment(self, ops: OpsSettings) -> dict[str, str]:
        """The same for this process and those that it starts: the password must not go to a proxy, which libraries ask for loopback, too."""
        known = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
        direct = ",".join(filter(None, [known, "127.0.0.1", "localhost"]))
        return {**self.client_environment(ops), "NO_PROXY": direct, "no_proxy": direct}

    def environment(self, ops: OpsSettings) -> dict[str, str]:
        """All of the services' environment: this process', without what it knows of other Prefects, and their own."""
        database = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get(
            "PREFECT_API_DATABASE_CONNECTION_URL"
        )
        own = {
            **self.process_environment(ops),
            MARK: str(self.folder),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_API_AUTH_STRING": self.account,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            # Shows the log of a run to `prefect deployment run --watch`.
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            "PREFECT_SERVER_METRICS_ENABLED": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "DASK_CONFIG": str(self.folder / "tls" / CONFIGURATION),
            # An item that kills its worker is tried once more, then given up by name; a step without workers ends.
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
            "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "300s",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }
        if database:
            own["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
        others = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        return {**others, **own}

    def remember(self, job: Mapping[str, Any]) -> None:
        """Writes what was asked for."""
        write_private(self.job, json.dumps(job, indent=2))

    def remembered(self) -> dict[str, Any] | None:
        """What was asked for last, if services were started ever."""
        if not self.job.exists():
            return None
        job: dict[str, Any] = json.loads(self.job.read_text())
        return job
