"""The services of `mammo ops up` and the deployments of prefect.yaml: what they ask for, and that their runs do it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, ClassVar, TypeVar

import httpx
import psutil
import pytest
from distributed import Client

from flows.build_dataset import build_dataset
from flows.clusters import WORKER_ENVIRONMENT, ClusterSettings
from flows.hand_off import PUBLISHED
from flows.ops.installation import HEARTBEAT_SECONDS, Installation
from flows.ops.ops_settings import OpsSettings
from flows.ops.registration import WEBHOOK
from flows.ops.services import SERVER, healths
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.reader import open_run
from mammo_etl.settings import BuildSettings, SettingsError, SourceSettings
from mammo_etl.store import shard_path

pytestmark = pytest.mark.timeout(400)

SETTINGS: dict[str, dict[str, Any]] = {
    "inventory": {"mixed_ddsm": "all"},
    "patches": {"size": 64, "stride": 32, "min_distance": 16},
    # So few patients that the usual share for validation has one class alone.
    "plan": {"validation": 0.25, "test": 0.25},
}

AS_OPTIONS = [f"{table}.{key}={value}" for table, values in SETTINGS.items() for key, value in values.items()]

REPOSITORY = Path(__file__).resolve().parent.parent

Value = TypeVar("Value")


@dataclass(frozen=True)
class Prefect:
    """The services of `mammo ops up`, of a user of their own whose files lie in `home`; all processes are known by variables that name it."""

    home: Path
    ports: Mapping[str, int]

    @property
    def environment(self) -> dict[str, str]:
        others = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MAMMO_WEBHOOK"))}
        return {
            **others,
            "PREFECT_HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "500",
        }

    def start(self, *arguments: str, log: str) -> "subprocess.Popen[bytes]":
        """Starts the `prefect` command, its output in `<home>/<log>`; it finds the server by the active profile alone."""
        return self._start(["prefect", "--no-prompt", *arguments], log)

    def _start(
        self, words: Sequence[str], log: str, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        with (self.home / log).open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=REPOSITORY,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def command(self, *arguments: str) -> None:
        """Runs the `prefect` command to its end, which must be a good one."""
        assert self.start(*arguments, log="command.log").wait() == 0, self.logs()

    def ops(self, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit code and output of `mammo ops`."""
        code = self._start(["flows.cli", "ops", *arguments], "ops.log", environment).wait()
        return code, (self.home / "ops.log").read_text()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['server_port']}"

    @property
    def installation(self) -> Installation:
        return Installation(self.home / "mammo" / "ops")

    def api(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON answer of the server, which waits for a minute where SQLite is locked; raises HTTPStatusError."""
        user, _, password = self.installation.account.partition(":")
        answer = httpx.request(
            method, f"{self.url}/api{path}", json=content, timeout=180, auth=(user, password)
        ).raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> Any:
        return self.api("GET", f"/deployments/name/{name}")

    def runs(self, deployment: str, workspace: Path | None = None) -> list[Any]:
        """Its flow runs, or those into one workspace."""
        content = {"deployments": {"id": {"any_": [self.deployment(deployment)["id"]]}}}
        found = self.api("POST", "/flow_runs/filter", content)
        return [run for run in found if workspace is None or run["parameters"]["workspace"] == str(workspace)]

    def artifacts(self, run: str) -> Any:
        return self.api("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})

    def processes(self) -> Iterator[psutil.Process]:
        """Server, workers, flow runs and their Dask clusters, whoever their parents are by now."""
        for process in psutil.process_iter():
            try:
                if str(self.home) in (process.environ().get("PREFECT_HOME"), process.environ().get("XDG_STATE_HOME")):
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def listening(self) -> dict[str, str]:
        """The address of each port that one of its processes listens on, with what the process is."""
        found: dict[str, str] = {}
        for process in self.processes():
            try:
                what = " ".join(process.cmdline())
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        found[f"{connection.laddr.ip}:{connection.laddr.port}"] = what
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-6000:]}" for path in sorted(self.home.rglob("*.log")))

    def wait(self, what: str, look: Callable[[], Value | None], seconds: float) -> Value:
        """Looks until there is an answer; fails with the logs after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (found := look()) is not None:
                return found
            time.sleep(0.5)
        pytest.fail(f"{what}: not within {seconds:.0f} s\n{self.logs()}", pytrace=False)

    def kill(self) -> None:
        while processes := list(self.processes()):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=30)


