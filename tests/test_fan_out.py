"""The bounded window of futures, on a real cluster."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, Future, Scheduler, SchedulerPlugin
from distributed.comm import CommClosedError

from flows.clusters import ClusterSettings, open_client
from flows.fan_out import GivenUp, fan_out
from mammo_etl.records import Reason


def double(number: int) -> int:
    return 2 * number


def slow_double(number: int) -> int:
    time.sleep(0.05)
    return 2 * number


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


def die_at_three(place: tuple[int, str]) -> int:
    number, log = place
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_thrice(place: tuple[int, str]) -> int:
    """Item 2 meets a passing fault three times, item 5 always."""
    number, folder = place
    log = Path(folder) / str(number)
    with log.open("a") as file:
        file.write("x")
    if number == 5 or (number == 2 and len(log.read_text()) <= 3):
        raise OSError(errno.ESTALE, "Stale file handle")
    return number


def sleep_at_three(place: tuple[int, str]) -> int:
    number, log = place
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(600 if number == 3 else 0.05)
    return number


class Herald(SchedulerPlugin):
    """Makes the scheduler speak to all clients just when the first two connect."""

    heard = 0

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        self.heard += 1
        if self.heard <= 2:
            scheduler.loop.add_callback(scheduler.report, {"op": "cancelled-keys", "keys": []})


@pytest.fixture(scope="module")
def client(cluster: ClusterSettings) -> Client:
    with open_client(cluster) as client:
        yield client


def items(count: int) -> list[tuple[str, int]]:
    return [(f"item-{number}", number) for number in range(count)]


def test_every_item_comes_back_once_under_its_name(client: Client) -> None:
    results = list(fan_out(client, double, items(100)))
    assert dict(results) == {f"item-{number}": 2 * number for number in range(100)}
    assert len(results) == 100


def test_two_clients_of_one_cluster_do_not_get_each_other_s_results(client: Client, cluster: ClusterSettings) -> None:
    with open_client(cluster) as other:
        first = fan_out(client, double, [(f"same-{number}", number) for number in range(20)])
        second = fan_out(other, double, [(f"same-{number}", 100 + number) for number in range(20)])
        pairs = list(zip(first, second, strict=True))
    assert dict(a for a, _ in pairs) == {f"same-{number}": 2 * number for number in range(20)}
    assert dict(b for _, b in pairs) == {f"same-{number}": 200 + 2 * number for number in range(20)}


def test_a_client_connects_though_the_scheduler_speaks_to_all_at_that_moment(client: Client) -> None:
    client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.add_plugin(Herald(), name="herald"))
    with open_client(ClusterSettings(address=client.scheduler.address)) as other:
        assert dict(fan_out(other, double, items(3))) == {"item-0": 0, "item-1": 2, "item-2": 4}
    heard = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["herald"].heard)
    client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.remove_plugin("herald"))
    assert heard == 3


def test_no_items(client: Client) -> None:
    assert list(fan_out(client, double, [])) == []


def test_no_more_than_the_window_is_taken_from_the_source(client: Client) -> None:
    taken = 0

    def source():  # type: ignore[no-untyped-def]
        nonlocal taken
        for number in range(60):
            taken += 1
            yield f"window-{number}", number

    done = 0
    for _ in fan_out(client, slow_double, source(), window_per_worker=3):
        done += 1
        # Two workers of one thread: six in flight, and one more taken for the one that has just ended.
        assert taken - done <= 6
    assert done == 60


def test_an_exception_is_a_fault_and_names_its_item(client: Client) -> None:
    with pytest.raises(ValueError, match="seven") as raised:
        list(fan_out(client, fail_at_seven, items(50)))
    assert raised.value.__notes__ == ["while working on item-7"]


def test_the_cluster_is_left_empty(client: Client) -> None:
    for _ in fan_out(client, slow_double, items(30)):
        break
    deadline = time.monotonic() + 10
    while client.processing() and any(client.processing().values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(client.processing().values())
    assert not any(client.has_what().values())


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_item_that_kills_its_worker_is_given_up_and_the_rest_goes_on(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "log"
    with open_client(ClusterSettings(workers=workers)) as client:
        work = [(str(number), (number, str(log))) for number in range(8)]
        results = dict(fan_out(client, die_at_three, work))
    assert isinstance(results["3"], GivenUp)
    assert "3 killed its worker" in results["3"].message
    # Those that waited on the dying worker are innocent, however many there were.
    assert {name for name, result in results.items() if not isinstance(result, GivenUp)} == set("0124567")
    assert log.read_text().split().count("3") >= 3


def test_a_worker_that_comes_back_late_is_waited_for(tmp_path: Path) -> None:
    # As on a machine so busy that a worker takes longer to start than the cluster's own patience.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 ms"}),
        open_client(ClusterSettings(workers=1, wait_seconds=60)) as client,
    ):
        results = dict(
            fan_out(client, die_at_three, [(str(number), (number, str(tmp_path / "log"))) for number in range(4)])
        )
    assert isinstance(results["3"], GivenUp)
    assert set(results) == set("0123")


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.fan_out._PAUSES", (0.05, 0.1, 0.2))


@pytest.mark.usefixtures("short_pauses")
def test_a_passing_fault_is_tried_again_and_given_up_at_last(client: Client, tmp_path: Path) -> None:
    results = dict(fan_out(client, fail_thrice, [(str(number), (number, str(tmp_path))) for number in range(20)]))
    given_up = results.pop("5")
    assert results == {str(number): number for number in range(20) if number != 5}
    assert given_up == GivenUp(Reason.UNREACHABLE, given_up.message)
    assert given_up.message == "Work on 5 failed 4 times, at last by OSError: [Errno 116] Stale file handle"
    tries = {path.name: len(path.read_text()) for path in tmp_path.iterdir()}
    assert tries == {str(number): 4 if number in (2, 5) else 1 for number in range(20)}


def test_items_that_wait_for_another_try_are_part_of_the_window(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.fan_out._PAUSES", (0.5,))
    taken = done = 0

    def source():  # type: ignore[no-untyped-def]
        nonlocal taken
        for number in range(20):
            taken += 1
            yield str(number), (5, str(tmp_path))

    for _, result in fan_out(client, fail_thrice, source(), window_per_worker=2):
        done += 1
        assert taken - done <= 4
        assert isinstance(result, GivenUp)
    assert done == 20


def test_an_item_that_runs_too_long_is_given_up_and_its_worker_works_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open_client(ClusterSettings(workers=1)) as client:
        work = [(str(number), (number, str(log))) for number in range(8)]
        results = dict(fan_out(client, sleep_at_three, work, seconds=2))
    given_up = results.pop("3")
    assert given_up == GivenUp(Reason.TOO_SLOW, "Work on 3 ran longer than 2 seconds.")
    # On the only worker, the others had to wait for its end: that is not counted as their time.
    assert results == {str(number): number for number in range(8) if number != 3}
    assert log.read_text().split().count("3") == 1


def test_a_cluster_without_workers_ends_the_step() -> None:
    with open_client(ClusterSettings(workers=1, wait_seconds=20)) as client:
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "no_workers_timeout", 1))
        results = fan_out(client, slow_double, items(1000))
        next(results)
        client.cluster.scale(0)
        with pytest.raises(ConnectionError, match="no worker"):
            list(results)


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_step() -> None:
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as scheduler:
        try:
            assert scheduler.stderr is not None
            line = next(line for line in scheduler.stderr if "Scheduler at:" in line)
            address = line.split()[-1]
            worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard", "--nthreads", "1"]
            with subprocess.Popen(worker, stderr=subprocess.DEVNULL) as other:
                try:
                    with open_client(ClusterSettings(address=address)) as client:
                        results = fan_out(client, time.sleep, [(str(number), 0.05) for number in range(1000)])
                        next(results)
                        scheduler.kill()
                        with pytest.raises(ConnectionError, match="scheduler"):
                            list(results)
                finally:
                    other.kill()
        finally:
            scheduler.kill()


def test_a_scheduler_that_is_lost_while_results_are_fetched(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: object, **__: object) -> None:
        raise CommClosedError("Connection reset by peer")

    monkeypatch.setattr(client, "gather", lose)
    with pytest.raises(ConnectionError, match=r"^the cluster's scheduler was lost"):
        list(fan_out(client, double, items(3)))


def test_work_that_is_dropped_while_results_are_fetched(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    gather = client.gather

    def drop_and_gather(futures: dict[int, Future], **options: Any) -> Any:
        client.cancel(list(futures.values()), force=True)
        return gather(futures, **options)

    monkeypatch.setattr(client, "gather", drop_and_gather)
    with pytest.raises(ConnectionError, match=r"or dropped the work$"):
        list(fan_out(client, double, items(3)))


@pytest.mark.parametrize("call", ["gather", "run_on_scheduler"])
def test_a_scheduler_lost_in_the_middle_of_a_call_ends_the_step(
    call: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise CommClosedError("in <TCP (closed)>")

    monkeypatch.setattr(client, call, lose)
    with pytest.raises(ConnectionError, match="scheduler was lost"):
        list(fan_out(client, slow_double, items(200), seconds=0.4))


def test_a_local_cluster_listens_on_loopback_alone() -> None:
    import psutil

    with open_client(ClusterSettings(workers=1)) as client:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
    assert listening == {"127.0.0.1"}
