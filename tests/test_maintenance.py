"""A workspace looked after: verified, cleared up, locked, killed, and on a disk that is full or read-only."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Command
from small_build import SETTINGS, build

from flows.clusters import ClusterSettings
from mammo_etl import catalog, store
from mammo_etl.files import digest_of_file
from mammo_etl.formats import FormatError
from mammo_etl.garbage import Kind, find_garbage, remove
from mammo_etl.lock import WorkspaceInUseError, locked
from mammo_etl.plan import PlanError
from mammo_etl.reader import ReaderError, open_run
from mammo_etl.settings import StoreSettings
from mammo_etl.verify import verify_films
from mammo_etl.workspace import read_json, write_bytes, write_json
from mammo_model.settings import TrainingSettings
from mammo_model.studies import Study
from mammo_model.tuning_settings import TuningSettings

WIDER = SETTINGS.model_copy(update={"patches": SETTINGS.patches.model_copy(update={"stride": 64})})


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy of that workspace."""
    return Path(shutil.copytree(built / "ws", tmp_path / "ws"))


def start(program: str, *arguments: object) -> "subprocess.Popen[bytes]":
    """Python that runs a program, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=REPOSITORY, start_new_session=True
    )


def wait(look: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not look():
        assert time.monotonic() < end
        time.sleep(0.002)


def garbage_of(workspace: Path, keep: int | None = None) -> dict[Kind, int]:
    kinds = [item.kind for item in find_garbage(workspace, keep)]
    return {kind: kinds.count(kind) for kind in Kind if kind in kinds}


# Verify


def test_a_run_as_published(workspace: Path, mammo: Command) -> None:
    run = open_run(workspace)
    code, said, _ = mammo("verify", "--workspace", workspace, "--deep", "--json")
    assert code == 0
    assert json.loads(said) == {
        "run_id": run.run_id,
        "files": len(run.manifest["digests"]),
        "films": run.manifest["counts"]["scans"],
        "faults": [],
    }
    code, said, _ = mammo("verify", "--workspace", workspace, "--run", run.run_id)
    assert (code, "as published" in said) == (0, True)
    code, _, said = mammo("verify", "--workspace", workspace, "--run", "run-x")
    assert (code, "no published run run-x" in said) == (2, True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("patches.zarr/c/1/0/0", "changed since it was published"),
        ("scans.parquet", "changed since it was published"),
        ("manifest.json", "changed since it was published; run the build again"),
        ("../../current.json", "expected the name of the published run; run the build again"),
    ],
)
def test_damage_to_a_run_is_named(workspace: Path, mammo: Command, name: str, sentence: str) -> None:
    path = (open_run(workspace).folder / name).resolve()
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    if path.name == "current.json":
        path.write_bytes(content[:10])
    code, said, _ = mammo("verify", "--workspace", workspace, "--deep", "--json")
    assert code == 1
    assert json.loads(said)["faults"][0].startswith(f"{path}: ")
    assert sentence in json.loads(said)["faults"][0]


def test_what_a_run_was_made_from(built: Path, workspace: Path, mammo: Command) -> None:
    """A changed film, a lost mask, a damaged receipt and a damaged cleaned film; and a store that its digests agree with, but not its films."""
    run = open_run(workspace)
    (images,) = (workspace / "images").iterdir()
    receipt, png = sorted(images.glob("*.json"))[0], sorted(images.glob("*.png"))[1]
    receipt.write_text(receipt.read_text().replace('"box": [', '"box": [1'))
    png.write_bytes(png.read_bytes()[:-1])
    store_path = run.folder / "patches.zarr"
    rows = run.patches().query("image_id == @name", local_dict={"name": sorted(images.glob("*.png"))[2].stem})["row"]
    shard = range(int(rows.iloc[0]) // 20 * 20, int(rows.iloc[0]) // 20 * 20 + 20)
    patches = store.open_patches(store_path)[shard.start : shard.stop].read().result()
    patches[rows.iloc[0] - shard.start] ^= 1
    store.write_shard(store_path, shard, patches)
    manifest = read_json(run.folder / "manifest.json")
    del manifest["seal"]
    manifest["digests"] = {name: digest_of_file(run.folder / name) for name in catalog.run_files(run.folder)}
    write_json(run.folder / "manifest.json", manifest)
    films = sorted((built / "films").rglob("*.dcm"))
    film = next(path for path in films if "full" in str(path) and png.stem.split("_")[-3] in str(path))
    mask = next(path for path in films if "ROI" in str(path))
    contents = {path: path.read_bytes() for path in (film, mask)}
    try:
        film.write_bytes(contents[film][:-1] + b"x")
        mask.unlink()
        code, said, _ = mammo("verify", "--workspace", workspace, "--deep", "--json")
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert code == 1
    faults = json.loads(said)["faults"]
    for path, sentence in (
        (receipt, "missing, or changed after it was written"),
        (png, "changed after it was written"),
        (film, "changed since it was read"),
        (mask, "No such file"),
        (store_path, f"1 of {len(rows)} patches of"),
    ):
        assert any(fault.startswith(f"{path}: ") and sentence in fault for fault in faults), (path, faults)
    assert len(faults) == 5


@pytest.mark.parametrize("damage", ["gone", "undecodable"])
def test_films_whose_patches_cannot_be_read_are_faults_each(workspace: Path, damage: str) -> None:
    """Of a shard that is damaged once its digest was found right."""
    run = open_run(workspace)
    shard = store.shard_path(run.folder / "patches.zarr", 0)
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(bytes(len(shard.read_bytes())))
    faults = [fault for found in verify_films(workspace, run) for fault in found]
    assert all("cannot be read" in fault for fault in faults)
    assert len(faults) == run.patches().query("row < 20")["image_id"].nunique()


# Clear up


def test_nothing_is_removed_that_a_run_needs(
    built: Path,
    workspace: Path,
    cluster: ClusterSettings,
    mammo: Command,
) -> None:
    assert garbage_of(workspace) == {}
    first = open_run(workspace).run_id
    build(built / "films", workspace, cluster, WIDER)
    second = open_run(workspace).run_id
    assert garbage_of(workspace) == {}
    old, new = (set(folder.iterdir()) for folder in sorted((workspace / "candidates").iterdir(), key=os.path.getmtime))
    (workspace / "models" / f"{first}-0123456789ab").mkdir(parents=True)
    assert garbage_of(workspace, keep=0) == {}, "a training is under way"
    (workspace / "models" / f"{first}-0123456789ab").rmdir()
    # Under way or not, and whatever it is called.
    study = Study(workspace, "mine", first, TrainingSettings(), TuningSettings())
    study.begin()
    (study.trial_folder(3)).mkdir(parents=True)
    assert garbage_of(workspace, keep=0) == {}, "a study needs its run"
    shutil.rmtree(study.folder)
    assert garbage_of(workspace, keep=2) == {}
    assert (
        garbage_of(workspace, keep=1) == garbage_of(workspace, keep=0) == {Kind.OLD_RUN: 1, Kind.CANDIDATES: len(old)}
    )
    code, said, _ = mammo("gc", "--workspace", workspace, "--keep", 0, "--json")
    listed = json.loads(said)
    assert (code, listed["deleted"]) == (0, False)
    assert (workspace / "runs" / first).exists()
    assert listed["groups"][0]["bytes"] == sum(
        path.stat().st_size for path in (workspace / "runs" / first).rglob("*") if path.is_file()
    )
    code, said, _ = mammo("gc", "--workspace", workspace, "--keep", 0, "--delete", "--json")
    assert json.loads(said) == {**listed, "deleted": True}
    assert [path.name for path in (workspace / "runs").iterdir()] == [second]
    assert set((workspace / "candidates").rglob("*.json")) == new
    assert garbage_of(workspace, keep=0) == {}
    assert not build(built / "films", workspace, cluster, WIDER).new
    assert pq.read_table(workspace / "catalog.parquet")["id"].to_pylist() == [second]
    code, said, _ = mammo("gc", "--workspace", workspace)
    assert (code, "Nothing to remove" in said) == (0, True)


def litter(workspace: Path, films: int) -> None:
    """Films of settings that no run has, a run that was never finished, and what killed writers leave."""
    images = workspace / "images" / "0123456789abcdef"
    for index in range(films):
        write_bytes(images / f"film{index}.png", b"x")
    write_bytes(images / ".unfinished-x-film.png", b"x")
    write_bytes(workspace / ".unfinished-x-rejects.parquet", b"x")
    write_bytes(workspace / ".unfinished-x-catalog.parquet", b"x")
    write_bytes(workspace / "runs" / "run-unfinished" / "patches.zarr" / "zarr.json", b"x")
    write_bytes(images / "notes.txt", b"not mammo's")


def test_what_is_listed_as_not_needed(workspace: Path) -> None:
    litter(workspace, 3)
    assert garbage_of(workspace) == {Kind.UNFINISHED_RUN: 1, Kind.IMAGE: 3, Kind.LEFTOVER: 2}
    assert len(list(remove(workspace, find_garbage(workspace)))) == 6
    assert garbage_of(workspace) == {}
    assert (workspace / "images" / "0123456789abcdef" / "notes.txt").exists()


def test_nothing_is_removed_where_what_is_needed_cannot_be_known(workspace: Path) -> None:
    litter(workspace, 1)
    run = open_run(workspace)
    current, scans = workspace / "current.json", run.folder / "scans.parquet"
    manifest = run.folder / "manifest.json"
    for path in (current, scans, manifest):
        content = path.read_bytes()
        path.write_bytes(content[:-20])
        with pytest.raises(ReaderError, match=r"damaged|expected the name of the published run"):
            list(remove(workspace, find_garbage(workspace)))
        path.write_bytes(content)
    write_json(manifest, {**run.manifest, "format_version": 99})
    with pytest.raises(FormatError, match="format version 99, expected 1 to 3: made by a newer mammo"):
        list(remove(workspace, find_garbage(workspace)))
    assert (workspace / "runs" / "run-unfinished").exists()


def test_a_gc_that_is_killed_leaves_a_valid_workspace(built: Path, workspace: Path, cluster: ClusterSettings) -> None:
    litter(workspace, 5000)
    images = workspace / "images" / "0123456789abcdef"
    before = len(list(images.iterdir()))
    program = "import sys; from flows.cli import main; sys.argv[0] = 'mammo'; main()"
    process = start(program, "gc", "--workspace", workspace, "--delete")
    wait(lambda: len(list(images.iterdir())) < before - 10)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 10 < len(list(images.iterdir())) < before - 10
    assert catalog.verify_run(open_run(workspace)) == []
    assert not build(built / "films", workspace, cluster).new
    list(remove(workspace, find_garbage(workspace)))
    assert garbage_of(workspace) == {}


# One at a time


_HOLD = """
import sys, time
from pathlib import Path
from mammo_etl.lock import locked
with locked(Path(sys.argv[1]), "a build"):
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""


