"""Settings of what `mammo ops up` starts."""

from typing import Annotated

from pydantic import Field

from mammo_etl.settings import Settings

Port = Annotated[int, Field(ge=1, le=65535)]


class OpsSettings(Settings):
    """Ports on 127.0.0.1 of the services of `mammo ops up`, and how long a deployed run may take."""

    server_port: Port = 4200
    """Prefect's server: its page and its API."""
    scheduler_port: Port = 8786
    """Dask's scheduler."""
    dashboard_port: Port = 8787
    """Dask's dashboard, with the cluster's metrics at /metrics."""
    metrics_port: Port = 9300
    """Metrics of the flows."""
    longest_hours: Annotated[float, Field(gt=0)] = 20
    """A run of a deployment that takes longer is cancelled; what it has finished is kept."""
