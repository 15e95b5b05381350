"""Counters of flows: in files that outlive their processes, added up by a server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows import metrics
from mammo_etl.records import Reason, Rejection
from mammo_etl.settings import SettingsError

COUNT = """
import os, signal, sys
from flows import metrics
from mammo_etl.records import Reason, Rejection
metrics._flow = lambda: "build-dataset"
for _ in range(int(sys.argv[1])):
    metrics.count_items("convert", "films", 10, skipped=3, rejected=2, failed=1)
metrics.count_items("training", "batches", -5, skipped=0, rejected=0, failed=0)
metrics.count_rejects([Rejection(stage="convert", code=Reason.NO_BREAST, message="")] * 2)
metrics.count_stage("convert", 1.5)
import prometheus_client
prometheus_client.Counter("later", "As Prefect's client has one, in the process of a flow.").inc()
print("counted", flush=True)
if sys.argv[2] == "stay":
    sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""

SERVE = "import sys; from flows.metrics import serve; serve('127.0.0.1', int(sys.argv[1])); print('ended')"


def start(folder: Path, code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, metrics.FOLDER: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "made yet"


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(folder, SERVE, port)
    url = f"http://127.0.0.1:{port}/metrics"
    try:
        for _ in range(200):
            try:
                httpx.get(url)
            except httpx.ConnectError:
                assert server.poll() is None
                time.sleep(0.1)
            else:
                break
        yield url
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=30)[0] == "ended\n"
        assert server.returncode == 0
    finally:
        server.kill()


def scraped(url: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(httpx.get(url).text)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_killed_flows_have_counted_is_added_up(folder: Path, url: str) -> None:
    staying = start(folder, COUNT, 1, "stay")
    try:
        assert staying.stdout is not None
        assert staying.stdout.readline() == "counted\n"
        # One after another they take the same place, beside that of the one that is at work.
        for _ in range(2):
            assert start(folder, COUNT, 2, "die").wait() == -signal.SIGKILL
        # As Prefect's server does, where it has the variable, too.
        others = "import prometheus_client; prometheus_client.Counter('others', '').inc()"
        assert start(folder, others).wait() == 0
        assert scraped(url) == {
            ("mammo_items_total", "build-dataset", "done", "convert", "films"): 5 * 4,
            ("mammo_items_total", "build-dataset", "skipped", "convert", "films"): 5 * 3,
            ("mammo_items_total", "build-dataset", "rejected", "convert", "films"): 5 * 2,
            ("mammo_items_total", "build-dataset", "failed", "convert", "films"): 5,
            ("mammo_rejects_total", "build-dataset", "no-breast", "convert"): 3 * 2,
            ("mammo_stage_seconds_count", "build-dataset", "convert"): 3,
            ("mammo_stage_seconds_sum", "build-dataset", "convert"): 3 * 1.5,
        }
    finally:
        staying.kill()
    assert sorted(path.name for path in folder.glob("*mammo*.db")) == [
        "counter_mammo-0.db",
        "counter_mammo-1.db",
        "summary_mammo-0.db",
        "summary_mammo-1.db",
    ]


CRASH = """
from prefect.states import Crashed
from flows.build_dataset import build_dataset
for hook in build_dataset.on_crashed_hooks:
    # As Prefect's runner does it.
    hook(flow=build_dataset, flow_run=None, state=Crashed())
"""


def test_the_worker_counts_a_run_whose_process_died(folder: Path, url: str) -> None:
    assert start(folder, CRASH).wait() == 0
    assert scraped(url)["mammo_flow_runs_total", "build-dataset", "crashed"] == 1


def test_nothing_is_counted_nor_imported_where_no_folder_is_named(tmp_path: Path) -> None:
    code = """
import sys
from flows import metrics, progress
stages = progress.Stages()
with stages.stage("convert", "films") as stage:
    stage.advance()
assert metrics.counting_runs(stages) is stages
assert "prometheus_client" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name != metrics.FOLDER}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path(__file__).parents[1])


def test_a_server_has_to_be_told_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(metrics.FOLDER, raising=False)
    with pytest.raises(SettingsError, match=r"^PROMETHEUS_MULTIPROC_DIR: expected the folder in which flows count"):
        metrics.serve("127.0.0.1", 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path / "file" / "folder"))
    with pytest.raises(SettingsError, match="cannot be made a folder"):
        metrics.serve("127.0.0.1", 0)


def test_outside_a_flow_run_nothing_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    metrics.count_rejects([Rejection(stage="convert", code=Reason.NO_BREAST, message="")])
    assert not any(path.stat().st_size > 2**16 or b"no-breast" in path.read_bytes() for path in tmp_path.glob("*.db"))