def test_a_second_build_and_a_gc_are_told_who_is_at_work(
    built: Path,
    workspace: Path,
    tmp_path: Path,
    cluster: ClusterSettings,
    mammo: Command,
) -> None:
    process = start(_HOLD, workspace, tmp_path / "begun")
    try:
        wait((tmp_path / "begun").exists)
        sentence = f"a build is at work here (host {os.uname().nodename}, process {process.pid}, since 2"
        with pytest.raises(WorkspaceInUseError, match=f"process {process.pid}, since"):
            build(built / "films", workspace, cluster)
        for command in (["gc"], ["build", "--source", f"cbis-ddsm={built / 'films'}"]):
            code, _, said = mammo(*command, "--workspace", workspace)
            assert (code, sentence in said, said.count("\n")) == (1, True, 1), said
        code, said, _ = mammo("verify", "--workspace", workspace)
        assert code == 0
    finally:
        process.kill()
        process.wait()
    assert (workspace / "lock").read_bytes() != b""
    assert not build(built / "films", workspace, cluster).new
    assert (workspace / "lock").read_bytes() == b""


def test_a_folder_that_is_no_workspace(tmp_path: Path, mammo: Command) -> None:
    code, _, said = mammo("gc", "--workspace", tmp_path)
    assert code == 2
    assert said == f"mammo: {tmp_path}: no workspace: expected a folder that `mammo build` has worked in\n"
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_one_for_threads_too(tmp_path: Path) -> None:
    with locked(tmp_path, "a build"), pytest.raises(WorkspaceInUseError), locked(tmp_path, "mammo gc"):
        pass
    with locked(tmp_path, "mammo gc"):
        pass


