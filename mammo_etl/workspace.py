"""Where everything lies in a workspace, on a local disk or an object store, and how files get there: whole or not at all.

WORKSPACE/
  images/<digest>/<image_id>.png, .json          cleaned films and their receipts, shared by runs
  candidates/<digest>/<image_id>.json            places for patches, shared by runs
  runs/<run_id>/                                 one dataset run
  models/<model_id>/                             one model run
  studies/<study_id>/                            one search for better settings of a training
  catalog.parquet                                one row per run and per model
  rejects.parquet                                what the latest build left out, also where it failed for it
  current.json                                   the published run
  latest.json                                    what the latest build was made from and consists of, by stamps; may be deleted
  lock                                           who builds or clears up here at the moment
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_etl.places import Place


@dataclass(frozen=True, slots=True)
class Workspace:
    """Places below a workspace's root."""

    root: Place

    @property
    def catalog(self) -> Place:
        """Table of runs and models."""
        return self.root / "catalog.parquet"

    @property
    def rejects(self) -> Place:
        """What the latest build left out."""
        return self.root / "rejects.parquet"

    @property
    def current(self) -> Place:
        """Pointer to the published run."""
        return self.root / "current.json"

    @property
    def latest(self) -> Place:
        """What tells whether the latest build is still up to date; see `mammo_etl.latest`."""
        return self.root / "latest.json"

    @property
    def lock(self) -> Place:
        """File whose lock the one writer of the workspace holds."""
        return self.root / "lock"

    @property
    def runs(self) -> Place:
        """Folder of dataset runs."""
        return self.root / "runs"

    @property
    def models(self) -> Place:
        """Folder of model runs."""
        return self.root / "models"

    @property
    def studies(self) -> Place:
        """Folder of studies."""
        return self.root / "studies"

    def images(self, digest: str) -> Place:
        """Folder of the films cleaned under settings with that digest."""
        return self.root / "images" / digest

    def candidates(self, digest: str) -> Place:
        """Folder of the candidates found under settings with that digest."""
        return self.root / "candidates" / digest

    def run(self, run_id: str) -> Place:
        """Folder of a dataset run."""
        return self.runs / run_id


def entries(folder: Place) -> list[Place]:
    """What is right below a folder, sorted by name; empty if there is none."""
    return sorted(folder.iterdir(), key=str) if folder.is_dir() else []


class DamagedFileError(Exception):
    """A file of the workspace that is missing or not what was written: the next build makes it again."""


UNFINISHED = ".unfinished-"
"""What the name of a file begins with until it is whole; one that is left was being written when its process was killed."""


@contextmanager
def replacing(path: Place) -> Iterator[Path]:
    """A temporary local path, of the same suffix, whose file takes the place of `path` when the block ends, and vanishes if the block raises.

    An OSError, as of a full disk, names `path`.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="mammo-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.write_bytes(temporary)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED, suffix=f"-{path.name}")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        error.filename = str(path)
        raise


def write_bytes(path: Place, content: bytes) -> None:
    """Writes a file whole or not at all."""
    if not isinstance(path, Path):
        path.write_bytes(content)
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Place, value: Any, indent: int | None = 2) -> None:
    """Writes JSON for people and programs, whole or not at all; raises ValueError for NaN and infinities, which JSON has not.

    Without an indent it is written several times faster.
    """
    write_bytes(path, (json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Place) -> Any | None:
    """JSON of a file; None if there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def write_sealed(path: Place, content: dict[str, Any], indent: int | None = 2) -> None:
    """Writes a JSON object with a digest of itself under `seal`, whole or not at all; see `write_json`."""
    write_json(path, {**content, "seal": _seal(content)}, indent)


def read_sealed(path: Place) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None if there is no such file, or it has changed since."""
    value = read_json(path)
    if not isinstance(value, dict):
        return None
    content = {key: item for key, item in value.items() if key != "seal"}
    return content if value.get("seal") == _seal(content) else None


def _seal(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
