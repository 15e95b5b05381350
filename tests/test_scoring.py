"""Scoring whole films: every figure is the model's own answer to a patch of the cleaned film, and work that is done is not done again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import Command

from flows.clusters import ClusterSettings
from flows.score_scans import score_one, score_scans
from mammo_etl.breast import Breast
from mammo_etl.cleaning import CleanFilm
from mammo_etl.extract import cut
from mammo_etl.files import digest_of_file, read_bytes
from mammo_etl.film import Film, read_film
from mammo_etl.film_files import clean_alone, loose_films, with_ics
from mammo_etl.lock import WorkspaceInUseError, locked
from mammo_etl.reader import read_table
from mammo_etl.records import Box, Reason, Rejection
from mammo_etl.workspace import DamagedFileError, read_json
from mammo_model.film_pictures import candidates_picture, class_picture
from mammo_model.heatmap import Heatmap, find_lesions, heatmap_of
from mammo_model.score_tables import write_scores
from mammo_model.scoring import ScoringError, find_model, places_of, score_film
from mammo_model.scoring_settings import ScoringSettings
from mammo_model.settings import ArchitectureName, TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
SIZE = 64
FIVE = ("Normal", "Benign Calcification", "Benign Mass", "Malignant Calcification", "Malignant Mass")


def write_model(
    workspace: Path,
    name: str = "run-1-model",
    binary: bool = False,
    finished: str = "2026-01-01",
    architecture: ArchitectureName = "vgg1",
    width: int = 4,
) -> None:
    """A finished model run of an untrained network, and its dataset run, as far as scoring reads them."""
    import keras

    from mammo_model.architectures import build_network

    keras.utils.set_random_seed(len(name))
    settings = TrainingSettings(architecture=architecture, width=width, binary=binary)
    folder = workspace / "models" / name
    folder.mkdir(parents=True)
    build_network(SIZE, settings).save(folder / "model.keras")
    manifest = {
        "format_version": 3,
        "model_id": name,
        "run_id": "run-1",
        "phantom": True,
        "finished": f"{finished}T00:00:00+00:00",
    }
    digests = {"model.keras": digest_of_file(folder / "model.keras")}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": digests}))
    (folder / "metrics.json").write_text(json.dumps({"format_version": 2, "classes": settings.classes}))
    run = workspace / "runs" / "run-1"
    run.mkdir(parents=True, exist_ok=True)
    of_run = {"format_version": 3, "settings": {"patches": {"size": SIZE}, "cleaning": {"smooth_mm": 2.0}}}
    (run / "manifest.json").write_text(json.dumps(of_run))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def films(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films of a patient, one of another, one of nobody, what is no film, and a film that ends too early."""
    folder = tmp_path_factory.mktemp("films")
    found = sorted((phantoms / "ddsm").rglob("*.LJPEG"))[:2] + sorted((phantoms / "cbis-ddsm").rglob("1-1.dcm"))[:1]
    for film, place in zip(found, ("anna/one.LJPEG", "anna/two (left).LJPEG", "berta/one.dcm"), strict=True):
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(film, folder / place)
    shutil.copy(found[2], folder / "alone.dcm")
    (folder / "notes.txt").write_text("no film")
    (folder / "anna" / "short.LJPEG").write_bytes(found[0].read_bytes()[:5000])
    return folder


def clean_of(mask: np.ndarray, y: int, x: int) -> CleanFilm:
    """A film whose breast's box begins at (y, x)."""
    image = mask.astype(np.uint8) * 100
    box = Box(y, x, *mask.shape)
    breast = Breast.__new__(Breast)
    for name, value in {"box": box, "mask": mask}.items():
        object.__setattr__(breast, name, value)
    return CleanFilm(image, Film(image, 8), breast)


def test_films_are_named_by_their_place_and_told_by_content(films: Path) -> None:
    found = {film.image_id: film for film in loose_films(str(films))[0]}
    assert list(found) == ["alone.dcm", "anna_one.LJPEG", "anna_short.LJPEG", "anna_two_left_.LJPEG", "berta_one.dcm"]
    assert [film.patient_id for film in found.values()] == ["alone.dcm", "anna", "anna", "anna", "berta"]
    ((one,), _) = loose_films(str(films / "anna" / "one.LJPEG"))
    assert (one.image_id, one.patient_id) == ("one.LJPEG", "one.LJPEG")


