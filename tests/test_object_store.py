"""Sources on an S3-compatible object store: a real server, on loopback."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from mammo_etl.convert import convert_film
from mammo_etl.files import list_files, stamp_of
from mammo_etl.film_work import film_work
from mammo_etl.inventory import InventoryError, assemble, list_sources, read_headers
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.settings import CleaningSettings, PatchSettings, SourceSettings
from mammo_etl.sources import Inventory

PATCHES = PatchSettings(size=64, stride=32, normals_per_film=8, min_distance=16)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """The server, told by the environment alone."""
    environment = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    type(store).clear_instance_cache()
    if not store.exists("films"):
        store.mkdir("films")
    yield store
    type(store).clear_instance_cache()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient of CBIS-DDSM and one of DDSM."""
    folder = tmp_path_factory.mktemp("films")
    write_phantoms(folder, 2, 0, height=480, width=320)
    return folder


def inventory_of(kind: str, path: Path | str) -> Inventory:
    (files,) = list_sources([SourceSettings(kind=kind, path=str(path))])
    return assemble(files, dict(read_headers(kind, files.with_headers)))


@pytest.mark.parametrize("kind", ["cbis-ddsm", "ddsm"])
def test_films_on_the_store_become_what_films_on_disk_become(
    kind: str, films: Path, store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    store.put(str(films / kind), f"films/{kind}", recursive=True)
    on_disk, remote = inventory_of(kind, films / kind), inventory_of(kind, f"s3://films/{kind}")
    assert [replace(scan, path="") for scan in remote.scans] == [replace(scan, path="") for scan in on_disk.scans]
    assert all(scan.path.startswith("s3://films/") for scan in remote.scans)
    works = [film_work(inventory.scans, inventory.findings)[0] for inventory in (on_disk, remote)]
    results = [
        convert_film(work, tmp_path / str(number), CleaningSettings(), PATCHES) for number, work in enumerate(works)
    ]
    assert results[0].png == results[1].png != ""
    assert results[0].candidates == results[1].candidates > 0


def test_an_object_s_stamp_follows_its_content(store: fsspec.AbstractFileSystem) -> None:
    """Told by the listing and without it, and never by an earlier listing."""
    stamps = []
    for content in (b"film", b"FILM", b"film"):
        store.pipe("films/stamps/a.dcm", content)
        type(store).clear_instance_cache()
        (source,) = list_sources([SourceSettings(kind="cbis-ddsm", path="s3://films/stamps")])
        (stamp,) = list_files("s3://films/stamps", "cbis-ddsm").stamps
        assert stamp == stamp_of("s3://films/stamps/a.dcm") is not None
        stamps.append((stamp, source.stamp))
    assert stamps[0] == stamps[2] != stamps[1]
    assert stamps[0][1] != stamps[1][1]
    # By another client, so that what this one was told before is out of date.
    (before,) = list_files("s3://films/stamps", "cbis-ddsm").stamps
    fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False).pipe("films/stamps/a.dcm", b"Film")
    assert stamp_of("s3://films/stamps/a.dcm") != before
    assert list_files("s3://films/stamps", "cbis-ddsm").stamps == (stamp_of("s3://films/stamps/a.dcm"),)
    assert stamp_of("s3://films/stamps/b.dcm") is None


def test_a_prefix_or_bucket_that_is_not_there(store: fsspec.AbstractFileSystem) -> None:
    for path in ("s3://films/nothing", "s3://no-such-bucket/x"):
        with pytest.raises(InventoryError, match=path):
            inventory_of("cbis-ddsm", path)


def test_without_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(InventoryError, match="credentials"):
        inventory_of("cbis-ddsm", "s3://films/x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
