"""Format versions: what was written by another version of mammo is read right, made again, or refused in a sentence; never misread, never removed.

`data/format_N` are workspaces as mammo wrote them when runs were of format version N: 1, the oldest, and the present one. When a version is raised,
make the next by `data/make_workspace.py` with the new code, leave these as they are, and add it to FORMATS.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Command

from flows import maintenance
from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from flows.comparison import compare_models
from flows.score_scans import score_one
from flows.train_model import train_model
from mammo_etl import catalog, latest
from mammo_etl.convert import convert_film
from mammo_etl.extract import valid_receipt
from mammo_etl.formats import METRICS_VERSION, MODEL_VERSION, STUDY_VERSION, FormatError
from mammo_etl.garbage import find_garbage, remove
from mammo_etl.reader import DamagedRunError, open_run
from mammo_etl.schema import FORMAT_VERSION
from mammo_etl.settings import BuildSettings, SourceSettings, validated
from mammo_etl.store import read_rows
from mammo_etl.workspace import read_json, read_sealed, write_json, write_sealed
from mammo_model.finished import finished_models, read_finished
from mammo_model.scoring import find_model
from mammo_model.scoring_settings import ScoringSettings
from mammo_model.settings import TrainingSettings
from mammo_model.studies import study_of
from mammo_model.tuning_settings import TuningSettings

DATA = Path(__file__).parent / "data"
FORMATS = {"format_1": 1, "format_3": 3}
"""Format versions of the runs kept there."""
NEWER = "made by a newer mammo; upgrade this one"
PRESENT = f"format_{FORMAT_VERSION}"
assert PRESENT in FORMATS, "make a workspace of the present format; see above"


@pytest.fixture(params=FORMATS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of each workspace."""
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "format_1", tmp_path / "oldest"))


@pytest.fixture
def present(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / PRESENT, tmp_path / "present"))


def only(paths: Any) -> Path:
    (path,) = paths
    return Path(path)


def of_version(path: Path, version: Any) -> None:
    """Has a JSON file be of another version (None: of none), as if that had written it: whatever else is in it may be unknown here."""
    content = (
        {"format_version": version, "run": "what a later version may call it"} if version == 99 else read_json(path)
    )
    content = {key: value for key, value in content.items() if key != "seal"} | {"format_version": version}
    if version is None:
        del content["format_version"]
    write_json(path, content)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What was kept


def test_a_kept_run_is_read_right(old: Path) -> None:
    run = open_run(old)
    assert run.manifest["format_version"] == FORMATS[old.name]
    # Reports were left out of what is kept.
    assert catalog.verify_run(run) == [f"{run.folder / 'report.html'}: missing"]
    patches = run.patches()
    pixels = read_rows(run.open_patches(), patches["row"].to_numpy())
    assert pixels.shape == (run.manifest["counts"]["patches"], 32, 32)
    assert pixels.mean((1, 2)) == pytest.approx(patches["mean"])
    assert set(patches["split"]) == {"train", "validation", "test"}
    assert patches["label"].gt(0).sum() == run.manifest["counts"]["abnormal_patches"]


def test_nothing_of_a_kept_run_is_removed(old: Path) -> None:
    before = files_of(old)
    assert list(remove(old, find_garbage(old, keep=0))) == []
    assert files_of(old) == before


def test_a_kept_model_is_read_right(old: Path) -> None:
    model_id = only(finished_models(old)).name
    finished = read_finished(old / "models" / model_id)
    assert finished is not None
    predictions = pq.read_table(old / "models" / model_id / "predictions.parquet").to_pandas()
    test = predictions[predictions["split"] == "test"]
    accuracy = (test["target"] == test["predicted"]).mean()
    assert finished[1]["splits"]["test"]["accuracy"]["value"] == pytest.approx(accuracy)
    shutil.copytree(old / "models" / model_id, old / "models" / "again")
    assert compare_models(old, model_id, "again").differences[0].a == pytest.approx(accuracy)


def test_a_model_is_trained_on_the_oldest_run(oldest: Path) -> None:
    before = files_of(oldest)
    settings = TrainingSettings(binary=True, epochs=1, batch_size=8, width=1, architecture="vgg2")
    summary = train_model.fn(oldest, settings)
    assert summary.new
    table = pq.read_table(oldest / "catalog.parquet").to_pydict()
    assert summary.model_id in table["id"]
    after = files_of(oldest)
    assert {name: after[name] for name in before if name != "catalog.parquet"} == {
        name: content for name, content in before.items() if name != "catalog.parquet"
    }


def test_films_are_not_put_to_a_model_of_films_cleaned_otherwise(oldest: Path, mammo: Command, tmp_path: Path) -> None:
    code, _, said = mammo("score", tmp_path, "--workspace", oldest, "--out", tmp_path / "out")
    assert code == 2
    assert "manifest.json: format version 1, expected 3: made by an older mammo; build a run and train" in said
    assert find_model(DATA / PRESENT).classes == ("Normal", "Abnormal")