@contextmanager
def running(
    home: Path, sources: Mapping[str, Path], *settings: str, environment: Mapping[str, str] | None = None
) -> Iterator[Prefect]:
    """What `mammo ops up` starts, on free ports."""
    names = ("server_port", "scheduler_port", "dashboard_port", "metrics_port")
    with ExitStack() as taken:
        ports = {name: taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for name in names}
    prefect = Prefect(home, ports)
    words = ["up", "--workspace", str(home / "workspace")]
    for kind, path in sources.items():
        words += ["--source", f"{kind}={path}"]
    for setting in (*settings, *(f"ops.{name}={port}" for name, port in ports.items())):
        words += ["--set", setting]
    try:
        code, said = prefect.ops(*words, environment=environment)
        assert code == 0, said + prefect.logs()
        yield prefect
    finally:
        prefect.kill()


@pytest.fixture(scope="module")
def prefect(phantoms: Path) -> Iterator[Prefect]:
    # A short path: that of a socket may have a hundred letters.
    with TemporaryDirectory(prefix="mammo-") as folder:
        sources = {kind: phantoms / kind for kind in ("cbis-ddsm", "ddsm")}
        with running(
            Path(folder), sources, *AS_OPTIONS, "cluster.workers=1", "training.width=2", "training.epochs=1"
        ) as prefect:
            yield prefect


@dataclass(frozen=True)
class Watched:
    """Two runs under way one after the other, as builds take turns; `prefect deployment run --watch` follows them."""

    good: "subprocess.Popen[bytes]"
    failing: "subprocess.Popen[bytes]"
    nowhere: Path
    """The folder of films that is not there."""


@pytest.fixture(scope="module")
def watched(prefect: Prefect) -> Watched:
    nowhere = prefect.home / "nowhere"
    command = ("deployment", "run", "build-dataset/reprocess", "--watch")
    failing = (
        *("--param", f"sources={json.dumps([{'kind': 'mini-mias', 'path': str(nowhere)}])}"),
        *("--param", f"workspace={prefect.home / 'failing'}"),
    )
    return Watched(
        # One setting of one table: the others are the deployment's.
        prefect.start(*command, "--param", 'settings={"patches": {"stride": 16}}', log="good.log"),
        prefect.start(*command, *failing, log="failing.log"),
        nowhere,
    )


def test_the_deployments_are_as_prefect_yaml_says(prefect: Prefect, phantoms: Path) -> None:
    names = [f"{row['name']}" for row in prefect.api("POST", "/deployments/filter", {})]
    assert sorted(names) == ["adhoc", "bulk", "gc", "nightly", "on-new-run", "reprocess", "tune-model", "verify"]
    pools = {
        "build-dataset/nightly": ("mammo-etl", "workspace"),
        "build-dataset/reprocess": ("mammo-etl", "workspace"),
        "train-model/on-new-run": ("mammo-train", "default"),
        "train-model/adhoc": ("mammo-train", "default"),
        "tune-model/tune-model": ("mammo-train", "default"),
        "score-scans/bulk": ("mammo-etl", "default"),
        "maintenance/verify": ("mammo-etl", "default"),
        "maintenance/gc": ("mammo-etl", "workspace"),
    }
    schedules = {}
    for name, (pool, queue) in pools.items():
        deployment = prefect.deployment(name)
        assert (deployment["work_pool_name"], deployment["work_queue_name"]) == (pool, queue)
        schedules |= {name: [row["schedule"]["cron"] for row in deployment["schedules"] if row["active"]]}
        assert deployment["description"]
        assert "mammo" in deployment["tags"]
        # Nothing is fetched before a run: the flow is imported from the installed package.
        assert deployment["pull_steps"] == []
        assert ":" not in deployment["entrypoint"]
        assert deployment["parameters"]["workspace"] == str(prefect.home / "workspace")
        assert deployment["enforce_parameter_schema"]
    assert {name: crons for name, crons in schedules.items() if crons} == {
        "build-dataset/nightly": ["0 2 * * *"],
        "maintenance/verify": ["0 6 * * 0"],
    }
    [queue] = prefect.api(
        "POST", "/work_pools/mammo-etl/queues/filter", {"work_queues": {"name": {"any_": ["workspace"]}}}
    )
    assert queue["concurrency_limit"] == 1
    nightly = prefect.deployment("build-dataset/nightly")["parameters"]
    assert nightly["settings"] == SETTINGS
    assert [source["path"] for source in nightly["sources"]] == [str(phantoms / kind) for kind in ("cbis-ddsm", "ddsm")]
    assert nightly["cluster"]["address"] == f"tls://127.0.0.1:{prefect.ports['scheduler_port']}"
    assert prefect.deployment("train-model/adhoc")["parameters"]["settings"] == {"width": 2, "epochs": 1}


