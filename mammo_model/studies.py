"""Studies of a workspace: where each lies, what it is of, and what it came to."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mammo_etl.formats import MODEL_VERSION, STUDY_VERSION, check_format
from mammo_etl.places import Place
from mammo_etl.reader import open_run
from mammo_etl.workspace import Workspace, read_json, write_json
from mammo_model.settings import TrainingSettings
from mammo_model.tuning_settings import TuningSettings

_ANOTHER_NAME = "give this study another --study NAME"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class StudyError(Exception):
    """A study that cannot be made or gone on with, in one sentence."""


@dataclass(frozen=True, slots=True)
class Study:
    """A search for better settings of a training on one dataset run."""

    workspace: Place
    study_id: str
    run_id: str
    training: TrainingSettings
    """What is not tuned is as it says."""
    tuning: TuningSettings

    @property
    def folder(self) -> Place:
        """WORKSPACE/studies/<study_id>."""
        return Workspace(self.workspace).studies / self.study_id

    @property
    def journal_path(self) -> Place:
        """Optuna's journal: a line per trial that has ended."""
        return self.folder / "journal.log"

    @property
    def result_path(self) -> Place:
        """What it came to; written last."""
        return self.folder / "study.json"

    @property
    def page_path(self) -> Place:
        """The same as a page."""
        return self.folder / "study.html"

    def trial_folder(self, number: int) -> Place:
        """Folder of a trial under way."""
        return self.folder / "trials" / f"{number:04d}"

    def begin(self) -> None:
        """Notes what the study is of, before its first trial: its dataset run is kept from then on."""
        if read_json(_begun_path(self.folder)) is None:
            write_json(_begun_path(self.folder), _basis(self.run_id, self.training, self.tuning))

    def result(self) -> dict[str, Any] | None:
        """Content of study.json; None if there is none yet, or more trials are asked for than it has."""
        found = read_json(self.result_path)
        if found is None:
            return None
        check_format(self.result_path, found, STUDY_VERSION, _ANOTHER_NAME)
        return found if len(found["trials"]) >= self.tuning.trials else None


def study_of(
    workspace: Place,
    training: TrainingSettings,
    tuning: TuningSettings,
    run_id: str | None = None,
    name: str | None = None,
) -> Study:
    """The study under these settings: of the published run, or the one named, or, for a study with a name that has begun, its own.

    Without a name it is known by its run and settings. Raises ReaderError without such a run, StudyError for a name that is none, or that of a
    study of something else, and FormatError for that of a study of another version.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise StudyError(
            f"--study {name}: expected letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    studies = Workspace(workspace).studies
    begun = None
    if name is not None:
        path = _begun_path(studies / name)
        begun = read_json(path)
        if begun is not None:
            check_format(path, begun, STUDY_VERSION, _ANOTHER_NAME)
    run = open_run(workspace, run_id or (begun["run_id"] if begun else None))
    basis = _basis(run.run_id, training, tuning)
    if begun is not None:
        _check_same(studies / str(name), begun, basis)
    digest = hashlib.sha256(json.dumps(basis, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Study(workspace, name or f"{run.run_id}-{digest[:12]}", run.run_id, training, tuning)


def check_installed() -> None:
    """Raises StudyError without Optuna, the extra that draws trials."""
    if find_spec("optuna") is None:
        raise StudyError("a study needs mammo's extra `tune`, as in pip install '.[tune]'")


def ranked(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trials of a study.json, best first, whole ones before pruned ones."""
    return sorted(trials, key=lambda trial: (trial["state"] == "pruned", -trial["value"], trial["number"]))


def training_command(found: Mapping[str, Any], workspace: str) -> str:
    """The command that trains a model under a study's best settings: all that differ from the defaults."""
    settings = TrainingSettings.model_validate(found["best"]["settings"]).model_dump(mode="json", exclude_defaults=True)
    chosen = [f"training.{name}={_toml(value)}" for name, value in settings.items()]
    arguments = ["--workspace", workspace, "--run", found["run_id"]]
    return shlex.join(["mammo", "train", *arguments, *(text for one in chosen for text in ("--set", one))])


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _begun_path(folder: Place) -> Place:
    return folder / "tuning.json"


def _basis(run_id: str, training: TrainingSettings, tuning: TuningSettings) -> dict[str, Any]:
    """All that decides a study's trials but their number and where they are done."""
    return {
        "format_version": STUDY_VERSION,
        "training_format_version": MODEL_VERSION,
        "run_id": run_id,
        "fixed": training.model_dump(mode="json", exclude={*map(str, tuning.parameters)}),
        "tuning": tuning.model_dump(mode="json", exclude={"trials", "parallel"}),
    }


def _check_same(folder: Place, begun: dict[str, Any], basis: dict[str, Any]) -> None:
    theirs, ours = (_flat({key: value[key] for key in basis}) for value in (begun, basis))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise StudyError(
                f"{folder}: a study under other settings ({key} is {theirs.get(key)} there, {ours.get(key)} here); give this one another --study NAME"
            )


def _flat(basis: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that users give them."""
    fixed = {f"training.{key}": value for key, value in basis["fixed"].items()}
    tuning = {f"tuning.{key}": value for key, value in basis["tuning"].items()}
    return {"run_id": basis["run_id"], "training_format_version": basis["training_format_version"], **fixed, **tuning}
