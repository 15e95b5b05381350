"""Training, evaluation and report on a small published run."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from mammo_etl.lock import WorkspaceInUseError, locked
from mammo_etl.reader import ReaderError, open_run
from mammo_etl.settings import StoreSettings, digest
from mammo_etl.store import create_patches, shard_ranges, write_shard
from mammo_etl.workspace import DamagedFileError, Workspace
from mammo_model.feed import START
from mammo_model.progress import Progress
from mammo_model.settings import TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32
SHARD = 64
SETTINGS = TrainingSettings(
    architecture="vgg1",
    width=4,
    epochs=6,
    batch_size=16,
    learning_rate=0.02,
    schedule="constant",
    augmentation=False,
    seed=1,
)


def publish(
    workspace: Path, labels: tuple[int, ...] = (0, 1, 2, 3, 4), splits: tuple[str, ...] = (), bits: int = 8
) -> None:
    """A published run of 40 patients with 8 patches each; a patch of label k has k bright stripes on noise."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    patches = []
    splits = splits or ("train", "train", "train", "validation", "test")
    for patient in range(40):
        for index in range(8):
            label = labels[(patient // 5 + index) % len(labels)]
            patch = rng.integers(0, 60, (SIZE, SIZE))
            for stripe in range(label):
                patch[:, 3 + 6 * stripe : 6 + 6 * stripe] += 150
            rows.append(
                {
                    "row": len(rows),
                    "patch_id": f"{patient}_{index}",
                    "source": "phantom",
                    "scanner": ("DBA", "HOWTEK", "")[patient % 3],
                    "patient_id": str(patient),
                    "image_id": f"film-{patient}",
                    "finding_id": f"film-{patient}-{label}" if label else "",
                    "y": 40 * index,
                    "x": 0,
                    "size": SIZE,
                    # A lesion of 20 pixels times its class in diameter, of which a tenth lies in the patch.
                    "roi_fraction": 0.1 if label else 0.0,
                    "roi_coverage": 0.1 * np.pi * (10 * label) ** 2 / SIZE**2,
                    "split": splits[patient % len(splits)],
                    "label": label,
                    "origin": "centre" if label else ("normal", "hard")[index % 2],
                }
            )
            patches.append(patch.astype(f"uint{bits}") * (257 if bits == 16 else 1))
    folder = workspace / "runs" / "tiny"
    folder.mkdir(parents=True)
    table = pd.DataFrame(rows)
    table.to_parquet(folder / "patches.parquet")
    films = table.drop_duplicates("image_id")
    density = [None if number % 4 == 0 else number % 4 for number in range(len(films))]
    pd.DataFrame({"image_id": films["image_id"], "density": density}).to_parquet(folder / "scans.parquet")
    findings = table[table["finding_id"] != ""].drop_duplicates("finding_id")
    subtlety = findings["label"].where(findings["label"] < 4)
    pd.DataFrame({"finding_id": findings["finding_id"], "subtlety": subtlety}).to_parquet(folder / "findings.parquet")
    create_patches(folder / "patches.zarr", len(rows), SIZE, StoreSettings(shard_rows=SHARD), bits)
    for shard in shard_ranges(len(rows), SHARD):
        write_shard(folder / "patches.zarr", shard, np.stack(patches[shard.start : shard.stop]))
    manifest = {
        "format_version": 1,
        "run_id": "tiny",
        "created": "2026-01-01T00:00:00+00:00",
        "phantom": True,
        "sources": [],
        "counts": dict.fromkeys(("scans", "findings", "patches", "rejects"), 0),
        "settings": {"plan": {"split": "patient"}, "cleaning": {}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (workspace / "current.json").write_text(json.dumps({"format_version": 1, "run_id": "tiny"}))


class StopError(Exception):
    pass


def refuse(*_: object) -> None:
    raise AssertionError("worked again")


def untimed(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns="seconds")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    publish(folder)
    return folder


@pytest.fixture(scope="module")
def finished(workspace: Path) -> Any:
    """A model run whose training nothing interrupted; it was stopped before its figures, and then finished."""
    from mammo_model.model_run import train_and_evaluate
    from mammo_model.onnx_export import can_export

    def stop(stage: str) -> None:
        if stage == "figures":
            raise StopError

    with pytest.raises(StopError):
        train_and_evaluate(workspace, SETTINGS, progress=Progress(on_stage=stop))
    stages: list[str] = []
    run = train_and_evaluate(workspace, SETTINGS, progress=Progress(on_stage=stages.append, on_epoch=refuse))
    assert stages == ["training", "evaluation", "figures", *(["export"] if can_export() else []), "report"]
    assert not run.reused
    return run


def test_learns_a_separable_task(finished: Any) -> None:
    test = finished.metrics["splits"]["test"]
    assert (test["patches"], test["patients"]) == (64, 8)
    assert test["accuracy"]["value"] > 0.6  # chance is 0.2
    assert test["accuracy"]["low"] <= test["accuracy"]["value"] <= test["accuracy"]["high"]


def test_a_finished_run_is_whole(finished: Any) -> None:
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    logs = {name for name in files if name.startswith("logs/")}
    assert {name.split("/")[1] for name in logs} == {"train", "validation"}
    errors = finished.metrics["test_errors"]
    sheets = {f"figures/errors_{kind}.png" for kind, found in errors.items() if found}
    assert files - logs - sheets - {"model.onnx", "lock"} == {
        "model.keras",
        "history.csv",
        "predictions.parquet",
        "metrics.json",
        "manifest.json",
        "training.json",
        "report.html",
        "figures/confusion_test.png",
        "figures/confusion_validation.png",
        "figures/confusion_findings.png",
        "figures/precision_recall.png",
        "figures/roc.png",
        "figures/reliability.png",
        "figures/learning.png",
        "figures/examples.png",
    }
    assert set(finished.manifest["files"]) == files - {"manifest.json", "lock"}
    assert finished.manifest["phantom"] is True
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    probabilities = predictions[[f"p{index}" for index in range(5)]]
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.to_numpy().argmax(1) == predictions["predicted"]).all()
    assert set(predictions["split"]) == {"test", "validation"}


def test_the_onnx_export_answers_as_the_model_does(finished: Any, workspace: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = onnxruntime.InferenceSession(finished.folder / "model.onnx", providers=["CPUExecutionProvider"])
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    # Another number of patches than it was checked with.
    patches = open_run(workspace).open_patches()[predictions["row"].to_numpy()].read().result()[..., np.newaxis]
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: patches})
    np.testing.assert_allclose(probabilities, predictions[[f"p{index}" for index in range(5)]], atol=1e-4)
    assert finished.manifest["onnx"]["largest_difference"] <= 1e-4


def test_an_export_that_answers_otherwise_is_refused(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from mammo_model import onnx_export
    from mammo_model.training import TrainedModel

    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    model = TrainedModel(finished.model_id, finished.folder).load()
    with pytest.raises(onnx_export.ExportError, match="differ from the model's"):
        onnx_export.export_onnx(model, tmp_path / "model.onnx", np.zeros((1, SIZE, SIZE, 1), np.uint8))
    assert not list(tmp_path.iterdir())


def test_the_kept_model_is_that_of_the_best_epoch(finished: Any, workspace: Path) -> None:
    from mammo_model.evaluation import predict
    from mammo_model.training import TrainedModel

    trained = TrainedModel(finished.model_id, finished.folder)
    history = trained.history()
    best = history.iloc[trained.best_epoch() - 1]
    assert best["val_macro_f1"] == history["val_macro_f1"].max()
    predictions = predict(open_run(workspace), SETTINGS, trained)
    validation = predictions[predictions["split"] == "validation"]
    assert f1_score(validation["target"], validation["predicted"], average="macro") == best["val_macro_f1"]
    right = validation[[f"p{index}" for index in range(5)]].to_numpy()[np.arange(len(validation)), validation["target"]]
    assert -np.log(right).mean() == pytest.approx(best["val_loss"], rel=1e-3)


def test_the_report_is_one_page_that_warns(finished: Any) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "Phantoms: these figures prove that the plumbing works" in page
    assert "Research software, not a medical device" in page
    assert "not the same data" in page
    assert "http" not in page
    shown = {path.stem for path in (finished.folder / "figures").iterdir()} - {"confusion_validation"}
    assert page.count("data:image/png;base64,") == len(shown) >= 7
    for section in ("levels", "calibration", "groups", "errors"):
        assert f'href="#{section}"' in page
        assert f'id="{section}"' in page


def test_errors_link_to_their_films(finished: Any, workspace: Path) -> None:
    from mammo_model import report

    error = {"number": 1, "row": 3, "y": 40, "x": 0, "size": 32, "finding_id": "film #7-2", "image_id": "film #7"}
    missed = {**error, "target": "Benign Mass", "predicted": "Normal", "abnormal": 0.0123}
    metrics = {**finished.metrics, "test_errors": {"missed": [missed], "false_alarms": []}}
    page = report.render(finished.manifest, SETTINGS, metrics, open_run(workspace).patches(), {})
    films = Workspace(Path("../..")).images(digest({}, version=1))
    assert f'<a href="{films}/film%20%237.png">film #7</a>' in page
    assert "../../runs/tiny/report.html" in page
    assert "film #7-2" in page
    assert "0.012" in page
    assert page.count("None on the test split.") == 1


def test_predictions_say_what_they_are_of(finished: Any) -> None:
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    normal = predictions["label"] == 0
    assert ((predictions["finding_id"] == "") == normal).all()
    assert predictions.loc[~normal, "diameter"].to_numpy() == pytest.approx(20 * predictions.loc[~normal, "label"])
    assert predictions.loc[normal, ["diameter", "subtlety"]].isna().all(axis=None)
    # The first film states no density; malignant masses (4) state no subtlety.
    by_film = predictions.set_index("image_id")["density"]
    assert by_film["film-8"].isna().all()
    assert (by_film["film-3"] == 3).all()
    stated = predictions.loc[~normal & (predictions["label"] < 4)]
    assert (stated["subtlety"] == stated["label"]).all()
    assert predictions.loc[predictions["label"] == 4, "subtlety"].isna().all()


def test_levels_count_what_there_is(finished: Any) -> None:
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    test = predictions[predictions["split"] == "test"]
    levels = finished.metrics["levels"]
    findings = test.loc[test["finding_id"] != "", "finding_id"].nunique()
    counts = {"patch": 64, "finding": findings, "image": 8, "patient": 8}
    assert {level: entry["count"] for level, entry in levels.items()} == counts
    assert finished.metrics["findings"]["findings"] == findings
    assert finished.metrics["findings"]["missing_classes"] == ["Normal"]
    assert finished.metrics["format_version"] == 2
    assert finished.metrics["calibration"]["fitted_on"] == "validation"


def test_classes_that_the_test_split_lacks_are_named(finished: Any, workspace: Path) -> None:
    from mammo_model import report

    patches = open_run(workspace).patches()
    test = finished.metrics["splits"]["test"]
    lacking = [{**entry, "support": 0} if entry["name"] == "Benign Mass" else entry for entry in test["per_class"]]
    splits = {**finished.metrics["splits"], "test": {**test, "per_class": lacking}}
    pages = [
        report.render(finished.manifest, SETTINGS, {**finished.metrics, "splits": splits}, patches, {})
        for splits in (finished.metrics["splits"], splits)
    ]
    sentence = "The test split has no patch of Benign Mass: balanced accuracy and the means over classes are those of the other classes"
    assert [sentence in page for page in pages] == [False, True]


def test_figures_by_source_and_scanner(finished: Any) -> None:
    groups = finished.metrics["test_groups"]
    (source,) = groups["source"]
    test = finished.metrics["splits"]["test"]
    assert (source["source"], source["patches"], source["patients"]) == ("phantom", 64, 8)
    assert source["accuracy"] == test["accuracy"]
    assert [entry["scanner"] for entry in groups["scanner"]] == ["", "DBA", "HOWTEK"]
    assert sum(entry["patches"] for entry in groups["scanner"]) == 64
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "phantom, scanner not stated" in page
    assert "phantom, HOWTEK" in page


def test_a_split_by_patch_is_shouted(finished: Any, workspace: Path) -> None:
    from mammo_model import report

    patches = open_run(workspace).patches()
    pages = [
        report.render(finished.manifest, SETTINGS, {**finished.metrics, "split_by": split_by}, patches, {})
        for split_by in ("patient", "official", "patch")
    ]
    assert ["Split by patch" in page for page in pages] == [False, False, True]
    assert finished.metrics["split_by"] == "patient"


def test_the_same_command_again_does_nothing(workspace: Path, finished: Any) -> None:
    from mammo_model.model_run import train_and_evaluate

    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    again = train_and_evaluate(workspace, SETTINGS, progress=Progress(refuse, refuse, refuse))
    assert again.reused
    assert again.metrics == finished.metrics
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_the_same_seed_gives_the_same_figures(workspace: Path, finished: Any, tmp_path: Path) -> None:
    from mammo_model.training import TrainedModel, train

    def stop(*_: object) -> None:
        raise StopError

    with pytest.raises(StopError):
        train(open_run(workspace), SETTINGS, tmp_path, Progress(on_epoch=stop))
    whole = TrainedModel(finished.model_id, finished.folder).history()
    once = TrainedModel(finished.model_id, tmp_path / finished.model_id).history()
    pd.testing.assert_frame_equal(untimed(once), untimed(whole.head(1)), check_exact=True)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mammo_etl.reader import open_run
from mammo_model import course
from mammo_model.progress import Progress
from mammo_model.settings import TrainingSettings
from mammo_model.training import train

run, settings, models, where = open_run(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
epochs = []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def on_batch(done, total):
    if where == "in mid-epoch" and len(epochs) == 1 and done == 5:
        die()

savez, saved = np.savez, []

def die_in_the_middle(path, **content):
    saved.append(path)
    if where == "while saving" and len(saved) == 3:
        Path(path).write_bytes(b"half a file")
        die()
    savez(path, **content)

np.savez = die_in_the_middle
validate = course.validate

def die_in_validation(*given):
    if where == "while validating" and epochs:
        die()
    return validate(*given)

course.validate = die_in_validation
progress = Progress(on_batch=on_batch, on_epoch=lambda epoch, *_: epochs.append(epoch))
train(run, TrainingSettings.model_validate_json(settings), models, progress, save_seconds=1e9 if where == "while saving" else 0)
"""

# All that has a state of its own: random numbers, momentum, running means, metrics.
STATEFUL = TrainingSettings(
    architecture="vgg3-dropout-bn",
    width=2,
    epochs=3,
    batch_size=16,
    learning_rate=0.01,
    sampling="balanced",
    focal_gamma=2,
    weight_decay=0.01,
)


@pytest.fixture(scope="module")
def straight(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training that nothing interrupted."""
    from mammo_model.training import train

    return train(open_run(workspace), STATEFUL, tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(
    ("where", "epochs", "batch"),
    [
        pytest.param("while saving", [3], 1, marks=pytest.mark.slow),
        ("in mid-epoch", [2, 3], 6),
        pytest.param("while validating", [2, 3], 12, marks=pytest.mark.slow),
    ],
)
def test_killed_it_goes_on_as_if_it_had_not_been(
    workspace: Path, straight: Any, tmp_path: Path, where: str, epochs: list[int], batch: int
) -> None:
    """From the batch after the last that was saved; the metrics of an epoch that was interrupted are those of all of it."""
    from mammo_model.training import train

    command = [sys.executable, "-c", KILLED, str(workspace), STATEFUL.model_dump_json(), str(tmp_path), where]
    import tensorflow as tf

    # Tests of scoring leave this process with one thread, and sums of two threads are others.
    threads = str(tf.config.threading.get_intra_op_parallelism_threads())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_NUM_INTRAOP_THREADS": threads}
    killed = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    done: list[int] = []
    batches: list[int] = []
    progress = Progress(on_epoch=lambda epoch, *_: done.append(epoch), on_batch=lambda step, _: batches.append(step))
    resumed = train(open_run(workspace), STATEFUL, tmp_path, progress)
    assert (done, batches[0]) == (epochs, batch)
    pd.testing.assert_frame_equal(untimed(resumed.history()), untimed(straight.history()), check_exact=True)
    for ours, theirs in zip(resumed.load().weights, straight.load().weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not (resumed.folder / "checkpoints").exists()


def test_patience_ends_a_training_also_after_a_restart(workspace: Path, tmp_path: Path) -> None:
    from mammo_model.training import train

    # A step size so small that nothing changes: the first epoch stays the best.
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-12, "patience": 2})

    def stop(epoch: int, *_: object) -> None:
        if epoch == 3:
            raise StopError

    with pytest.raises(StopError):
        train(open_run(workspace), settings, tmp_path, Progress(on_epoch=stop))
    trained = train(open_run(workspace), settings, tmp_path, Progress(on_batch=refuse))
    assert len(trained.history()) == 3
    assert trained.best_epoch() == 1


@pytest.mark.slow
def test_16_bits_are_learned_as_8_bits_are(tmp_path: Path) -> None:
    from mammo_model.model_run import train_and_evaluate

    publish(tmp_path, bits=16)
    run = train_and_evaluate(tmp_path, SETTINGS)
    assert run.metrics["splits"]["test"]["accuracy"]["value"] > 0.6
    assert (run.folder / "figures" / "examples.png").exists()


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    from mammo_model.training import TrainingError, train

    publish(tmp_path, splits=("train", "validation"))
    with pytest.raises(TrainingError, match="no test patches"):
        train(open_run(tmp_path), SETTINGS, tmp_path / "models")


def test_one_class_to_choose_by_is_refused(tmp_path: Path) -> None:
    from mammo_model.model_run import train_and_evaluate
    from mammo_model.training import TrainingError

    publish(tmp_path)
    path = tmp_path / "runs" / "tiny" / "patches.parquet"
    table = pd.read_parquet(path)
    table.loc[table["split"] == "validation", "label"] = 0
    table.to_parquet(path)
    with pytest.raises(TrainingError, match="all validation patches are Normal, so no model can be chosen by them"):
        train_and_evaluate(tmp_path, SETTINGS)
    assert not (tmp_path / "models").exists(), "gc keeps the runs of models"


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_shard_ends_a_training_in_a_sentence(tmp_path: Path, damage: str) -> None:
    from mammo_model.training import train

    publish(tmp_path)
    shard = tmp_path / "runs" / "tiny" / "patches.zarr" / "c" / "0" / "0" / "0"
    if damage == "gone":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[:20000] = bytes(20000)
        shard.write_bytes(content)
    with pytest.raises(DamagedFileError, match="the patch store is damaged; `mammo verify` tells what is"):
        train(open_run(tmp_path), SETTINGS, tmp_path / "models")


@pytest.mark.slow
def test_no_network_stays_behind(workspace: Path, tmp_path: Path) -> None:
    import gc

    import keras

    from mammo_model.training import train

    def alive() -> int:
        gc.collect()
        # By its type: to ask a weak proxy what it is raises if what it stands for is gone.
        return sum(issubclass(type(thing), keras.Model) for thing in gc.get_objects())

    alive_after = []
    for seed in range(3):
        train(open_run(workspace), SETTINGS.model_copy(update={"epochs": 1, "seed": seed}), tmp_path)
        alive_after.append(alive())
    # What other tests have left may go meanwhile. Two of each training would stay.
    assert alive_after[2] <= alive_after[0]


def test_weights_of_classes_weigh_in_the_loss(workspace: Path) -> None:
    from mammo_model.compiling import compiled
    from mammo_model.course import validate
    from mammo_model.training import task_of

    task = replace(task_of(open_run(workspace), SETTINGS), weights=np.array([1, 2, 3, 4, 5], np.float32))
    (patches, targets, weights), *_ = task.batches(START, 1)
    np.testing.assert_array_equal(weights, task.weights[targets])
    model = compiled(task, "float32")
    answers = np.asarray(model.predict_on_batch(patches))
    losses = -np.log(answers[np.arange(len(targets)), targets])
    expected = (losses * (1 + targets)).mean()
    assert float(model.compute_loss(None, targets, answers, weights, training=False)) == pytest.approx(
        expected, rel=1e-5
    )
    assert validate(model, model, task)["val_loss"] == pytest.approx(
        np.mean(
            [-np.log(model.predict_on_batch(x)[range(len(y)), y]) * (1 + y) for x, y in task.validation.in_order()]
        ),
        rel=1e-4,
    )


def test_two_at_one_model_are_told(workspace: Path, finished: Any) -> None:
    from mammo_model.model_run import train_and_evaluate
    from mammo_model.training import model_id_of

    settings = SETTINGS.model_copy(update={"seed": 9})
    folder = workspace / "models" / model_id_of("tiny", settings)
    folder.mkdir()
    with locked(folder, "a training"), pytest.raises(WorkspaceInUseError):
        train_and_evaluate(workspace, settings)


def test_one_class_is_refused(tmp_path: Path) -> None:
    from mammo_model.training import TrainingError, train

    publish(tmp_path, labels=(1, 3))
    with pytest.raises(TrainingError, match="all train patches are Abnormal"):
        train(open_run(tmp_path), SETTINGS.model_copy(update={"binary": True}), tmp_path / "models")


def test_patches_too_small_for_the_architecture_are_refused(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mammo_model import training

    monkeypatch.setattr(training, "least_size", lambda _: 64)
    with pytest.raises(training.TrainingError, match="32 pixels are too small for resnet, which needs 64"):
        training.train(open_run(workspace), TrainingSettings(architecture="resnet"), tmp_path)


def test_hard_normals_come_from_the_patch_table(workspace: Path) -> None:
    from mammo_model.training import task_of

    run = open_run(workspace)
    task = task_of(run, SETTINGS.model_copy(update={"hard_share": 0.25}))
    fed = task.feed.rows[task.plan.epoch(0, 0)]
    origins = run.patches().loc[fed, "origin"]
    normal = int((task.feed.targets == 0).sum())
    assert (origins == "hard").sum() == round(normal / 4)
    assert origins.isin(["hard", "normal"]).sum() == normal


def test_no_published_run_is_the_readers_error(tmp_path: Path) -> None:
    from mammo_model.model_run import train_and_evaluate

    with pytest.raises(ReaderError):
        train_and_evaluate(tmp_path, SETTINGS)


def test_the_best_epoch() -> None:
    from mammo_model.checkpoints import best_epoch

    rows = [{"epoch": 1, "val_loss": float("nan"), "val_macro_f1": 0.9}]
    assert best_epoch(rows) is None, "a loss that is no number"
    rows += [{"epoch": 2, "val_loss": 2.0, "val_macro_f1": 0.5}, {"epoch": 3, "val_loss": 3.0, "val_macro_f1": 0.6}]
    assert best_epoch(rows) == 3
    rows += [{"epoch": 4, "val_loss": 2.5, "val_macro_f1": 0.6}, {"epoch": 5, "val_loss": 2.5, "val_macro_f1": 0.6}]
    assert best_epoch(rows) == 4


def test_settings_come_without_tensorflow() -> None:
    script = "import sys, mammo_model.settings, mammo_model.feed; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


SHARED = """
import sys
import mammo_model
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from mammo_etl.reader import open_run
from mammo_model import backend
from mammo_model.training import train
from test_model_run import SETTINGS
backend.gpus = lambda: ["CPU:0", "CPU:1"]
train(open_run(sys.argv[1]), SETTINGS.model_copy(update={"precision": "float32", "xla": "off"}), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_several_devices_learn_one_model(workspace: Path, finished: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", SHARED, str(workspace), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (folder,) = tmp_path.iterdir()
    history = pd.read_csv(folder / "history.csv")
    assert len(history) == SETTINGS.epochs
    assert history["val_accuracy"].iloc[-1] > 0.95
    assert history["loss"].iloc[0] == pytest.approx(
        pd.read_csv(finished.folder / "history.csv")["loss"].iloc[0], rel=0.2
    )
    assert (folder / "model.keras").exists()
