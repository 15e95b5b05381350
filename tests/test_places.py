"""Places: a local folder and a prefix of an object store, used alike."""

import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from store_server import environment_of, failing, s3_server

from mammo_etl import lock, object_path
from mammo_etl.lock import WorkspaceInUseError, locked
from mammo_etl.places import (
    ObjectPath,
    Place,
    PlaceError,
    files_below,
    local_copy,
    move,
    name_below,
    place_of,
    remove_tree,
)
from mammo_etl.transient import is_transient
from mammo_etl.workspace import entries, read_json, replacing, write_bytes, write_json


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket on the server, told by the environment."""
    for name, value in environment_of(server).items():
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    if not store.exists("places"):
        store.mkdir("places")
    return "places"


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> Place:
    """An empty folder on the disk, and one on the store."""
    return tmp_path / "ws" if request.param == "disk" else place_of(f"s3://{bucket}/{tmp_path.name}")


def test_files_are_written_found_read_and_removed(place: Place) -> None:
    file = place / "runs" / "a.json"
    assert (place.is_dir(), file.exists(), read_json(file), entries(place), files_below(place)) == (
        False,
        False,
        None,
        [],
        [],
    )
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_json(file, {"a": 1})
    write_bytes(place / "runs" / "b" / "c.bin", b"abc")
    write_bytes(place / "runs2" / "c.bin", b"")
    assert (place.is_dir(), file.is_file(), read_json(file)) == (True, True, {"a": 1})
    assert [path.name for path in entries(place / "runs")] == ["a.json", "b"]
    assert [(name_below(entry.place, place), entry.size) for entry in files_below(place)] == [
        ("runs/a.json", len(file.read_bytes())),
        ("runs/b/c.bin", 3),
        ("runs2/c.bin", 0),
    ]
    assert [entry.place for entry in files_below(place / "runs")] == [file, place / "runs" / "b" / "c.bin"]
    move(file, place / "runs" / "d.json")
    assert (file.exists(), read_json(place / "runs" / "d.json")) == (False, {"a": 1})
    remove_tree(place / "runs")
    assert [name_below(entry.place, place) for entry in files_below(place)] == ["runs2/c.bin"]
    (place / "runs2" / "c.bin").unlink()
    (place / "runs2" / "c.bin").unlink(missing_ok=True)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(place: Place) -> None:
    file = place / "a.npy"
    write_bytes(file, b"before")
    with suppress(RuntimeError), replacing(file) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert file.read_bytes() == b"before"
    with replacing(file) as temporary:
        assert temporary.suffix == ".npy"
        temporary.write_bytes(b"after")
        assert file.read_bytes() == b"before"
    assert [entry.place for entry in files_below(place)] == [file]
    with local_copy(file) as local:
        assert local.read_bytes() == b"after"
        assert file.open("rb").read() == b"after"


def test_names_are_those_of_pathlib() -> None:
    place = pickle.loads(pickle.dumps(place_of("s3://bucket/a/b//")))
    assert isinstance(place, ObjectPath)
    file = place / "c.d" / "film.json"
    assert str(file) == "s3://bucket/a/b/c.d/film.json"
    for name in ("name", "stem", "suffix"):
        assert getattr(file, name) == getattr(Path(file.key), name)
    assert str(file.parent) == "s3://bucket/a/b/c.d"
    assert str(file.with_suffix(".png")) == "s3://bucket/a/b/c.d/film.png"
    assert str(file.with_name("x")) == "s3://bucket/a/b/c.d/x"
    assert name_below(file, place) == "c.d/film.json"
    assert str(place_of("s3://bucket")) == "s3://bucket"
    assert str(place_of("s3://bucket") / "x") == "s3://bucket/x"
    assert place_of("a/b") == Path("a/b")


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3:///x", "https://host/x"])
def test_what_is_no_place_is_told(text: str) -> None:
    with pytest.raises(PlaceError, match=rf"{text}: expected"):
        place_of(text)


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_path, "obstore", None)
    with pytest.raises(PlaceError, match=r"s3://bucket: a workspace on an object store needs mammo's extra `s3`"):
        place_of("s3://bucket")


def test_a_bucket_that_is_not_there_and_a_store_that_is_not(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = place_of("s3://no-such-bucket/x")
    for ask in (lambda: gone.read_bytes(), lambda: write_bytes(gone, b""), lambda: files_below(gone)):
        with pytest.raises(FileNotFoundError, match=r"bucket does not exist.*s3://no-such-bucket/x") as told:
            ask()
        assert "\n" not in str(told.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(object_path._RETRIES, "max_retries", 1)
    with pytest.raises(ConnectionError, match=r"s3://places/x: the object store failed: ") as failed:
        place_of(f"s3://{bucket}/x").read_bytes()
    assert is_transient(failed.value)


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_fails_now_and_then_is_asked_again(
    status: int, server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(server, every=2, status=status) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        place = place_of(f"s3://{bucket}/{tmp_path.name}")
        for number in range(5):
            write_bytes(place / str(number), b"x")
            assert (place / str(number)).read_bytes() == b"x"
        assert len(files_below(place)) == 5
    with failing(server, every=1, status=status) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setitem(object_path._RETRIES, "max_retries", 1)
        with pytest.raises(ConnectionError, match=f"{status}"):
            (place / "0").read_bytes()


def test_a_slow_store_is_waited_for_but_not_for_ever(
    server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(f"s3://{bucket}/{tmp_path.name}") / "a"
    with failing(server, every=1000, status=500, seconds=0.5) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        write_bytes(place, b"x")
        assert place.read_bytes() == b"x"
    with failing(server, every=1000, status=500, seconds=0.5) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setattr(object_path, "_TIMEOUT", "100ms")
        monkeypatch.setitem(object_path._RETRIES, "max_retries", 1)
        with pytest.raises(ConnectionError, match=f"{place}: the object store failed"):
            place.read_bytes()


# The lock of a workspace on a store


@pytest.fixture
def workspace(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.2)
    place = place_of(f"s3://{bucket}/{tmp_path.name}")
    assert isinstance(place, ObjectPath)
    return place


def test_a_lock_that_is_renewed_is_held(workspace: ObjectPath) -> None:
    with locked(workspace, "a build"):
        first = read_json(workspace / "lock")
        said = rf"{workspace}: a build is at work here \(host .*, process {os.getpid()}"
        with pytest.raises(WorkspaceInUseError, match=said), locked(workspace, "mammo gc"):
            pass
        assert read_json(workspace / "lock")["renewed"] > first["renewed"]
    assert (workspace / "lock").read_bytes() == b""
    with locked(workspace, "mammo gc"):
        pass


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_the_lock_of_a_process_that_has_died_is_taken_over(workspace: ObjectPath, host: str) -> None:
    # No process has the largest number that Linux could give.
    holder = {**lock._holder("a build"), "pid": 4194304}
    write_json(workspace / "lock", holder if host == "here" else {**holder, "processes": "elsewhere"})
    with locked(workspace, "mammo gc"):
        assert read_json(workspace / "lock")["work"] == "mammo gc"


def test_of_two_who_take_a_lock_over_one_gets_it(workspace: ObjectPath) -> None:
    write_json(workspace / "lock", {**lock._holder("a build"), "processes": "elsewhere"})
    entered, refused = [], []
    out = threading.Event()

    def enter() -> None:
        try:
            with locked(workspace, "mammo gc"):
                entered.append(1)
                out.wait(30)
        except WorkspaceInUseError:
            refused.append(1)
            out.set()

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(entered), len(refused)) == (1, 1)


def test_who_has_lost_the_lock_is_told_before_it_does_more(workspace: ObjectPath) -> None:
    with locked(workspace, "a build") as check:
        check()
        write_json(workspace / "lock", lock._holder("mammo gc"))
        time.sleep(lock.LEASE_SECONDS)
        with pytest.raises(WorkspaceInUseError, match="mammo gc is at work here"):
            check()
    assert read_json(workspace / "lock")["work"] == "mammo gc"


@pytest.mark.parametrize("fault", [ConnectionError("lost"), PermissionError("the key has expired")])
def test_a_lock_outlives_faults_that_pass(
    workspace: ObjectPath, fault: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that came through too, whose answers were lost."""
    write_if = ObjectPath.write_if
    requests = []

    def faulty(self: ObjectPath, content: bytes, tag: str | None) -> str | None:
        requests.append(tag)
        written = write_if(self, content, tag)
        if len(requests) in (2, 4, 6):
            raise fault
        return written

    monkeypatch.setattr(ObjectPath, "write_if", faulty)
    with locked(workspace, "a build") as check:
        time.sleep(2 * lock.LEASE_SECONDS)
        check()
    assert len(requests) > 8
    assert (workspace / "lock").read_bytes() == b""


def test_who_cannot_reach_the_store_for_long_is_told(workspace: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str | None:
        raise ConnectionError("lost")

    with locked(workspace, "a build") as check:
        monkeypatch.setattr(ObjectPath, "write_if", fail)
        time.sleep(lock.LEASE_SECONDS)
        with pytest.raises(ConnectionError, match="lost"):
            check()
        monkeypatch.undo()


def test_a_process_of_another_container_is_not_taken_for_dead(workspace: ObjectPath) -> None:
    holder = {**lock._holder("a build"), "pid": 4194304}
    assert lock._has_died(holder)
    assert not lock._has_died({**holder, "processes": f"{holder['processes']}1"})
    assert not lock._has_died({**holder, "pid": os.getpid()})


@pytest.mark.parametrize("text", ["s3://bucket/../x", "s3://bucket/."])
def test_a_place_has_names_only(text: str) -> None:
    with pytest.raises(PlaceError, match=r"without \. and \.\."):
        place_of(text)
