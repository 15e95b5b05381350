"""The services of one machine: what is started, and how each shows that it works."""

import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from flows.clusters import WORKER_ENVIRONMENT, ClusterSettings, worker_memory
from flows.ops.installation import Installation
from flows.ops.ops_settings import OpsSettings
from flows.ops.registration import ETL_POOL, TRAIN_POOL
from flows.ops.supervision import Service

SERVER, SCHEDULER, WORKERS, METRICS = "prefect-server", "dask-scheduler", "dask-workers", "metrics"

_ONLINE = timedelta(seconds=45)
"""A Prefect worker says that it is there every 30 seconds."""


@dataclass(frozen=True)
class Health:
    """Whether a service does its work."""

    name: str
    healthy: bool
    address: str
    """Where it is reached, if it is."""
    message: str


def own_cluster(cluster: ClusterSettings) -> bool:
    """Whether the builds' Dask cluster is one of this machine, not one at an address or by a manager."""
    return cluster.address is None and cluster.manager is None


def scheduler_address(ops: OpsSettings) -> str:
    return f"tls://127.0.0.1:{ops.scheduler_port}"


def services(installation: Installation, ops: OpsSettings, cluster: ClusterSettings) -> list[Service]:
    """In the order in which they are started."""

    def python(*words: object) -> list[str]:
        return [sys.executable, "-m", *map(str, words)]

    prefect = ("prefect", "--no-prompt")
    # Of these alone: prometheus_client leaves files in it for each process that has it, which the server would do, too.
    counting = {"PROMETHEUS_MULTIPROC_DIR": str(installation.metrics)}
    found = [
        Service(SERVER, python(*prefect, "server", "start", "--host", "127.0.0.1", "--port", ops.server_port)),
        # Each flow waits for its turn on its pool; those that need the workspace to themselves, in a queue of their own.
        *(
            Service(
                f"worker-{pool}",
                python(*prefect, "worker", "start", "--pool", pool, "--type", "process", "--limit", limit),
                counting,
            )
            for pool, limit in ((ETL_POOL, 3), (TRAIN_POOL, 1))
        ),
        Service(METRICS, python("flows.cli", "ops", "metrics", "--port", ops.metrics_port), counting),
    ]
    if own_cluster(cluster):
        dashboard = f"127.0.0.1:{ops.dashboard_port}"
        found += [
            Service(
                SCHEDULER,
                python(
                    "distributed.cli.dask_scheduler",
                    *("--host", "127.0.0.1", "--port", ops.scheduler_port),
                    *("--dashboard-address", dashboard, "--no-show"),
                ),
            ),
            Service(
                WORKERS,
                python(
                    "distributed.cli.dask_worker",
                    *(scheduler_address(ops), "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"),
                    *("--nworkers", cluster.local_workers, "--nthreads", 1, "--local-directory", "dask"),
                    *("--memory-limit", worker_memory(cluster)),
                ),
                # Of these alone: a training takes all cores.
                WORKER_ENVIRONMENT,
            ),
        ]
    return found


def busy_ports(ops: OpsSettings, cluster: ClusterSettings) -> list[int]:
    """Ports that other programs have."""
    ports = [ops.server_port, ops.metrics_port]
    if own_cluster(cluster):
        ports += [ops.scheduler_port, ops.dashboard_port]
    busy = []
    for port in ports:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                busy.append(port)
    return busy


