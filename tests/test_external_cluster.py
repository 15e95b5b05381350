"""Builds on a cluster of `dask scheduler` and `dask worker`, each with mammo installed from a wheel in an environment of its own."""

import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from dask_processes import dask_scheduler, dask_workers, kill_group

import flows
import mammo_etl
from flows.build_dataset import BuildSummary, build_dataset
from flows.clusters import ClusterSettings, open_client
from mammo_etl.catalog import verify_run
from mammo_etl.reader import ReaderError, open_run
from mammo_etl.settings import BuildSettings, SettingsError, SourceSettings, validated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parent.parent
SETTINGS = validated(
    BuildSettings,
    {
        "inventory": {"mixed_ddsm": "all"},
        "patches": {"size": 64, "stride": 32, "normals_per_film": 40, "min_distance": 16},
        "store": {"shard_rows": 32},
    },
    "test",
)


def build(phantoms: Path, workspace: Path, cluster: ClusterSettings) -> BuildSummary:
    sources = [SourceSettings(kind=kind, path=str(phantoms / kind)) for kind in ("cbis-ddsm", "ddsm")]
    return build_dataset.fn(sources, workspace, SETTINGS, cluster)


def digests(workspace: Path) -> dict[str, str]:
    """Of the published run's files but the report, which tells of times; the run is verified."""
    run = open_run(workspace)
    assert verify_run(run) == []
    return {name: digest for name, digest in run.manifest["digests"].items() if name != "report.html"}


def environment(folder: Path, wheel: Path) -> str:
    """The Python of a new virtual environment with that wheel; all else it takes from the running environment."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-index", "--no-deps", wheel], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(python)


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The Python of a scheduler, and those of two workers."""
    folder = tmp_path_factory.mktemp("environments")
    command = ["pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, REPOSITORY]
    subprocess.run([sys.executable, "-m", *command], check=True)
    (wheel,) = folder.glob("*.whl")
    return [environment(folder / name, wheel) for name in ("scheduler", "worker-0", "worker-1")]


@pytest.fixture(scope="module")
def local(phantoms: Path, cluster: ClusterSettings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the run that a local cluster makes."""
    workspace = tmp_path_factory.mktemp("local")
    build(phantoms, workspace, cluster)
    return digests(workspace)


Processes = list["subprocess.Popen[bytes]"]


@contextmanager
def external(folder: Path, pythons: list[str], port: int = 0) -> Iterator[tuple[ClusterSettings, Processes]]:
    """A cluster's settings, and the processes of its scheduler and its two workers."""
    folder.mkdir()
    with dask_scheduler(folder / "scheduler", pythons[0], port) as (scheduler, address):
        logs = [folder / f"worker-{number}" for number in range(2)]
        with dask_workers(address, logs, pythons[1:]) as workers:
            yield ClusterSettings(address=address), [scheduler, *workers]


@contextmanager
def once(reached: Callable[[], bool], then: Callable[[], None]) -> Iterator[None]:
    """Does something in the middle of the block, which must not end before."""
    ended = False

    def wait() -> None:
        while not reached():
            assert not ended, "the block had ended before"
            time.sleep(0.005)
        then()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        try:
            yield
        finally:
            ended = True
            waiting.result()


def converted(workspace: Path) -> int:
    return len(list(workspace.glob("candidates/*/*.json")))


def test_a_cluster_from_wheels_gives_the_bytes_of_a_local_one_also_if_a_worker_dies(
    phantoms: Path, local: dict[str, str], pythons: list[str], tmp_path: Path
) -> None:
    with external(tmp_path / "cluster", pythons) as (cluster, (_, worker, _)):
        with open_client(cluster) as client:
            for package in (flows, mammo_etl):
                places = client.run(getattr, package, "__file__").values()
                assert {Path(place).parents[5] for place in places} == {Path(python).parents[2] for python in pythons}
                assert len(set(places)) == 2
        build(phantoms, tmp_path / "whole", cluster)
        assert digests(tmp_path / "whole") == local
        killed = tmp_path / "killed"
        with once(lambda: converted(killed) > 10, lambda: kill_group(worker)):
            build(phantoms, killed, cluster)
        assert digests(killed) == local
        with open_client(cluster) as client:
            assert len(client.nthreads()) == 1


def test_a_lost_scheduler_ends_the_build_and_the_next_goes_on(
    phantoms: Path, local: dict[str, str], pythons: list[str], tmp_path: Path
) -> None:
    workspace = tmp_path / "ws"
    with external(tmp_path / "cluster", pythons) as (cluster, (scheduler, *_)):
        with (
            once(lambda: converted(workspace) > 10, lambda: kill_group(scheduler)),
            pytest.raises(ConnectionError, match=r"^the cluster's scheduler was lost, or dropped the work$"),
        ):
            build(phantoms, workspace, cluster)
        with pytest.raises(ReaderError, match="no published run"):
            open_run(workspace)
        with pytest.raises(SettingsError, match=r"^cluster\.address: no Dask scheduler answers at tcp://127"):
            build(phantoms, workspace, cluster)
    done = converted(workspace)
    assert cluster.address is not None
    port = int(cluster.address.split(":")[-1])
    with external(tmp_path / "again", pythons, port) as (again, _):
        assert again == cluster
        summary = build(phantoms, workspace, again)
    assert digests(workspace) == local
    (films,) = (row for row in summary.timings if row["stage"] == "convert")
    assert 10 < done <= films["skipped"] < films["items"]
