"""Builds after the first: nothing where nothing has changed, and in proportion where little has."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY
from small_build import SETTINGS, build, sources

from flows import maintenance
from flows.clusters import ClusterSettings
from mammo_etl import catalog, latest
from mammo_etl.files import NOT_READ
from mammo_etl.inventory import list_sources
from mammo_etl.reader import PublishedRun, open_run
from mammo_etl.records import Reason, Rejection, Scan
from mammo_etl.reuse import find_parent
from mammo_etl.schema import from_rows
from mammo_etl.settings import BuildSettings
from mammo_etl.verify import verify_films
from mammo_etl.workspace import read_json, read_sealed, write_sealed


def is_up_to_date(films: Path, workspace: Path, settings: BuildSettings = SETTINGS) -> bool:
    basis = latest.basis_of(sources(films), list_sources(sources(films)), settings)
    return latest.up_to_date(workspace, basis, settings) is not None


@pytest.fixture
def copy(built: Path, tmp_path: Path, cluster: ClusterSettings) -> Path:
    """The same, to be changed."""
    folder = Path(shutil.copytree(built, tmp_path / "copy"))
    build(folder / "films", folder / "ws", cluster)
    return folder


def no_cluster(*_: object) -> None:
    raise AssertionError("a cluster was opened")


def changed(path: Path, count: int = 1) -> None:
    """Bytes in the middle become others; size and time stay."""
    before, content = path.stat(), bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + count)
    content[middle] = bytes(byte ^ 0x41 for byte in content[middle])
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def content_of(run: PublishedRun) -> dict[str, bytes]:
    """A run's files but those that tell of times."""
    names = [name for name in catalog.run_files(run.folder) if name != "report.html"]
    return {name: (run.folder / name).read_bytes() for name in names}


def a_film(films: Path) -> Path:
    return next(path for path in sorted(films.rglob("*.dcm")) if "full mammogram" in str(path))


# Nothing has changed


def test_nothing_is_opened_where_nothing_has_changed(
    built: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (built / "ws").rglob("*") if path.name != "lock"}
    run = open_run(built / "ws")
    monkeypatch.setattr("flows.build_dataset.open_client", no_cluster)
    summary = build(built / "films", built / "ws", cluster)
    assert (summary.run_id, summary.new, summary.timings) == (run.run_id, False, [])
    assert (summary.counts, summary.warnings) == (run.manifest["counts"], run.manifest["warnings"])
    assert {path: path.stat().st_mtime_ns for path in before} == before


_COMMAND = """
import sys
from flows.cli import main
try:
    main()
finally:
    print({"prefect", "distributed", "zarr", "pandas", "numba"} & sys.modules.keys())
"""


def test_the_command_says_so_without_prefect(built: Path, tmp_path: Path) -> None:
    """Nor does it import what else takes long."""
    (tmp_path / "settings.toml").write_text(
        "[patches]\nsize = 64\nstride = 32\nnormals_per_film = 8\nmin_distance = 16\nnormals = 'background'\n"
        "[plan]\nvalidation = 0.3\ntest = 0.3\n[store]\nshard_rows = 20\n"
    )
    arguments = ["--source", f"cbis-ddsm={built / 'films'}", "--workspace", os.path.relpath(built / "ws", REPOSITORY)]
    command = [sys.executable, "-c", _COMMAND, "build", *arguments, "--settings", str(tmp_path / "settings.toml")]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert "Nothing has changed: this run was there already." in done.stdout
    assert open_run(built / "ws").run_id in done.stdout
    assert done.stdout.endswith("set()\n")


