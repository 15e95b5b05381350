"""Training, evaluation and report on a small published run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mammo_etl.reader import ReaderError, open_run
from mammo_etl.settings import StoreSettings, digest
from mammo_etl.store import create_patches, shard_ranges, write_shard
from mammo_etl.workspace import Workspace
from mammo_model.progress import Progress
from mammo_model.settings import TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32
SHARD = 64
SETTINGS = TrainingSettings(width=4, depth=1, dropout=0.1, epochs=6, batch_size=16, learning_rate=0.01, seed=1)


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
        "phantom": True,
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

    def stop(stage: str) -> None:
        if stage == "figures":
            raise StopError

    with pytest.raises(StopError):
        train_and_evaluate(workspace, SETTINGS, progress=Progress(on_stage=stop))
    stages: list[str] = []
    run = train_and_evaluate(workspace, SETTINGS, progress=Progress(on_stage=stages.append, on_epoch=refuse))
    assert stages == ["training", "evaluation", "figures", "report"]
    assert not run.reused
    return run


def test_learns_a_separable_task(finished: Any) -> None:
    test = finished.metrics["splits"]["test"]
    assert (test["patches"], test["patients"]) == (64, 8)
    assert test["accuracy"]["value"] > 0.6  # chance is 0.2
    assert test["accuracy"]["low"] <= test["accuracy"]["value"] <= test["accuracy"]["high"]


def test_a_finished_run_is_whole(finished: Any) -> None:
    files = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    errors = finished.metrics["test_errors"]
    assert files - {f"figures/errors_{kind}.png" for kind, found in errors.items() if found} == {
        "model.keras",
        "history.csv",
        "predictions.parquet",
        "metrics.json",
        "manifest.json",
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
    assert set(finished.manifest["files"]) == files - {"manifest.json"}
    assert finished.manifest["phantom"] is True
    predictions = pd.read_parquet(finished.folder / "predictions.parquet")
    probabilities = predictions[[f"p{index}" for index in range(5)]]
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.to_numpy().argmax(1) == predictions["predicted"]).all()
    assert set(predictions["split"]) == {"test", "validation"}


def test_the_kept_model_is_that_of_the_least_validation_loss(finished: Any, workspace: Path) -> None:
    from mammo_model.evaluation import predict
    from mammo_model.training import TrainedModel

    trained = TrainedModel(finished.model_id, finished.folder)
    predictions = predict(open_run(workspace), SETTINGS, trained)
    validation = predictions[predictions["split"] == "validation"]
    right = validation[[f"p{index}" for index in range(5)]].to_numpy()[np.arange(len(validation)), validation["target"]]
    assert -np.log(right).mean() == pytest.approx(trained.history()["val_loss"].min(), rel=1e-3)


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

    once = train(open_run(workspace), SETTINGS.model_copy(update={"epochs": 1}), tmp_path)
    whole = TrainedModel(finished.model_id, finished.folder).history()
    pd.testing.assert_frame_equal(untimed(once.history()), untimed(whole.head(1)), check_exact=True)


KILLED = """
import os, signal, sys
from pathlib import Path
import keras
from mammo_etl.reader import open_run
from mammo_model.settings import TrainingSettings
from mammo_model.training import train

save_weights, saved = keras.Model.save_weights, []

def die_in_the_middle(self, path, *rest, **options):
    saved.append(path)
    if len(saved) == 3:
        Path(path).write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)
    save_weights(self, path, *rest, **options)

keras.Model.save_weights = die_in_the_middle
train(open_run(Path(sys.argv[1])), TrainingSettings.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_while_saving_it_goes_on_as_if_it_had_not(workspace: Path, finished: Any, tmp_path: Path) -> None:
    from mammo_model.training import TrainedModel, train

    command = [sys.executable, "-c", KILLED, str(workspace), SETTINGS.model_dump_json(), str(tmp_path)]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    done: list[int] = []
    resumed = train(open_run(workspace), SETTINGS, tmp_path, Progress(on_epoch=lambda epoch, *_: done.append(epoch)))
    assert done == [3, 4, 5, 6]
    straight = TrainedModel(finished.model_id, finished.folder)
    pd.testing.assert_frame_equal(untimed(resumed.history()), untimed(straight.history()), check_exact=True)
    for ours, theirs in zip(resumed.load().weights, straight.load().weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not (resumed.folder / "checkpoints").exists()


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


def test_one_class_is_refused(tmp_path: Path) -> None:
    from mammo_model.training import TrainingError, train

    publish(tmp_path, labels=(1, 3))
    with pytest.raises(TrainingError, match="all train patches are Abnormal"):
        train(open_run(tmp_path), SETTINGS.model_copy(update={"binary": True}), tmp_path / "models")


def test_patches_too_small_for_the_depth_are_refused(workspace: Path, tmp_path: Path) -> None:
    from mammo_model.training import TrainingError, train

    with pytest.raises(TrainingError, match="32 pixels are too small for a depth of 6"):
        train(open_run(workspace), SETTINGS.model_copy(update={"depth": 6}), tmp_path)


def test_no_published_run_is_the_readers_error(tmp_path: Path) -> None:
    from mammo_model.model_run import train_and_evaluate

    with pytest.raises(ReaderError):
        train_and_evaluate(tmp_path, SETTINGS)


def test_a_loss_that_is_no_number_is_reported(tmp_path: Path) -> None:
    from mammo_model.checkpoints import Checkpoints

    checkpoints = Checkpoints(tmp_path, tmp_path / "history.csv", [{"epoch": 1, "val_loss": float("nan")}])
    assert checkpoints.best_path is None
    checkpoints.rows += [{"epoch": 2, "val_loss": 2.0}, {"epoch": 3, "val_loss": 3.0}]
    assert checkpoints.best_epoch == 2


def test_the_networks_size() -> None:
    from mammo_model.architectures import build_network, dropout_rates

    assert build_network(256, TrainingSettings()).count_params() == 1_242_341
    assert dropout_rates(TrainingSettings()) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    binary = build_network(32, TrainingSettings(binary=True, width=2, depth=1))
    assert binary.output_shape == (None, 2)
    assert binary.inputs[0].dtype == "uint8"


def test_white_is_one_whatever_the_depth() -> None:
    from mammo_model.architectures import build_network

    small = TrainingSettings(width=2, depth=1)
    for dtype in (np.uint8, np.uint16):
        network = build_network(16, small, dtype)
        assert network.inputs[0].dtype == np.dtype(dtype).name
        assert network.get_layer("scale").scale == pytest.approx(1 / np.iinfo(dtype).max)
        white = np.full((1, 16, 16, 1), np.iinfo(dtype).max, dtype)
        assert np.asarray(network.get_layer("scale")(white)).max() == pytest.approx(1)


def test_settings_come_without_tensorflow() -> None:
    script = "import sys, mammo_model.settings, mammo_model.feed; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