def test_what_the_server_does_by_itself(prefect: Prefect) -> None:
    found = {row["name"]: row for row in prefect.api("POST", "/automations/filter", {})}
    assert {"mammo: dead runs", "mammo: runs that never began", "mammo: overlong runs"} <= found.keys()
    dead = found["mammo: dead runs"]
    assert dead["trigger"]["posture"] == "Proactive"
    # Two heartbeats may be missed, and Crashed comes well within two minutes.
    assert 2 * HEARTBEAT_SECONDS < dead["trigger"]["within"] < 120
    assert dead["actions"][0]["state"] == "CRASHED"
    [event] = [row for name, row in found.items() if name.startswith("on-new-run")]
    assert event["trigger"]["expect"] == [PUBLISHED]
    assert not event["enabled"], "the hand-off is there already"


def test_trainings_have_all_cores_and_each_dask_worker_one(prefect: Prefect) -> None:
    environments = {" ".join(process.cmdline()): process.environ() for process in prefect.processes()}
    [training] = [found for command, found in environments.items() if "--pool mammo-train" in command]
    [worker] = [found for command, found in environments.items() if "dask_worker" in command]
    assert training.keys().isdisjoint(WORKER_ENVIRONMENT.keys() - os.environ.keys())
    assert WORKER_ENVIRONMENT.items() <= worker.items()


def test_a_server_without_its_database_is_not_well(prefect: Prefect, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(method: str, url: str, **_: Any) -> httpx.Response:
        assert url.endswith("/api/ready")
        return httpx.Response(503, request=httpx.Request(method, url))

    monkeypatch.setattr("flows.ops.services.httpx.request", request)
    [health] = healths(prefect.installation, OpsSettings.model_validate(prefect.ports), ClusterSettings(), [SERVER])
    assert (health.healthy, health.message) == (False, "answers 503 Service Unavailable")


def test_nobody_gets_in_without_the_password(prefect: Prefect) -> None:
    assert httpx.post(f"{prefect.url}/api/flow_runs/filter", json={}).status_code == httpx.codes.UNAUTHORIZED
    assert (
        httpx.post(f"{prefect.url}/api/flow_runs/filter", json={}, auth=("mammo", "guess")).status_code
        == httpx.codes.UNAUTHORIZED
    )
    for name in ("password", "tls/key.pem", "tls/dask.yaml", "supervisor.sock"):
        assert (prefect.installation.folder / name).stat().st_mode & 0o077 == 0, name
    assert (prefect.home / "profiles.toml").stat().st_mode & 0o077 == 0
    # Whoever has no certificate cannot have code run by Dask.
    with pytest.raises(OSError, match=r"."), Client(f"tcp://127.0.0.1:{prefect.ports['scheduler_port']}", timeout=5):
        pass


def test_the_settings_are_a_form_with_descriptions_and_bounds(prefect: Prefect) -> None:
    schema = prefect.deployment("build-dataset/reprocess")["parameter_openapi_schema"]
    assert schema["required"] == ["sources", "workspace"]
    assert schema["properties"]["workspace"]["type"] == "string"
    size = schema["definitions"]["PatchSettings"]["properties"]["size"]
    assert (size["type"], size["default"], size["minimum"], size["maximum"]) == ("integer", 256, 16, 2048)
    assert size["description"] == "Height and width of a patch, pixels of the original scan."
    stages = [
        "CleaningSettings",
        "ClusterSettings",
        "InventorySettings",
        "PatchSettings",
        "PlanSettings",
        "StoreSettings",
    ]
    for stage in stages:
        assert all(field["description"] for field in schema["definitions"][stage]["properties"].values()), stage


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patches": {"size": 5}}, "'settings.patches.size'. Failure reason: 5 is less than the minimum of 16"),
        ({"patchs": {"size": 64}}, "Additional properties are not allowed ('patchs' was unexpected)"),
    ],
)
def test_a_wrong_setting_is_refused_before_there_is_a_run(
    prefect: Prefect, settings: dict[str, Any], message: str
) -> None:
    deployment = prefect.deployment("build-dataset/reprocess")["id"]
    with pytest.raises(httpx.HTTPStatusError) as refused:
        prefect.api("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": {"settings": settings}})
    assert message in refused.value.response.json()["detail"]
    assert all(run["parameters"]["settings"] != settings for run in prefect.runs("build-dataset/reprocess"))