_BUILD = """
import json, sys
from pathlib import Path
from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from mammo_etl.settings import BuildSettings, SourceSettings
if __name__ == "__main__":
    source = SourceSettings(kind="cbis-ddsm", path=sys.argv[1])
    build_dataset.fn([source], Path(sys.argv[2]), BuildSettings.model_validate(json.loads(sys.argv[3])), ClusterSettings(workers=1))
"""


@pytest.mark.parametrize(
    ("whom", "moment"),
    [
        ("all", "images/*/*.json"),
        ("flow", "runs/*/shards/*.json"),
        pytest.param("all", "runs/*/shards/*.json", marks=pytest.mark.slow),
        pytest.param("flow", "images/*/*.json", marks=pytest.mark.slow),
    ],
)
def test_a_build_that_is_killed_is_finished_by_the_next(
    built: Path, tmp_path: Path, cluster: ClusterSettings, moment: str, whom: str
) -> None:
    workspace = tmp_path / "ws"
    process = start(_BUILD, built / "films", workspace, SETTINGS.model_dump_json())
    wait(lambda: len(list(workspace.glob(moment))) >= 2)
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    assert not (workspace / "current.json").exists()
    # At once: a worker may outlive its flow for a moment.
    assert build(built / "films", workspace, cluster).new
    whole, other = open_run(workspace), open_run(built / "ws")
    assert whole.run_id == other.run_id
    assert catalog.verify_run(whole) == []
    timed = {"report.html"}
    assert {name: value for name, value in whole.manifest["digests"].items() if name not in timed} == {
        name: value for name, value in other.manifest["digests"].items() if name not in timed
    }
    assert set(garbage_of(workspace)) <= {Kind.LEFTOVER}