def test_other_sources_settings_or_program_are_told(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films, workspace = built / "films", built / "ws"
    assert is_up_to_date(films, workspace)
    assert not is_up_to_date(films, workspace, SETTINGS.model_copy(update={"plan": BuildSettings().plan}))
    assert not is_up_to_date(films, tmp_path)
    assert not is_up_to_date(films / "CBIS-DDSM", workspace)
    (films / "new.txt").touch()
    assert not is_up_to_date(films, workspace)
    (films / "new.txt").unlink()
    assert is_up_to_date(films, workspace)
    package = Path(latest.__file__).parent
    shutil.copytree(package, tmp_path / "mammo_etl")
    monkeypatch.setattr("mammo_etl.latest.__file__", str(tmp_path / "mammo_etl" / "latest.py"))
    assert not is_up_to_date(films, workspace)


DAMAGE: dict[str, Callable[[Path], Path]] = {
    "shard": lambda ws: open_run(ws).folder / "patches.zarr" / "c" / "1" / "0" / "0",
    "manifest": lambda ws: open_run(ws).folder / "manifest.json",
    "table": lambda ws: open_run(ws).folder / "patches.parquet",
    "cleaned film": lambda ws: min((ws / "images").rglob("*.png")),
    "receipt": lambda ws: min((ws / "images").rglob("*.json")),
    "candidates": lambda ws: min((ws / "candidates").rglob("*.json")),
    "pointer": lambda ws: ws / "current.json",
    "rejects": lambda ws: ws / "rejects.parquet",
    "latest": lambda ws: ws / "latest.json",
}


def test_whatever_was_damaged_is_seen(copy: Path) -> None:
    films, workspace = copy / "films", copy / "ws"
    basis = latest.basis_of(sources(films), list_sources(sources(films)), SETTINGS)
    run = open_run(workspace)
    for name, find in DAMAGE.items():
        assert is_up_to_date(films, workspace), name
        changed(path := find(workspace))
        assert not is_up_to_date(films, workspace), name
        changed(path)
        assert not is_up_to_date(films, workspace) or name == "latest", name
        latest.remember(workspace, basis, run, SETTINGS, [])
    (workspace / "images" / "extra").touch()
    assert is_up_to_date(films, workspace)
    (run.folder / "extra").touch()
    assert not is_up_to_date(films, workspace)


def test_whatever_was_damaged_is_mended(copy: Path, cluster: ClusterSettings) -> None:
    films, workspace = copy / "films", copy / "ws"
    run = open_run(workspace)
    paths = {name: find(workspace) for name, find in DAMAGE.items()}
    before = {name: path.read_bytes() for name, path in paths.items()}
    for damaged in (DAMAGE.keys() - {"manifest"}, {"manifest"}):
        for name in damaged:
            changed(paths[name])
        assert build(films, workspace, cluster).run_id == run.run_id
        for name in damaged - {"manifest", "receipt", "latest"}:
            assert paths[name].read_bytes() == before[name], name
        assert pq.read_table(workspace / "catalog.parquet")["id"].to_pylist() == [run.run_id]
        assert maintenance.verify(workspace, None, deep=True).faults == []
        assert is_up_to_date(films, workspace)


def test_a_catalog_that_was_damaged_or_written_by_a_training_is_mended_at_once(copy: Path) -> None:
    films, workspace = copy / "films", copy / "ws"
    path = workspace / "catalog.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert is_up_to_date(films, workspace)
    assert path.read_bytes() == content
    path.unlink()
    assert is_up_to_date(films, workspace)
    assert path.read_bytes() == content


def test_a_copied_workspace_is_compared_by_content_once(built: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    workspace = Path(shutil.copytree(built / "ws", tmp_path / "ws"))
    assert not is_up_to_date(built / "films", workspace)
    summary = build(built / "films", workspace, cluster)
    assert not summary.new
    assert all(row["skipped"] == row["items"] for row in summary.timings if row["stage"] == "convert")
    assert is_up_to_date(built / "films", workspace)


def test_a_fault_that_verify_finds_is_mended_though_stamps_are_the_same(
    copy: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk's own errors leave them."""
    film = min((copy / "ws" / "images").rglob("*.png"))
    content = film.read_bytes()
    changed(film)
    basis = latest.basis_of(sources(copy / "films"), list_sources(sources(copy / "films")), SETTINGS)
    latest.remember(copy / "ws", basis, open_run(copy / "ws"), SETTINGS, [])
    assert is_up_to_date(copy / "films", copy / "ws")
    assert maintenance.verify(copy / "ws", None, deep=False).faults == []
    assert is_up_to_date(copy / "films", copy / "ws")
    assert len(maintenance.verify(copy / "ws", None, deep=True).faults) == 1
    build(copy / "films", copy / "ws", cluster)
    assert film.read_bytes() == content


@pytest.mark.parametrize(
    ("code", "message", "again"),
    [
        (Reason.UNREACHABLE, "x", True),
        (Reason.WORKER_DIED, "x", True),
        (Reason.UNREADABLE_FILE, f"{NOT_READ}Permission denied.", True),
        (Reason.UNREADABLE_FILE, "The image file could not be decoded.", False),
        (Reason.MISSING_MASK, "x", False),
    ],
)
def test_what_may_have_passed_is_tried_again(copy: Path, code: Reason, message: str, again: bool) -> None:
    basis = latest.basis_of(sources(copy / "films"), list_sources(sources(copy / "films")), SETTINGS)
    row = Rejection(stage="convert", code=code, message=message)
    latest.remember(copy / "ws", basis, open_run(copy / "ws"), SETTINGS, [row])
    assert is_up_to_date(copy / "films", copy / "ws") != again


# A little has changed


def scans_of(run: PublishedRun) -> list[Scan]:
    return from_rows(pq.read_table(run.folder / "scans.parquet").to_pylist(), Scan)


@pytest.mark.parametrize("damage", [False, True])
def test_a_run_with_a_changed_film_is_that_of_a_build_from_scratch(
    copy: Path, cluster: ClusterSettings, tmp_path: Path, damage: bool
) -> None:
    """Though most of it is copied from the run before; and though that was damaged."""
    films, workspace = copy / "films", copy / "ws"
    parent = open_run(workspace)
    changed(a_film(films), 2000)
    if damage:
        changed(parent.folder / "patches.zarr" / "c" / "1" / "0" / "0")
    summary = build(films, workspace, cluster)
    convert = next(row for row in summary.timings if row["stage"] == "convert")
    assert convert["items"] - convert["skipped"] == 1
    run = open_run(workspace)
    assert summary.new
    assert run.manifest["parent"] == parent.run_id != run.run_id
    build(films, tmp_path / "scratch", cluster)
    scratch = open_run(tmp_path / "scratch")
    assert run.run_id == scratch.run_id
    assert content_of(run) == content_of(scratch)


def test_what_a_run_has_of_another(built: Path, cluster: ClusterSettings) -> None:
    """All patches of films that are the same, none of others; nothing of tables that are damaged."""
    run = open_run(built / "ws")
    plan, scans = run.patches(), scans_of(run)
    whole = find_parent(built / "ws", plan[::-1], scans, 1024)
    assert whole is not None
    assert whole.rows.tolist() == plan["row"].tolist()[::-1]
    part = whole.part(range(25))
    assert part is not None
    assert set(part.digests) == {row // 20 for row in whole.rows[:25]}
    others = [
        Scan(**{**{name: getattr(scans[0], name) for name in Scan.__dataclass_fields__}, "image_sha256": "x"}),
        Scan(**{**{name: getattr(scans[1], name) for name in Scan.__dataclass_fields__}, "image_box": (1, 2, 3, 4)}),
        *scans[2:],
    ]
    found = find_parent(built / "ws", plan, others, 1024)
    assert found is not None
    other = plan["image_id"].isin([scan.image_id for scan in scans[:2]]).to_numpy()
    assert 0 < other.sum() < len(plan)
    assert ((found.rows == -1) == other).all()
    moved = find_parent(built / "ws", plan.assign(y=plan["y"] + 1000), scans, 1024)
    assert moved is not None
    assert moved.part(range(len(plan))) is None


@pytest.mark.parametrize("name", ["scans.parquet", "patches.parquet", "patches.zarr/zarr.json", "manifest.json"])
def test_a_run_with_damaged_tables_is_no_parent(built: Path, tmp_path: Path, name: str) -> None:
    workspace = Path(shutil.copytree(built / "ws", tmp_path / "ws"))
    run = open_run(workspace)
    plan, scans = run.patches(), scans_of(run)
    assert find_parent(workspace, plan, scans, 1024) is not None
    changed(run.folder / name)
    assert find_parent(workspace, plan, scans, 1024) is None
    assert read_json(workspace / "current.json")["run_id"] == run.run_id


def test_a_workspace_without_a_run_has_no_parent(built: Path, tmp_path: Path) -> None:
    run = open_run(built / "ws")
    assert find_parent(tmp_path, run.patches(), scans_of(run), 1024) is None


def test_a_run_of_another_format_or_of_larger_shards_is_no_parent(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(built / "ws")
    plan, scans = run.patches(), scans_of(run)
    assert find_parent(built / "ws", plan, scans, 20) is not None
    assert find_parent(built / "ws", plan, scans, 19) is None
    monkeypatch.setattr("mammo_etl.reuse.FORMAT_VERSION", run.manifest["format_version"] + 1)
    assert find_parent(built / "ws", plan, scans, 20) is None


def test_an_upgraded_package_is_told(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    films, workspace = built / "films", built / "ws"
    assert is_up_to_date(films, workspace)
    monkeypatch.setattr("mammo_etl.latest.package_versions", lambda: {"numpy": "99"})
    assert not is_up_to_date(films, workspace)


def test_a_changed_film_that_only_verify_sees_is_cleaned_by_the_next_build(
    copy: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stamp is the same, as on a file system that keeps no time of a file's change of status."""
    workspace, films = copy / "ws", copy / "films"
    build(films, workspace, cluster)
    scan = scans_of(open_run(workspace))[0]
    receipt = next((workspace / "images").rglob(f"{scan.image_id}.json"))
    known = read_sealed(receipt)
    known["files"][0]["xxh3"] = "0" * 32
    write_sealed(receipt, known)
    (fault,) = [text for found in verify_films(workspace, open_run(workspace)) for text in found]
    assert fault == f"{scan.path}: changed since it was read; the next build makes a new run of it"
    convert = next(row for row in build(films, workspace, cluster).timings if row["stage"] == "convert")
    assert convert["items"] - convert["skipped"] == 1
