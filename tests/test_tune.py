"""Studies: what is drawn, kept, pruned and reported; most of them on a training that only pretends to learn."""

import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import Command
from distributed import Client, LocalCluster
from store_server import environment_of, s3_server
from test_model_run import ROOT, StopError, publish, refuse

from flows.clusters import ClusterSettings
from flows.fan_out import GivenUp
from flows.settings import load_settings
from flows.tune_model import tune_model
from flows.tune_summary import TuneSummary
from mammo_etl.lock import WorkspaceInUseError, locked
from mammo_etl.places import Place, place_of
from mammo_etl.reader import PublishedRun, open_run
from mammo_etl.records import Reason
from mammo_etl.settings import SettingsError
from mammo_etl.workspace import Workspace, write_bytes
from mammo_model.progress import SILENT, Progress
from mammo_model.settings import TrainingSettings
from mammo_model.studies import StudyError, study_of, training_command
from mammo_model.tuning_settings import TuningSettings

TRAINING = TrainingSettings(architecture="vgg3-dropout", epochs=6, binary=True, seed=2)
TUNING = TuningSettings(trials=14, startup_trials=4, warmup_epochs=2)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a published run."""
    folder = tmp_path_factory.mktemp("workspace")
    publish(folder)
    return folder


@pytest.fixture
def workspace(empty: Path, tmp_path: Path) -> Path:
    return shutil.copytree(empty, tmp_path / "ws")


def score(settings: TrainingSettings, epoch: int) -> float:
    """Best at a learning rate of 0.001, half the way nearer with each epoch."""
    return (1 - abs(math.log10(settings.learning_rate) + 3) / 2 - settings.dropout / 10) * (1 - 0.5**epoch)


def pretend(
    run: PublishedRun,
    settings: TrainingSettings,
    models_folder: Place,
    progress: Progress = SILENT,
) -> None:
    """Goes on, as a training does, after the last epoch of history.csv."""
    from mammo_model.checkpoints import read_history
    from mammo_model.training import model_id_of

    path = models_folder / model_id_of(run.run_id, settings) / "history.csv"
    rows = read_history(path) if path.exists() else []
    for epoch in range(len(rows) + 1, settings.epochs + 1):
        row = {"epoch": epoch, "val_loss": 1.0, "val_macro_f1": score(settings, epoch), "seconds": 0.5}
        rows.append(row)
        write_bytes(path, pd.DataFrame(rows).to_csv(index=False).encode())
        progress.on_epoch(epoch, settings.epochs, row)


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training is real, and no picture is drawn; Keras, which made no models, has none to forget."""
    monkeypatch.setattr("mammo_model.tuning.train", pretend)
    monkeypatch.setattr("mammo_model.study_report.draw", lambda *_: {})
    monkeypatch.setattr("keras.utils.clear_session", lambda: None)


def tune(workspace: Path | str, tuning: TuningSettings = TUNING, **more: Any) -> TuneSummary:
    return tune_model.fn(workspace, more.pop("training", TRAINING), tuning, **more)


