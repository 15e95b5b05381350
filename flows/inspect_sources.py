"""The inventory alone: what sources hold, without a workspace and without Prefect's server."""

from collections.abc import Sequence

from flows.clusters import ClusterSettings, open_client
from flows.progress import Stages
from flows.read_sources import read_sources
from mammo_etl.inspection import Inspected, Inspection, inspect
from mammo_etl.inventory import SourceFiles


def inspect_sources(files: Sequence[SourceFiles], cluster: ClusterSettings) -> Inspection:
    """What sources hold, by the headers of their files; faults are counted, not raised."""
    with open_client(cluster) as client:
        found = read_sources(client, files, Stages(), cluster.item_seconds)
    return inspect(
        {
            source.kind: Inspected(
                inventory=found[source.kind],
                files=len(source.files),
                phantom=source.phantom,
            )
            for source in files
        }
    )
