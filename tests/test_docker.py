"""The images and services of docker/: what would make them unsafe, or fail only when somebody builds or starts them."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dask.config
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from typer.main import get_command

from flows.cli import app as mammo
from flows.clusters import WORKER_ENVIRONMENT

REPOSITORY = Path(__file__).resolve().parent.parent
DOCKER = REPOSITORY / "docker"
COMPOSE = DOCKER / "compose.yaml"
LOCKS = ("etl.lock", "cpu.lock", "gpu.lock")

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
VARIABLE = re.compile(r"\$\{([A-Z_]+)(:\?[^}]*|:-[^}]*)?\}")
SECRET = re.compile(r"PASSWORD|SECRET|AUTH|_KEY$|ACCESS_KEY_ID")

UNCHECKED = {
    "deploy": "ends when it has deployed",
    "store-setup": "ends when it has set up the store",
    "certificates": "ends when it has made them",
}
"""Services without a health check, and why."""


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return content


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each service with its name."""
    yield from compose()["services"].items()


def instructions(path: Path = DOCKER / "Dockerfile") -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Of each stage of the Dockerfile: what it begins from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            parent, _, name = rest.split()
            found[name] = (parent, [])
        elif found:
            found[next(reversed(found))][1].append((word, rest))
    return found


def locked(path: Path) -> set[tuple[str, Version]]:
    """Names and versions in a lock; a package may have one for each Python."""
    found = re.findall(r"^([\w.-]+)==([^ ;]+)", path.read_text(), re.MULTILINE)
    return {(name, Version(version)) for name, version in found}


def test_compose_file_is_one_by_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_page_is_published_and_on_loopback_alone() -> None:
    assert {name: service["ports"] for name, service in services() if "ports" in service} == {
        "server": ["127.0.0.1:4200:4200"]
    }
    assert not [name for name, service in services() if service.get("network_mode") == "host"]


def test_only_the_servers_network_leads_out() -> None:
    networks = compose()["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {"page"}
    assert {name for name, service in services() if "page" in service.get("networks", [])} == {"server"}


def test_images_are_built_here_or_pinned_by_digest() -> None:
    built = {service["image"] for _, service in services() if "build" in service}
    for name, service in services():
        assert service["image"] in built or DIGEST.search(service["image"]), name
        # What is built here is no registry's.
        assert (service.get("pull_policy") == "never") == (service["image"] in built), name


def test_each_image_is_built_once_from_a_stage_of_the_dockerfile() -> None:
    """Two services that build the same image both write its name, and one of them may fail."""
    built = [(service["image"], service["build"]["target"]) for _, service in services() if "build" in service]
    assert sorted(built) == [(f"mammo:{target}", target) for target in ("cpu", "etl", "train")]
    assert {target for _, target in built} <= stages().keys()


def test_services_have_no_more_rights_than_they_need() -> None:
    for name, service in services():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "pids_limit"} <= service.keys(), name
        assert not {"privileged", "cap_add", "devices"} & service.keys(), name
        # The others' images end as a user of their own.
        assert service["image"].startswith("mammo:") or service["user"].split(":")[0] != "0", name


def test_films_cannot_be_changed() -> None:
    binds = [
        (name, mount) for name, service in services() for mount in service.get("volumes", []) if isinstance(mount, dict)
    ]
    assert {name for name, _ in binds} == {"deploy", "dask-worker", "etl"}
    assert all(mount["read_only"] for _, mount in binds)


def test_services_show_whether_they_work() -> None:
    """By an address that the image's health check asks, or a check of their own."""
    unchecked = {
        name
        for name, service in services()
        if "HEALTH_URL" not in service.get("environment", {}) and "test" not in service.get("healthcheck", {})
    }
    assert unchecked == UNCHECKED.keys()
    # Else the image's check would call them well.
    assert {name for name, service in services() if service.get("healthcheck") == {"disable": True}} == UNCHECKED.keys()


def test_dependencies_are_waited_for_as_they_can_be() -> None:
    ending = {name for name, service in services() if service.get("restart") == "no"}
    assert ending == UNCHECKED.keys()
    for name, service in services():
        for other, dependency in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ending else "service_healthy"
            assert dependency["condition"] == expected, (name, other)


def test_secrets_come_from_the_environment_file_alone() -> None:
    for name, service in services():
        for key, value in (service.get("environment") or {}).items():
            if SECRET.search(key) or ("://" in str(value) and "@" in str(value)):
                assert ":?" in value, (name, key)