def test_films_of_an_older_run_are_not_compared(oldest: Path, mammo: Command) -> None:
    code, _, said = mammo("verify", "--workspace", oldest, "--deep")
    assert (code, "made by an older mammo; verify it without --deep" in said) == (2, True)
    code, said, _ = mammo("verify", "--workspace", oldest)
    assert (code, "report.html: missing" in said) == (1, True)


def test_a_build_beside_the_oldest_run_makes_one_of_its_own(
    oldest: Path, phantoms: Path, cluster: ClusterSettings
) -> None:
    before, old_run = files_of(oldest), open_run(oldest)
    settings = validated(
        BuildSettings,
        {
            "patches": {"size": 64, "stride": 32, "normals_per_film": 4, "min_distance": 16, "normals": "background"},
            "plan": {"validation": 0.3, "test": 0.3},
        },
        "test",
    )
    source = SourceSettings(kind="cbis-ddsm", path=str(phantoms / "cbis-ddsm"))
    summary = build_dataset.fn([source], oldest, settings, cluster)
    run = open_run(oldest)
    assert summary.new
    assert (run.run_id, run.manifest["format_version"]) == (summary.run_id, FORMAT_VERSION)
    assert run.manifest["parent"] == old_run.run_id
    assert catalog.verify_run(run) == []
    after = files_of(oldest)
    replaced = {"catalog.parquet", "current.json", "rejects.parquet"}
    assert all(after[name] == content for name, content in before.items() if name not in replaced)
    assert {old_run.run_id, run.run_id} <= set(pq.read_table(oldest / "catalog.parquet").to_pydict()["id"])
    assert list(find_garbage(oldest)) == []
    assert maintenance.verify(oldest, run.run_id, deep=True).faults == []


# What another version may have written


@pytest.mark.parametrize(
    "name", ["current.json", "runs/*/manifest.json", "models/*/manifest.json", "models/*/metrics.json"]
)
def test_nothing_is_done_in_a_workspace_of_a_newer_version(present: Path, name: str) -> None:
    path = only(present.glob(name))
    of_version(path, 99)
    before = files_of(present)
    with pytest.raises(FormatError, match=rf"{path}: format version 99, expected .*: {NEWER}"):
        catalog.check_formats(present)
    with pytest.raises(FormatError, match=NEWER):
        build_dataset.fn([SourceSettings(kind="cbis-ddsm", path=str(DATA))], present)
    with pytest.raises(FormatError, match=NEWER):
        train_model.fn(present)
    if "metrics" not in name:
        with pytest.raises(FormatError, match=NEWER):
            list(remove(present, find_garbage(present, keep=0)))
    after = files_of(present)
    after.pop("lock", None)
    assert after == before


def test_a_newer_catalog_is_not_written_over(present: Path) -> None:
    table = pq.read_table(present / "catalog.parquet")
    pq.write_table(catalog.versioned(table, 99), present / "catalog.parquet")
    with pytest.raises(FormatError, match=rf"catalog.parquet: format version 99, .*{NEWER}"):
        catalog.check_formats(present)


@pytest.mark.parametrize("name", ["current.json", "runs/*/manifest.json"])
def test_a_run_that_names_no_version_is_damaged(present: Path, name: str) -> None:
    of_version(only(present.glob(name)), None)
    with pytest.raises(DamagedRunError, match="run the build again, which mends it"):
        open_run(present)


@pytest.mark.parametrize("name", ["current.json", "runs/*/manifest.json"])
@pytest.mark.parametrize(("version", "sentence"), [(0, "made by an older mammo; build the run again"), (99, NEWER)])
def test_a_run_of_an_unknown_version_is_refused(present: Path, name: str, version: int, sentence: str) -> None:
    path = only(present.glob(name))
    of_version(path, version)
    with pytest.raises(
        FormatError, match=rf"{path}: format version {version}, expected 1 to {FORMAT_VERSION}: {sentence}"
    ):
        open_run(present)


@pytest.mark.parametrize(
    ("name", "expected"), [("manifest.json", f"1 to {MODEL_VERSION}"), ("metrics.json", f"1 to {METRICS_VERSION}")]
)
@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (None, "no format version, expected {}; train the model again"),
        (0, "format version 0, expected {}: made by an older mammo; train the model again"),
        (99, f"format version 99, expected {{}}: {NEWER}"),
    ],
)
def test_a_model_of_an_unknown_version_is_refused(
    present: Path, name: str, expected: str, version: int | None, sentence: str
) -> None:
    model_id = only(finished_models(present)).name
    shutil.copytree(present / "models" / model_id, present / "models" / "again")
    of_version(present / "models" / model_id / name, version)
    match = f"{model_id}/{name}: {sentence.format(expected)}"
    with pytest.raises(FormatError, match=match):
        compare_models(present, "again", model_id)
    with pytest.raises(FormatError, match=match):
        find_model(present, model_id)
    with pytest.raises(FormatError, match=match):
        catalog.write_catalog(present)


