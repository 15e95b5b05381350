"""Which cluster the settings give, and what is told where there is none."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import distributed
import pytest
from conftest import REPOSITORY
from distributed import Client, LocalCluster, Scheduler

from flows.clusters import WORKER_ENVIRONMENT, ClusterSettings, open_client, worker_limits, worker_memory
from flows.fan_out import fan_out
from mammo_etl import schema
from mammo_etl.settings import SettingsError, validated


def double(number: int) -> int:
    return 2 * number


class SLURMCluster(LocalCluster):
    """A local cluster in the place of one by a manager; notes how it was asked for."""

    asked: dict[str, Any]

    def __init__(self, *, queue: str = "") -> None:
        if queue == "refused":
            raise ValueError("no such queue")
        type(self).asked = {"queue": queue}
        super().__init__(n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)

    def scale(self, n: int) -> Any:
        type(self).asked["scale"] = n
        return super().scale(n)

    def adapt(self, **bounds: Any) -> Any:
        type(self).asked |= bounds
        return super().adapt(**bounds)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> type[SLURMCluster]:
    module = ModuleType("dask_jobqueue")
    module.SLURMCluster = SLURMCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    return SLURMCluster


def doubled(client: Client) -> list[int]:
    return sorted(result for _, result in fan_out(client, double, [(str(number), number) for number in range(9)]))


def test_a_cluster_by_a_manager(slurm: type[SLURMCluster]) -> None:
    settings = ClusterSettings(manager="SLURMCluster", options={"queue": "long"}, workers=1)
    with open_client(settings) as client:
        assert doubled(client) == list(range(0, 18, 2))
        assert slurm.asked == {"queue": "long", "scale": 1}
        cluster = client.cluster
    assert cluster.status.name == "closed"


def test_a_cluster_that_grows(slurm: type[SLURMCluster]) -> None:
    settings = ClusterSettings(manager="SLURMCluster", workers=1, most_workers=2)
    with open_client(settings) as client:
        assert doubled(client) == list(range(0, 18, 2))
    assert {name: slurm.asked[name] for name in ("minimum", "maximum")} == {"minimum": 1, "maximum": 2}


@pytest.mark.usefixtures("slurm")
def test_options_that_the_manager_refuses() -> None:
    for options, message in (({"queue": "refused"}, "no such queue"), ({"queu": "long"}, "queu")):
        settings = ClusterSettings(manager="SLURMCluster", options=options, workers=1)
        with pytest.raises(SettingsError, match=rf"^cluster\.options: SLURMCluster .*{message}"), open_client(settings):
            pass


@pytest.mark.parametrize(
    ("manager", "package"),
    [("KubeCluster", "dask-kubernetes"), ("GatewayCluster", "dask-gateway")],
)
def test_a_manager_whose_package_is_missing(manager: Any, package: str) -> None:
    with (
        pytest.raises(SettingsError, match=f"{manager} needs the package {package}: pip install {package}"),
        open_client(ClusterSettings(manager=manager, workers=1)),
    ):
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"manager": "os.system", "workers": 1}, "KubeCluster"),
        ({"manager": "KubeCluster"}, "expected workers"),
        ({"options": {"queue": "long"}}, "expected one of KubeCluster"),
        ({"address": "tcp://127.0.0.1:1", "most_workers": 3}, "expected neither"),
        ({"workers": 4, "most_workers": 3}, "no more of them"),
    ],
)
def test_settings_that_contradict_each_other(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        validated(ClusterSettings, values, "cluster")


def test_a_cluster_without_workers_is_told_at_once() -> None:
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        pytest.raises(SettingsError, match=r"^cluster: no worker within 0\.3 seconds \(cluster\.wait_seconds\)$"),
        open_client(ClusterSettings(address=cluster.scheduler_address, wait_seconds=0.3)),
    ):
        pass


def test_the_default_client_is_not_touched(cluster: ClusterSettings) -> None:
    with open_client(cluster), pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()
    with open_client(ClusterSettings(workers=1)), pytest.raises(ValueError, match="No clients found"):
        distributed.default_client()


def test_what_workers_may_take() -> None:
    def unlimited(dask_scheduler: Scheduler) -> None:
        next(iter(dask_scheduler.workers.values())).memory_limit = None

    with open_client(ClusterSettings(workers=2, memory_gb=1.5)) as client:
        assert worker_limits(client) == [(1_500_000_000, 1)] * 2
        client.run_on_scheduler(unlimited)
        assert sorted(worker_limits(client)) == [(0, 1), (1_500_000_000, 1)]


def test_what_is_set_for_workers_is_not_set_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WORKER_ENVIRONMENT, "PYTHONHASHSEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")

    def environment() -> dict[str, str]:
        # Dask's own name for this process, which stays, and is read by nobody else.
        return {name: value for name, value in os.environ.items() if name != "__DASK_PARENT_PID"}

    before = environment()
    with open_client(ClusterSettings(workers=1)) as client:
        assert environment() == before
        (told,) = client.run(lambda: dict(os.environ)).values()
        assert {**WORKER_ENVIRONMENT, "MKL_NUM_THREADS": "3"}.items() <= told.items()
        # The nanny starts it anew, and sets them again.
        client.restart()
    assert environment() == before


def test_all_memory_is_shared_out() -> None:
    with open_client(ClusterSettings(workers=1)) as client:
        assert worker_limits(client) == [(distributed.system.MEMORY_LIMIT, 1)]
    assert worker_memory(ClusterSettings(workers=5)) == distributed.system.MEMORY_LIMIT // 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux'")
def test_cores_that_the_process_may_not_use_do_not_count() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from flows.clusters import cores; print(cores())"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"


def look_first_in(folder: str) -> None:
    """Has a worker find packages there before all others."""
    sys.path.insert(0, folder)
    distributed.versions._version_cached.cache_clear()


def look_no_more_in(folder: str) -> None:
    sys.path.remove(folder)
    distributed.versions._version_cached.cache_clear()


def test_a_worker_with_an_older_mammo_is_refused(cluster: ClusterSettings, tmp_path: Path) -> None:
    metadata = tmp_path / "mammo-0.0.9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.4\nName: mammo\nVersion: 0.0.9\n")
    with open_client(cluster) as client:
        worker = sorted(client.nthreads())[1]
        client.run(look_first_in, str(tmp_path), workers=[worker])
        sentence = (
            rf"^cluster: worker {worker} has mammo 0\.0\.9, and this process {version('mammo')}: install the same"
        )
        with pytest.raises(SettingsError, match=sentence), open_client(cluster):
            pass
        client.run(look_no_more_in, str(tmp_path), workers=[worker])


def test_a_worker_of_another_format_is_refused(cluster: ClusterSettings) -> None:
    with open_client(cluster) as client:
        worker = sorted(client.nthreads())[1]
        client.run(setattr, schema, "FORMAT_VERSION", 1, workers=[worker])
        with (
            pytest.raises(SettingsError, match=rf"^cluster: worker {worker} has mammo's format version 1, and"),
            open_client(cluster),
        ):
            pass
        client.run(setattr, schema, "FORMAT_VERSION", schema.FORMAT_VERSION, workers=[worker])


def test_an_encrypted_address_without_certificates_is_one_sentence() -> None:
    with (
        pytest.raises(SettingsError, match=r"cluster.address: tls://127.0.0.1:1 needs certificates"),
        open_client(ClusterSettings(address="tls://127.0.0.1:1")),
    ):
        pass
