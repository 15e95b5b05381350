"""The flow that looks for better settings of a training on a dataset run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows import artifacts
from flows.clusters import ClusterSettings, open_client, worker_limits
from flows.metrics import counting_runs
from flows.parameters import over_deployment
from flows.progress import Stage, Stages
from flows.steps import step
from flows.tune_summary import TuneSummary
from flows.workspace_parameter import WorkspaceParameter
from mammo_etl.places import place_of, shown
from mammo_etl.settings import SettingsError
from mammo_etl.workspace import Workspace
from mammo_model.settings import TrainingSettings
from mammo_model.studies import Study, StudyError, check_installed, study_of
from mammo_model.tuning_settings import TuningSettings

if TYPE_CHECKING:
    from mammo_model.tuning import Search, TrialResult


@counting_runs
@flow(
    name="tune-model",
    flow_run_name="tune-model in {workspace}",
    persist_result=False,
    # Prefect keeps the exception of a failed run all the same, and would pickle it.
    result_serializer="json",
)
def tune_model(
    workspace: WorkspaceParameter,
    settings: TrainingSettings = TrainingSettings(),
    tuning: TuningSettings = TuningSettings(),
    run_id: str | None = None,
    study: str | None = None,
    cluster: ClusterSettings = ClusterSettings(),
) -> TuneSummary:
    """Looks for the settings of a training on a dataset run (the published one, if none is named) with the highest macro F1 on its validation split.

    A study that was stopped goes on; one that has as many trials as are asked for is not gone on with. Trials are trained one after another in this
    process or, with `tuning.parallel`, as tasks over the cluster, one for each worker.
    """
    settings, tuning = over_deployment("settings", settings), over_deployment("tuning", tuning)
    cluster = over_deployment("cluster", cluster)
    stages = Stages()
    found = study_of(place_of(workspace).absolute(), settings, tuning, run_id, study)
    result = found.result()
    new = result is None
    if result is None:
        check_installed()
        result = step("tune", tune, found, cluster, stages)
    summary = TuneSummary.of(found, result, new, stages.timings)
    lines = [summary.as_markdown(), "", *artifacts.settings_lines(settings), *artifacts.settings_lines(tuning)]
    artifacts.leave(
        "tuning",
        "\n".join(lines),
        [
            {name: trial[name] for name in ("number", "state", "value", "epochs")} | trial["params"]
            for trial in summary.trials
        ],
        {"report": summary.report, "catalog": shown(Workspace(found.workspace).catalog)},
        lambda: [artifacts.Picture.of_file("Course of the study", found.folder / "figures" / "history.png")],
        summary.phantom,
    )
    return summary


def tune(study: Study, cluster: ClusterSettings, stages: Stages) -> dict[str, Any]:
    """Trains what trials are left, with a bar; content of study.json."""
    # TensorFlow takes ten seconds to import, which no other use of this module should pay.
    from mammo_model.study_report import conclude
    from mammo_model.tuning import searching

    epochs = study.training.epochs
    with searching(study) as search:
        with stages.stage("tuning", "epochs", study.tuning.trials * epochs) as stage:
            stage.advance(len(search.results) * epochs, skipped=len(search.results) * epochs)
            for result in _over_cluster(search, cluster) if study.tuning.parallel else _here(search, stage):
                search.add(result)
                # A trial that ended early counts as all of its epochs.
                stage.advance(len(search.results) * epochs - stage.done)
                stage.note(_said(search, result))
        return conclude(search)


def _here(search: "Search", stage: Stage) -> Iterator["TrialResult"]:
    """Trains one after another in this process."""
    from mammo_model.tuning import run_trial

    for work in search.works():
        yield run_trial(work, search.is_pruned, on_epoch=lambda _: stage.advance())


def _over_cluster(search: "Search", cluster: ClusterSettings) -> Iterator["TrialResult"]:
    """Trains as many at a time as the cluster has workers.

    Raises StudyError if a trial's worker died of it repeatedly; the trials that have ended are kept.
    """
    from flows.fan_out import GivenUp, fan_out
    from mammo_model.tuning import run_trial

    with open_client(cluster) as client:
        if any(threads > 1 for _, threads in worker_limits(client)):
            raise SettingsError(
                "cluster: tuning.parallel needs workers of one thread, as Keras' random numbers are a process's"
            )
        works = ((f"trial {work.number}", work) for work in search.works())
        for name, result in fan_out(client, run_trial, works, window_per_worker=1):
            if isinstance(result, GivenUp):
                raise StudyError(f"{name}: {result.message}")
            yield result


def _said(search: "Search", result: "TrialResult") -> str:
    from mammo_model.tuning import best_of

    best = best_of(search.results)
    chosen = ", ".join(f"{name} {value:.4g}" for name, value in result.parameters.items())
    ended = f"{'pruned' if result.pruned else 'ended'} after {len(result.curve)}/{search.study.training.epochs} epochs"
    return f"trial {result.number} {ended}: macro F1 {result.value:.3f}, best {best.value:.3f}; {chosen}"