def test_names_that_come_out_alike_stay_apart(tmp_path: Path) -> None:
    for name in ("a b.png", "a_b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4), np.uint8))
    first, second = (film.image_id for film in loose_films(str(tmp_path))[0])
    assert {first.startswith("a_b.png"), second.startswith("a_b.png")} == {True}
    assert first != second


def test_an_archive_and_the_folder_that_it_was_made_of_have_the_same_films(films: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "films"), "zip", films)
    within = shutil.make_archive(str(tmp_path / "within"), "zip", films.parent, films.name)
    expected = [(film.image_id, film.patient_id) for film in loose_films(str(films))[0]]
    for root in (archive, within, f"zip://{films.name}::{within}"):
        assert [(film.image_id, film.patient_id) for film in loose_films(root)[0]] == expected


@pytest.mark.parametrize("stride", [None, 20, 64])
def test_patches_cover_the_breast_and_stay_on_the_film(stride: int | None) -> None:
    mask = np.ones((200, 150), bool)
    clean = clean_of(mask, 30, 0)
    places = places_of(clean, 250, 170, SIZE, ScoringSettings(stride=stride, min_breast=0))
    covered = np.zeros((250, 170), bool)
    for y, x in places:
        assert 0 <= y <= 250 - SIZE
        assert 0 <= x <= 170 - SIZE
        covered[y : y + SIZE, x : x + SIZE] = True
    assert covered[30:230, :150].all()
    assert len(np.unique(places, axis=0)) == len(places)
    steps = np.diff(np.unique(places[:, 0]))
    assert (steps[:-1] == (stride or SIZE // 2)).all()


def test_patches_with_little_breast_are_left_out_unless_there_are_no_others() -> None:
    mask = np.zeros((200, 150), bool)
    mask[:100] = True
    some = places_of(clean_of(mask, 0, 0), 200, 150, SIZE, ScoringSettings(min_breast=0.6))
    assert some[:, 0].max() <= 100 - 0.6 * SIZE
    assert len(some) > 3
    thin = np.zeros((200, 150), bool)
    thin[90:94] = True
    few = places_of(clean_of(thin, 0, 0), 200, 150, SIZE, ScoringSettings(min_breast=0.6))
    assert len(few)
    assert all(y <= 90 and y + SIZE >= 94 for y, _ in few)


def test_a_breast_smaller_than_a_patch_at_the_film_s_edge_is_scored() -> None:
    places = places_of(clean_of(np.ones((20, 20), bool), 230, 150), 250, 170, SIZE, ScoringSettings())
    assert places.tolist() == [[250 - SIZE, 170 - SIZE]]


def test_every_answer_is_the_model_s_to_that_patch(films: Path, workspace: Path, tmp_path: Path) -> None:
    import keras

    model = find_model(workspace)
    ((film,), _) = loose_films(str(films / "anna" / "one.LJPEG"))
    assert score_film(film, tmp_path, model, ScoringSettings()).rejection is None
    found = read_json(tmp_path / "films" / film.image_id / "scores.json")
    clean, rows, columns = clean_alone(film, read_bytes(film.path), model.cleaning)
    assert [rows, columns] == [found["rows"], found["columns"]]
    box = clean.breast.box
    patches = [
        cut(clean.image, (box.y, box.x, box.height, box.width), y, x, SIZE)[..., np.newaxis] for y, x in found["places"]
    ]
    assert len(patches) > 16
    network = keras.saving.load_model(workspace / "models" / "run-1-model" / "model.keras", compile=False)
    by_patch = np.concatenate([network.predict_on_batch(patch[np.newaxis]) for patch in patches])
    np.testing.assert_allclose(found["answers"], by_patch, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], by_patch.max(0), atol=1e-5)
    np.testing.assert_allclose(found["scores"]["abnormal"], by_patch[:, 1:].sum(1).max(), atol=1e-5)
    np.testing.assert_allclose(found["scores"]["malignant"], by_patch[:, 3:].sum(1).max(), atol=1e-5)
    # A five-class answer that were the same everywhere would prove little.
    assert np.ptp(by_patch, axis=0).max() > 1e-3


def test_the_map_has_a_patch_s_answer_at_its_middle_and_what_lies_between_between() -> None:
    image, box = np.full((160, 160), 9, np.uint8), Box(100, 40, 160, 160)
    places = np.array([[y, x] for y in (100, 132, 164, 196) for x in (40, 72, 104, 136)])
    answers = np.zeros((16, 2), np.float32)
    answers[5, 1] = 1  # At (132, 72): its middle is at (164, 104) of the film, (64, 64) of the box.
    answers[:, 0] = 1 - answers[:, 1]
    found = heatmap_of(places, answers, SIZE, image, box)
    assert found.cell == 2
    abnormal = found.probabilities[..., 1]
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, atol=1e-5)
    assert abnormal[31:33, 31:33] == pytest.approx(np.full((2, 2), 1), abs=0.07)
    assert abnormal[48, 32] == pytest.approx(0, abs=0.05)
    assert abnormal[40, 32] == pytest.approx(0.5, abs=0.07)
    assert abnormal[:, 60:].max() == 0