def test_only_the_store_s_own_parts_sign_as_such() -> None:
    """SeaweedFS lets everybody name users at its gateway's gRPC port where it has no key, and whoever has the key."""
    key = "WEED_JWT_FILER_SIGNING_KEY"
    has = {name for name, service in services() if key in (service.get("environment") or {})}
    assert has == {name for name, service in services() if "seaweedfs" in service["image"]} == {"store", "store-setup"}
    assert COMPOSE.read_text().count("${STORE_SIGNING_KEY") == 1


def test_environment_file_names_what_the_compose_file_asks_for() -> None:
    example = (DOCKER / ".env.example").read_text()
    named = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    asked = {match[0] for match in VARIABLE.findall(COMPOSE.read_text())}
    assert asked | {"COMPOSE_PROFILES"} == named.keys()
    assert not [key for key, value in named.items() if SECRET.search(key) and value]


def test_what_must_be_set_is_asked_for_with_a_sentence() -> None:
    text = COMPOSE.read_text()
    for name, default in VARIABLE.findall(text):
        assert default.startswith(":-") or (name in default and "docker/.env" in default), name


def test_secrets_and_films_stay_out_of_git_and_of_the_build() -> None:
    ignored = ["git", "check-ignore", "--quiet", "docker/.env"]
    assert subprocess.run(ignored, cwd=REPOSITORY).returncode == 0
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "*"
    assert "!docker" not in lines
    assert "!docker/.env" not in lines


def test_dask_workers_have_the_environment_of_local_ones() -> None:
    environment = compose()["services"]["dask-worker"]["environment"]
    assert {key: environment.get(key) for key in WORKER_ENVIRONMENT} == WORKER_ENVIRONMENT


def test_dask_workers_do_not_spill_into_memory() -> None:
    """Their folder is a tmpfs, which counts as the container's own memory."""
    worker = compose()["services"]["dask-worker"]
    assert "/tmp:mode=1777" in worker["tmpfs"]
    assert worker["command"][-2:] == ["--local-directory", "/tmp"]
    memory = dask.config.collect_env(worker["environment"])["distributed"]["worker"]["memory"]
    assert memory == {"target": False, "spill": False}


def test_dask_speaks_tls_with_builds_alone() -> None:
    """All that are in the cluster's network have certificates, nobody else has, and no address is one without TLS."""
    here = {name for name, service in services() if "compute" in service.get("networks", [])}
    assert here == {"scheduler", "dask-worker", "etl"}
    for name, service in services():
        environment, mounts = service.get("environment") or {}, service.get("volumes", [])
        assert (environment.get("DASK_CONFIG") == "/certificates/dask.yaml") == (name in here), name
        assert ("certificates:/certificates:ro" in mounts) == (name in here), name
        assert ("certificates" in service.get("depends_on", {})) == (name in here), name
    assert "tcp://" not in COMPOSE.read_text()
    assert compose()["services"]["certificates"]["network_mode"] == "none"


def test_certificates_are_made_once(tmp_path: Path) -> None:
    """By the service's own command, with its folder replaced; a second start changes nothing."""
    command = compose()["services"]["certificates"]["command"]
    command = [word.replace("/certificates", str(tmp_path / "certificates")) for word in command]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    made = []
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made.append({path.name: path.read_bytes() for path in (tmp_path / "certificates").iterdir()})
    assert made[0].keys() == {"ca.pem", "cert.pem", "key.pem", "dask.yaml"}
    assert made[0] == made[1]


def test_base_image_is_pinned_by_digest() -> None:
    (base,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("BASE=")]
    assert DIGEST.search(base)
    assert {parent for parent, _ in stages().values() if parent not in stages()} == {"${BASE}"}


@pytest.mark.parametrize("target", ["etl", "cpu", "train"])
def test_image_ends_as_a_user_that_is_not_root(target: str) -> None:
    assert stages()[target][1][-1] == ("USER", "10001:10001")


def test_packages_are_installed_from_hashed_locks_alone() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and " install --no-cache-dir" in rest]
    assert len(installs) == 7
    for rest in installs:
        assert "--no-deps" in rest
        assert re.search(r"--require-hashes --requirement \S+\.lock$", rest) or "--no-index /wheels/" in rest, rest
    for lock in (*LOCKS, "build.lock"):
        text = (DOCKER / lock).read_text()
        names = re.findall(r"^[\w.-]+==.*$", text, re.M)
        assert names
        assert all(name.endswith("\\") for name in names), lock
        assert "://" not in text, lock


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    sources = []
    for word, rest in instructions():
        if word == "COPY":
            sources += rest.split()[:-1]
        sources += re.findall(r"type=bind,source=([^, ]+)", rest)
    assert sources
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in kept), source


