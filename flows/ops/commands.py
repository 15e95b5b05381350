"""`mammo ops`: the services of one machine, from one command."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from flows.command import SetOption, console
from flows.settings import JobSettings, load_settings
from mammo_etl.places import place_of, shown
from mammo_etl.settings import SettingsError, SourceSettings

if TYPE_CHECKING:
    from flows.ops.installation import Installation

app = typer.Typer(
    no_args_is_help=True,
    help="Scheduled and remote-controlled runs: server, workers, Dask cluster and deployments on this machine.",
)

WAIT_SECONDS = 300
"""Services that are not well after as long will not be: on two busy cores they took two minutes."""

DeployedWorkspaceOption = Annotated[
    str, typer.Option(metavar="FOLDER|s3://BUCKET/PREFIX", help="Where the deployed flows work; made if need be.")
]
DeployedSourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", metavar="KIND=PATH", help="Source of the builds; those of prefect.yaml by default."),
]
DeployedSettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="TOML file; its tables become the deployments' settings.")
]


@app.command()
def up(
    workspace: DeployedWorkspaceOption,
    source: DeployedSourceOption = None,
    settings: DeployedSettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Start Prefect's server, workers, a Dask cluster and the deployments; return when all of it works."""
    from flows.ops.installation import Installation

    job = load_settings(settings, set_ or [])
    installation = Installation.of_user()
    installation.prepare()
    # Before Prefect is imported, which reads its settings then.
    os.environ.update(installation.process_environment(job.ops))
    content = _content(workspace, source, job)
    _up(installation, job, content)


def _up(installation: "Installation", job: JobSettings, content: dict[str, Any]) -> None:
    from flows.ops import prefect_profile, supervision
    from flows.ops.registration import end_lost_runs
    from flows.ops.services import SERVER, busy_ports, own_cluster, scheduler_address, services

    wanted = services(installation, job.ops, job.cluster)
    asked = {
        "job": job.model_dump(mode="json", include={"ops", "cluster"}),
        "services": [service.name for service in wanted],
    }
    fresh = supervision.states(installation) is None
    if fresh:
        # What a supervisor that was killed has left would be in the way.
        supervision.stop(installation)
        if busy := busy_ports(job.ops, job.cluster):
            raise SettingsError(
                f"ops: port {busy[0]} of 127.0.0.1 belongs to another program; stop that, or set another (ops.*_port)"
            )
        supervision.start(installation, wanted, installation.environment(job.ops))
    elif installation.remembered() != asked:
        raise SettingsError("ops: the services run with other settings; `mammo ops down` first")
    installation.remember(asked)
    if own_cluster(job.cluster):
        _in_cluster(content, scheduler_address(job.ops))
    supervision.run(installation, SERVER)
    _await(installation, job, [SERVER])
    _register(content, job)
    if fresh:
        end_lost_runs()
    for service in wanted:
        supervision.run(installation, service.name)
    _await(installation, job, [service.name for service in wanted])
    prefect_profile.activate(installation, job.ops)
    console.print(
        f"Page: http://127.0.0.1:{job.ops.server_port}; its login asks for the line in {installation.folder / 'password'}. "
        f"`prefect` reaches it by its profile {prefect_profile.NAME}, which is active now.",
        soft_wrap=True,
        highlight=False,
    )


def _content(workspace: str, source: list[str] | None, job: JobSettings) -> dict[str, Any]:
    """The deployments as asked for; schedules without their sources are off."""
    import yaml

    from flows.ops.registration import laid_out, missing_sources, prefect_file

    place = place_of(workspace).absolute()
    sources = [SourceSettings.parse(text) for text in source or []]
    sources = [item.model_copy(update={"path": _absolute(item.path)}) for item in sources]
    given = job.model_dump(mode="json", exclude_unset=True)
    path = prefect_file()
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from error
    content = laid_out(content, str(shown(place)), sources, given, given.get("cluster", {}))
    missing = missing_sources(content)
    if missing:
        for deployment in content["deployments"]:
            for schedule in deployment.get("schedules") or []:
                if "sources" in deployment["parameters"]:
                    schedule["active"] = False
        Console(stderr=True).print(
            f"Scheduled builds are off, as {missing[0]} is not there: give --source KIND=PATH, or mend {path}.",
            style="yellow",
            soft_wrap=True,
            highlight=False,
        )
    return content


def _absolute(path: str) -> str:
    """A local path as workers see it, from whatever folder; others as they are."""
    return path if "://" in path or "::" in path else str(Path(path).absolute())


def _in_cluster(content: dict[str, Any], address: str) -> None:
    for deployment in content["deployments"]:
        if "cluster" in deployment["parameters"]:
            kept = {
                name: value for name, value in deployment["parameters"]["cluster"].items() if name.endswith("_seconds")
            }
            deployment["parameters"]["cluster"] = {**kept, "address": address}


def _register(content: dict[str, Any], job: JobSettings) -> None:
    from flows.ops.registration import register

    with console.status("deployments"):
        register(content, timedelta(hours=job.ops.longest_hours))


