"""The flow that looks after a workspace on a server: the same as `mammo verify` and `mammo gc`."""

from typing import Annotated, Literal

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from pydantic import Field

from flows import maintenance
from flows.maintenance import GarbageSummary
from flows.metrics import counting_runs
from flows.steps import step
from flows.workspace_parameter import WorkspaceParameter
from mammo_etl.places import place_of
from mammo_etl.reader import DamagedRunError
from mammo_etl.verify import Verification


@counting_runs
@flow(
    name="maintenance",
    flow_run_name="{work} in {workspace}",
    persist_result=False,
    # Prefect keeps the exception of a failed run all the same, and would pickle it.
    result_serializer="json",
)
def maintain(
    workspace: WorkspaceParameter,
    work: Literal["verify", "gc"],
    run_id: str | None = None,
    deep: bool = False,
    keep: Annotated[int, Field(ge=0)] | None = None,
    delete: bool = False,
) -> Verification | GarbageSummary:
    """Verifies a dataset run, the published one if none is named by `run_id`, or lists what no kept run or model needs.

    verify: re-reads it against its digests; `deep`: also its films and their sources. Raises DamagedRunError naming the faults, so that the run fails and
    is told of. gc: with `keep`, all but the newest so many runs may go; with `delete`, it is removed. Raises WorkspaceInUseError while a build is at work.
    """
    place = place_of(workspace).absolute()
    if work == "gc":
        summary = step("gc", maintenance.clear_up, place, keep, delete)
        _table("garbage", "removed" if delete else "not needed", [group.model_dump() for group in summary.groups])
        return summary
    found = step("verify", maintenance.verify, place, run_id, deep)
    _table("verification", f"{found.run_id}: {found.files:,} files", [{"fault": fault} for fault in found.faults])
    if found.faults:
        raise DamagedRunError(f"{len(found.faults)} faults, the first: {found.faults[0]}")
    return found


def _table(key: str, description: str, rows: list[dict[str, object]]) -> None:
    if FlowRunContext.get() is not None:
        create_table_artifact(rows, key=key, description=description if rows else f"{description}: nothing")
