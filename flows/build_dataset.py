"""The flow from folders of raw scans to a published dataset run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from distributed import Client
from prefect import flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.runtime import deployment

from flows import artifacts
from flows.build_summary import BuildSummary
from flows.clusters import ClusterSettings, open_client, worker_limits
from flows.fan_out import GivenUp, fan_out
from flows.hand_off import announce, check_deployment, start_training
from flows.metrics import count_rejects, counting_runs
from flows.parameters import over_deployment
from flows.progress import Stages
from flows.read_sources import read_sources
from flows.steps import step
from flows.workspace_parameter import WorkspaceParameter
from mammo_etl import catalog, latest, limits, store
from mammo_etl.confounds import audit
from mammo_etl.convert import FilmResult, convert_film, read_candidates, read_receipt
from mammo_etl.extract import ShardWork, extract_shard
from mammo_etl.film_work import FilmWork, film_work
from mammo_etl.inventory import (
    SourceFiles,
    check_films,
    check_rejects,
    combine,
    list_sources,
    with_evidence,
    without_films,
)
from mammo_etl.leaks import check_leaks, leaks_of
from mammo_etl.lock import Check, locked
from mammo_etl.places import Place, place_of, read_each, shown
from mammo_etl.plan import PlanError, plan_patches, total_warnings
from mammo_etl.reader import DamagedRunError, PublishedRun, open_run, published_id
from mammo_etl.records import Candidate, Finding, Reason, Rejection, Scan
from mammo_etl.report import write_report
from mammo_etl.reuse import Parent, find_parent
from mammo_etl.settings import BuildSettings, SettingsError, SourceSettings, digest
from mammo_etl.sources import Inventory
from mammo_etl.summary import counts_of, empty_sources, warnings_of
from mammo_etl.workspace import Workspace


@counting_runs
@flow(
    name="build-dataset",
    flow_run_name="build-dataset into {workspace}",
    persist_result=False,
    # Prefect keeps the exception of a failed run all the same, and would pickle it.
    result_serializer="json",
)
def build_dataset(
    sources: list[SourceSettings],
    workspace: WorkspaceParameter,
    settings: BuildSettings = BuildSettings(),
    cluster: ClusterSettings = ClusterSettings(),
    hand_off: str | None = None,
) -> BuildSummary:
    """Takes raw scans all the way to a published run: inventory, convert, plan, extract, publish.

    What earlier builds in the workspace have done under the same settings is not done again, and what was damaged since is mended; where nothing at
    all has changed since the latest build, no cluster is opened. The same input and settings give the same run. `hand_off` names a deployment of train-model
    (train-model/on-new-run) that is started on the published run, once for each run. Raises WorkspaceInUseError while another build, or a gc, is at work
    in the workspace.
    """
    place = place_of(workspace)
    if deployment.id is not None and not place.is_absolute():
        raise SettingsError(
            f"workspace {workspace}: expected an absolute path, as a worker runs flows in a temporary folder"
        )
    settings, cluster = over_deployment("settings", settings), over_deployment("cluster", cluster)
    if hand_off is not None:
        check_deployment(hand_off)
    place = place.absolute()
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
    files = list_sources(sources)
    with locked(place, "a build") as check:
        basis = latest.basis_of(sources, files, settings)
        known = latest.up_to_date(place, basis, settings)
        if known is not None:
            summary = BuildSummary.of(known, False, [])
        else:
            catalog.check_formats(place)
            summary = _build(sources, files, place, settings, cluster, basis, check)
    if FlowRunContext.get() is not None:
        for text in (*summary.warnings, f"report: {summary.report}"):
            get_run_logger().info(text)
        announce(summary.run_id, place, summary.new)
        leave_artifacts(summary, place, settings)
    if hand_off is not None:
        start_training(hand_off, summary.run_id, place)
    return summary


def _build(
    sources: Sequence[SourceSettings],
    files: Sequence[SourceFiles],
    workspace: Place,
    settings: BuildSettings,
    cluster: ClusterSettings,
    basis: str,
    check: Check,
) -> BuildSummary:
    stages = Stages()
    with open_client(cluster) as client:
        inventory = step("inventory", take_inventory, client, files, workspace, settings, stages, cluster.item_seconds)
        inventory, films = step(
            "convert", convert, client, inventory, workspace, settings, stages, cluster.item_seconds
        )
        phantom = any(source.phantom for source in files)
        plan, run_id, shortfalls = step("plan", make_plan, inventory, films, phantom, workspace, settings, stages)
        published = catalog.finished_run(workspace, run_id)
        new = published is None
        if published is None:
            seconds = cluster.item_seconds
            step("extract", extract, client, plan, inventory, films, run_id, workspace, settings, stages, seconds)
            published = step(
                "publish",
                publish,
                files,
                sources,
                inventory,
                plan,
                shortfalls,
                run_id,
                workspace,
                settings,
                stages,
                check,
            )
        check()
        catalog.announce(workspace, published)
    latest.remember(workspace, basis, published, settings, inventory.rejects)
    return BuildSummary.of(published, new, stages.timings)


def take_inventory(
    client: Client,
    files: Sequence[SourceFiles],
    workspace: Place,
    settings: BuildSettings,
    stages: Stages,
    seconds: float,
) -> Inventory:
    """The films and findings of all sources together, by the headers of their files.

    Raises PlanError if a worker has too little memory for any work, and InventoryError if there is no usable film.
    """
    limits.check_workers(worker_limits(client))
    inventory = combine(read_sources(client, files, stages, seconds), settings.inventory)
    catalog.write_rejects(workspace, inventory.rejects)
    count_rejects(inventory.rejects)
    check_films(inventory)
    return inventory


def convert(
    client: Client, inventory: Inventory, workspace: Place, settings: BuildSettings, stages: Stages, seconds: float
) -> tuple[Inventory, dict[str, FilmResult]]:
    """Cleans every film on the cluster and finds its candidates; films that cannot be used move to the rejects.

    Raises PlanError if a worker has too little memory for a film, or the disk no room for all, and InventoryError if too many were rejected.
    """
    work = film_work(inventory.scans, inventory.findings, inventory.rejects)
    limits.check_film_memory(work, settings.cleaning, settings.patches, worker_limits(client))
    limits.check_films_disk(work, settings, workspace)
    films: dict[str, FilmResult] = {}
    rejects: list[Rejection] = []
    function = partial(convert_film, workspace=workspace, cleaning=settings.cleaning, patches=settings.patches)
    with stages.stage("convert", "films", len(work)) as stage:
        of_name = {item.scan.image_id: item for item in work}
        items = ((item.scan.image_id, item) for item in work)
        for name, result in fan_out(client, function, items, seconds=seconds):
            if isinstance(result, GivenUp):
                rejects.append(_quarantined(of_name[name], result))
                stage.advance(failed=1)
                continue
            rejects += result.rejects
            if result.png:
                films[name] = result
            skipped = result.image_skipped and result.candidates_skipped
            stage.advance(skipped=int(skipped), rejected=int(not result.png))
    inventory = with_evidence(
        without_films(inventory, rejects),
        (film.scan for film in films.values()),
        (finding for film in films.values() for finding in film.findings),
    )
    catalog.write_rejects(workspace, inventory.rejects)
    count_rejects(rejects)
    faulty = {row.finding_id for row in inventory.rejects}
    sound = sum(finding.finding_id not in faulty for finding in inventory.findings)
    check_rejects(len(inventory.scans) + sound, inventory.rejects, settings.inventory)
    return inventory, films


def _quarantined(work: FilmWork, outcome: GivenUp) -> Rejection:
    return Rejection(
        stage="convert",
        code=outcome.code,
        message=outcome.message,
        source=work.scan.source,
        path=work.scan.path,
        image_id=work.scan.image_id,
    )


def make_plan(
    inventory: Inventory,
    films: dict[str, FilmResult],
    phantom: bool,
    workspace: Place,
    settings: BuildSettings,
    stages: Stages,
) -> tuple[pd.DataFrame, str, list[str]]:
    """The numbered patches, the id of their run, which follows from all that the run will contain, and where they fall short of what was asked.

    Raises PlanError if there is no patch, or no room for them, and LeakError if their split leaks.
    """
    with stages.stage("plan", "films", len(films)) as stage:
        candidates: list[Candidate] = []
        read = partial(read_candidates, workspace, settings.cleaning, settings.patches)
        for found in read_each(read, sorted(films)):
            candidates += found
            stage.advance()
        plan = plan_patches(inventory.scans, candidates, settings.plan, settings.normals)
        check_leaks(leaks_of(inventory.scans, plan, settings.plan))
    places = {"path", "roi_path", "crop_path"}
    rows: list[Scan | Finding | Rejection] = [*inventory.scans, *inventory.findings, *inventory.rejects]
    records = [{key: value for key, value in asdict(item).items() if key not in places} for item in rows]
    run_id = f"run-{digest(settings, phantom, records, plan.to_dict('list'))[:12]}"
    return plan, run_id, total_warnings(candidates, plan, settings.plan)


def extract(
    client: Client,
    plan: pd.DataFrame,
    inventory: Inventory,
    films: dict[str, FilmResult],
    run_id: str,
    workspace: Place,
    settings: BuildSettings,
    stages: Stages,
    seconds: float,
) -> None:
    """Writes every shard of the run's patches.zarr on the cluster.

    Raises PlanError if a worker has too little memory for a shard, or a shard was given up.
    """
    size, bits = settings.patches.size, settings.cleaning.bits
    largest = max(height * width for _, _, height, width in (film.box for film in films.values()))
    limits.check_shard_memory(min(settings.store.shard_rows, len(plan)), size, bits, largest, worker_limits(client))
    limits.check_run_disk(len(plan), len(films), settings, workspace, run_id)
    places = Workspace(workspace)
    run = places.run(run_id)
    store.create_patches(run / "patches.zarr", len(plan), size, settings.store, bits)
    shards = store.shard_ranges(len(plan), settings.store.shard_rows)
    parent = find_parent(workspace, plan, inventory.scans, settings.store.shard_rows)
    function = partial(extract_shard, run=run, images=places.images(digest(settings.cleaning)))
    with stages.stage("extract", "patches", len(plan)) as stage:
        work = (
            (f"{run_id}-{shard}", _shard_work(shard, rows, plan, films, parent)) for shard, rows in enumerate(shards)
        )
        # A shard's work holds its rows of the plan: fewer of them are kept in flight.
        for _, result in fan_out(client, function, work, window_per_worker=4, seconds=seconds):
            if isinstance(result, GivenUp):
                remedy = " Set a smaller store.shard_rows." if result.code is Reason.WORKER_DIED else ""
                raise PlanError(f"extract: {result.message}{remedy}")
            stage.advance(result.rows, skipped=result.rows if result.skipped else 0)


def _shard_work(
    shard: int, rows: range, plan: pd.DataFrame, films: dict[str, FilmResult], parent: Parent | None
) -> ShardWork:
    patches = plan.iloc[rows.start : rows.stop][["image_id", "y", "x", "size"]]
    images = {image_id: (films[image_id].png, films[image_id].box) for image_id in sorted(set(patches["image_id"]))}
    return ShardWork(shard, rows.start, patches, images, parent.part(rows) if parent is not None else None)


def publish(
    files: Sequence[SourceFiles],
    sources: Sequence[SourceSettings],
    inventory: Inventory,
    plan: pd.DataFrame,
    shortfalls: Sequence[str],
    run_id: str,
    workspace: Place,
    settings: BuildSettings,
    stages: Stages,
    check: Check,
) -> PublishedRun:
    """Checks that no shard is missing, writes tables and report, and makes the run the published one."""
    places = Workspace(workspace)
    run = places.run(run_id)
    with stages.stage("publish", "steps", 4) as stage:
        patches, shards = catalog.write_run_tables(
            run, run_id, inventory.scans, inventory.findings, inventory.rejects, plan, settings.store.shard_rows
        )
        stage.advance()
        leaks = leaks_of(inventory.scans, patches, settings.plan)
        names = [scan.image_id for scan in inventory.scans]
        receipts = read_each(partial(read_receipt, workspace, settings.cleaning), names)
        statistics = {name: receipt["statistics"] for name, receipt in zip(names, receipts, strict=True)}
        confounds = audit(inventory.scans, patches, statistics, settings)
        stage.advance()
        kinds = {source.kind for source in files}
        manifest = {
            "parent": _parent(workspace, run_id),
            "phantom": any(source.phantom for source in files),
            "sources": [
                {
                    "kind": kind,
                    "paths": [source.path for source in sources if source.kind == kind],
                    "films": sum(scan.source == kind for scan in inventory.scans),
                    "findings": sum(finding.source == kind for finding in inventory.findings),
                }
                for kind in sorted(kinds)
            ],
            "settings": settings.model_dump(mode="json"),
            "settings_digest": digest(settings),
            "counts": counts_of(inventory, patches),
            "rejects": dict(sorted(Counter(row.code.value for row in inventory.rejects).items())),
            "timings": list(stages.timings),
            "leaks": [asdict(row) for row in leaks],
            "confounds": confounds,
            "warnings": [
                *empty_sources(inventory, sources),
                *shortfalls,
                *warnings_of(inventory, patches, settings),
                *confounds["warnings"],
            ],
        }
        write_report(run, places.images(digest(settings.cleaning)), {"run_id": run_id, **manifest})
        stage.advance()
        check()
        published = catalog.publish(workspace, run_id, manifest, shards)
        stage.advance()
    return published


def _parent(workspace: Place, run_id: str) -> str | None:
    """The run that is published until this one is."""
    try:
        parent = published_id(workspace)
    except DamagedRunError:
        return None
    return parent if parent != run_id else None


def leave_artifacts(summary: BuildSummary, workspace: Place, settings: BuildSettings) -> None:
    """Leaves summary, stages, links and some patches in Prefect."""
    run = open_run(workspace, summary.run_id)
    artifacts.leave(
        "build",
        _as_markdown(summary, settings),
        summary.timings,
        {"report": summary.report, "catalog": shown(Workspace(workspace).catalog)},
        lambda: [artifacts.contact_sheet(run)],
        run.manifest["phantom"],
    )


def _as_markdown(summary: BuildSummary, settings: BuildSettings) -> str:
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in summary.counts.items())
    return "\n".join(
        [
            f"# Dataset run `{summary.run_id}`",
            counts,
            "",
            *[f"- {count:,} rejected: {reason}" for reason, count in summary.rejects.items()],
            *[f"- {text}" for text in summary.warnings],
            "",
            *artifacts.settings_lines(settings),
            "",
            f"Report: `{summary.report}`",
        ]
    )