def test_packaging_has_what_it_asks_for() -> None:
    """Files that pyproject.toml wants in the wheel are in the build."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*wheel["packages"], *wheel.get("force-include", {}), project["project"]["readme"], "LICENSE"}
    copied = {name for word, rest in stages()["wheel"][1] if word == "COPY" for name in rest.split()[:-1]}
    assert wanted | {"pyproject.toml"} == copied


@pytest.mark.parametrize("name", LOCKS)
def test_images_have_the_versions_that_are_tested(name: str) -> None:
    tested, there = locked(REPOSITORY / "requirements.lock"), locked(DOCKER / name)
    names = {name for name, _ in tested}
    # What only GPUs need is not tested here.
    assert {other for other in there - tested if name != "gpu.lock" or other[0] in names} == set()


@pytest.mark.parametrize(
    ("name", "extras"), [("etl.lock", {"s3"}), ("cpu.lock", {"s3", "cpu", "tune"}), ("gpu.lock", {"s3", "gpu", "tune"})]
)
def test_locks_are_of_what_mammo_requires(name: str, extras: set[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    there = locked(DOCKER / name)
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate(
            {"sys_platform": "linux", "platform_machine": "x86_64"}
        ):
            versions = [version for name, version in there if name == requirement.name]
            assert versions, requirement
            assert all(version in requirement.specifier for version in versions), requirement
    assert name != "etl.lock" or not [key for key, _ in there if key.startswith(("tensorflow", "keras", "nvidia"))]


def commands() -> dict[str, list[str]]:
    """The command lines of mammo's images, each once."""
    found = [
        [str(word) for word in service["command"]]
        for name, service in services()
        if "command" in service and name != "store"
    ]
    return {" ".join(words): words for words in found}


@cache
def options_of_prefect(*words: str) -> set[str]:
    """Options that `prefect WORDS --help` tells of."""
    told = subprocess.run([sys.executable, "-m", "prefect", *words, "--help"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return set(re.findall(r"--[a-z-]+", told.stdout))


@pytest.mark.parametrize("line", commands())
def test_commands_of_services_are_commands_with_these_options(line: str) -> None:
    words = commands()[line]
    if words[0] == "sh":
        words = words[-1].rpartition("exec ")[2].split()
    if words[0] == "prefect":
        # Told by its help: its parser is no public one.
        depth = next(index for index, word in enumerate(words) if word.startswith("--"))
        assert set(re.findall(r"--[a-z-]+", line)) <= options_of_prefect(*words[1:depth])
        return
    if words[0] == "dask":
        command: Any = importlib.import_module(f"distributed.cli.dask_{words[1]}").main
        words = words[2:]
    else:
        command, words = get_command(mammo), words[1:]
    while groups := getattr(command, "commands", None):
        assert words[0] in groups, line
        command, words = groups[words[0]], words[1:]
    # Raises for an option that there is not, and for a value that does not fit it.
    command.make_context(line, words)


def test_deployed_workspace_is_the_policies_own() -> None:
    command = compose()["services"]["deploy"]["command"]
    workspace = command[command.index("--workspace") + 1].replace("s3://", "arn:aws:s3:::")
    for name in ("etl", "gc", "train"):
        assert f"{workspace}/runs/*" in (REPOSITORY / "infra" / "object-store" / f"{name}.json").read_text()


def test_trainings_deployments_ask_for_no_cluster() -> None:
    """The services that take them do not reach one, and `mammo ops deploy` gives its address to all that have `cluster`."""
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    asking = {each["work_pool"]["name"] for each in deployments if "cluster" in each["parameters"]}
    assert asking == {"mammo-etl"}


class Answering(BaseHTTPRequestHandler):
    """Answers /STATUS by that status."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.removeprefix("/")))
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:
        pass


def test_health_check_passes_where_a_service_answers_well(free_tcp_port: int) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "HEALTH_URL"}

    def check(url: str | None) -> int:
        # A proxy that nobody is at.
        own = {"HEALTH_URL": url, "http_proxy": f"http://127.0.0.1:{free_tcp_port}"} if url else {}
        done = subprocess.run([sys.executable, DOCKER / "healthy.py"], env={**environment, **own}, capture_output=True)
        return done.returncode

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert check(f"{url}/200") == 0
        assert check(f"{url}/503") == 1
        server.shutdown()
    assert check(f"http://127.0.0.1:{free_tcp_port}/200") == 1
    # A command that ends has nobody to answer.
    assert check(None) == 0
