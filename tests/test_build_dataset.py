"""The whole build on real files of each format: the contract on disk, and what a second build finds."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

from flows.build_dataset import BuildSummary, build_dataset
from flows.clusters import ClusterSettings
from mammo_etl import catalog
from mammo_etl.cleaning import clean_film, to_8bit
from mammo_etl.film import read_film
from mammo_etl.inventory import InventoryError
from mammo_etl.png import decode_png
from mammo_etl.presets import preset
from mammo_etl.reader import ReaderError, open_run
from mammo_etl.records import Finding, Label, Scan
from mammo_etl.schema import FORMAT_VERSION, PATCHES, from_rows
from mammo_etl.settings import BuildSettings, CleaningSettings, SourceSettings, digest, validated
from mammo_etl.workspace import Workspace

SETTINGS = validated(
    BuildSettings,
    {
        "inventory": {"mixed_ddsm": "all"},
        "patches": {"size": 64, "stride": 32, "normals_per_film": 40, "min_distance": 16, "hard_normals": 0.25},
        "store": {"shard_rows": 100},
    },
    "test",
)


def build(
    phantoms: Path, workspace: Path, cluster: ClusterSettings, settings: BuildSettings = SETTINGS
) -> BuildSummary:
    sources = [SourceSettings(kind=kind, path=str(phantoms / kind)) for kind in ("cbis-ddsm", "ddsm")]
    return build_dataset.fn(sources, workspace, settings, cluster)


@pytest.fixture(scope="module")
def workspace(phantoms: Path, cluster: ClusterSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one published run; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("workspace")
    build(phantoms, folder, cluster)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_run_is_what_the_contract_says(workspace: Path) -> None:
    run = open_run(workspace)
    assert {path.name for path in run.folder.iterdir()} == {
        "manifest.json",
        "scans.parquet",
        "findings.parquet",
        "patches.parquet",
        "rejects.parquet",
        "patches.zarr",
        "report.html",
    }
    assert run.manifest["format_version"] == FORMAT_VERSION
    assert run.manifest["phantom"] is True
    patches = run.patches()
    assert list(patches.columns) == PATCHES.names
    assert patches["row"].tolist() == list(range(len(patches)))
    assert (patches["run_id"] == run.run_id).all()
    array = zarr.open_array(run.folder / "patches.zarr", mode="r")
    assert (array.shape, array.dtype, array.chunks) == ((len(patches), 64, 64), np.uint8, (1, 64, 64))
    assert catalog.verify_run(run) == []
    rows = pq.read_table(workspace / "catalog.parquet").to_pylist()
    assert [(row["kind"], row["id"], row["patches"]) for row in rows] == [("run", run.run_id, len(patches))]


def test_all_five_classes_and_no_patient_in_two_splits(workspace: Path) -> None:
    patches = open_run(workspace).patches()
    assert set(patches["label"]) == {int(label) for label in Label}
    assert (patches["label_name"] == patches["label"].map({int(label): label.title for label in Label})).all()
    assert (patches.groupby(["source", "patient_id"])["split"].nunique() == 1).all()


def test_every_patch_is_what_is_cut_from_its_source_film(workspace: Path) -> None:
    """From the raw file again: its grey levels inside the breast mask, black outside."""
    run = open_run(workspace)
    stored = run.open_patches().read().result()
    patches = run.patches()
    scans = from_rows(pq.read_table(run.folder / "scans.parquet").to_pylist(), Scan)
    images = Workspace(workspace).images(digest(SETTINGS.cleaning))
    checked = 0
    for scan in scans:
        film = read_film(scan.path, scan.rows, scan.columns)
        shown = clean_film(film, scan.bits, scan.scanner, scan.institution, SETTINGS.cleaning).shown
        grey = to_8bit(shown.pixels, shown.bits)
        clean = decode_png((images / f"{scan.image_id}.png").read_bytes())
        y, x, height, width = pd.read_json(images / f"{scan.image_id}.json", typ="series")["box"]
        mask = np.zeros(grey.shape, bool)
        mask[y : y + height, x : x + width] = clean > 0
        expected = np.where(mask, np.maximum(grey, 1), 0)
        for patch in patches[patches["image_id"] == scan.image_id].itertuples():
            cut = expected[patch.y : patch.y + 64, patch.x : patch.x + 64]
            assert np.array_equal(stored[patch.row], cut), patch.patch_id
            assert patch.mean == pytest.approx(cut.mean())
            assert patch.std == pytest.approx(cut.std())
            assert patch.breast_fraction == pytest.approx((cut > 0).mean())
            checked += 1
    assert checked == len(patches) > 300


def test_a_patch_lists_its_own_finding_first_and_normal_tissue_none(workspace: Path) -> None:
    patches = open_run(workspace).patches()
    normal = patches["label"] == 0
    assert set(patches.loc[normal, "origin"]) == {"normal", "hard"}
    assert (patches["finding_ids"].str.len() == 0).equals(normal)
    assert (patches.loc[~normal, "finding_ids"].str[0] == patches.loc[~normal, "finding_id"]).all()
    assert not patches.loc[~normal].duplicated(["image_id", "y", "x"]).any()


def test_a_total_split_by_patch_is_met_and_its_leaks_are_told(
    phantoms: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    shutil.copytree(workspace / "images", tmp_path / "images")
    shutil.copytree(workspace / "candidates", tmp_path / "candidates")
    total = {**SETTINGS.model_dump(), "plan": {**preset("seed").plan.model_dump(), "patches": 100}}
    summary = build(phantoms, tmp_path, cluster, validated(BuildSettings, total, "test"))
    patches = open_run(tmp_path).patches()
    assert len(patches) == summary.counts["patches"] == 100
    assert (patches["label"] == 0).sum() == 85
    assert any("plan.split = patch" in text for text in summary.warnings)
    assert any("findings have no patch of their own: plan.patches = 100 at" in text for text in summary.warnings)
    [chosen] = [row for row in open_run(tmp_path).manifest["leaks"] if row["chosen"]]
    assert chosen["patients"] > 0


def test_a_store_of_sixteen_bits(phantoms: Path, workspace: Path, cluster: ClusterSettings, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"cleaning": CleaningSettings(bits=16)})
    build(phantoms, tmp_path, cluster, settings)
    deep, usual = open_run(tmp_path), open_run(workspace)
    sixteen, eight = deep.open_patches().read().result(), usual.open_patches().read().result()
    assert sixteen.dtype == np.uint16
    assert deep.patches()["patch_id"].tolist() == usual.patches()["patch_id"].tolist()
    assert np.array_equal(sixteen == 0, eight == 0)
    # 0 is what was blackened: the darkest tissue is raised to 1.
    assert np.abs(sixteen / 257 - eight).max() <= 1
    assert len(np.unique(sixteen)) > 2000


def test_rois_of_the_patches_agree_with_the_truth(phantoms: Path, workspace: Path) -> None:
    run = open_run(workspace)
    patches = run.patches()
    findings = from_rows(pq.read_table(run.folder / "findings.parquet").to_pylist(), Finding)
    assert {finding.finding_id for finding in findings} == set(patches.loc[patches["label"] > 0, "finding_id"])
    for finding_id, group in patches[patches["label"] > 0].groupby("finding_id"):
        truth = cv2.imread(str(phantoms / "truth" / f"{finding_id}.roi.png"), cv2.IMREAD_GRAYSCALE) > 0
        for patch in group.itertuples():
            inside = truth[patch.y : patch.y + 64, patch.x : patch.x + 64].sum()
            assert patch.roi_fraction == pytest.approx(inside / truth.sum(), abs=0.03)


def test_one_worker_or_two_the_bytes_are_the_same(phantoms: Path, workspace: Path, tmp_path: Path) -> None:
    build(phantoms, tmp_path, ClusterSettings(workers=1))
    one, two = open_run(tmp_path), open_run(workspace)
    assert one.run_id == two.run_id
    assert files_of(one.folder / "patches.zarr") == files_of(two.folder / "patches.zarr")
    pd.testing.assert_frame_equal(one.patches(), two.patches())
    for name in ("patches", "scans", "findings", "rejects"):
        assert (one.folder / f"{name}.parquet").read_bytes() == (two.folder / f"{name}.parquet").read_bytes()
    assert files_of(tmp_path / "candidates") == files_of(workspace / "candidates")


def test_a_second_build_finds_everything_done(phantoms: Path, workspace: Path, cluster: ClusterSettings) -> None:
    """By content, as where stamps tell nothing."""
    (workspace / "latest.json").unlink()
    before = files_of(workspace)
    summary = build(phantoms, workspace, cluster)
    assert not summary.new
    convert = next(row for row in summary.timings if row["stage"] == "convert")
    assert convert["skipped"] == convert["items"] > 0
    after = files_of(workspace)
    assert after.pop("latest.json")
    assert after == before


def test_a_build_goes_on_where_another_was_stopped(
    phantoms: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before publishing; since then one shard was damaged, one lost, and files lie half written."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("flows.build_dataset.publish", stop)
        with pytest.raises(KeyboardInterrupt):
            build(phantoms, tmp_path, cluster)
    (run,) = (tmp_path / "runs").iterdir()
    assert not (tmp_path / "current.json").exists()
    shards = run / "patches.zarr" / "c"
    damaged = shards / "1" / "0" / "0"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"corrupted")
    (shards / "2" / "0" / "0").unlink()
    (shards / "2" / "0" / ".unfinished-x2-0").write_bytes(b"half a shard")
    (run / ".unfinished-x1-scans.parquet").write_bytes(b"half a table")
    summary = build(phantoms, tmp_path, cluster)
    assert summary.new
    extract = next(row for row in summary.timings if row["stage"] == "extract")
    assert extract["items"] - extract["skipped"] == 200
    assert files_of(run / "patches.zarr") == files_of(open_run(workspace).folder / "patches.zarr")
    assert catalog.verify_run(open_run(tmp_path)) == []


def content_of(folder: Path) -> dict[str, bytes]:
    """A run's files but those that tell of times."""
    return {name: data for name, data in files_of(folder).items() if name not in ("manifest.json", "report.html")}