def test_candidates_are_the_connected_places_above_the_threshold() -> None:
    probabilities = np.zeros((40, 30, 5), np.float32)
    probabilities[..., 0] = 1
    probabilities[3:9, 4:8] = (0.3, 0.1, 0.1, 0.1, 0.4)
    probabilities[5, 6] = (0.1, 0, 0.8, 0.1, 0)
    probabilities[20:39, 20:30] = (0.35, 0.65, 0, 0, 0)
    probabilities[30, 2] = (0.0, 1, 0, 0, 0)
    breast = np.ones((40, 30), bool)
    breast[30, 2] = False
    heatmap = Heatmap(Box(100, 50, 158, 118), 4, probabilities, breast)
    first, second = find_lesions(heatmap, FIVE, ScoringSettings())
    assert first.box == Box(112, 66, 24, 16)
    assert (first.y, first.x, first.label_name) == (100 + 22, 50 + 26, "Benign Mass")
    assert first.scores == pytest.approx({"abnormal": 0.9, "malignant": 0.1})
    # Not over the box's own end.
    assert second.box == Box(180, 130, 76, 38)
    assert second.label_name == "Benign Calcification"
    assert [found.label_name for found in find_lesions(heatmap, FIVE, ScoringSettings(most_candidates=1))] == [
        "Benign Mass"
    ]
    assert len(find_lesions(heatmap, FIVE, ScoringSettings(threshold=0.68))) == 1


