"""What a workspace holds that no kept run or model needs.

A run needs the films that it lists, cleaned and searched under its settings: without them it can be read, but not mended, nor verified against
its sources. A model needs its run, and so does a study. The published run, every model and every study are kept whatever is asked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mammo_etl import catalog
from mammo_etl.files import digest_of_file
from mammo_etl.formats import MODEL_VERSION, OLDEST_MODEL, STUDY_VERSION, check_format
from mammo_etl.places import Place, files_below, remove_tree
from mammo_etl.reader import ReaderError, published_id, read_manifest, read_table
from mammo_etl.settings import digest
from mammo_etl.workspace import UNFINISHED, Workspace, entries, read_json


class Kind(StrEnum):
    """Why something is not needed."""

    OLD_RUN = "old runs"
    UNFINISHED_RUN = "unfinished runs"
    IMAGE = "cleaned films of no kept run"
    CANDIDATES = "candidates of no kept run"
    LEFTOVER = "files half written when their process was killed"


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file, or a run's folder, that is not needed."""

    kind: Kind
    path: Place
    size: int
    """Bytes."""


def find_garbage(workspace: Place, keep: int | None = None) -> Iterator[Garbage]:
    """What can go, while no build is at work (see `mammo_etl.lock`).

    Of the finished runs all stay, or the `keep` newest, besides the published one and those of models and studies. Raises ReaderError if what is
    kept cannot be known, as a kept run or `current.json` is damaged, and FormatError if anything here is of a format that is not known.
    """
    places = Workspace(workspace)
    manifests = {path.name: read_manifest(path / "manifest.json") for path in entries(places.runs)}
    finished = {run_id: manifest for run_id, manifest in manifests.items() if manifest is not None}
    kept = _kept_runs(places, finished, keep)
    # Before anything is yielded, and so may be removed, all that is kept is known.
    images, candidates = _needed(places, {run_id: finished.get(run_id) for run_id in kept})
    for path in entries(places.runs):
        if path.name not in kept:
            yield Garbage(
                Kind.OLD_RUN if path.name in finished else Kind.UNFINISHED_RUN,
                path,
                sum(entry.size for entry in files_below(path)),
            )
    yield from _films(places.root / "images", Kind.IMAGE, {".png", ".json"}, images)
    yield from _films(places.root / "candidates", Kind.CANDIDATES, {".json"}, candidates)
    for path in entries(places.root):
        # A training may be writing the catalog at this moment.
        if path.name.startswith(UNFINISHED) and not path.name.endswith(places.catalog.name):
            yield Garbage(Kind.LEFTOVER, path, len(path.read_bytes()))


def remove(workspace: Place, garbage: Iterable[Garbage]) -> Iterator[Garbage]:
    """Removes what was found, and yields each item once it is gone.

    May be stopped anywhere: what is left is a workspace like any other, and what is left to remove is found again.
    """
    for item in garbage:
        if item.kind in {Kind.OLD_RUN, Kind.UNFINISHED_RUN} and item.path.is_dir():
            # First, as a run with a manifest is taken for a whole one.
            (item.path / "manifest.json").unlink(missing_ok=True)
            remove_tree(item.path)
        else:
            item.path.unlink()
        yield item
    root = Workspace(workspace).root
    for folder in [*entries(root / "images"), *entries(root / "candidates")]:
        # On an object store there are no empty folders.
        if isinstance(folder, Path) and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    catalog.write_catalog(workspace)


def _kept_runs(places: Workspace, finished: dict[str, dict[str, Any]], keep: int | None) -> set[str]:
    newest = sorted(finished, key=lambda run_id: (finished[run_id]["created"], run_id), reverse=True)
    kept = {*newest[:keep]}
    published = published_id(places.root)
    if published is not None:
        kept.add(published)
    for model in entries(places.models):
        path = model / "manifest.json"
        manifest = read_json(path)
        if manifest is not None:
            check_format(path, manifest, MODEL_VERSION, "train the model again", OLDEST_MODEL)
        # A training under way has no manifest yet; its model's name begins with that of its run.
        kept |= {manifest["run_id"]} if manifest else {name for name in finished if model.name.startswith(f"{name}-")}
    for study in entries(places.studies):
        # Written before its first trial.
        path = study / "tuning.json"
        begun = read_json(path)
        if begun is not None:
            # Older ones name their run, too.
            check_format(path, begun, STUDY_VERSION, "remove the study's folder", oldest=1)
            kept.add(begun["run_id"])
    return kept


def _needed(
    places: Workspace, kept: dict[str, dict[str, Any] | None]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The films that kept runs need, by the digest that names their folder: cleaned, and their candidates."""
    images: dict[str, set[str]] = {}
    candidates: dict[str, set[str]] = {}
    for run_id, manifest in kept.items():
        folder = places.run(run_id)
        if not folder.is_dir():
            # A model whose run was lost needs nothing more.
            continue
        table = folder / "scans.parquet"
        if manifest is None or not table.exists() or digest_of_file(table) != manifest["digests"][table.name]:
            raise ReaderError(
                f"{folder}: damaged, so that it cannot be told which films it needs; mend it by building it again"
            )
        version = manifest["format_version"]
        films = {str(name) for name in read_table(table, ["image_id"])["image_id"].to_pylist()}
        cleaning, patches = manifest["settings"]["cleaning"], manifest["settings"]["patches"]
        images.setdefault(digest(cleaning, version=version), set()).update(films)
        candidates.setdefault(digest(cleaning, patches, version=version), set()).update(films)
    return images, candidates


def _films(folder: Place, kind: Kind, suffixes: set[str], needed: dict[str, set[str]]) -> Iterator[Garbage]:
    """Files of films below `folder`/<digest> that are not needed."""
    for entry in files_below(folder):
        path = entry.place
        if path.name.startswith(UNFINISHED):
            yield Garbage(Kind.LEFTOVER, path, entry.size)
        elif path.suffix in suffixes and path.stem not in needed.get(path.parent.name, ()):
            yield Garbage(kind, path, entry.size)
