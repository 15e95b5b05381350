"""The policies of infra/object-store, each by doing its role's work on a server that refuses all else."""

import http.client
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pytest
from store_server import environment_of, s3_server

from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from flows.maintenance import clear_up
from flows.score_scans import score_scans
from flows.train_model import train_model
from mammo_etl.catalog import verify_run
from mammo_etl.garbage import Kind
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.places import Place, files_below, place_of
from mammo_etl.reader import open_run
from mammo_etl.settings import BuildSettings, SourceSettings, validated
from mammo_model.settings import TrainingSettings

POLICIES = Path(__file__).resolve().parent.parent / "infra" / "object-store"
ROLES = ("etl", "train", "analyst", "gc")
# As the policies and infra/kubernetes/base/kustomization.yaml have them.
SOURCES, WORKSPACE, SCORES = "s3://mammo-sources/cbis-ddsm", "s3://mammo-workspace/ws", "s3://mammo-workspace/scores"
SETTINGS = validated(
    BuildSettings,
    {
        "patches": {"size": 64, "stride": 32, "normals_per_film": 8, "min_distance": 16, "normals": "background"},
        "plan": {"validation": 0.3, "test": 0.3, "seed": 2},
        "store": {"shard_rows": 20},
    },
    "test",
)
ONE = ClusterSettings(workers=1)

As = Callable[[str], AbstractContextManager[None]]

_REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def allows(policy: Any, action: str, resource: str) -> bool:
    """By statements that allow actions on resources, without conditions, as all are here."""
    return any(
        f"s3:{action}" in statement["Action"]
        and any(fnmatchcase(f"arn:aws:s3:::{resource}", pattern) for pattern in statement["Resource"])
        for statement in policy["Statement"]
    )


def asked(command: str, path: str, headers: Any, body: bytes) -> list[tuple[str, str]]:
    """The permissions that S3 asks for before it answers a request, and on what (Amazon S3 User Guide, "Required permissions for Amazon S3 API
    operations"). Of a request that nobody should make: one that no policy gives."""
    place, _, query = path.partition("?")
    bucket, _, key = unquote(place).strip("/").partition("/")
    resource = f"{bucket}/{key}"
    if command == "POST" and query.startswith("delete") and not key:
        # Of each key, not of the bucket.
        return [("DeleteObject", f"{bucket}/{name}") for name in re.findall("<Key>(.*?)</Key>", body.decode())]
    if command == "GET" and not key:
        return [("ListBucket", bucket)] if "list-type=2" in query else [(path, bucket)]
    if command in {"GET", "HEAD"} and key:
        return [("GetObject", resource)]
    if command == "PUT" and key and not query:
        copied = unquote(headers.get("x-amz-copy-source", "")).strip("/")
        # What a write is compared with has to be readable.
        compared = [("GetObject", resource)] if headers.get("If-Match") else []
        return [("PutObject", resource), *compared, *([("GetObject", copied)] if copied else [])]
    if command == "DELETE" and key:
        return [("DeleteObject", resource)]
    return [(f"{command} {path}", resource)]