def test_a_folder_is_scored_on_the_cluster_and_the_rest_goes_on_without_what_is_broken(
    films: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    found = score_scans.fn(str(films), workspace, tmp_path / "out", cluster=cluster)
    assert found.counts["images"] == 4
    assert found.rejects == {"truncated-file": 1}
    assert found.phantom
    out = tmp_path / "out"
    tables = {name: pd.read_parquet(out / f"{name}.parquet") for name in found.counts}
    assert {name: len(table) for name, table in tables.items()} == found.counts
    assert tables["rejects"]["image_id"].tolist() == ["anna_short.LJPEG"]
    images = tables["images"].set_index("image_id")
    anna = images.loc[["anna_one.LJPEG", "anna_two_left_.LJPEG"], "abnormal"]
    patients = tables["patients"].set_index("patient_id")
    assert patients.loc["anna", ["images", "abnormal"]].tolist() == [2, anna.max()]
    windows = tables["windows"].groupby("image_id")
    assert images["p_malignant_mass"].to_dict() == windows["p_malignant_mass"].max().to_dict()
    assert images["windows"].to_dict() == windows.size().to_dict()
    for name in (*FIVE, "candidates"):
        picture = cv2.imread(str(out / "films" / "berta_one.dcm" / f"{name.lower().replace(' ', '-')}.png"))
        assert picture.shape[0] > images.loc["berta_one.dcm", "rows"]
    page = (out / "index.html").read_text()
    assert "phantoms only" in page
    assert "not a medical device" in page
    # The same bytes alone in one process, and nothing again.
    score_one(str(films / "berta" / "one.dcm"), workspace, tmp_path / "alone", None, ScoringSettings())
    one, other = (
        read_json(folder / "scores.json")
        for folder in (out / "films" / "berta_one.dcm", tmp_path / "alone" / "films" / "one.dcm")
    )
    assert one["answers"] == other["answers"]
    again = score_scans.fn(str(films), workspace, tmp_path / "out", cluster=cluster)
    assert again.skipped == 4
    assert again.counts == found.counts


def test_a_data_set_s_films_have_its_patients(
    phantoms: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    found = score_scans.fn(f"ddsm={phantoms / 'ddsm'}", workspace, tmp_path / "out", cluster=cluster)
    images = pd.read_parquet(tmp_path / "out" / "images.parquet")
    assert found.counts["images"] == len(list((phantoms / "ddsm").rglob("*.LJPEG")))
    assert set(images["source"]) == {"ddsm"}
    assert set(images["laterality"]) == {"LEFT", "RIGHT"}
    assert images["patient_id"].nunique() < len(images)


def test_what_holds_is_not_scored_again(films: Path, workspace: Path, tmp_path: Path) -> None:
    scan = tmp_path / "film.dcm"
    shutil.copy(films / "alone.dcm", scan)
    out = tmp_path / "out"

    def skipped(settings: ScoringSettings = ScoringSettings(), model: str | None = None) -> int:
        return score_one(str(scan), workspace, out, model, settings).skipped

    assert skipped() == 0
    first = (out / "windows.parquet").read_bytes()
    assert skipped() == 1
    assert (out / "windows.parquet").read_bytes() == first
    (out / "films" / "film.dcm" / "normal.png").write_bytes(b"")
    assert skipped() == 0
    assert skipped(ScoringSettings(stride=16)) == 0
    assert skipped() == 0
    figures = out / "films" / "film.dcm" / "scores.json"
    figures.write_text(figures.read_text().replace('"rows": 4', '"rows": 5', 1))
    assert skipped() == 0
    shutil.copy(next(films.rglob("one.LJPEG")), scan)
    assert skipped() == 0


def test_two_classes_know_no_malignant(films: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "ws", "run-1-binary", binary=True)
    score_one(str(films / "alone.dcm"), tmp_path / "ws", tmp_path / "out", None, ScoringSettings())
    images = pd.read_parquet(tmp_path / "out" / "images.parquet")
    assert "malignant" not in images
    np.testing.assert_allclose(images["abnormal"], images["p_abnormal"])


def test_the_model_finished_last_is_taken(tmp_path: Path) -> None:
    write_model(tmp_path, "run-1-older", finished="2026-01-01")
    write_model(tmp_path, "run-1-a-newer", finished="2026-02-01")
    (tmp_path / "models" / "run-1-under-way").mkdir()
    assert find_model(tmp_path).model_id == "run-1-a-newer"
    assert find_model(tmp_path, "run-1-older").model_id == "run-1-older"
    with pytest.raises(
        ScoringError, match="no finished model run-1-under-way here; there are run-1-a-newer, run-1-older"
    ):
        find_model(tmp_path, "run-1-under-way")


@pytest.mark.parametrize(
    ("scans", "out", "sentence"),
    [
        ("{films}/none", "{out}", "none: no such file or folder"),
        ("{films}", "{films}/out", "lies among"),
        ("ddsm={films}", "{films}", "lies among"),
        ("{out}/films", "{out}", "lies among"),
        ("{films}", "{ws}", "lies in the workspace"),
        ("{films}", "{ws}/models/scores", "lies in the workspace"),
        ("{empty}", "{out}", "no film here; expected DICOM"),
        ("ddsm={empty}", "{out}", "no film here"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(
    scans: str, out: str, sentence: str, films: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    (tmp_path / "out" / "films").mkdir(parents=True)
    places: dict[str, Any] = {"ws": workspace, "films": films, "empty": tmp_path / "empty", "out": tmp_path / "out"}
    with pytest.raises(ScoringError, match=sentence):
        score_scans.fn(scans.format(**places), workspace, out.format(**places), cluster=cluster)


def test_no_model_is_one_sentence(films: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="no finished model here; make one with `mammo train`"):
        score_one(str(films / "alone.dcm"), tmp_path, tmp_path / "out", None, ScoringSettings())


def test_a_film_of_ddsm_is_what_the_ics_beside_it_says(phantoms: Path, workspace: Path, tmp_path: Path) -> None:
    film = next((phantoms / "ddsm").rglob("*.LJPEG"))
    for file in (film, *film.parent.glob("*.ics")):
        shutil.copy(file, tmp_path)
    ((found,), _) = loose_films(str(tmp_path / film.name))
    assert found.scanner == ""
    assert with_ics(found).scanner in {"DBA", "HOWTEK", "LUMISYS"}
    model = find_model(workspace)
    score_film(found, tmp_path / "out", model, ScoringSettings())
    assert score_film(found, tmp_path / "out", model, ScoringSettings()).skipped
    (ics,) = tmp_path.glob("*.ics")
    ics.write_text(ics.read_text().replace("DIGITIZER", "DIGITISED"))
    assert not score_film(found, tmp_path / "out", model, ScoringSettings()).skipped


def test_a_folder_that_cannot_be_listed_is_a_reject(
    films: Path, workspace: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(path: Any, onerror: Any, **options: Any) -> Any:
        onerror(PermissionError(13, "Permission denied", str(films / "berta")))
        return [(folder, below, names) for folder, below, names in real(path, **options) if "berta" not in folder]

    real = os.walk
    monkeypatch.setattr("mammo_etl.files.os.walk", walk)
    found = score_scans.fn(str(films), workspace, tmp_path / "out", cluster=cluster)
    assert found.rejects == {"truncated-file": 1, "unreadable-folder": 1}
    assert found.counts["images"] == 3


def test_long_names_and_names_that_differ_in_case_alone_get_folders_of_their_own(tmp_path: Path) -> None:
    film = np.zeros((4, 4), np.uint8)
    long = tmp_path / ("1.3.6." * 20) / ("9." * 60)
    long.mkdir(parents=True)
    for path in (tmp_path / "A.png", tmp_path / "a.png", long / "1.png", long / "2.png"):
        cv2.imwrite(str(path), film)
    names = [film.image_id for film in loose_films(str(tmp_path))[0]]
    assert len({name.lower() for name in names}) == 4
    assert max(map(len, names)) < 200


def test_contents_of_dicom_media_are_no_film(films: Path, tmp_path: Path) -> None:
    for name in ("DICOMDIR", "film"):
        shutil.copy(films / "alone.dcm", tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    assert [film.image_id for film in loose_films(str(tmp_path))[0]] == ["film"]


def test_a_film_smaller_than_a_patch_is_a_reject_and_the_page_takes_any_name(
    films: Path, workspace: Path, tmp_path: Path
) -> None:
    whole = read_film(str(films / "alone.dcm")).pixels
    small = cv2.resize(whole, (60, 90), interpolation=cv2.INTER_AREA)
    folder = tmp_path / "<script>alert(1)"
    folder.mkdir()
    cv2.imwrite(str(folder / "small.png"), small)
    found = score_one(str(folder / "small.png"), workspace, tmp_path / "out", None, ScoringSettings())
    assert found.rejects == {"too-small": 1}
    assert found.counts["images"] == found.counts["windows"] == 0
    assert "<script>" not in (tmp_path / "out" / "index.html").read_text()


def test_findings_of_a_film_that_was_scored_are_no_rejects_of_it(films: Path, workspace: Path, tmp_path: Path) -> None:
    model = find_model(workspace)
    (film, *_), _ = loose_films(str(films))
    scored = score_film(film, tmp_path, model, ScoringSettings())
    rows = [
        Rejection(stage="inventory", code=Reason.MISSING_MASK, message="", image_id=image_id, finding_id=finding_id)
        for image_id, finding_id in ((film.image_id, ""), (film.image_id, "1"), ("other", ""), ("other", "1"))
    ]
    assert write_scores(tmp_path, model, ScoringSettings(), [scored], rows)[1] == {"missing-mask": 1}


def test_figures_that_another_scoring_has_put_there_are_refused(films: Path, workspace: Path, tmp_path: Path) -> None:
    model = find_model(workspace)
    (film, *_), _ = loose_films(str(films))
    scored = score_film(film, tmp_path, model, ScoringSettings())
    write_scores(tmp_path, model, ScoringSettings(), [scored], [])
    score_film(film, tmp_path, model, ScoringSettings(stride=40))
    with pytest.raises(DamagedFileError, match="changed after it was written; score the films again"):
        write_scores(tmp_path, model, ScoringSettings(), [scored], [])
    # What is there is not whole, and says so.
    assert not (tmp_path / "manifest.json").exists()
    with locked(tmp_path, "another"), pytest.raises(WorkspaceInUseError):
        score_one(film.path, workspace, tmp_path, None, ScoringSettings())


def test_maps_of_another_model_do_not_stay(films: Path, workspace: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "ws", "run-1-binary", binary=True)
    (film, *_), _ = loose_films(str(films))
    for place in (workspace, tmp_path / "ws"):
        score_film(film, tmp_path / "out", find_model(place), ScoringSettings())
    pictures = {path.name for path in (tmp_path / "out" / "films" / film.image_id).glob("*.png")}
    assert pictures == {"normal.png", "abnormal.png", "candidates.png"}


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_damaged_model_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "models" / "notes.txt").write_text("")
    assert find_model(tmp_path).model_id == "run-1-model"
    path = tmp_path / "models" / "run-1-model" / "model.keras"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScoringError, match="missing, or changed after it was written; train the model again"):
        find_model(tmp_path)


def test_a_place_of_the_film_is_at_that_place_of_the_picture() -> None:
    """A film of 2,400 x 1,500 pixels, reduced to half, whose breast's box begins at (400, 200)."""
    image, box = np.full((1600, 1000), 100, np.uint8), Box(400, 200, 1600, 1000)
    probabilities = np.zeros((200, 125, 2), np.float32)
    probabilities[100:110, 50:60, 1] = 1
    heatmap = Heatmap(box, 8, probabilities, np.ones((200, 125), bool))
    picture = class_picture(image, box, (2400, 1500), heatmap, 1, "", "")
    film = picture[-1200:, :750].astype(int)
    coloured = np.argwhere(np.ptp(film, axis=2) > 8)
    # 400 + 8 * 100 to 400 + 8 * 110 rows of the film, and 200 + 8 * 50 to 200 + 8 * 60 columns.
    np.testing.assert_allclose(coloured.min(0), (600, 300), atol=4)
    np.testing.assert_allclose(coloured.max(0), (640, 340), atol=4)
    lesion = find_lesions(heatmap, ("Normal", "Abnormal"), ScoringSettings())
    assert [found.box for found in lesion] == [Box(1200, 600, 80, 80)]
    boxed = candidates_picture(image, box, (2400, 1500), lesion, "", "")[-1200:, :750].astype(int)
    lines = np.argwhere(np.ptp(boxed[595:], axis=2) > 100)
    np.testing.assert_allclose(lines.min(0), (5, 300), atol=3)


ALONE = """
import sys
from pathlib import Path
from flows.score_scans import score_one
from mammo_model.scoring_settings import ScoringSettings
scan, workspace, out, threads = sys.argv[1:]
import flows.score_scans
flows.score_scans.cores = lambda: int(threads)
score_one(scan, Path(workspace), Path(out), None, ScoringSettings())
"""


@pytest.mark.slow
def test_the_number_of_threads_changes_no_byte(films: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "ws", architecture="vgg4-dropout-bn", width=16)
    for threads in ("1", "2"):
        command = [sys.executable, "-c", ALONE, films / "alone.dcm", tmp_path / "ws", tmp_path / threads, threads]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*") if path.is_file()}
        for name in ("1", "2")
    )
    for files in (one, two):
        del files["manifest.json"]
    assert one == two


def test_a_film_that_cannot_be_scored_fails_the_command(
    films: Path, workspace: Path, tmp_path: Path, mammo: Command
) -> None:
    film, out = films / "anna" / "short.LJPEG", tmp_path / "out"
    code, _, said = mammo("score", film, "--workspace", workspace, "--out", out)
    assert code == 1
    (row,) = read_table(out / "rejects.parquet").to_pylist()
    assert f"mammo: {film}: not scored: {row['code']}: {row['message']}" in said