# Disks


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_named_and_the_build_goes_on_once_there_is_room(
    built: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full in each of its steps, as room is given bit by bit."""
    monkeypatch.setattr("mammo_etl.limits._check_disk", lambda *_: None)
    faults: list[OSError] = []
    with disk(tmp_path / "disk", "20m") as folder:
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(folder).free - 100_000))
        while True:
            try:
                build(built / "films", folder / "ws", cluster)
                break
            except OSError as full:
                faults.append(full)
            assert not (folder / "ws" / "current.json").exists()
            os.truncate(ballast, ballast.stat().st_size - 250_000)
        assert {fault.errno for fault in faults} == {errno.ENOSPC}
        named = {Path(str(fault.filename)).relative_to(folder / "ws").parts[0] for fault in faults}
        assert named >= {"images", "runs"}
        whole, other = open_run(folder / "ws"), open_run(built / "ws")
        assert catalog.verify_run(whole) == []
        assert whole.run_id == other.run_id
        litter(folder / "ws", 3)
        with ballast.open("ab") as file:
            file.write(bytes(shutil.disk_usage(folder).free))
        with locked(folder / "ws", "mammo gc"):
            assert len(list(remove(folder / "ws", find_garbage(folder / "ws")))) == 6


def test_a_disk_without_room_is_refused_before_work_is_sent(
    built: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    with disk(tmp_path / "disk", "1m") as folder:
        with pytest.raises(
            PlanError, match=r"^convert: cleaned films .* need up to 2\.\d MB, .* has 1\.0 MB free: make"
        ):
            build(built / "films", folder / "ws", cluster)
        assert not (folder / "ws" / "images").exists()
    with disk(tmp_path / "next", "20m") as folder:
        for name in ("images", "candidates"):
            shutil.copytree(workspace / name, folder / "ws" / name)
        (folder / "ballast").write_bytes(bytes(shutil.disk_usage(folder).free - 1_000_000))
        # What is converted already needs no room again.
        with pytest.raises(
            PlanError, match=r"^extract: \d+ patches of 64 x 64 and 8 bits need up to 2\.\d MB, .* MB free"
        ):
            build(built / "films", folder / "ws", cluster)
        assert not (folder / "ws" / "runs").exists()


def test_a_shard_that_finds_no_room_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 256, 256)).astype(np.uint8)
    with disk(tmp_path / "disk", "2m") as folder:
        store.create_patches(folder / "a.zarr", 100, 256, StoreSettings())
        with pytest.raises(OSError, match=r"No space left on device: .*/a\.zarr/c/0/0/0'") as full:
            store.write_shard(folder / "a.zarr", range(100), noise)
        assert full.value.errno == errno.ENOSPC


def test_the_command_says_that_the_disk_is_full(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mammo: Command
) -> None:
    def full(*_: object) -> None:
        write_bytes(tmp_path / "ws" / "rejects.parquet", b"x")

    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("flows.build_dataset.build_dataset", full)
    monkeypatch.setattr(Path, "write_bytes", write)
    source = f"cbis-ddsm={built / 'films'}"
    code, _, said = mammo("build", "--source", source, "--workspace", tmp_path / "ws")
    assert code == 1
    assert f"{tmp_path}/ws/rejects.parquet: could not be written: the disk is full. Make room" in said
    assert list((tmp_path / "ws").glob(".unfinished*")) == []


def test_a_read_only_workspace(built: Path, workspace: Path, tmp_path: Path, mammo: Command) -> None:
    source = f"cbis-ddsm={built / 'films'}"
    with disk(tmp_path / "disk", "20m") as folder:
        shutil.copytree(workspace, folder / "ws")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        code, _, said = mammo("build", "--source", source, "--workspace", folder / "ws")
        assert (code, f"--workspace {folder / 'ws'}: cannot be written to" in said) == (2, True)
        code, _, said = mammo("gc", "--workspace", folder / "ws")
        assert (code, f"{folder / 'ws' / 'lock'}: could not be written: the disk is read-only" in said) == (1, True)
        code, said, _ = mammo("verify", "--workspace", folder / "ws", "--deep")
        assert (code, "as published" in said) == (0, True)