def _await(installation: "Installation", job: JobSettings, names: list[str]) -> None:
    from flows.ops.services import Health, healths, wait_until_healthy

    said: set[str] = set()

    def tell(found: list[Health]) -> None:
        for health in found:
            if health.healthy and health.name not in said:
                said.add(health.name)
                console.print(f"{health.name}: {health.message}", highlight=False)

    def look() -> list[Health]:
        return list(healths(installation, job.ops, job.cluster, [name for name in names if name not in said]))

    if not wait_until_healthy(look, WAIT_SECONDS, tell):
        late = next(name for name in names if name not in said)
        raise SettingsError(f"ops: {late} is not well after {WAIT_SECONDS} seconds; `mammo ops logs {late}` shows why")


@app.command()
def status() -> None:
    """Show each service, whether it works, and where; exit code 1 unless all do, 2 if nothing runs."""
    from flows.ops import supervision
    from flows.ops.installation import Installation
    from flows.ops.services import healths

    installation = Installation.of_user()
    known, states = installation.remembered(), supervision.states(installation)
    if known is None or states is None:
        raise SettingsError("ops: nothing runs; `mammo ops up --workspace WORKSPACE` starts it")
    job = JobSettings.model_validate(known["job"])
    found = {health.name: health for health in healths(installation, job.ops, job.cluster, known["services"])}
    # An address that is cut off cannot be opened.
    table = Table("service", "state", "health", Column("address", overflow="fold"))
    for state in states:
        health = found[state.name]
        style = "" if health.healthy else "red"
        table.add_row(
            state.name, f"{state.state.lower()}, {state.description}", health.message, health.address, style=style
        )
    console.print(table)
    if not all(health.healthy for health in found.values()):
        raise typer.Exit(1)


@app.command()
def logs(
    service: Annotated[
        str | None, typer.Argument(help="A service, as `mammo ops status` names it; all by default.")
    ] = None,
    lines: Annotated[int, typer.Option(min=1, help="Last lines of each to show.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing what comes, until Ctrl-C.")] = False,
) -> None:
    """Show what the services have said. Logs of flow runs: `prefect flow-run logs ID`."""
    from flows.ops.installation import Installation

    installation = Installation.of_user()
    paths = sorted(installation.logs.glob("*.log"))
    if service is not None:
        paths = [path for path in paths if path.stem == service]
        if not paths:
            names = ", ".join(path.stem for path in sorted(installation.logs.glob("*.log")))
            raise SettingsError(f"ops: no service {service} has a log; expected one of {names or 'none yet'}")
    seen = {path: path.stat().st_size for path in paths}
    for path in paths:
        for line in path.read_text(errors="replace").splitlines()[-lines:]:
            _say(path, line)
    while follow:
        time.sleep(0.5)
        for path in paths:
            size = path.stat().st_size
            # A new file has taken its place.
            seen[path] = 0 if size < seen[path] else seen[path]
            if size > seen[path]:
                with path.open(errors="replace") as file:
                    file.seek(seen[path])
                    for line in file.read(size - seen[path]).splitlines():
                        _say(path, line)
                seen[path] = size


def _say(path: Path, line: str) -> None:
    console.print(f"{path.stem}: {line}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def down() -> None:
    """Stop all services; runs under way are stopped, and go on from what they have finished when run again."""
    from flows.ops import prefect_profile, supervision
    from flows.ops.installation import Installation

    installation = Installation.of_user()
    with console.status("stopping"):
        running = bool(supervision.left_over(installation)) if installation.folder.exists() else False
        if running:
            supervision.stop(installation)
    prefect_profile.deactivate(installation)
    console.print("Stopped." if running else "Nothing was running.")


@app.command()
def deploy(
    workspace: DeployedWorkspaceOption,
    source: DeployedSourceOption = None,
    settings: DeployedSettingsOption = None,
    set_: SetOption = None,
) -> None:
    """Have the server of PREFECT_API_URL know pools, queues, deployments and automations: for servers that others run."""
    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError("ops: no server: expected PREFECT_API_URL in the environment")
    job = load_settings(settings, set_ or [])
    content = _content(workspace, source, job)
    _register(content, job)
    console.print(f"{len(content['deployments'])} deployments at {os.environ['PREFECT_API_URL']}", highlight=False)


@app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(help="Folder for ca.pem, cert.pem, key.pem and dask.yaml; made.")],
) -> None:
    """Make keys by which Dask's scheduler, workers and clients speak TLS: all of them need the folder, and DASK_CONFIG."""
    from flows.ops.certificates import write_certificates

    path = write_certificates(folder)
    console.print(f"export DASK_CONFIG={path}", soft_wrap=True, highlight=False)


@app.command()
def metrics(
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9300,
) -> None:
    """Serve the flows' metrics for Prometheus, from the folder PROMETHEUS_MULTIPROC_DIR."""
    from flows.metrics import serve

    serve(host, port)
