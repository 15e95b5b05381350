"""The flow that puts a trained model to whole films: a folder, an archive or a prefix of them in bulk, or one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from distributed import Client
from prefect import flow
from prefect.runtime import deployment
from pydantic import BaseModel

from flows import artifacts
from flows.clusters import ClusterSettings, cores, open_client
from flows.fan_out import GivenUp, fan_out
from flows.metrics import count_rejects, counting_runs
from flows.parameters import over_deployment
from flows.progress import Stages
from flows.read_sources import read_sources
from flows.steps import step
from flows.workspace_parameter import WorkspaceParameter
from mammo_etl.film_files import FilmFile, loose_films, of_scan
from mammo_etl.inventory import InventoryError, list_sources
from mammo_etl.lock import locked
from mammo_etl.places import Place, place_of, shown
from mammo_etl.reader import read_table
from mammo_etl.records import Rejection
from mammo_etl.settings import SettingsError, SourceSettings
from mammo_etl.sources import kinds
from mammo_etl.workspace import Workspace
from mammo_model.score_tables import write_scores
from mammo_model.scoring import (
    AppliedModel,
    ScoredFilm,
    ScoringError,
    check_output,
    file_name,
    find_model,
    left_out,
    score_film,
)
from mammo_model.scoring_settings import ScoringSettings


class ScoreSummary(BaseModel):
    """What scoring came to."""

    model_id: str
    folder: Path | str
    """A local path, or an URL of an object store."""
    page: Path | str
    counts: dict[str, int]
    """Rows of each table: images, patients, candidates, windows, rejects."""
    skipped: int
    """Films that were scored before, by the same model under the same settings."""
    rejects: dict[str, int]
    """Films and files by the reason why they could not be scored."""
    phantom: bool
    """The model knows phantoms only."""
    timings: list[dict[str, Any]]


@counting_runs
@flow(
    name="score-scans",
    flow_run_name="score-scans {scans}",
    persist_result=False,
    # Prefect keeps the exception of a failed run all the same, and would pickle it.
    result_serializer="json",
)
def score_scans(
    scans: str,
    workspace: WorkspaceParameter,
    out: WorkspaceParameter,
    model_id: str | None = None,
    settings: ScoringSettings = ScoringSettings(),
    cluster: ClusterSettings = ClusterSettings(),
) -> ScoreSummary:
    """Scores films by a model of the workspace (the one finished last, if none is named): maps and candidates as pictures, scores as Parquet tables, a page.

    `scans` is a film, a folder, zip archive or object-store prefix of films, or KIND=PATH, as of a build's sources: patients, sides and views are then what the
    data set says. What was scored before by the same model under the same settings is not scored again. Raises ScoringError without a film or a model.
    """
    place, target = place_of(workspace), place_of(out)
    for name, given in (("scans", _place(scans)), ("workspace", place), ("out", target)):
        if deployment.id is not None and not isinstance(given, str) and not given.is_absolute():
            raise SettingsError(
                f"{name} {given}: expected an absolute path, as a worker runs flows in a temporary folder"
            )
    settings, cluster = over_deployment("settings", settings), over_deployment("cluster", cluster)
    place, target = place.absolute(), target.absolute()
    model = find_model(place, model_id)
    check_places(scans, place, target)
    stages = Stages()
    with _kept(target), open_client(cluster) as client:
        films, rejects = step("find films", find_films, client, scans, stages, cluster.item_seconds)
        scored = step("score", score, client, films, target, model, settings, stages, cluster.item_seconds)
        summary = step("write tables", finish, target, model, settings, scored, rejects, stages)
    artifacts.leave(
        "score",
        _as_markdown(summary, settings),
        summary.timings,
        {"report": summary.page, "catalog": shown(Workspace(place).catalog)},
        lambda: sample_pictures(target, model),
        summary.phantom,
    )
    return summary


def score_one(scan: str, workspace: Place, out: Place, model_id: str | None, settings: ScoringSettings) -> ScoreSummary:
    """The same for a single film, in this process: no cluster, no Prefect."""
    model = find_model(workspace, model_id)
    check_places(scan, workspace, out)
    stages = Stages()
    with _kept(out):
        with stages.stage("score", "films", 1) as stage:
            scored = [score_film(film, out, model, settings, cores()) for film in loose_films(scan)[0]]
            stage.advance(skipped=int(scored[0].skipped), rejected=int(scored[0].rejection is not None))
        return finish(out, model, settings, scored, [], stages)


def check_places(scans: str, workspace: Place, out: Place) -> None:
    """Raises ScoringError if there is nothing at a local path, what is written would be among the films next time, or would lie in the workspace."""
    films = _place(scans)
    if isinstance(films, Path) and "::" not in scans and not films.exists():
        raise ScoringError(f"{films}: no such file or folder")
    if _holds(workspace, out):
        raise ScoringError(f"--out {shown(out)}: lies in the workspace; expected a folder of its own")
    if _holds(films, out) or _holds(out / "films", films):
        raise ScoringError(f"--out {shown(out)}: lies among the films of {scans}; expected another folder")


def _place(scans: str) -> Place | str:
    """Where the films are; as it is, if that is neither a local path nor a store that a workspace may lie on."""
    path = scans.partition("=")[2] if _kind(scans) else scans
    if "::" in path or ("://" in path and not path.startswith("s3://")):
        return path
    return place_of(path)


def _holds(folder: Place | str, place: Place | str) -> bool:
    """Whether a place is that folder, or below it."""
    if isinstance(folder, Path) and isinstance(place, Path):
        return place.resolve().is_relative_to(folder.resolve())
    return f"{str(place).rstrip('/')}/".startswith(f"{str(folder).rstrip('/')}/")


@contextmanager
def _kept(out: Place) -> Iterator[None]:
    """Keeps other scorings out of OUT; raises mammo_etl.lock.WorkspaceInUseError, and FormatError if a newer mammo has scored into it."""
    if isinstance(out, Path):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out, "a scoring"):
        check_output(out)
        yield


def find_films(
    client: Client, scans: str, stages: Stages, seconds: float
) -> tuple[list[FilmFile], tuple[Rejection, ...]]:
    """The films, sorted by image_id, and what could not be listed or read; raises ScoringError if there is none."""
    films: list[FilmFile] = []
    rejects: tuple[Rejection, ...] = ()
    if _kind(scans):
        try:
            files = list_sources([SourceSettings.parse(scans)])
        except InventoryError as error:
            raise ScoringError(str(error)) from error
        for inventory in read_sources(client, files, stages, seconds).values():
            films += map(of_scan, inventory.scans)
            rejects += inventory.rejects
    else:
        with stages.stage("listing", "films") as stage:
            try:
                films, rejects = loose_films(scans)
            except ConnectionError:
                raise
            except (OSError, BadZipFile, ValueError, ImportError) as error:
                # The last two: an URL of a filesystem that is unknown, or not installed.
                raise ScoringError(f"{scans}: {error}") from error
            stage.advance(len(films))
    if not films:
        raise ScoringError(f"{scans}: no film here; expected DICOM, lossless JPEG (DDSM), PGM, PNG or TIFF files")
    return sorted(films, key=lambda film: film.image_id), rejects


def score(
    client: Client,
    films: Sequence[FilmFile],
    out: Place,
    model: AppliedModel,
    settings: ScoringSettings,
    stages: Stages,
    seconds: float,
) -> list[ScoredFilm]:
    """Scores the films on the cluster."""
    scored = []
    function = partial(score_film, out=out, model=model, settings=settings)
    of_name = {film.image_id: film for film in films}
    with stages.stage("score", "films", len(films)) as stage:
        # Each takes seconds, and holds a film's pixels: few are kept in flight.
        for name, result in fan_out(client, function, of_name.items(), window_per_worker=4, seconds=seconds):
            if isinstance(result, GivenUp):
                scored.append(left_out(of_name[name], result.code, result.message))
                stage.advance(failed=1)
                continue
            scored.append(result)
            stage.advance(skipped=int(result.skipped), rejected=int(result.rejection is not None))
    return scored


def finish(
    out: Place,
    model: AppliedModel,
    settings: ScoringSettings,
    scored: Sequence[ScoredFilm],
    rejects: Sequence[Rejection],
    stages: Stages,
) -> ScoreSummary:
    """Writes tables and page."""
    count_rejects([*rejects, *(film.rejection for film in scored if film.rejection is not None)])
    with stages.stage("tables", "films", sum(film.rejection is None for film in scored)) as stage:
        manifest, rejected = write_scores(out, model, settings, scored, rejects, stage.advance)
    return ScoreSummary(
        model_id=model.model_id,
        folder=shown(out),
        page=shown(out / "index.html"),
        counts=manifest["counts"],
        skipped=sum(film.skipped for film in scored),
        rejects=rejected,
        phantom=model.phantom,
        timings=stages.timings,
    )


def sample_pictures(out: Place, model: AppliedModel) -> list[artifacts.Picture]:
    """The map of the last class for two films, those with candidates first."""
    tables = [read_table(out / f"{table}.parquet", ["image_id"]) for table in ("candidates", "images")]
    films = dict.fromkeys(str(film) for table in tables for film in table["image_id"].to_pylist())
    name = model.classes[-1]
    return [
        artifacts.Picture.of_file(f"{name}: {film}", out / "films" / film / f"{file_name(name)}.png")
        for film in list(films)[:2]
    ]


def _kind(scans: str) -> bool:
    return scans.partition("=")[0] in kinds() and "=" in scans


def _as_markdown(summary: ScoreSummary, settings: ScoringSettings) -> str:
    return "\n".join(
        [
            f"# Scored by `{summary.model_id}`",
            ", ".join(f"{count:,} {name}" for name, count in summary.counts.items()),
            "",
            *[f"- {count:,} not scored: {reason}" for reason, count in summary.rejects.items()],
            "",
            "**Phantoms: these scores prove that the plumbing works; they say nothing about medicine.**"
            if summary.phantom
            else "Research software, not a medical device.",
            "",
            *artifacts.settings_lines(settings),
            "",
            f"Page: `{summary.page}`",
        ]
    )
