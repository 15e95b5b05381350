"""Where a workspace lies: in a local folder, or below a prefix of an object store; the rest of the program need not know which."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mammo_etl.object_path import SCHEME, ObjectPath, is_installed

_READERS = 16
"""Threads of `read_each`."""
_BATCH = 1024
"""Names that it takes on at a time."""

Name = TypeVar("Name")
Result = TypeVar("Result")


class PlaceError(ValueError):
    """A workspace's place that cannot be used, in one sentence."""


Place = Path | ObjectPath
"""A file or folder of a workspace."""


Stamp = list[int | str]
"""What tells cheaply that a file is still the same; see `mammo_etl.files.stamp_of`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a place."""

    place: Place
    size: int
    """Bytes."""
    stamp: Stamp


def place_of(text: "str | Place") -> Place:
    """The place that a user names: a local path, or `s3://BUCKET/PREFIX`.

    Raises PlaceError for an URL of another scheme, or if the package for object stores is not installed.
    """
    if not isinstance(text, str):
        return text
    if "://" not in text:
        return Path(text)
    if not text.startswith(SCHEME):
        raise PlaceError(f"{text}: expected a local path or {SCHEME}BUCKET/PREFIX")
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise PlaceError(f"{text}: expected the name of a bucket, as in {SCHEME}BUCKET/PREFIX")
    if not is_installed():
        raise PlaceError(f"{text}: a workspace on an object store needs mammo's extra `s3`, as in pip install '.[s3]'")
    parts = [part for part in key.split("/") if part]
    if {".", ".."} & set(parts):
        raise PlaceError(f"{text}: expected names only, without . and ..")
    return ObjectPath(bucket, "/".join(parts))


def files_below(place: Place) -> list[Entry]:
    """Every file below a place, sorted by name; empty if there is nothing."""
    if isinstance(place, ObjectPath):
        listed = (
            Entry(ObjectPath(place.bucket, item["path"]), item["size"], _stamp_of_object(item))
            for item in place.metas_below()
        )
    else:
        paths = ((path, path.stat()) for path in place.rglob("*") if path.is_file())
        listed = (Entry(path, status.st_size, stamp_by(status)) for path, status in paths)
    return sorted(listed, key=lambda entry: str(entry.place))


def stamp_at(place: Place) -> Stamp | None:
    """Stamp of a file; None if there is no such file."""
    if isinstance(place, ObjectPath):
        meta = place.meta()
        return _stamp_of_object(meta) if meta is not None else None
    try:
        return stamp_by(place.stat())
    except OSError:
        return None


def stamp_by(status: os.stat_result) -> Stamp:
    """Stamp of a local file: size, and the times (nanoseconds) of the last change of its content and of its status."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _stamp_of_object(meta: Any) -> Stamp:
    return [meta["size"], meta["e_tag"]]


def name_below(place: Place, folder: Place) -> str:
    """The name of a file within a folder that it lies in, however deep: parts with slashes between them.

    Raises ValueError if it does not lie there.
    """
    return PurePosixPath(str(place)).relative_to(PurePosixPath(str(folder))).as_posix()


def remove_tree(place: Place) -> None:
    """Removes every file below a place, and local folders with them."""
    if isinstance(place, Path):
        shutil.rmtree(place)
        return
    for entry in files_below(place):
        entry.place.unlink()


def move(source: Place, target: Place) -> None:
    """Gives a file another name in the same workspace; one that has it is replaced."""
    if isinstance(source, Path) and isinstance(target, Path):
        source.replace(target)
    elif isinstance(source, ObjectPath) and isinstance(target, ObjectPath):
        source.rename(target)
    else:
        raise ValueError(f"{source} and {target} are not in one workspace")


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """A local file of this content, for programs that read no other: the file itself, or a copy that goes when the block ends."""
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="mammo-") as folder:
        copy = Path(folder) / place.name
        copy.write_bytes(place.read_bytes())
        yield copy


def shown(place: Place) -> Path | str:
    """The place as users name it: a local path, or an URL."""
    return place if isinstance(place, Path) else str(place)


def read_each(read: Callable[[Name], Result], names: Sequence[Name]) -> Iterator[Result]:
    """What `read` gives for each name, in order; several are read at a time, as an object store takes milliseconds to answer."""
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(names), _BATCH):
            yield from pool.map(read, names[start : start + _BATCH])


def kvstore_of(place: Place) -> dict[str, Any]:
    """The place for TensorStore, which refuses paths with `..` in them; its errors name the path that those and links lead to."""
    return {"driver": "file", "path": str(place.resolve())} if isinstance(place, Path) else place.kvstore()
