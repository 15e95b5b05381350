"""From a published dataset run to a training of it: by a call that is made once, and by an event for whoever listens."""

from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound

from mammo_etl.places import Place, shown
from mammo_etl.settings import SettingsError

PUBLISHED = "mammo.dataset-run.published"
"""Event of a dataset run that has become the published one."""


def check_deployment(name: str) -> None:
    """Raises SettingsError if the server knows no deployment of that name: told before a build of hours, not after it."""
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError) as error:
            raise SettingsError(
                f"hand_off {name}: no such deployment; expected FLOW/DEPLOYMENT, as `prefect deployment ls` has it"
            ) from error


def start_training(deployment: str, run_id: str, workspace: Place) -> None:
    """Has a deployment train on a run, and does not wait for it.

    Deployment, workspace and run are the key by which the server knows that it was asked before: a build that is repeated, by the schedule or after it
    was killed, starts no second training.
    """
    run_deployment(
        deployment,
        parameters={"workspace": str(shown(workspace)), "run_id": run_id},
        timeout=0,
        idempotency_key=f"{deployment} {shown(workspace)} {run_id}",
        as_subflow=False,
    )


def announce(run_id: str, workspace: Place, new: bool) -> None:
    """Tells the server's listeners of a run that was published just now."""
    if new:
        emit_event(
            PUBLISHED,
            resource={
                "prefect.resource.id": f"mammo.dataset-run.{run_id}",
                "prefect.resource.name": run_id,
                "mammo.workspace": str(shown(workspace)),
            },
        )
