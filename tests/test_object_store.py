"""Sources and workspaces on an S3-compatible object store: a real server, on loopback."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from conftest import REPOSITORY, Command
from store_server import environment_of, failing, s3_server
from test_maintenance import wait
from test_scoring import write_model

from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from mammo_etl import catalog
from mammo_etl.convert import convert_film
from mammo_etl.files import list_files, stamp_of
from mammo_etl.film_files import loose_films
from mammo_etl.film_work import film_work
from mammo_etl.garbage import Kind, find_garbage, remove
from mammo_etl.inventory import InventoryError, assemble, list_sources, read_headers
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.places import Place, files_below, name_below, place_of
from mammo_etl.reader import open_run, read_table
from mammo_etl.settings import BuildSettings, CleaningSettings, PatchSettings, SourceSettings, validated
from mammo_etl.sources import Inventory
from mammo_etl.store import shard_path
from mammo_model.score_tables import write_scores
from mammo_model.scoring import find_model, score_film
from mammo_model.scoring_settings import ScoringSettings

PATCHES = PatchSettings(size=64, stride=32, normals_per_film=8, min_distance=16)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """The server, told by the environment alone."""
    for name, value in environment_of(server).items():
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


# A workspace on the store

SETTINGS = validated(
    BuildSettings,
    {
        "patches": PATCHES.model_dump() | {"normals": "background"},
        "plan": {"validation": 0.3, "test": 0.3, "seed": 2},
        "store": {"shard_rows": 20},
    },
    "test",
)
ONE = ClusterSettings(workers=1)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer films than in other tests: each of them is asked for over HTTP several times."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 8, 0, height=480, width=320)
    return folder


@pytest.fixture(scope="module")
def on_disk(phantoms: Path, cluster: ClusterSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace on disk, not to be changed by a test."""
    workspace = tmp_path_factory.mktemp("disk") / "ws"
    build_dataset.fn([SourceSettings(kind="cbis-ddsm", path=str(phantoms / "cbis-ddsm"))], workspace, SETTINGS, cluster)
    return workspace


def content_of(workspace: Place) -> dict[str, bytes]:
    """Of the files of a workspace that its input and settings decide."""
    files = {name_below(entry.place, workspace): entry.place for entry in files_below(workspace)}
    timed = ("manifest.json", "report.html", "catalog.parquet", "lock", "latest.json")
    stamped = {name for name in files if name.startswith("images/") and name.endswith(".json")}
    return {name: file.read_bytes() for name, file in files.items() if not name.endswith(timed) and name not in stamped}


def test_a_build_on_the_store_is_the_one_on_disk(
    phantoms: Path,
    on_disk: Path,
    store: fsspec.AbstractFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    mammo: Command,
) -> None:
    """Films and workspace on the store; then looked after as one on disk is."""
    store.put(str(phantoms / "cbis-ddsm"), "films/all", recursive=True)
    place = place_of("s3://films/workspaces/one")
    sources = [SourceSettings(kind="cbis-ddsm", path="s3://films/all")]
    summary = build_dataset.fn(sources, str(place), SETTINGS, ONE)
    assert (summary.new, summary.folder) == (True, f"s3://films/workspaces/one/runs/{summary.run_id}")
    here, there = content_of(on_disk), content_of(place)
    paths = ("scans.parquet", "findings.parquet", "rejects.parquet")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name] and not name.endswith(paths)] == []
    run, other = open_run(place), open_run(on_disk)
    assert run.run_id == other.run_id
    assert read_table(place / "catalog.parquet")["id"].to_pylist() == [run.run_id]
    assert (run.open_patches().read().result() == other.open_patches().read().result()).all()
    code, said, _ = mammo("verify", "--workspace", place, "--deep", "--json")
    assert (code, json.loads(said)["faults"], json.loads(said)["films"]) == (0, [], run.manifest["counts"]["scans"])
    # Nothing has changed: told by stamps alone.
    with monkeypatch.context() as patched:
        patched.delattr("flows.build_dataset.open_client")
        assert not build_dataset.fn(sources, str(place), SETTINGS, ONE).new
    # Damaged afterwards: found, and mended by the next build.
    shard = shard_path(run.folder / "patches.zarr", 0)
    content = shard.read_bytes()
    shard.write_bytes(content[:-5] + b"wrong")
    code, said, _ = mammo("verify", "--workspace", place, "--json")
    assert (code, json.loads(said)["faults"]) == (1, [f"{shard}: changed since it was published"])
    assert build_dataset.fn(sources, str(place), SETTINGS, ONE).new
    assert shard.read_bytes() == content
    # Cleared up.
    assert list(find_garbage(place)) == []
    (place / "images" / "0123456789abcdef" / "film.png").write_bytes(b"x")
    (place / "runs" / "run-unfinished" / "patches.zarr" / "zarr.json").write_bytes(b"x")
    assert [item.kind for item in remove(place, find_garbage(place))] == [Kind.UNFINISHED_RUN, Kind.IMAGE]
    assert content_of(place).keys() == here.keys()


