"""From settings to a Dask client: a local cluster by default, the scheduler at an address, or a cluster that a manager starts."""

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import Field, JsonValue, model_validator

from flows.signals import deaf_children
from mammo_etl import schema
from mammo_etl.settings import Settings, SettingsError
from mammo_etl.versions import PACKAGES

# Dask is imported where it is used: that takes a second, which a build that finds nothing to do need not spend.
if TYPE_CHECKING:
    from distributed import Client, LocalCluster
    from distributed.client import VersionsDict

WORKER_ENVIRONMENT = {
    # One task, one core: libraries that start a thread per core on every worker would only fight each other.
    "OPENCV_FOR_THREADS_NUM": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # Workers that share a GPU leave each other room.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    # A film's arrays come from memory that the worker has already, not page by page from the system: a quarter less time a film.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}

_MANAGED = {
    "KubeCluster": ("dask_kubernetes.operator", "dask-kubernetes"),
    "SLURMCluster": ("dask_jobqueue", "dask-jobqueue"),
    "GatewayCluster": ("dask_gateway", "dask-gateway"),
}
"""Classes that start a cluster elsewhere: module, and the package that has it. No others are taken: settings come from outside, and must not
name code to be run."""


class ClusterSettings(Settings):
    """Where the work is done; decides nothing about the result, but where work has to be given up."""

    address: str | None = None
    """Address of a running Dask scheduler, as tcp://127.0.0.1:8786; none: a cluster of the job's own."""
    manager: Literal["KubeCluster", "SLURMCluster", "GatewayCluster"] | None = None
    """Class that starts the job's cluster: of dask-kubernetes (its operator's), dask-jobqueue or dask-gateway, to be installed beside mammo;
    none: a cluster on this machine."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the manager's class, as its documentation names them."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Workers of the job's cluster; none: one per core that this process may use."""
    most_workers: Annotated[int, Field(ge=1)] | None = None
    """The cluster grows from `workers` to as many while there is work for them; none: it does not."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory limit of a local worker; none: an equal share of the machine's."""
    dashboard_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the local cluster's dashboard on 127.0.0.1; 0: any free one."""
    wait_seconds: Annotated[float, Field(gt=0)] = 300
    """A job fails if it has had no worker for as long: at its start, and later where the scheduler is its own."""
    item_seconds: Annotated[float, Field(gt=0)] = 1800
    """A task that runs for longer is given up: a film, a shard, or the headers of a hundred files."""

    @property
    def local_workers(self) -> int:
        """Workers of a cluster on this machine."""
        return self.workers or cores()

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.address is not None and (self.manager or self.most_workers):
            raise ValueError(
                "address names a cluster that others manage: expected neither manager nor most_workers beside it"
            )
        if self.manager is None and self.options:
            raise ValueError(
                "options are the arguments of a manager: expected one of KubeCluster, SLURMCluster, GatewayCluster"
            )
        if self.manager is not None and self.workers is None:
            raise ValueError(f"{self.manager} has to be told how many workers to start: expected workers")
        if self.most_workers is not None and (self.workers is None or self.most_workers < self.workers):
            raise ValueError("most_workers is what the cluster grows to: expected workers, and no more of them")
        return self


def cores() -> int:
    """Cores that this process may use: a container's limit and the process' affinity count, which `os.cpu_count` does not see."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def worker_memory(settings: ClusterSettings) -> int:
    """Memory limit of a local worker, bytes. Dask's own share goes by cores, so that fewer workers than cores would leave memory unused."""
    from distributed.system import MEMORY_LIMIT

    if settings.memory_gb is not None:
        return int(settings.memory_gb * 1e9)
    return MEMORY_LIMIT // (settings.most_workers or settings.local_workers)


@contextmanager
def open_client(settings: ClusterSettings) -> Iterator["Client"]:
    """A client of a cluster that has a worker, closed at the end, and with it the job's own cluster; never made the default client.

    A local cluster listens on the loopback interface alone: whoever reaches a Dask scheduler can run code on it.
    Raises SettingsError if no scheduler answers at the address, the manager's package is missing or refuses the options, there is no worker
    in time, or one of those that are there has other versions than this process.
    """
    import dask
    from distributed import Client

    with ExitStack() as stack:
        if settings.address is not None:
            client = _connected(settings.address)
        else:
            stack.enter_context(dask.config.set(_config(settings)))
            restore_environment = _environment_restorer()
            stack.callback(restore_environment)
            own = _local(settings) if settings.manager is None else _managed(settings.manager, settings.options)
            cluster = stack.enter_context(own)
            restore_environment()
            if settings.most_workers is not None:
                cluster.adapt(minimum=settings.workers, maximum=settings.most_workers)
            elif settings.manager is not None:
                cluster.scale(settings.workers)
            client = Client(cluster, set_as_default=False)
        stack.enter_context(client)
        _await_worker(client, settings.wait_seconds)
        if settings.address is not None or settings.manager is not None:
            _check_versions(client)
        yield client


def worker_limits(client: "Client") -> list[tuple[int, int]]:
    """Memory limit in bytes (0: none) and threads of each worker that is there."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [(worker["memory_limit"] or 0, worker["nthreads"]) for worker in workers]


def _connected(address: str) -> "Client":
    from flows.patient_client import PatientClient

    try:
        return PatientClient(address, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise SettingsError(f"cluster.address: no Dask scheduler answers at {address}") from error
    except TypeError as error:
        # Of distributed, for an address of tls:// without certificates.
        raise SettingsError(
            f"cluster.address: {address} needs certificates: have DASK_CONFIG name the dask.yaml of `mammo ops certificates`"
        ) from error


def _config(settings: ClusterSettings) -> dict[str, Any]:
    """Configuration of schedulers and nannies that this process starts."""
    # A nanny starts a worker that died anew, which takes a busy machine longer than the 15 seconds after which the cluster would give up both.
    patient = (
        {"distributed.deploy.lost-worker-timeout": f"{settings.wait_seconds} s"} if settings.manager is None else {}
    )
    return {
        **patient,
        # A task that kills its worker is tried once more, then given up by name.
        "distributed.scheduler.allowed-failures": 1,
        "distributed.scheduler.no-workers-timeout": f"{settings.wait_seconds} s",
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    }


def _local(settings: ClusterSettings) -> "LocalCluster":
    from distributed import LocalCluster

    # Workers that ended by Ctrl-C themselves would each print a traceback, and be started anew.
    # Python's resource tracker has to be there: whoever starts it hears the signal again.
    resource_tracker.ensure_running()
    with deaf_children(signal.SIGINT):
        return LocalCluster(
            n_workers=settings.local_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{settings.dashboard_port}",
            memory_limit=worker_memory(settings),
        )


def _environment_restorer() -> Callable[[], None]:
    """What sets back, when called, the variables that nannies set in this process to start their workers, to their values of now.

    A model that the process trains next would be trained by one thread. A nanny that starts a worker later sets them again.
    """
    import dask

    # The last is one that nannies set beside those of the configuration.
    names = [*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED"]
    before = {name: os.environ.get(name) for name in names}

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return restore


def _managed(manager: str, options: dict[str, JsonValue]) -> Any:
    """A cluster by one of the managers."""
    module, package = _MANAGED[manager]
    try:
        start = getattr(importlib.import_module(module), manager)
    except ImportError as error:
        raise SettingsError(f"cluster.manager: {manager} needs the package {package}: pip install {package}") from error
    try:
        return start(**options)
    except (TypeError, ValueError, OSError) as error:
        raise SettingsError(f"cluster.options: {manager} cannot be started: {error}") from error


def _await_worker(client: "Client", seconds: float) -> None:
    try:
        client.wait_for_workers(1, seconds)
    except TimeoutError as error:
        raise SettingsError(f"cluster: no worker within {seconds:g} seconds (cluster.wait_seconds)") from error


def _check_versions(client: "Client") -> None:
    """Raises SettingsError naming a worker where a package that decides a run's bytes is missing, or of another version than here.

    Workers that come later are not asked.
    """
    versions = cast("VersionsDict", client.get_versions(packages=list(PACKAGES)))
    own = versions["client"]["packages"]
    for worker, told in sorted(versions["workers"].items()):
        for name in PACKAGES:
            if told["packages"][name] != own[name]:
                raise SettingsError(_other_version(worker, f"{name} {told['packages'][name] or 'missing'}", own[name]))
    # Two checkouts may call themselves the same version.
    formats: dict[str, int] = client.run(getattr, schema, "FORMAT_VERSION")
    for worker, number in sorted(formats.items()):
        if number != schema.FORMAT_VERSION:
            raise SettingsError(_other_version(worker, f"mammo's format version {number}", str(schema.FORMAT_VERSION)))


def _other_version(worker: str, found: str, expected: str) -> str:
    return f"cluster: worker {worker} has {found}, and this process {expected}: install the same on both, as the bytes of a run depend on it"