def test_a_run_on_demand_publishes_and_listens_on_the_loopback_interface_alone(
    prefect: Prefect, watched: Watched
) -> None:
    listening: dict[str, str] = {}

    def ended() -> int | None:
        listening.update(prefect.listening())
        return watched.good.poll()

    assert prefect.wait("the run ends", ended, 300) == 0, prefect.logs()

    published = open_run(prefect.home / "workspace")
    assert set(published.patches()["source"]) == {"cbis-ddsm", "ddsm"}
    # What the override leaves out is as the deployment has it, and the run's page shows what counted.
    merged = {**SETTINGS, "patches": {**SETTINGS["patches"], "stride": 16}}
    assert published.manifest["settings"] == BuildSettings.model_validate(merged).model_dump(mode="json")
    [run] = prefect.runs("build-dataset/reprocess", prefect.home / "workspace")
    assert run["parameters"]["settings"] == merged
    assert run["name"] == f"build-dataset into {prefect.home / 'workspace'}"

    assert run["state"]["type"] == "COMPLETED"
    artifacts = prefect.artifacts(run["id"])
    progress = {artifact["key"]: artifact["data"] for artifact in artifacts if artifact["type"] == "progress"}
    assert progress == dict.fromkeys(("inventory", "convert", "plan", "extract", "publish"), 100)
    assert any(published.run_id in artifact["data"] for artifact in artifacts if artifact["type"] == "markdown")
    # Scans per second are the rate of the first of these.
    metrics = httpx.get(f"http://127.0.0.1:{prefect.ports['metrics_port']}/metrics").text
    films = 'mammo_items_total{flow="build-dataset",outcome="done",stage="convert",unit="films"} '
    assert float(metrics.partition(films)[2].split()[0]) >= published.manifest["counts"]["scans"]
    # --watch shows the log beside the events.
    assert "Finished in state Completed" in (prefect.home / "good.log").read_text()
    assert "report: " in (prefect.home / "good.log").read_text()

    assert {address.rpartition(":")[0] for address in listening} == {"127.0.0.1"}, listening
    seen = " ".join(listening.values())
    for what in ("server start", "worker start", "dask_scheduler", "dask_worker", "ops metrics"):
        assert what in seen


def test_a_run_that_fails_says_why_and_ends_the_command_with_an_error(prefect: Prefect, watched: Watched) -> None:
    reason = f"InventoryError: source mini-mias={watched.nowhere}: no such folder or zip archive"
    assert prefect.wait("the failing run ends", watched.failing.poll, 300) == 1, prefect.logs()
    assert reason in (prefect.home / "failing.log").read_text()
    [run] = prefect.runs("build-dataset/reprocess", prefect.home / "failing")
    assert run["state"]["type"] == "FAILED"
    assert run["state"]["message"] == f"Flow run encountered an exception: {reason}"
    # What Prefect keeps of the failure is no pickle.
    kept = [json.loads(path.read_text()) for path in (prefect.installation.folder / "prefect" / "storage").iterdir()]
    assert "InventoryError" in json.dumps(kept)


