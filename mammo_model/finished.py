"""What a finished model run says of itself."""

from typing import Any

from mammo_etl.formats import METRICS_VERSION, MODEL_VERSION, OLDEST_METRICS, OLDEST_MODEL, check_format
from mammo_etl.places import Place
from mammo_etl.workspace import Workspace, entries, read_json

TRAIN_AGAIN = "train the model again"


def read_finished(folder: Place) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Content of manifest.json and metrics.json; None if one is missing or damaged, so that the run is not finished.

    Raises mammo_etl.formats.FormatError if they are of a format that is not known.
    """
    paths = folder / "manifest.json", folder / "metrics.json"
    manifest, metrics = map(read_json, paths)
    if not isinstance(manifest, dict) or not isinstance(metrics, dict):
        return None
    check_format(paths[0], manifest, MODEL_VERSION, TRAIN_AGAIN, OLDEST_MODEL)
    check_format(paths[1], metrics, METRICS_VERSION, TRAIN_AGAIN, OLDEST_METRICS)
    return manifest, metrics


def finished_models(workspace: Place) -> list[str]:
    """Names of the model runs of a workspace that have a manifest, sorted."""
    models = entries(Workspace(workspace).models)
    return [folder.name for folder in models if folder.is_dir() and (folder / "manifest.json").exists()]


def what_there_is(models: list[str]) -> str:
    """What there is, for a sentence about a model that is not: `; there are A, B`, or how to make one."""
    return f"; there are {', '.join(models)}" if models else "; make one with `mammo train`"
