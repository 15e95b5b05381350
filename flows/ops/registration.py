"""What a Prefect server has to know: work pools and queues, the deployments of prefect.yaml, and automations."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from uuid import UUID

import anyio
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, CancelFlowRun, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from prefect.types import SecretDict
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from pydantic import SecretStr

from mammo_etl.settings import SettingsError, SourceSettings, digest

ETL_POOL, TRAIN_POOL = "mammo-etl", "mammo-train"

WORKSPACE_QUEUE = "workspace"
"""Queue of what only one at a time may do in a workspace: builds, and gc."""

WEBHOOK = "MAMMO_WEBHOOK"
"""Environment variable with the address that failures are told to."""

SILENT_SECONDS = 100
"""A run is taken for dead after as long without a heartbeat: three of them missed, each HEARTBEAT_SECONDS after the other. A server that is started
anew has to be back before that."""

_PENDING_SECONDS = 600
"""A run that a worker took and that has not begun by then never will: starting one takes ten seconds, a minute on a busy machine."""

_ENDS = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Crashed", "Cancelled")}

_HEARTBEAT = "prefect.flow-run.heartbeat"

_LOST = "No sign of life: killed, or its machine was lost. The next run goes on."

_BLOCK = "mammo-failures"
"""Prefect block of the webhook."""

_FAILURES = "mammo: failures"
"""The automation that is there only with a webhook."""

_PAYLOAD = """{
  "text": "mammo: {{ flow.name }} / {{ flow_run.name }}: {{ flow_run.state.name }}",
  "flow": "{{ flow.name }}",
  "run": "{{ flow_run.name }}",
  "run_id": "{{ flow_run.id }}",
  "state": "{{ flow_run.state.name }}"
}"""
"""Body of a notification. `text` is what Slack and its like show. The run's message stands in the page alone: it can name files."""


def prefect_file() -> Path:
    """The deployments: prefect.yaml of the working folder, or else mammo's own."""
    if (here := Path("prefect.yaml")).exists():
        return here.absolute()
    import flows

    package = Path(flows.__file__).parent
    # In an installed package it lies beside the flows; in a checkout, at the top.
    return next(path for path in (package / "prefect.yaml", package.parent / "prefect.yaml") if path.exists())


