"""The deployments of prefect.yaml on a server and a worker of their own: what they ask for, and that their runs do it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from mammo_etl.reader import open_run
from mammo_etl.settings import BuildSettings, SettingsError, SourceSettings

pytestmark = pytest.mark.timeout(400)

SETTINGS = {
    "inventory": {"mixed_ddsm": "all"},
    "patches": {"size": 64, "stride": 32, "min_distance": 16},
}

REPOSITORY = Path(__file__).resolve().parent.parent

Value = TypeVar("Value")


@dataclass(frozen=True)
class Prefect:
    """A Prefect of its own: all that it knows lies in `home`, and all its processes are known by that variable."""

    home: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        others = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
        return {
            **others,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "COLUMNS": "500",
        }

    def start(self, *arguments: str, log: str) -> "subprocess.Popen[bytes]":
        """Starts the `prefect` command in the repository, its output in `<home>/<log>`."""
        with (self.home / log).open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def command(self, *arguments: str) -> None:
        """Runs the `prefect` command to its end, which must be a good one."""
        assert self.start(*arguments, log="command.log").wait() == 0, self.logs()

    def api(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON answer of the server; raises HTTPStatusError."""
        url = f"http://127.0.0.1:{self.port}/api{path}"
        answer = httpx.request(method, url, json=content, timeout=60).raise_for_status()
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
                if process.environ().get("PREFECT_HOME") == str(self.home):
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
        return "\n".join(f"== {path}\n{path.read_text()[-6000:]}" for path in sorted(self.home.glob("*.log")))

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
def running(home: Path) -> Iterator[Prefect]:
    """A server with the work pools, the deployments and a worker for builds, as infra/README.md starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    prefect = Prefect(home, port)
    try:
        server = prefect.start("server", "start", "--host", "127.0.0.1", "--port", str(port), log="server.log")

        def healthy() -> bool | None:
            assert server.poll() is None, prefect.logs()
            try:
                return prefect.api("GET", "/health") or None
            except httpx.HTTPError:
                return None

        prefect.wait("the server answers", healthy, 180)
        # The worker makes its own pool; nobody works for the other one yet.
        prefect.start("worker", "start", "--pool", "mammo-etl", "--type", "process", "--limit", "2", log="worker.log")
        prefect.command("work-pool", "create", "--type", "process", "mammo-train")
        builds = {"work_pools": {"name": {"any_": ["mammo-etl"]}}}
        prefect.wait("the pool is there", lambda: prefect.api("POST", "/work_pools/filter", builds) or None, 120)
        prefect.command("deploy", "--all")
        yield prefect
    finally:
        prefect.kill()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with running(tmp_path_factory.mktemp("prefect")) as prefect:
        yield prefect


def build_parameters(phantoms: Path, workspace: Path, cluster: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sources": [{"kind": kind, "path": str(phantoms / kind)} for kind in ("cbis-ddsm", "ddsm")],
        "workspace": str(workspace),
        "settings": SETTINGS,
        "cluster": dict(cluster),
    }


def as_arguments(parameters: Mapping[str, Any]) -> list[str]:
    return [word for key, value in parameters.items() for word in ("--param", f"{key}={json.dumps(value)}")]


def watched(prefect: Prefect, parameters: Mapping[str, Any], log: str) -> "subprocess.Popen[bytes]":
    """Starts a run of a deployment; the command follows it to its end."""
    command = ("deployment", "run", "build-dataset/reprocess", "--watch")
    return prefect.start(*command, *as_arguments(parameters), log=log)


def test_the_deployments_are_as_prefect_yaml_says(prefect: Prefect) -> None:
    nightly = prefect.deployment("build-dataset/nightly")
    reprocess = prefect.deployment("build-dataset/reprocess")
    adhoc = prefect.deployment("train-model/adhoc")
    bulk = prefect.deployment("score-scans/bulk")
    tune = prefect.deployment("tune-model/tune-model")
    pools = [deployment["work_pool_name"] for deployment in (nightly, reprocess, adhoc, bulk, tune)]
    assert pools == ["mammo-etl", "mammo-etl", "mammo-train", "mammo-etl", "mammo-train"]
    [schedule] = nightly["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "UTC"
    assert reprocess["schedules"] == adhoc["schedules"] == bulk["schedules"] == tune["schedules"] == []
    assert bulk["parameter_openapi_schema"]["required"] == ["scans", "workspace", "out"]
    for deployment in (nightly, reprocess, adhoc, bulk, tune):
        assert deployment["description"]
        assert "mammo" in deployment["tags"]
        # Nothing is fetched before a run: the flow is imported from the installed package.
        assert deployment["pull_steps"] == []
        assert ":" not in deployment["entrypoint"]
        assert Path(deployment["parameters"]["workspace"]).is_absolute()
    for deployment in (nightly, reprocess):
        BuildSettings.model_validate(deployment["parameters"]["settings"])
        assert [SourceSettings.model_validate(source) for source in deployment["parameters"]["sources"]]


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


@pytest.mark.slow
def test_a_run_on_demand_publishes_and_listens_on_the_loopback_interface_alone(
    prefect: Prefect, phantoms: Path, tmp_path: Path
) -> None:
    process = watched(prefect, build_parameters(phantoms, tmp_path / "workspace", {"workers": 1}), "good.log")
    listening: dict[str, str] = {}

    def ended() -> int | None:
        listening.update(prefect.listening())
        return process.poll()

    assert prefect.wait("the run ends", ended, 300) == 0, prefect.logs()

    published = open_run(tmp_path / "workspace")
    assert set(published.patches()["source"]) == {"cbis-ddsm", "ddsm"}
    settings = published.manifest["settings"]["patches"]
    assert (settings["size"], settings["stride"]) == (64, 32)
    # What the override leaves out has its default.
    assert settings["around"] == BuildSettings().patches.around

    [run] = prefect.runs("build-dataset/reprocess", tmp_path / "workspace")
    assert run["state"]["type"] == "COMPLETED"
    artifacts = prefect.artifacts(run["id"])
    progress = {artifact["key"]: artifact["data"] for artifact in artifacts if artifact["type"] == "progress"}
    assert progress == dict.fromkeys(("inventory", "convert", "plan", "extract", "publish"), 100)
    [summary] = [artifact["data"] for artifact in artifacts if artifact["type"] == "markdown"]
    assert published.run_id in summary
    # --watch shows the log beside the events.
    assert "Finished in state Completed" in (prefect.home / "good.log").read_text()

    assert {address.rpartition(":")[0] for address in listening} == {"127.0.0.1"}, listening
    seen = " ".join(listening.values())
    assert "server start" in seen
    assert "prefect.engine" in seen, "the Dask scheduler lives in the process of the flow"
    assert "multiprocessing" in seen, "a Dask worker is a process of its own"


def test_a_run_that_fails_says_why_and_ends_the_command_with_an_error(prefect: Prefect, tmp_path: Path) -> None:
    nowhere, workspace = tmp_path / "nowhere", tmp_path / "failing"
    parameters = {"sources": [{"kind": "mini-mias", "path": str(nowhere)}], "workspace": str(workspace)}
    process = watched(prefect, parameters, "failing.log")
    reason = f"InventoryError: source mini-mias={nowhere}: no such folder or zip archive"
    assert prefect.wait("the failing run ends", process.poll, 300) == 1, prefect.logs()
    assert reason in (prefect.home / "failing.log").read_text()
    [run] = prefect.runs("build-dataset/reprocess", workspace)
    assert run["state"]["type"] == "FAILED"
    assert run["state"]["message"] == f"Flow run encountered an exception: {reason}"
    # What Prefect keeps of the failure is no pickle.
    kept = [json.loads(path.read_text()) for path in (prefect.home / "storage").iterdir()]
    assert "InventoryError" in json.dumps(kept)


@pytest.mark.slow
def test_the_schedule_starts_a_run_by_itself(
    prefect: Prefect, phantoms: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    nightly = prefect.deployment("build-dataset/nightly")["id"]
    # A cluster that is running already: its workers import the flows, too.
    parameters = build_parameters(phantoms, tmp_path, cluster.model_dump())
    prefect.api("PATCH", f"/deployments/{nightly}", {"parameters": parameters})
    due = datetime.now(UTC) + timedelta(seconds=20)
    hourly = {"active": True, "schedule": {"interval": 3600, "anchor_date": due.isoformat()}}
    prefect.api("POST", f"/deployments/{nightly}/schedules", [hourly])

    def ended() -> Any:
        runs = prefect.runs("build-dataset/nightly", tmp_path)
        return next((run for run in runs if run["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED"}), None)

    run = prefect.wait("the scheduled run ends", ended, 300)
    assert run["state"]["type"] == "COMPLETED", prefect.logs()
    assert run["auto_scheduled"]
    assert due <= datetime.fromisoformat(run["expected_start_time"]) <= datetime.fromisoformat(run["start_time"])
    assert open_run(tmp_path).manifest["settings"]["patches"]["size"] == 64


@pytest.mark.slow
def test_a_training_runs_in_its_own_pool(
    prefect: Prefect, phantoms: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    sources = [SourceSettings(kind=kind, path=str(phantoms / kind)) for kind in ("cbis-ddsm", "ddsm")]
    built = build_dataset.fn(sources, tmp_path, BuildSettings.model_validate(SETTINGS), cluster)
    prefect.start("worker", "start", "--pool", "mammo-train", "--limit", "1", log="train-worker.log")
    parameters = {"workspace": str(tmp_path), "settings": {"width": 2, "epochs": 1}}
    prefect.command("deployment", "run", "train-model/adhoc", *as_arguments(parameters), "--watch")
    [model] = (tmp_path / "models").iterdir()
    manifest = json.loads((model / "manifest.json").read_text())
    assert manifest["run_id"] == built.run_id
    [run] = prefect.runs("train-model/adhoc")
    assert "training-summary" in {artifact["key"] for artifact in prefect.artifacts(run["id"])}


def test_a_deployment_refuses_a_workspace_that_would_be_lost(monkeypatch: pytest.MonkeyPatch, phantoms: Path) -> None:
    """A worker runs each flow in a temporary folder, which is deleted after the run."""
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment")
    source = SourceSettings(kind="ddsm", path=str(phantoms / "ddsm"))
    with pytest.raises(SettingsError, match="workspace out: expected an absolute path"):
        build_dataset.fn([source], Path("out"))
