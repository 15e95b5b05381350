"""The trials of a study: chosen by Optuna, trained as any model, judged on the validation split alone.

The journal holds whole trials only. One that is under way lies in its folder: its parameters, written before anything is done, and the training,
which goes on from its own checkpoints. So a kill costs no trial. What is drawn for a trial follows from the seed, its number and the trials that
ended before; one after another on a CPU, a study comes to the same whether it was stopped or not. Several at a time end in changing order: then
each trial follows from its parameters still, but what is drawn does not follow from the seed.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from mammo_etl.lock import locked
from mammo_etl.places import Place, remove_tree
from mammo_etl.reader import open_run
from mammo_etl.workspace import entries, read_json, write_json
from mammo_model.architectures import ARCHITECTURES
from mammo_model.checkpoints import read_history
from mammo_model.progress import Progress
from mammo_model.settings import TrainingSettings
from mammo_model.studies import Study, StudyError
from mammo_model.training import DivergedError, TrainedModel, model_id_of, train
from mammo_model.tuning_settings import LOGARITHMIC, TuningSettings

Curve = Mapping[int, float]
"""Macro F1 on the validation split after each epoch, from 1."""

Parameters = dict[str, float | int]

LEAST_FOR_IMPORTANCES = 10
"""Whole trials from which importances are told: from fewer they are noise."""


@dataclass(frozen=True, slots=True)
class TrialWork:
    """A trial to be trained."""

    workspace: Place
    run_id: str
    number: int
    """From 0."""
    parameters: Parameters
    """What the sampler has chosen."""
    settings: TrainingSettings
    """All of the training's, with these."""
    folder: Place
    """Where it is trained; goes when it has ended."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial that has ended."""

    number: int
    parameters: Parameters
    pruned: bool
    curve: Curve
    seconds: float
    """Time of its epochs."""

    @property
    def value(self) -> float:
        """The highest macro F1 on the validation split: that of the model which such a training keeps."""
        return max(self.curve.values())


def best_of(results: list[TrialResult]) -> TrialResult:
    """The whole trial with the highest value, of equal ones the first."""
    return max((result for result in results if not result.pruned), key=lambda result: (result.value, -result.number))


def space_of(training: TrainingSettings, tuning: TuningSettings) -> dict[str, BaseDistribution]:
    """What is drawn for each trial; raises StudyError if that is nothing."""
    space: dict[str, BaseDistribution] = {}
    for name in tuning.parameters:
        ends: Any = getattr(tuning, name)
        if name in {"width", "batch_size"}:
            space[name] = CategoricalDistribution(ends)
        elif name != "dropout" or ARCHITECTURES[training.architecture].dropout:
            space[name] = FloatDistribution(ends[0], ends[1], log=name in LOGARITHMIC)
    if not space:
        raise StudyError(f"tuning.parameters: {training.architecture} has no dropout, so there is nothing to tune")
    return space


def _never(_: Curve) -> bool:
    return False


def _ignore(*_: object) -> None:
    """Hears and says nothing."""


def run_trial(
    work: TrialWork, is_pruned: Callable[[Curve], bool] = _never, on_epoch: Callable[[int], None] = _ignore
) -> TrialResult:
    """Trains a trial, or what is left of it; `is_pruned` is asked after each epoch but the last, and `on_epoch` told of each.

    An epoch whose loss was no number counts as macro F1 0. Raises TrainingError as `train` does, but for that.
    """
    # Keras keeps something of every model that it has made, and TensorFlow warns of so many.
    keras.utils.clear_session()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    run = open_run(work.workspace, work.run_id)
    model_id = model_id_of(run.run_id, work.settings)
    history = TrainedModel(model_id, work.folder / model_id).history_path
    # May know of one epoch more than the checkpoint, which is then done again and replaces it here.
    rows = {int(row["epoch"]): row for row in read_history(history)} if history.exists() else {}

    def curve() -> Curve:
        return {epoch: row["val_macro_f1"] if np.isfinite(row["val_loss"]) else 0.0 for epoch, row in rows.items()}

    def judge() -> None:
        if len(rows) < work.settings.epochs and is_pruned(curve()):
            raise optuna.TrialPruned

    def heard(epoch: int, _: int, row: Mapping[str, float]) -> None:
        rows[epoch] = dict(row)
        on_epoch(epoch)
        judge()

    pruned = False
    try:
        if rows:
            judge()
        train(run, work.settings, work.folder, Progress(on_epoch=heard))
    except optuna.TrialPruned:
        pruned = True
    except DivergedError:
        # The sampler should learn of it, and look elsewhere.
        pass
    seconds = sum(row["seconds"] for row in rows.values())
    return TrialResult(work.number, work.parameters, pruned, curve(), round(seconds, 3))