def healths(
    installation: Installation, ops: OpsSettings, cluster: ClusterSettings, names: Sequence[str]
) -> Iterator[Health]:
    """Asks the services of these names, one after another."""
    checks: dict[str, Callable[[], tuple[bool, str]]] = {
        SERVER: lambda: _server(installation, ops),
        f"worker-{ETL_POOL}": lambda: _worker(installation, ops, ETL_POOL),
        f"worker-{TRAIN_POOL}": lambda: _worker(installation, ops, TRAIN_POOL),
        METRICS: lambda: _answers(f"http://127.0.0.1:{ops.metrics_port}/metrics"),
        SCHEDULER: lambda: _scheduler(installation, ops),
        WORKERS: lambda: _dask_workers(ops, cluster.local_workers),
    }
    addresses = {
        SERVER: f"http://127.0.0.1:{ops.server_port}",
        METRICS: f"http://127.0.0.1:{ops.metrics_port}/metrics",
        SCHEDULER: f"{scheduler_address(ops)}, dashboard http://127.0.0.1:{ops.dashboard_port}/status",
    }
    for name in names:
        try:
            healthy, message = checks[name]()
        except httpx.HTTPStatusError as error:
            # Prefect's server, without its database: 503.
            healthy, message = False, f"answers {error.response.status_code} {error.response.reason_phrase}"
        except (httpx.HTTPError, OSError) as error:
            healthy, message = False, f"does not answer: {type(error).__name__}"
        yield Health(name, healthy, addresses.get(name, ""), message)


def _server(installation: Installation, ops: OpsSettings) -> tuple[bool, str]:
    # With its database: `/health` does not ask for it.
    _api(installation, ops, "GET", "/ready")
    # Whoever calls without the password must be turned away.
    refused = httpx.get(f"http://127.0.0.1:{ops.server_port}/api/flow_runs/count", timeout=10, trust_env=False)
    if refused.status_code != httpx.codes.UNAUTHORIZED:
        return False, "answers without a password"
    return True, "answers, asks for a password"


def _worker(installation: Installation, ops: OpsSettings, pool: str) -> tuple[bool, str]:
    workers = _api(installation, ops, "POST", f"/work_pools/{pool}/workers/filter", {})
    seen = [datetime.fromisoformat(worker["last_heartbeat_time"]) for worker in workers if worker["status"] == "ONLINE"]
    if not any(datetime.now(UTC) - moment < _ONLINE for moment in seen):
        return False, "not online yet"
    runs = _api(
        installation,
        ops,
        "POST",
        "/flow_runs/count",
        {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}, "work_pools": {"name": {"any_": [pool]}}},
    )
    return True, f"online, {runs} running"


def _api(installation: Installation, ops: OpsSettings, method: str, path: str, content: Any = None) -> Any:
    user, _, password = installation.account.partition(":")
    url = f"http://127.0.0.1:{ops.server_port}/api{path}"
    return (
        httpx.request(method, url, json=content, auth=(user, password), timeout=10, trust_env=False)
        .raise_for_status()
        .json()
    )


def _answers(url: str) -> tuple[bool, str]:
    httpx.get(url, timeout=10, trust_env=False).raise_for_status()
    return True, "answers"


def _scheduler(installation: Installation, ops: OpsSettings) -> tuple[bool, str]:
    tls = installation.folder / "tls"
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(str(tls / "cert.pem"), str(tls / "key.pem"))
    with (
        socket.create_connection(("127.0.0.1", ops.scheduler_port), timeout=10) as plain,
        context.wrap_socket(plain) as encrypted,
    ):
        return True, f"answers, {encrypted.version()}"


def _dask_workers(ops: OpsSettings, wanted: int) -> tuple[bool, str]:
    metrics = (
        httpx.get(f"http://127.0.0.1:{ops.dashboard_port}/metrics", timeout=10, trust_env=False).raise_for_status().text
    )
    states = [line for line in metrics.splitlines() if line.startswith("dask_scheduler_workers{")]
    count = sum(int(float(line.rpartition(" ")[2])) for line in states)
    return count >= wanted, f"{count} connected" if count >= wanted else f"{count} of {wanted} connected"


def wait_until_healthy(look: Callable[[], list[Health]], seconds: float, tell: Callable[[list[Health]], None]) -> bool:
    """Asks all services until each is well; False if that takes longer."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        tell(found)
        if all(health.healthy for health in found):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(1)