@pytest.mark.parametrize("damage", ["files", "manifest.json"])
def test_the_next_build_mends_a_run_that_was_damaged_after_publishing(
    phantoms: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings, damage: str
) -> None:
    """Readers that need nothing of what is damaged can work meanwhile."""
    shutil.copytree(workspace, tmp_path / "ws")
    run = open_run(workspace := tmp_path / "ws")
    before = content_of(run.folder)
    scans = run.folder / "scans.parquet"
    if damage == "files":
        (run.folder / "patches.parquet").unlink()
        (run.folder / "patches.zarr" / "zarr.json").write_bytes(b'{"shape": [')
        shard = run.folder / "patches.zarr" / "c" / "1" / "0" / "0"
        shard.write_bytes(shard.read_bytes()[:-9] + b"corrupted")
        (run.folder / "extra").write_text("x")
        (workspace / "current.json").write_text('{"run_id"')
        (workspace / "catalog.parquet").write_bytes(b"PAR1" + bytes(100))
    else:
        manifest = (run.folder / damage).read_text()
        (run.folder / damage).write_text(manifest.replace('"stride": 32', '"stride": 33'))
        with pytest.raises(ReaderError, match=r"manifest\.json: changed since it was published; run the build again"):
            open_run(workspace)
    ended = Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not ended.is_set():
            seen.add(scans.read_bytes())

    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read)
        assert build(phantoms, workspace, cluster).new
        ended.set()
        reading.result()
    assert seen == {before["scans.parquet"]}
    mended = open_run(workspace)
    assert catalog.verify_run(mended) == []
    assert content_of(mended.folder) == before
    assert (mended.run_id, mended.manifest["parent"]) == (run.run_id, None)
    assert pq.read_table(workspace / "catalog.parquet").num_rows == 1
    assert not build(phantoms, workspace, cluster).new


