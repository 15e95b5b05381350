"""Parameters of a deployed flow's run, laid over those of its deployment."""

from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from pydantic import BaseModel

from mammo_etl.settings import laid_over, validated

Model = TypeVar("Model", bound=BaseModel)


def over_deployment(name: str, given: Model) -> Model:
    """The settings of a run: what was given for the parameter `name`, and for all that it leaves out what the deployment has.

    Prefect itself replaces a parameter as a whole: `--param 'settings={"patches": {"size": 128}}'` would silently drop every other setting of the deployment.
    What counts is written to the flow run, so that its page shows it. Lists are one value. Outside a deployment's run, `given` as it is. Raises SettingsError
    if the two do not fit together.
    """
    if deployment.id is None:
        return given
    with get_client(sync_client=True) as client:
        defaults: dict[str, Any] = client.read_deployment(UUID(deployment.id)).parameters.get(name) or {}
        values = given.model_dump(mode="json", exclude_unset=True)
        merged = laid_over(defaults, values)
        if merged == values:
            return given
        settings = validated(type(given), merged, f"parameter {name}")
        run = UUID(flow_run.id)
        client.update_flow_run(run, parameters={**client.read_flow_run(run).parameters, name: merged})
    return settings