def laid_out(
    content: Mapping[str, Any],
    workspace: str,
    sources: Sequence[SourceSettings],
    settings: Mapping[str, Any],
    cluster: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of prefect.yaml with a workspace, and where they are given sources, tables of settings and a cluster, in place of its own.

    A build without sources that are there is deployed with its schedule switched off. Raises SettingsError if it is no prefect.yaml of mammo's flows.
    """
    laid = deepcopy(dict(content))
    try:
        for deployment in laid["deployments"]:
            parameters = deployment["parameters"]
            parameters["workspace"] = workspace
            if "sources" in parameters and sources:
                parameters["sources"] = [source.model_dump(mode="json") for source in sources]
            if cluster and "cluster" in parameters:
                parameters["cluster"] = dict(cluster)
            tables = {
                "flows.build_dataset.build_dataset": {
                    name: table for name, table in settings.items() if name not in _NOT_OF_A_BUILD
                },
                "flows.train_model.train_model": settings.get("training"),
                "flows.tune_model.tune_model": settings.get("training"),
                "flows.score_scans.score_scans": settings.get("scoring"),
            }
            if given := tables.get(deployment["entrypoint"]):
                parameters["settings"] = given
            if deployment["entrypoint"] == "flows.tune_model.tune_model" and settings.get("tuning"):
                parameters["tuning"] = settings["tuning"]
    except (KeyError, TypeError) as error:
        raise SettingsError(
            f"prefect.yaml: expected deployments, each with entrypoint and parameters: {error!r}"
        ) from error
    laid.pop("definitions", None)
    return laid


_NOT_OF_A_BUILD = {"cluster", "training", "scoring", "tuning", "ops"}
"""Tables of a settings file that are parameters of their own, or none."""


def missing_sources(content: Mapping[str, Any]) -> list[str]:
    """Local folders and archives of scheduled builds that are not there."""
    return sorted(
        {
            source["path"]
            for deployment in content["deployments"]
            if deployment.get("schedules")
            for source in deployment["parameters"].get("sources", [])
            if "://" not in source["path"] and "::" not in source["path"] and not Path(source["path"]).exists()
        }
    )


def register(content: Mapping[str, Any], longest: timedelta) -> None:
    """Has the server of PREFECT_API_URL know pools, queues, deployments and automations; what it knows by these names is replaced.

    Raises SettingsError if `prefect deploy` refuses the deployments.
    """
    with get_client(sync_client=True) as client:
        _make_pools(client)
        _deploy(content)
        _make_automations(client, longest)


def _make_pools(client: SyncPrefectClient) -> None:
    template = anyio.run(get_default_base_job_template_for_infrastructure_type, "process")
    for name, description in (
        (ETL_POOL, "Builds, scoring and maintenance: CPUs, or a Dask cluster."),
        (TRAIN_POOL, "Trainings: a GPU, if there is one."),
    ):
        pool = WorkPoolCreate(name=name, type="process", description=description, base_job_template=template or {})
        try:
            # What an administrator has changed, paused or limited stays so.
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(pool)
    # A limit of the server's own counts runs that died unseen, too: the automation for these frees it.
    wanted = WorkQueueFilter(name=WorkQueueFilterName(any_=[WORKSPACE_QUEUE]))
    if not client.read_work_queues(work_pool_name=ETL_POOL, work_queue_filter=wanted):
        client.create_work_queue(
            WORKSPACE_QUEUE,
            description="One at a time: builds and gc have the workspace to themselves.",
            concurrency_limit=1,
            work_pool_name=ETL_POOL,
        )


def _deploy(content: Mapping[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    # It goes on after a deployment that it skips, and ends well.
    if done.returncode or "Skipping" in done.stdout:
        raise SettingsError(f"prefect.yaml: `prefect deploy` refuses it:\n{done.stdout}{done.stderr}")


def automations(longest: timedelta, webhook: CallWebhook | None) -> list[AutomationCore]:
    """What the server does by itself: runs that died end as Crashed, overlong ones are cancelled, failures are told.

    They look at runs of deployments alone: one that a user started in a shell may send its heartbeats less often.
    """
    of_a_deployment = ResourceSpecification({"prefect.resource.role": "deployment"})
    any_run = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})

    def missing(after: set[str], expect: set[str], within: timedelta) -> EventTrigger:
        """For each run: none of `expect` in time after one of `after`."""
        return EventTrigger(
            match=any_run,
            match_related=of_a_deployment,
            after=after,
            expect=expect,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        )

    crashed = ChangeFlowRunState(
        name=None,
        force=False,
        state=StateType.CRASHED,
        message=_LOST,
    )
    found = [
        AutomationCore(
            name="mammo: dead runs",
            description="A run without heartbeats becomes Crashed.",
            trigger=missing({_HEARTBEAT}, {_HEARTBEAT, *_ENDS}, timedelta(seconds=SILENT_SECONDS)),
            actions=[crashed],
        ),
        AutomationCore(
            name="mammo: runs that never began",
            description="A run that a worker took and lost becomes Crashed.",
            trigger=missing(
                {"prefect.flow-run.Pending"},
                {_HEARTBEAT, "prefect.flow-run.Running", "prefect.flow-run.Cancelling", *_ENDS},
                timedelta(seconds=_PENDING_SECONDS),
            ),
            actions=[crashed],
        ),
        AutomationCore(
            name="mammo: overlong runs",
            description="A run that takes too long is cancelled; what it has finished is kept.",
            trigger=missing({"prefect.flow-run.Running"}, set(_ENDS), longest),
            actions=[CancelFlowRun()],
        ),
    ]
    if webhook is not None:
        found.append(
            AutomationCore(
                name=_FAILURES,
                description="Failed and crashed runs of deployments are told to the webhook.",
                trigger=EventTrigger(
                    match=any_run,
                    match_related=of_a_deployment,
                    expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                    for_each={"prefect.resource.id"},
                    posture=Posture.Reactive,
                    threshold=1,
                ),
                actions=[webhook],
            )
        )
    # So that it can be told whether the server has the same.
    return [item.model_copy(update={"description": f"{item.description} ({_digest(item)})"}) for item in found]


def _digest(automation: AutomationCore) -> str:
    content = automation.model_dump(mode="json", exclude={"trigger": {"id"}})
    for name in ("after", "expect", "for_each"):
        # Sets, which have another order in each process.
        content["trigger"][name].sort()
    return digest(content)[:8]


def _make_automations(client: SyncPrefectClient, longest: timedelta) -> None:
    webhook = None
    address = os.environ.get(WEBHOOK)
    if address is None:
        # As it was told before, by another shell.
        with suppress(ObjectNotFound):
            known_block = client.read_block_document_by_name(_BLOCK, "webhook")
            webhook = CallWebhook(block_document_id=known_block.id, payload=_PAYLOAD)
    elif address:
        saved = Webhook(url=SecretStr(address), headers=SecretDict({"Content-Type": "application/json"})).save(
            _BLOCK, overwrite=True
        )
        webhook = CallWebhook(block_document_id=cast("UUID", saved), payload=_PAYLOAD)
    wanted = {automation.name: automation for automation in automations(longest, webhook)}
    names = {*wanted, _FAILURES}
    for known in client.read_automations():
        if known.name in wanted and known.description == wanted[known.name].description:
            # Made anew, it would forget the runs that it waits for, and never know that they died.
            del wanted[known.name]
        elif known.name in names:
            client.delete_automation(known.id)
    for automation in wanted.values():
        client.create_automation(automation)


def end_lost_runs() -> None:
    """Sets runs of the pools that are under way to Crashed: for when no worker is there, so that none of them lives."""
    with get_client(sync_client=True) as client:
        under_way = FlowRunFilter(
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
            )
        )
        pools = WorkPoolFilter(name=WorkPoolFilterName(any_=[ETL_POOL, TRAIN_POOL]))
        for run in client.read_flow_runs(flow_run_filter=under_way, work_pool_filter=pools):
            client.set_flow_run_state(run.id, Crashed(message=_LOST), force=True)