@contextmanager
def obeying(url: str, policy: Any) -> Iterator[str]:
    """URL of a server that passes on to the one at `url` what a policy allows, and refuses the rest."""
    host = urlsplit(url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not all(allows(policy, *what) for what in asked(self.command, self.path, self.headers, body)):
                self.reply(403, [("Content-Type", "application/xml")], _REFUSED)
                return
            connection = http.client.HTTPConnection(host)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            left = {"transfer-encoding", "connection", "date", "server", "content-length"}
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in left]
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.reply(answer.status, headers, content, length)
            connection.close()

        def reply(self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in [*headers, ("Content-Length", length or str(len(content)))]:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815  # the names that http.server looks for

        def log_message(self, format: str, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store with films in one bucket and nothing in the other."""
    films = tmp_path_factory.mktemp("films")
    write_phantoms(films, 8, 0, height=480, width=320)
    with s3_server() as url, pytest.MonkeyPatch.context() as patched:
        for name, value in environment_of(url).items():
            patched.setenv(name, value)
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("mammo-sources")
        store.mkdir("mammo-workspace")
        store.put(str(films / "cbis-ddsm"), SOURCES, recursive=True)
        yield url


@pytest.fixture
def acting(server: str, monkeypatch: pytest.MonkeyPatch) -> As:
    @contextmanager
    def as_role(role: str) -> Iterator[None]:
        policy = json.loads((POLICIES / f"{role}.json").read_text())
        with obeying(server, policy) as url, monkeypatch.context() as patched:
            for name, value in environment_of(url).items():
                patched.setenv(name, value)
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            yield
        fsspec.get_filesystem_class("s3").clear_instance_cache()

    return as_role


def refused(change: Callable[[], object]) -> bool:
    try:
        change()
    except PermissionError:
        return True
    return False


def write_and_remove(place: Place) -> list[bool]:
    """Whether each is refused."""
    return [refused(lambda: place.write_bytes(b"x")), refused(place.unlink)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_role_can_do_its_work_and_no_other_s(acting: As) -> None:
    films = [SourceSettings(kind="cbis-ddsm", path=SOURCES)]
    workspace = place_of(WORKSPACE)
    source = place_of(f"{SOURCES}/film.dcm")
    with acting("etl"):
        built = build_dataset.fn(films, WORKSPACE, SETTINGS, ONE)
        assert built.new
        assert not build_dataset.fn(films, WORKSPACE, SETTINGS, ONE).new
        run = open_run(workspace)
        # Mends what was damaged.
        (run.folder / "patches.parquet").write_bytes(b"wrong")
        assert build_dataset.fn(films, WORKSPACE, SETTINGS, ONE).new
        for place in (source, workspace / "models" / "m" / "model.keras", workspace / "studies" / "s"):
            assert write_and_remove(place) == [True, True]
        assert refused((workspace / "current.json").unlink)
        assert refused((workspace / "images" / "0" / "film.png").unlink)
    with acting("train"):
        model = train_model.fn(WORKSPACE, TrainingSettings(epochs=1, width=4))
        assert model.model_id
        assert refused(lambda: place_of(f"{SOURCES}/film.dcm").read_bytes())
        for place in (source, run.folder / "patches.parquet", workspace / "current.json", workspace / "lock"):
            assert write_and_remove(place) == [True, True]
    with acting("etl"):
        score_scans.fn(f"cbis-ddsm={SOURCES}", WORKSPACE, SCORES, cluster=ONE)
    with acting("analyst"):
        assert verify_run(open_run(workspace)) == []
        assert open_run(workspace).open_patches()[0].read().result().shape == (64, 64)
        assert all(entry.place.read_bytes() for entry in files_below(place_of(SCORES)) if entry.size)
        for place in (workspace / "lock", run.folder / "patches.parquet", place_of(SCORES) / "index.html"):
            assert write_and_remove(place) == [True, True]
    with acting("etl"):
        unfinished = workspace / "runs" / "run-unfinished" / "patches.zarr" / "zarr.json"
        unfinished.write_bytes(b"x")
        film = workspace / "images" / "0123456789abcdef" / "film.png"
        film.write_bytes(b"x")
    with acting("gc"):
        found = clear_up(workspace, keep=None, delete=True)
        assert [group.kind for group in found.groups] == [Kind.UNFINISHED_RUN, Kind.IMAGE]
        for place in (workspace / "models" / "m", workspace / "current.json", source):
            assert write_and_remove(place) == [True, True]
        assert refused(lambda: (run.folder / "patches.parquet").write_bytes(b"x"))


def test_policies_allow_nothing_but_reading_writing_and_removing_of_named_places() -> None:
    assert sorted(path.stem for path in POLICIES.glob("*.json")) == sorted(ROLES)
    for role in ROLES:
        for statement in json.loads((POLICIES / f"{role}.json").read_text())["Statement"]:
            (action,) = statement["Action"]
            assert action in {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}
            for resource in statement["Resource"]:
                assert resource.startswith(("arn:aws:s3:::mammo-sources", "arn:aws:s3:::mammo-workspace"))
                # Listing is of buckets, all else of objects.
                assert ("/" in resource) == (action != "s3:ListBucket")
                assert action not in {"s3:PutObject", "s3:DeleteObject"} or "mammo-sources" not in resource