@pytest.fixture(scope="module")
def straight(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> TuneSummary:
    """A study that nothing interrupted."""
    folder = shutil.copytree(empty, tmp_path_factory.mktemp("straight") / "ws")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mammo_model.tuning.train", pretend)
        patch.setattr("keras.utils.clear_session", lambda: None)
        return tune(folder)


def content(summary: TuneSummary) -> dict[str, Any]:
    return summary.model_dump(include={"study_id", "best", "trials"})


def test_it_finds_what_is_good(straight: TuneSummary) -> None:
    assert [trial["number"] for trial in straight.trials] == list(range(14))
    for trial in straight.trials:
        settings = TRAINING.model_copy(update=trial["params"])
        curve = [score(settings, epoch) for epoch in range(1, trial["epochs"] + 1)]
        assert trial["val_macro_f1"] == curve
        assert trial["value"] == max(curve)
        assert trial["seconds"] == 0.5 * trial["epochs"]
    whole = [trial for trial in straight.trials if trial["state"] == "complete"]
    assert straight.best["value"] == max(trial["value"] for trial in whole)
    assert straight.best["settings"] == {**TRAINING.model_dump(mode="json"), **straight.best["params"]}
    # Better than what it drew at random.
    assert straight.best["number"] >= TUNING.startup_trials


def test_what_is_below_the_median_is_pruned_and_nothing_else(straight: TuneSummary) -> None:
    pruned = 0
    for trial in straight.trials:
        before = [one for one in straight.trials[: trial["number"]] if one["state"] == "complete"]
        for epoch in range(1, TRAINING.epochs):
            curve = trial["val_macro_f1"][:epoch]
            judged = len(before) >= TUNING.startup_trials and epoch >= TUNING.warmup_epochs
            below = judged and max(curve) < np.median([one["val_macro_f1"][epoch - 1] for one in before])
            if below:
                assert (trial["state"], trial["epochs"]) == ("pruned", epoch)
                pruned += 1
                break
        else:
            assert (trial["state"], trial["epochs"]) == ("complete", TRAINING.epochs)
    assert pruned > 0


def test_without_pruning_all_are_whole(workspace: Path, pretending: None) -> None:
    found = tune(workspace, TUNING.model_copy(update={"pruning": "none"}))
    assert {(trial["state"], trial["epochs"]) for trial in found.trials} == {("complete", TRAINING.epochs)}


def stopped_in(epoch: int) -> Callable[..., None]:
    def stop(*arguments: Any) -> None:
        run, settings, folder, progress = arguments

        def on_epoch(done: int, of: int, row: Any) -> None:
            # Saved, and not judged yet.
            if done == epoch:
                raise StopError
            progress.on_epoch(done, of, row)

        pretend(run, settings, folder, Progress(on_epoch=on_epoch))

    return stop


def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(
    straight: TuneSummary, workspace: Path, pretending: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(workspace, TRAINING, TUNING)
    began: list[tuple[Any, ...]] = []

    def counted(run: PublishedRun, settings: TrainingSettings, folder: Place, progress: Progress) -> None:
        began.append((int(folder.name), bool(list(folder.glob("*/history.csv")))))
        stop = {(0, False): 3, (4, False): 1, (6, False): 2, (9, False): 1}.get(began[-1])
        (stopped_in(stop) if stop else pretend)(run, settings, folder, progress)

    monkeypatch.setattr("mammo_model.tuning.train", counted)
    stops = 0
    while True:
        try:
            found = tune(workspace)
        except StopError:
            stops += 1
            # What a kill can leave.
            with study.journal_path.open("ab") as journal:
                journal.write(b'{"op_code":4,"worker_id":"half a l')
            study.journal_path.with_name("journal.log.lock").symlink_to(study.journal_path)
        else:
            break
    assert stops == 4
    assert began[:2] == [(0, False), (0, True)]
    assert content(found) == content(straight)
    assert sorted(path.name for path in study.folder.iterdir()) == [
        "journal.log",
        "lock",
        "study.html",
        "study.json",
        "trials.csv",
        "trials.parquet",
        "tuning.json",
    ]


def test_a_trial_that_was_entered_and_not_cleared_away_is_not_trained_again(
    straight: TuneSummary, workspace: Path, monkeypatch: pytest.MonkeyPatch, pretending: None
) -> None:
    from mammo_model import tuning

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "remove_tree", stop)
        with pytest.raises(StopError):
            tune(workspace)
    study = study_of(workspace, TRAINING, TUNING)
    assert study.trial_folder(0).is_dir()
    assert content(tune(workspace)) == content(straight)
    assert not (study.folder / "trials").exists()


def test_more_trials_go_on_and_as_many_do_nothing(
    straight: TuneSummary, workspace: Path, monkeypatch: pytest.MonkeyPatch, pretending: None
) -> None:
    fewer = tune(workspace, TUNING.model_copy(update={"trials": 5}))
    assert fewer.trials == straight.trials[:5]
    found = tune(workspace)
    assert found.new
    assert content(found) == content(straight)
    monkeypatch.setattr("mammo_model.tuning.train", refuse)
    monkeypatch.setattr("flows.tune_model.tune", refuse)
    before = {path: path.stat().st_mtime_ns for path in Path(found.folder).rglob("*")}
    for trials in (14, 3):
        again = tune(workspace, TUNING.model_copy(update={"trials": trials}))
        assert not again.new
        assert content(again) == content(straight)
    assert {path: path.stat().st_mtime_ns for path in Path(found.folder).rglob("*")} == before


def test_what_is_tuned_decides_the_study_and_what_it_replaces_does_not(empty: Path) -> None:
    def name(training: dict[str, Any], tuning: dict[str, Any]) -> str:
        return study_of(empty, TRAINING.model_copy(update=training), TUNING.model_copy(update=tuning)).study_id

    same = name({}, {})
    assert same.startswith("tiny-")
    assert name({"learning_rate": 0.5, "width": 3}, {"trials": 3, "parallel": True}) == same
    others = [name({"epochs": 7}, {}), name({}, {"seed": 1}), name({}, {"parameters": ("width",)})]
    assert len({same, *others}) == 4


def test_only_what_is_named_is_tuned(workspace: Path, pretending: None) -> None:
    training = TRAINING.model_copy(update={"architecture": "vgg1", "width": 5})
    tuning = TuningSettings(trials=2, parameters=("learning_rate", "dropout"))
    found = tune(workspace, tuning, training=training)
    assert list(found.best["params"]) == ["learning_rate"], "vgg1 has no dropout"
    assert found.best["settings"]["width"] == 5
    with pytest.raises(StudyError, match="vgg1 has no dropout, so there is nothing to tune"):
        tune(workspace, TuningSettings(parameters=("dropout",)), training=training)


def test_a_trial_whose_loss_is_no_number_counts_as_nothing(
    workspace: Path, pretending: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mammo_model.training import DivergedError

    def diverge(run: PublishedRun, settings: TrainingSettings, folder: Path, progress: Progress) -> None:
        if folder.name != "0001":
            return pretend(run, settings, folder, progress)
        progress.on_epoch(1, 6, {"epoch": 1, "val_loss": math.nan, "val_macro_f1": 0.9, "seconds": 1.0})
        raise DivergedError("never a number")

    monkeypatch.setattr("mammo_model.tuning.train", diverge)
    found = tune(workspace, TuningSettings(trials=3))
    assert [trial["state"] for trial in found.trials] == ["complete"] * 3
    assert found.trials[1]["value"] == 0.0
    assert found.best["number"] != 1


def test_tables_and_page(straight: TuneSummary) -> None:
    folder = Path(straight.folder)
    table = pd.read_parquet(folder / "trials.parquet")
    assert list(table) == ["number", "state", "value", "epochs", "seconds", *straight.best["params"]]
    assert table["value"].tolist() == [trial["value"] for trial in straight.trials]
    assert pd.read_csv(folder / "trials.csv")["learning_rate"].tolist() == table["learning_rate"].tolist()
    found = json.loads((folder / "study.json").read_text())
    assert (found["format_version"], found["run_id"]) == (2, "tiny")
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert "Phantoms: these figures prove that the plumbing works" in page
    assert "Research software, not a medical device" in page
    assert "--set training.learning_rate=" in page
    assert "http" not in page
    whole = sum(trial["state"] == "complete" for trial in straight.trials)
    assert (found["importances"] is None) == (whole < 10)
    assert page.count("data:image/png;base64,") == 4 + (whole >= 10)
    assert ("Not told: that takes 10 whole trials" in page) == (whole < 10)
    assert len(re.findall(r"<tr[^>]*><td>\d+</td>", page)) == len(straight.trials)


def test_importances_name_what_matters(workspace: Path, pretending: None) -> None:
    found = tune(workspace, TUNING.model_copy(update={"pruning": "none"}))
    study = json.loads((Path(found.folder) / "study.json").read_text())
    shares = study["importances"]
    assert set(shares) == set(found.best["params"])
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert max(shares, key=shares.__getitem__) == "learning_rate"
    assert "Not told" not in (Path(found.folder) / "study.html").read_text(encoding="utf-8")


def test_every_picture_is_on_the_page(straight: TuneSummary, tmp_path: Path) -> None:
    from mammo_model import study_report
    from mammo_model.tuning import TrialResult

    results = [
        TrialResult(
            trial["number"], trial["params"], trial["state"] == "pruned", dict(enumerate(trial["val_macro_f1"], 1)), 1.0
        )
        for trial in straight.trials
    ]
    found = json.loads((Path(straight.folder) / "study.json").read_text())
    shares = {"learning_rate": 0.9, "dropout": 0.1}
    for some in (results, results[:1]):
        figures = study_report.draw(some, shares, tmp_path)
        assert set(figures) == {"history", "curves", "slices", "parallel", "importances"}
        page = study_report.render({**found, "importances": shares}, figures)
        assert page.count("data:image/png;base64,") == 5
        for path in figures.values():
            assert cv2.imread(str(path)).std() > 1


def test_the_command_trains_what_was_best(straight: TuneSummary) -> None:
    arguments = shlex.split(straight.command)
    assert arguments[:2] == ["mammo", "train"]
    assert arguments[arguments.index("--run") + 1] == "tiny"
    overrides = [value for key, value in itertools.pairwise(arguments) if key == "--set"]
    assert load_settings(None, overrides).training.model_dump(mode="json") == straight.best["settings"]
    awkward = {"run_id": "a run", "best": {"settings": {**straight.best["settings"], "hard_share": 0.5}}}
    assert "--run 'a run'" in training_command(awkward, "ws")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--set", "tuning.learning_rate=[0.1, 0.01]"],
            "tuning: learning_rate is a range: expected its lower end first",
        ),
        (["--set", "tuning.learning_rate=[0.1, 2]"], "tuning.learning_rate.1: Input should be less than or equal to 1"),
        (["--set", "tuning.width=[]"], "tuning.width: Tuple should have at least 1 item"),
        (["--set", "tuning.batch_size=[8, 8]"], "tuning: batch_size names one twice"),
        (["--set", 'tuning.parameters=["epochs"]'], "tuning.parameters.0: Input should be 'learning_rate', 'beta_1'"),
        (["--set", "tuning.momentum=1"], "unknown setting tuning.momentum"),
        (["--trials", "0"], "tuning.trials: Input should be greater than or equal to 1"),
        (["--study", "../models"], "--study ../models: expected letters, digits, dots, dashes and underscores"),
        (["--run", "other"], "other"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    arguments: list[str],
    sentence: str,
    empty: Path,
    mammo: Command,
) -> None:
    code, _, said = mammo("tune", "--workspace", empty, *arguments)
    assert code == 2
    assert sentence in said
    assert said.count("\n") == 1


def test_without_optuna_it_says_what_to_install(empty: Path, monkeypatch: pytest.MonkeyPatch, mammo: Command) -> None:
    monkeypatch.setattr("mammo_model.studies.find_spec", lambda _: None)
    code, _, said = mammo("tune", "--workspace", empty)
    assert (code, said) == (2, "mammo: a study needs mammo's extra `tune`, as in pip install '.[tune]'\n")


def test_a_name_is_that_of_one_study(
    workspace: Path, pretending: None, monkeypatch: pytest.MonkeyPatch, mammo: Command
) -> None:
    tuning = TUNING.model_copy(update={"trials": 2})
    found = tune(workspace, tuning, study="mine")
    assert Path(found.folder) == workspace / "studies" / "mine"
    with pytest.raises(StudyError, match=r"training\.epochs is 6 there, 7 here"):
        tune(workspace, tuning, training=TRAINING.model_copy(update={"epochs": 7}), study="mine")
    # It stays on its run when another is published.
    shutil.copytree(workspace / "runs" / "tiny", workspace / "runs" / "later")
    manifest = json.loads((workspace / "runs" / "later" / "manifest.json").read_text())
    (workspace / "runs" / "later" / "manifest.json").write_text(json.dumps({**manifest, "run_id": "later"}))
    (workspace / "current.json").write_text(json.dumps({"format_version": 1, "run_id": "later"}))
    assert open_run(workspace).run_id == "later"
    again = tune(workspace, tuning, study="mine")
    assert (again.run_id, again.new) == ("tiny", False)
    # The command tells what it came to at once, without a server.
    monkeypatch.setattr("flows.tune_model.tune_model", refuse)
    overrides = [
        *(f"training.{name}={json.dumps(value)}" for name, value in TRAINING.model_dump(exclude_defaults=True).items()),
        "tuning.startup_trials=4",
        "tuning.warmup_epochs=2",
    ]
    sets = [text for one in overrides for text in ("--set", one.replace('"', ""))]
    code, said, _ = mammo("tune", "--workspace", workspace, "--study", "mine", "--trials", 2, *sets)
    assert code == 0
    for part in ("trial 0", "learning_rate", "Nothing has changed", found.command, str(found.report), "on phantoms"):
        assert part in said


def test_one_at_a_time_works_on_a_study(workspace: Path, pretending: None) -> None:
    study = study_of(workspace, TRAINING, TUNING)
    study.begin()
    with locked(study.folder, "a study"), pytest.raises(WorkspaceInUseError, match="a study is at work here"):
        tune(workspace)


@pytest.fixture
def store(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The workspace on an object store."""
    fsspec = pytest.importorskip("fsspec")
    with s3_server() as url:
        for name, value in environment_of(url).items():
            monkeypatch.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("studies")
        files.put(f"{empty}/", "studies/ws", recursive=True)
        yield "s3://studies/ws"
        type(files).clear_instance_cache()


def test_a_study_on_an_object_store_is_what_it_is_on_a_disk(
    straight: TuneSummary, store: str, pretending: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []

    def stop_in_trial_five(run: PublishedRun, settings: TrainingSettings, folder: Place, progress: Progress) -> None:
        began.append(folder.name)
        (stopped_in(1) if folder.name == "0005" and began.count("0005") == 1 else pretend)(
            run, settings, folder, progress
        )

    monkeypatch.setattr("mammo_model.tuning.train", stop_in_trial_five)
    with pytest.raises(StopError):
        tune(store)
    folder = study_of(place_of(store), TRAINING, TUNING).folder
    assert len((folder / "trials" / "0005" / "trial.json").read_text()) > 2
    found = tune(store)
    assert content(found) == content(straight)
    assert began == [f"{number:04d}" for number in [*range(6), *range(5, 14)]]
    assert found.report == f"{folder}/study.html"
    assert not (folder / "trials").is_dir()
    assert (folder / "study.html").read_text().startswith("<!doctype html>")


REAL = TrainingSettings(architecture="vgg1", width=2, epochs=2, augmentation=False)
REAL_TUNING = TuningSettings(trials=1, parameters=("learning_rate", "batch_size"), learning_rate=(1e-2, 1e-1))

KILLED = """
import os, signal, sys
from pathlib import Path
from flows.clusters import ClusterSettings
from flows.progress import Stage, Stages
from flows.tune_model import tune
from mammo_etl.reader import PublishedRun
from mammo_model.settings import TrainingSettings
from mammo_model.studies import study_of
from mammo_model.tuning_settings import TuningSettings
from mammo_model.course import Course

whole = Course.on_train_batch_end

def die(self, batch, logs=None):
    whole(self, batch, logs)
    if len(self.progressed.rows) == 1 and self.progressed.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Course.on_train_batch_end = die
training, tuning = TrainingSettings.model_validate_json(sys.argv[2]), TuningSettings.model_validate_json(sys.argv[3])
tune(study_of(Path(sys.argv[1]), training, tuning), ClusterSettings(), Stages())
"""


def untimed(summary: TuneSummary) -> list[dict[str, Any]]:
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in summary.trials]


class Watched:
    """A store that tells which of its rows were read."""

    def __init__(self, store: Any, read: set[int]) -> None:
        self.store, self.read = store, read
        self.shape, self.dtype = store.shape, store.dtype

    def __getitem__(self, rows: Any) -> Any:
        self.read.update(map(int, rows))
        return self.store[rows]


@pytest.mark.slow
def test_killed_in_a_real_training_it_ends_the_same_and_never_reads_the_test_split(
    empty: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(workspace), REAL.model_dump_json(), REAL_TUNING.model_dump_json()]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    study = study_of(workspace, REAL, REAL_TUNING)
    assert list((study.trial_folder(0)).glob("*/checkpoints/state.npz"))
    read: set[int] = set()
    whole = PublishedRun.open_patches
    monkeypatch.setattr(PublishedRun, "open_patches", lambda run: Watched(whole(run), read))
    resumed = tune(workspace, REAL_TUNING, training=REAL)
    patches = open_run(workspace).patches()
    assert read == set(patches.loc[patches["split"] != "test", "row"])
    other = shutil.copytree(empty, tmp_path / "other")
    assert untimed(resumed) == untimed(tune(other, REAL_TUNING, training=REAL))


def windows(stop_at: int) -> Callable[..., Iterator[tuple[str, Any]]]:
    """In place of `fan_out`: three trials are under way at a time, and the one that began last ends first; stops before the end of so many."""

    def fan_out(_: Any, function: Any, items: Iterator[tuple[str, Any]], **__: Any) -> Iterator[tuple[str, Any]]:
        ended = 0
        while window := list(itertools.islice(items, 3)):
            for name, item in reversed(window):
                if ended == stop_at:
                    raise StopError
                ended += 1
                yield name, function(item)

    return fan_out


def test_trials_that_end_in_another_order_keep_their_numbers_and_parameters(
    straight: TuneSummary, workspace: Path, pretending: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.tune_model.open_client", lambda _: nullcontext())
    monkeypatch.setattr("flows.tune_model.worker_limits", lambda _: [])
    tuning = TUNING.model_copy(update={"trials": 8, "parallel": True})
    study = study_of(workspace, TRAINING, tuning)
    monkeypatch.setattr("flows.fan_out.fan_out", windows(4))
    with pytest.raises(StopError):
        tune(workspace, tuning)
    begun = {number: json.loads((study.trial_folder(number) / "trial.json").read_text()) for number in (3, 4)}
    monkeypatch.setattr("flows.fan_out.fan_out", windows(99))
    found = tune(workspace, tuning)
    assert [trial["number"] for trial in found.trials] == list(range(8))
    assert {trial["state"] for trial in found.trials} == {"complete"}, "none is pruned"
    for number, parameters in begun.items():
        assert found.trials[number]["params"] == parameters
    # What is drawn at random follows from the seed whatever has ended.
    assert [trial["params"] for trial in found.trials[:3]] == [trial["params"] for trial in straight.trials[:3]]
    for trial in found.trials:
        settings = TRAINING.model_copy(update=trial["params"])
        assert trial["value"] == score(settings, TRAINING.epochs)


def test_a_trial_that_kills_its_worker_ends_the_study_by_name(
    workspace: Path, pretending: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: Any, **__: Any) -> Iterator[tuple[str, GivenUp]]:
        yield "trial 0", GivenUp(Reason.WORKER_DIED, "it killed its worker repeatedly")

    monkeypatch.setattr("flows.tune_model.open_client", lambda _: nullcontext())
    monkeypatch.setattr("flows.tune_model.worker_limits", lambda _: [])
    monkeypatch.setattr("flows.fan_out.fan_out", give_up)
    with pytest.raises(StudyError, match="trial 0: it killed its worker repeatedly"):
        tune(workspace, TUNING.model_copy(update={"parallel": True}))


@pytest.mark.slow
def test_trials_over_a_cluster_are_what_they_are_here(
    workspace: Path, cluster: ClusterSettings, tmp_path: Path
) -> None:
    from mammo_model.tuning import TrialWork, run_trial

    tuning = REAL_TUNING.model_copy(update={"trials": 2, "parallel": True})
    training = REAL.model_copy(update={"epochs": 1})
    found = tune(workspace, tuning, training=training, cluster=cluster)
    assert [trial["number"] for trial in found.trials] == [0, 1]
    best = TrainingSettings.model_validate(found.best["settings"])
    here = run_trial(TrialWork(workspace, "tiny", 0, found.best["params"], best, tmp_path / "here"))
    assert list(here.curve.values()) == found.trials[found.best["number"]]["val_macro_f1"]
    assert not (Workspace(workspace).studies / found.study_id / "trials").exists()


def test_a_cluster_s_workers_must_have_one_thread(workspace: Path) -> None:
    tuning = TUNING.model_copy(update={"parallel": True})
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as shared,
        Client(shared, set_as_default=False),
        pytest.raises(SettingsError, match=r"tuning\.parallel needs workers of one thread"),
    ):
        tune(workspace, tuning, cluster=ClusterSettings(address=shared.scheduler_address))