def test_what_dies_is_started_anew_and_status_tells_so(prefect: Prefect) -> None:
    [worker] = [process for process in prefect.processes() if "mammo-train" in process.cmdline()]
    worker.kill()

    def anew() -> int | None:
        found = [process.pid for process in prefect.processes() if "mammo-train" in process.cmdline()]
        return next((pid for pid in found if pid != worker.pid), None)

    prefect.wait("another worker", anew, 60)
    code, said = prefect.ops("status")
    assert code == 0, said
    assert "2 connected" not in said
    assert "1 connected" in said
    assert "asks for a password" in said
    _, said = prefect.ops("logs", "worker-mammo-train")
    assert "worker-mammo-train: Worker 'ProcessWorker" in said
    code, said = prefect.ops("logs", "nothing")
    assert code == 2
    assert "prefect-server" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_schedule_starts_a_build_which_starts_one_training(prefect: Prefect) -> None:
    nightly = prefect.deployment("build-dataset/nightly")["id"]
    # The server looks at schedules once a minute, and takes no account of what was due before.
    due = datetime.now(UTC) + timedelta(seconds=90)
    hourly = {"active": True, "schedule": {"interval": 3600, "anchor_date": due.isoformat()}}
    prefect.api("POST", f"/deployments/{nightly}/schedules", [hourly])

    def ended(deployment: str, number: int) -> list[Any] | None:
        runs = [run for run in prefect.runs(deployment) if run["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED"}]
        return runs if len(runs) >= number else None

    [build] = prefect.wait("the scheduled build ends", lambda: ended("build-dataset/nightly", 1), 300)
    assert build["state"]["type"] == "COMPLETED", prefect.logs()
    assert build["auto_scheduled"]
    # A worker takes a run a little before it is due.
    assert due <= datetime.fromisoformat(build["expected_start_time"])
    assert datetime.fromisoformat(build["start_time"]) > due - timedelta(seconds=20)
    published = open_run(prefect.home / "workspace")
    assert published.manifest["settings"] == BuildSettings.model_validate(SETTINGS).model_dump(mode="json")

    # A second build finds the same run, and hands off the same.
    prefect.command("deployment", "run", "build-dataset/nightly", "--watch")
    [training] = prefect.wait("the training ends", lambda: ended("train-model/on-new-run", 1), 300)
    assert training["state"]["type"] == "COMPLETED", prefect.logs()
    assert training["parameters"]["run_id"] == published.run_id
    assert len(prefect.runs("train-model/on-new-run")) == 1
    [model] = (prefect.home / "workspace" / "models").iterdir()
    assert json.loads((model / "manifest.json").read_text())["run_id"] == published.run_id
    assert "training-summary" in {artifact["key"] for artifact in prefect.artifacts(training["id"])}
    # The decoupled way: on the event, of a build that hands off nothing.
    [event] = [row for row in prefect.api("POST", "/automations/filter", {}) if row["name"].startswith("on-new-run")]
    prefect.api("PATCH", f"/automations/{event['id']}", {"enabled": True})
    prefect.command(
        "deployment", "run", "build-dataset/reprocess", "--param", 'settings={"patches": {"stride": 16}}', "--watch"
    )
    trainings = prefect.wait("the event's training ends", lambda: ended("train-model/on-new-run", 2), 300)
    assert {run["state"]["type"] for run in trainings} == {"COMPLETED"}, prefect.logs()
    later = open_run(prefect.home / "workspace")
    assert {run["parameters"]["run_id"] for run in trainings} == {published.run_id, later.run_id}
    assert later.run_id != published.run_id
    # Maintenance is a run like any other.
    prefect.command("deployment", "run", "maintenance/verify", "--watch")
    shard = shard_path(later.folder / "patches.zarr", 0)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert prefect.start("deployment", "run", "maintenance/verify", "--watch", log="verify.log").wait() == 1
    assert "1 faults, the first" in (prefect.home / "verify.log").read_text()


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is told."""

    told: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_build_becomes_crashed_is_told_of_and_the_next_completes(tmp_path: Path) -> None:
    films = tmp_path / "films"
    write_phantoms(films, 40, 3, height=480, width=320, workers=2)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=server.serve_forever, daemon=True).start()
    sources = {kind: films / kind for kind in ("cbis-ddsm", "ddsm")}
    webhook = {WEBHOOK: f"http://127.0.0.1:{server.server_port}/hook"}
    with (
        TemporaryDirectory(prefix="mammo-") as folder,
        running(Path(folder), sources, *AS_OPTIONS, "cluster.workers=1", environment=webhook) as prefect,
    ):
        images = Path(folder) / "workspace" / "images"
        prefect.command("deployment", "run", "build-dataset/reprocess")
        prefect.wait("films are being converted", lambda: list(images.rglob("*.json"))[:1] or None, 120)
        for process in list(prefect.processes()):
            # The flow and the worker that would tell of its end.
            if "prefect.engine" in process.cmdline() or "mammo-etl" in process.cmdline():
                process.kill()
        killed = time.monotonic()

        def crashed() -> Any:
            [run] = prefect.runs("build-dataset/reprocess")
            return run if run["state"]["type"] == "CRASHED" else None

        prefect.wait("it is known to be dead", crashed, 120)
        assert time.monotonic() - killed < 120
        prefect.wait("the webhook is called", lambda: Receiver.told or None, 30)
        assert Receiver.told[0]["flow"] == "build-dataset"
        assert Receiver.told[0]["state"] == "Crashed"
        prefect.command("deployment", "run", "build-dataset/reprocess", "--watch")
        summary = open_run(Path(folder) / "workspace").manifest
        [converted] = [row for row in summary["timings"] if row["stage"] == "convert"]
        assert converted["skipped"] > 0, "what was done is not done again"

        code, _ = prefect.ops("down")
        assert code == 0
        assert not list(prefect.processes())
        assert "mammo" not in (prefect.home / "profiles.toml").read_text()
    server.shutdown()


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of Debian's packages on a free port; the address of a database of it, for Prefect."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # It refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    folder.mkdir()
    folder.parent.chmod(0o711)
    if user is not None:
        shutil.chown(folder, user)

    def run(program: str, *words: str) -> None:
        subprocess.run([programs[-1] / program, *words], check=True, user=user, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    run("initdb", "--pgdata", data, "--auth", "trust", "--username", "mammo")
    options = f"-h 127.0.0.1 -p {port} -k {folder}"
    run("pg_ctl", "--pgdata", data, "--wait", "--log", str(folder / "log"), "--options", options, "start")
    try:
        run("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "mammo", "prefect")
        yield f"postgresql+asyncpg://mammo@127.0.0.1:{port}/prefect"
    finally:
        run("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")


@pytest.mark.slow
def test_postgresql_keeps_what_the_server_knows(phantoms: Path) -> None:
    with (
        TemporaryDirectory(prefix="mammo-") as folder,
        postgresql(Path(folder) / "postgresql") as address,
        running(
            Path(folder),
            {"ddsm": phantoms / "ddsm"},
            *AS_OPTIONS,
            "cluster.workers=1",
            environment={"PREFECT_SERVER_DATABASE_CONNECTION_URL": address},
        ) as prefect,
    ):
        prefect.command("deployment", "run", "build-dataset/reprocess", "--watch")
        [run] = prefect.runs("build-dataset/reprocess")
        assert run["state"]["type"] == "COMPLETED"
        assert not list(prefect.home.rglob("prefect.db")), "no SQLite beside it"


def test_a_deployment_refuses_a_workspace_that_would_be_lost(monkeypatch: pytest.MonkeyPatch, phantoms: Path) -> None:
    """A worker runs each flow in a temporary folder, which is deleted after the run."""
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment")
    source = SourceSettings(kind="ddsm", path=str(phantoms / "ddsm"))
    with pytest.raises(SettingsError, match="workspace out: expected an absolute path"):
        build_dataset.fn([source], Path("out"))