def test_verify_names_what_was_changed_after_publishing(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "ws")
    run = open_run(tmp_path / "ws")
    (run.folder / "scans.parquet").write_bytes(b"x")
    (run.folder / "patches.zarr" / "c" / "0" / "0" / "0").unlink()
    (run.folder / "extra").write_text("x")
    faults = catalog.verify_run(run)
    assert [fault.split("/")[-1] for fault in faults] == [
        "0: missing",
        "scans.parquet: changed since it was published",
        "extra: not part of the run",
    ]


def test_publishing_refuses_a_run_with_gaps(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(catalog.IncompleteRunError, match=r"\[0, 1\]"):
        catalog.write_run_tables(tmp_path, "run-x", [], [], [], pd.DataFrame({"row": range(150)}), 100)


def test_broken_films_are_left_out_and_the_rest_goes_on(
    phantoms: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    shutil.copytree(phantoms / "ddsm", tmp_path / "ddsm")
    films = sorted((tmp_path / "ddsm").rglob("*.LJPEG"))
    films[0].write_bytes(films[0].read_bytes()[:4000])
    films[1].write_bytes(b"not a film")
    films[2].unlink()
    summary = build_dataset.fn(
        [SourceSettings(kind="ddsm", path=str(tmp_path / "ddsm"))],
        tmp_path / "ws",
        SETTINGS,
        cluster,
    )
    rejects = pd.read_parquet(summary.folder / "rejects.parquet").set_index("path")
    assert set(rejects.index) >= {str(films[0]), str(films[1])}
    assert rejects.loc[str(films[0]), "code"] == "truncated-file"
    assert "missing-files" in set(rejects["code"])
    assert summary.counts["rejects"] == len(rejects) == 3
    assert summary.counts["scans"] == len(films) - 3


def test_too_many_broken_films_stop_the_run_before_it_is_published(
    phantoms: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    shutil.copytree(phantoms / "ddsm", tmp_path / "ddsm")
    for film in sorted((tmp_path / "ddsm").rglob("*.LJPEG"))[::2]:
        film.write_bytes(film.read_bytes()[:4000])
    source = SourceSettings(kind="ddsm", path=str(tmp_path / "ddsm"))
    with pytest.raises(InventoryError, match=r"more than inventory.max_reject_share = 20%: nothing was published"):
        build_dataset.fn([source], tmp_path / "ws", SETTINGS, cluster)
    with pytest.raises(ReaderError, match="no published run"):
        open_run(tmp_path / "ws")
    assert set(pd.read_parquet(tmp_path / "ws" / "rejects.parquet")["code"]) == {"truncated-file"}


def test_abnormal_ddsm_beside_cbis_ddsm_is_refused_unless_a_setting_says_so(
    phantoms: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    with pytest.raises(InventoryError, match=r"set inventory\.mixed_ddsm to normal-only"):
        build(phantoms, tmp_path, cluster, SETTINGS.model_copy(update={"inventory": BuildSettings().inventory}))
    summary = build(
        phantoms,
        tmp_path,
        cluster,
        validated(BuildSettings, {**SETTINGS.model_dump(), "inventory": {"mixed_ddsm": "normal-only"}}, "test"),
    )
    patches = open_run(tmp_path).patches()
    assert set(patches.loc[patches["label"] > 0, "source"]) == {"cbis-ddsm"}
    assert "mixed-sources" in set(pd.read_parquet(summary.folder / "rejects.parquet")["code"])


def test_sources_that_are_empty_or_not_there(tmp_path: Path, cluster: ClusterSettings) -> None:
    with pytest.raises(InventoryError, match="no such folder"):
        build_dataset.fn([SourceSettings(kind="ddsm", path=str(tmp_path / "none"))], tmp_path / "ws", SETTINGS, cluster)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InventoryError, match=r"no usable film in any source \(reasons: empty-source\)"):
        build_dataset.fn(
            [SourceSettings(kind="ddsm", path=str(tmp_path / "empty"))], tmp_path / "ws", SETTINGS, cluster
        )
