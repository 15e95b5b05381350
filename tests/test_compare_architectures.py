"""Several architectures trained on one run, side by side."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from test_model_run import publish

from flows import compare_architectures as comparison
from mammo_model.settings import SEED_STEPS, TrainingSettings

SETTINGS = TrainingSettings(width=2, epochs=2, batch_size=32, augmentation=False)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    publish(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes seconds a model, and has tests of its own."""
    monkeypatch.setattr("mammo_model.model_run.can_export", lambda: False)


def test_each_is_a_model_run_of_its_own_and_all_are_in_table_and_figure(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = comparison.compare_architectures.fn(workspace, SETTINGS, None, ("vgg1", "vgg2"))
    folder = Path(found.folder)
    table = pd.read_parquet(folder / "results.parquet")
    assert table["architecture"].tolist() == ["vgg1", "vgg2"]
    assert table["epochs"].tolist() == [2, 2]
    assert table["parameters"].is_monotonic_increasing
    for row in found.results:
        model = workspace / "models" / row["model_id"]
        assert (model / "report.html").exists()
    assert pd.read_csv(folder / "results.csv")["test_accuracy"].tolist() == pytest.approx(
        table["test_accuracy"].tolist()
    )
    assert cv2.imread(str(folder / "learning.png")) is not None

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr("mammo_model.model_run.train", refuse)
    again = comparison.compare_architectures.fn(workspace, SETTINGS, None, ("vgg1", "vgg2"))
    assert (again.folder, again.results) == (found.folder, found.results)


def test_the_others_go_on_without_one_that_diverges(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mammo_model.training import DivergedError

    def train(place: Any, settings: TrainingSettings, *given: Any) -> Any:
        if settings.architecture == "vgg2":
            raise DivergedError("the validation loss was never a number")
        return real(place, settings, *given)

    real = comparison.train
    monkeypatch.setattr(comparison, "train", train)
    found = comparison.compare_architectures.fn(workspace, SETTINGS, None, ("vgg1", "vgg2"))
    assert found.diverged == ["vgg2"]
    assert [row["architecture"] for row in found.results] == ["vgg1"]
    assert cv2.imread(str(found.figure)) is not None
    with pytest.raises(DivergedError):
        comparison.compare_architectures.fn(workspace, SETTINGS, None, ("vgg2",))


def test_the_default_is_the_seed_works_seven() -> None:
    assert SEED_STEPS == (
        "vgg1",
        "vgg2",
        "vgg3",
        "vgg3-dropout",
        "vgg3-dropout-bn",
        "vgg3-dropout-bn-l2",
        "vgg4-dropout-bn",
    )
    assert comparison.compare_architectures.fn.__defaults__[-1] == SEED_STEPS


def test_the_figure_holds_train_and_validation_of_each() -> None:
    from mammo_model.learning_curves import curves_figure

    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "loss": [2.0, 1.0],
            "val_loss": [2.5, np.inf],
            "accuracy": [0.3, 0.6],
            "val_accuracy": [0.2, 0.4],
        }
    )
    figure = curves_figure({"one": history, "two": history}, {"one": 1, "two": 2})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    for axes, column in zip(figure.axes, ["loss", "loss", "accuracy", "accuracy"], strict=True):
        train, validation, _ = axes.lines
        assert list(train.get_ydata()) == history[column].tolist()
        assert list(validation.get_ydata()) == history[f"val_{column}"].tolist()