@pytest.mark.parametrize("version", [None, 1, 99])
def test_a_study_of_an_unknown_version_is_refused(present: Path, version: int | None) -> None:
    study = study_of(present, TrainingSettings(), TuningSettings(), name="mine")
    study.begin()
    assert study_of(present, TrainingSettings(), TuningSettings(), name="mine") == study
    path = study.folder / "tuning.json"
    of_version(path, version)
    sentence = NEWER if version == 99 else "give this study another --study NAME"
    with pytest.raises(FormatError, match=sentence):
        study_of(present, TrainingSettings(), TuningSettings(), name="mine")
    write_json(study.result_path, {"format_version": version} if version else {})
    with pytest.raises(FormatError, match=rf"study.json: .*expected {STUDY_VERSION}.*{sentence}"):
        study.result()
    if version == 1:
        assert list(find_garbage(present, keep=0)) == []
    else:
        with pytest.raises(FormatError, match=NEWER if version else "remove the study's folder"):
            list(find_garbage(present))


@pytest.mark.parametrize("version", [None, 2, 99])
def test_a_receipt_of_another_version_is_made_again(present: Path, version: int | None) -> None:
    def other(path: Path) -> None:
        content = {**(read_sealed(path) or {}), "format_version": version}
        write_sealed(path, content if version else {key: content[key] for key in content if key != "format_version"})

    run = open_run(present)
    shard = run.folder / "patches.zarr" / "c" / "0" / "0" / "0"
    receipt = {
        "format_version": FORMAT_VERSION,
        "basis": "b",
        "sha256": run.manifest["digests"]["patches.zarr/c/0/0/0"],
    }
    path = run.folder / "shards" / "000000.json"
    write_sealed(path, receipt)
    assert shard.exists()
    assert valid_receipt(run.folder, 0) == receipt
    other(path)
    assert valid_receipt(run.folder, 0) is None
    write_sealed(present / "latest.json", {"format_version": FORMAT_VERSION})
    other(present / "latest.json")
    assert latest.up_to_date(present, "basis", BuildSettings()) is None


@pytest.mark.parametrize("version", [None, 2, 99])
def test_a_film_s_receipts_of_another_version_are_made_again(
    version: int | None, phantoms: Path, tmp_path: Path, read_work: Callable[[Path], Any]
) -> None:
    settings = BuildSettings()
    work = read_work(phantoms / "cbis-ddsm")

    def convert() -> tuple[bool, bool]:
        result = convert_film(work, tmp_path, settings.cleaning, settings.patches)
        return result.image_skipped, result.candidates_skipped

    assert convert() == (False, False)
    assert convert() == (True, True)
    for kind, expected in (("candidates", (True, False)), ("images", (False, True))):
        path = only(tmp_path.glob(f"{kind}/*/*.json"))
        content = {**(read_sealed(path) or {}), "format_version": version}
        write_sealed(path, content if version else {key: content[key] for key in content if key != "format_version"})
        assert convert() == expected
        assert (read_sealed(path) or {})["format_version"] == FORMAT_VERSION


@pytest.fixture
def read_work() -> Callable[[Path], Any]:
    """The work of the first film of a source."""
    from mammo_etl.film_work import film_work
    from mammo_etl.inventory import assemble, list_sources, read_headers

    def read(folder: Path) -> Any:
        (files,) = list_sources([SourceSettings(kind="cbis-ddsm", path=str(folder))])
        inventory = assemble(files, dict(read_headers("cbis-ddsm", tuple(files.with_headers))))
        return next(iter(film_work(inventory.scans, inventory.findings, inventory.rejects)))

    return read


def test_scores_of_a_newer_version_are_not_written_over(present: Path, tmp_path: Path) -> None:
    out, film = tmp_path / "out", tmp_path / "film.png"
    film.write_bytes(b"no film")
    write_json(out / "manifest.json", {"format_version": 99})
    with pytest.raises(FormatError, match=rf"out/manifest.json: format version 99, expected 1: {NEWER}"):
        score_one(str(film), present, out, None, ScoringSettings())
    assert json.loads((out / "manifest.json").read_text()) == {"format_version": 99}


def test_columns_of_another_time_are_named(present: Path) -> None:
    run = open_run(present)
    path = run.folder / "scans.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["image_sha256"]), path)
    from mammo_etl.verify import verify_films

    with pytest.raises(FormatError, match=r"scans.parquet: other columns than now \(image_sha256\)"):
        list(verify_films(present, run))