@dataclass
class Search:
    """A study under way: what has ended, what is being trained, what is to come."""

    study: Study
    space: dict[str, BaseDistribution]
    journal: optuna.Study
    pruner: BasePruner
    save: Callable[[], None]
    """Called when the journal has grown."""
    results: list[TrialResult] = field(default_factory=list)
    """In the order in which they ended."""
    running: dict[int, Parameters] = field(default_factory=dict)

    def works(self) -> Iterator[TrialWork]:
        """The trials that are still to be trained; what is drawn for each is decided when it is asked for."""
        ended = {result.number for result in self.results}
        for number in range(self.study.tuning.trials):
            if number not in ended:
                yield self._work(number)

    def add(self, result: TrialResult) -> None:
        """Enters a trial that has ended into the journal, and removes what its training has left."""
        self.journal.add_trial(self._frozen(result))
        self.save()
        self.results.append(result)
        self.running.pop(result.number)
        remove_tree(self.study.trial_folder(result.number))

    def is_pruned(self, curve: Curve) -> bool:
        """Whether a trial that has come so far is to end."""
        (parameters,) = self.running.values()
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(parameters),
            distributions=self.space,
            intermediate_values=dict(curve),
        )
        return self.pruner.prune(self.journal, trial)

    def importances(self) -> dict[str, float] | None:
        """Share of each parameter in the variance of the values of whole trials (fANOVA, Hutter et al. 2014); None from too few trials, or if all
        came to the same."""
        whole = [result for result in self.results if not result.pruned]
        if len(whole) < LEAST_FOR_IMPORTANCES or len({result.value for result in whole}) == 1:
            return None
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.study.tuning.seed)
        found = optuna.importance.get_param_importances(self.journal, evaluator=evaluator)
        return {name: round(share, 6) for name, share in found.items()}

    def _work(self, number: int) -> TrialWork:
        folder = self.study.trial_folder(number)
        begun = read_json(folder / "trial.json")
        parameters: Parameters = self._drawn(number) if begun is None else begun
        if begun is None:
            write_json(folder / "trial.json", parameters)
        self.running[number] = parameters
        settings = TrainingSettings.model_validate({**self.study.training.model_dump(), **parameters})
        return TrialWork(self.study.workspace, self.study.run_id, number, parameters, settings, folder)

    def _drawn(self, number: int) -> Parameters:
        """What the sampler chooses for a trial, knowing those that have ended and those that are being trained."""
        tuning = self.study.tuning
        (seed,) = np.random.SeedSequence([tuning.seed, number]).generate_state(1)
        sampler = optuna.samplers.TPESampler(n_startup_trials=tuning.startup_trials, seed=int(seed))
        known = optuna.create_study(direction="maximize", sampler=sampler)
        known.add_trials(self.journal.get_trials(deepcopy=False))
        known.add_trials(
            create_trial(state=TrialState.RUNNING, params=dict(parameters), distributions=self.space)
            for parameters in self.running.values()
        )
        return dict(known.ask(self.space).params)

    def _frozen(self, result: TrialResult) -> FrozenTrial:
        return create_trial(
            state=TrialState.PRUNED if result.pruned else TrialState.COMPLETE,
            value=None if result.pruned else result.value,
            params=dict(result.parameters),
            distributions=self.space,
            intermediate_values=dict(result.curve),
            # Several at a time end in another order than they began in.
            user_attrs={"number": result.number, "seconds": result.seconds},
        )


@contextmanager
def searching(study: Study) -> Iterator[Search]:
    """A study as it stands, while nobody else works on it.

    Raises StudyError if there is nothing to tune, and WorkspaceInUseError if another process is at it.
    """
    space = space_of(study.training, study.tuning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study.begin()
    with locked(study.folder, "a study"), _journal_of(study.journal_path) as (file, save):
        journal = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file))),
            study_name=study.study_id,
            direction="maximize",
            load_if_exists=True,
        )
        tuning = study.tuning
        pruner = (
            MedianPruner(n_startup_trials=tuning.startup_trials, n_warmup_steps=tuning.warmup_epochs)
            if tuning.pruning == "median" and not tuning.parallel
            else NopPruner()
        )
        results = [_result_of(trial) for trial in journal.get_trials(deepcopy=False)]
        search = Search(study, space, journal, pruner, save, results)
        for result in results:
            # Left where the process was killed between its entry and this.
            if study.trial_folder(result.number).is_dir():
                remove_tree(study.trial_folder(result.number))
        yield search
        trials = study.folder / "trials"
        # On an object store there are no empty folders.
        if isinstance(trials, Path) and trials.is_dir() and not entries(trials):
            trials.rmdir()


def _result_of(trial: FrozenTrial) -> TrialResult:
    return TrialResult(
        trial.user_attrs["number"],
        dict(trial.params),
        trial.state == TrialState.PRUNED,
        dict(sorted(trial.intermediate_values.items())),
        trial.user_attrs["seconds"],
    )


@contextmanager
def _journal_of(path: Place) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The journal as a local file, and what is to be called when it has grown: an object of a store is then written anew."""
    if isinstance(path, Path):
        _mend(path)
        yield path, lambda: None
        return
    with tempfile.TemporaryDirectory(prefix="mammo-") as folder:
        file = Path(folder) / path.name
        if path.exists():
            file.write_bytes(path.read_bytes())
        yield file, lambda: path.write_bytes(file.read_bytes())


def _mend(file: Path) -> None:
    """Takes away what a killed process may have left: half a line, which Optuna would write on, and the lock, for which it would wait."""
    Path(f"{file}.lock").unlink(missing_ok=True)
    if file.exists():
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with file.open("r+b") as journal:
                journal.truncate(len(whole))