_BUILD = """
import sys
from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from mammo_etl.settings import BuildSettings, SourceSettings
if __name__ == "__main__":
    source = SourceSettings(kind="cbis-ddsm", path=sys.argv[1])
    settings = BuildSettings.model_validate_json(sys.argv[3])
    build_dataset.fn([source], sys.argv[2], settings, ClusterSettings(workers=1))
"""


@pytest.mark.slow
def test_a_build_that_is_killed_is_finished_by_the_next_through_a_failing_store(
    phantoms: Path, on_disk: Path, server: str, store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request in nine is answered with 503."""
    place = place_of("s3://films/workspaces/two")
    films = phantoms / "cbis-ddsm"
    with failing(server, every=9, status=503) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        process = subprocess.Popen(
            [sys.executable, "-c", _BUILD, films, str(place), SETTINGS.model_dump_json()],
            cwd=REPOSITORY,
            start_new_session=True,
        )
        wait(lambda: sum(entry.place.suffix == ".png" for entry in files_below(place)) >= 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (place / "current.json").exists()
        source = SourceSettings(kind="cbis-ddsm", path=str(films))
        summary = build_dataset.fn([source], str(place), SETTINGS, ONE)
    assert next(row for row in summary.timings if row["stage"] == "convert")["skipped"] >= 1
    assert content_of(place) == content_of(on_disk)
    assert catalog.verify_run(open_run(place)) == []


def test_the_command_says_what_is_wrong_with_the_store(
    phantoms: Path,
    store: fsspec.AbstractFileSystem,
    mammo: Command,
) -> None:
    source = f"cbis-ddsm={phantoms / 'cbis-ddsm'}"
    for workspace, said in (
        ("s3://no-such-bucket/ws", "--workspace s3://no-such-bucket/ws: The specified bucket does not exist"),
        ("gs://films/ws", "gs://films/ws: expected a local path or s3://BUCKET/PREFIX"),
    ):
        ended = mammo("build", "--source", source, "--workspace", workspace)
        assert ended == (2, "", f"mammo: {said}\n")
    code, _, said = mammo("train", "--workspace", "s3://films/nothing")
    assert (code, "s3://films/nothing: no published run here" in said) == (2, True)


@pytest.mark.slow
def test_a_model_trained_on_the_store_is_the_one_trained_on_disk(
    on_disk: Path, store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after it was stopped between its epochs."""
    from mammo_model.model_run import train_and_evaluate
    from mammo_model.progress import Progress
    from mammo_model.settings import TrainingSettings

    # Takes seconds a model, and has tests of its own.
    monkeypatch.setattr("mammo_model.model_run.can_export", lambda: False)
    shutil.copytree(on_disk, tmp_path / "ws")
    store.put(str(on_disk), "films/workspaces/three", recursive=True)
    place = place_of("s3://films/workspaces/three")
    settings = TrainingSettings(architecture="vgg1", width=2, epochs=2, batch_size=16)
    here = train_and_evaluate(tmp_path / "ws", settings)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(place, settings, progress=Progress(on_epoch=stop))
    there = train_and_evaluate(str(place), settings)
    assert there.metrics == here.metrics
    names = {name_below(entry.place, here.folder) for entry in files_below(here.folder)}
    # TensorBoard's logs are written to local disks only.
    assert {name_below(entry.place, there.folder) for entry in files_below(there.folder)} == {
        name for name in names if not name.startswith("logs/")
    }
    assert train_and_evaluate(place, settings).reused


def test_films_are_scored_on_the_store_as_on_disk(
    films: Path, store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    write_model(tmp_path / "ws")
    film = next((films / "ddsm").rglob("*.LJPEG"))
    store.put(str(tmp_path / "ws"), "films/ws", recursive=True)
    shutil.copy(film, tmp_path / "one.LJPEG")
    store.put(str(film), "films/new/anna/one.LJPEG")
    ((on_store,), _), ((on_disk,), _) = loose_films("s3://films/new"), loose_films(str(tmp_path / "one.LJPEG"))
    assert (on_store.image_id, on_store.patient_id) == ("anna_one.LJPEG", "anna")
    out = place_of("s3://films/scores")
    model = find_model(place_of("s3://films/ws"))
    for skipped in (False, True):
        assert score_film(on_store, out, model, ScoringSettings()).skipped is skipped
    disk = replace(on_disk, image_id=on_store.image_id, patient_id="anna")
    scored = score_film(disk, tmp_path / "scores", find_model(tmp_path / "ws"), ScoringSettings())
    assert not scored.skipped
    for place in (out, tmp_path / "scores"):
        write_scores(place, model, ScoringSettings(), [scored], [])
    for name in ("windows.parquet", "candidates.parquet", "patients.parquet", "films/anna_one.LJPEG/normal.png"):
        assert (out / name).read_bytes() == (tmp_path / "scores" / name).read_bytes()
