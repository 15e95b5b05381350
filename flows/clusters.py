"""From settings to a Dask client: a local cluster by default, or the scheduler at an address."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import dask
from distributed import Client, LocalCluster
from pydantic import Field

from mammo_etl.settings import Settings, SettingsError

WORKER_ENVIRONMENT = {
    # One task, one core: libraries that start a thread per core on every worker would only fight each other.
    "OPENCV_FOR_THREADS_NUM": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A film's arrays come from memory that the worker has already, not page by page from the system: a quarter less time a film.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
}

_CONNECTING = 5
"""Attempts to connect to a running scheduler."""


class ClusterSettings(Settings):
    """Where the work is done; decides nothing about the result."""

    address: str | None = None
    """Address of a running Dask scheduler, as tcp://127.0.0.1:8786; none: a cluster of this machine's own."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Worker processes of the local cluster; none: one per core."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory limit of a local worker; none: an equal share of the machine's."""
    dashboard_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the local cluster's dashboard on 127.0.0.1; 0: any free one."""


class _PatientClient(Client):
    """A client that tries again to connect where the scheduler speaks to all clients at that moment.

    distributed's own asserts that the scheduler's first message to it stands alone. It does not where another client's key is forgotten, say, in
    the same two milliseconds.
    """

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        for _ in range(_CONNECTING - 1):
            try:
                await super()._ensure_connected(timeout)  # type: ignore[no-untyped-call]
            except AssertionError:
                # The scheduler will take leave of the name that it has just welcomed.
                self.id = f"{type(self).__name__}-{uuid.uuid4()}"
            else:
                return
        await super()._ensure_connected(timeout)  # type: ignore[no-untyped-call]


@contextmanager
def open_client(settings: ClusterSettings) -> Iterator[Client]:
    """A client of the cluster, closed at the end, the local cluster with it; never made the default client.

    A local cluster listens on the loopback interface alone: whoever reaches a Dask scheduler can run code on it.
    Raises SettingsError if no scheduler answers at the address.
    """
    if settings.address is not None:
        try:
            client = _PatientClient(settings.address, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise SettingsError(f"cluster.address: no Dask scheduler answers at {settings.address}") from error
        with client:
            yield client
        return
    workers = settings.workers or os.cpu_count() or 1
    config = {
        # A task that kills its worker is tried once more, then given up by name.
        "distributed.scheduler.allowed-failures": 1,
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    }
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{settings.dashboard_port}",
            memory_limit="auto" if settings.memory_gb is None else int(settings.memory_gb * 1e9),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
