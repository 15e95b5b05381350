"""A build of few small films, and its settings."""

from pathlib import Path

from flows.build_dataset import BuildSummary, build_dataset
from flows.clusters import ClusterSettings
from mammo_etl.settings import BuildSettings, SourceSettings, validated

SETTINGS = validated(
    BuildSettings,
    {
        "patches": {"size": 64, "stride": 32, "normals_per_film": 8, "min_distance": 16, "normals": "background"},
        "plan": {"validation": 0.3, "test": 0.3},
        "store": {"shard_rows": 20},
    },
    "test",
)


def sources(films: Path) -> list[SourceSettings]:
    return [SourceSettings(kind="cbis-ddsm", path=str(films))]


def build(films: Path, workspace: Path, cluster: ClusterSettings, settings: BuildSettings = SETTINGS) -> BuildSummary:
    return build_dataset.fn(sources(films), workspace, settings, cluster)
