"""Where a workspace lies: in a local folder, or below a prefix of an S3-compatible object store.

A place on a store has those methods of `pathlib.Path` that a workspace needs, so that the rest of the program need not know which of the two it
works with. Stores are reached by obstore, array shards by TensorStore; credentials, region and endpoint come from the environment alone, by the
names that all AWS programs know (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION,
AWS_ENDPOINT_URL), or from the machine's role.
"""

import errno
import functools
import io
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

try:
    import obstore
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )
    from obstore.store import S3Store
except ImportError:  # The extra `s3` is not installed.
    if not TYPE_CHECKING:
        obstore = None

SCHEME = "s3://"

_RETRIES: Any = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=8), "base": 2},
    "retry_timeout": timedelta(seconds=60),
}
"""A request that the store answers with 500 to 599, or not at all, is sent again; what then still fails is tried again as a whole item."""

_TIMEOUT = "120s"
"""Of one request: a shard of 64 MB then takes at least 0.5 MB/s."""

_MESSAGE = re.compile(r"<Message>(.*?)</Message>")
"""What the store says in its answer (Amazon S3 API Reference, "Error responses")."""

_READERS = 16
"""Threads of `read_each`."""
_BATCH = 1024
"""Names that it takes on at a time."""

Name = TypeVar("Name")
Result = TypeVar("Result")


class PlaceError(ValueError):
    """A workspace's place that cannot be used, in one sentence."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """An object of a store, or the prefix of several, used as a `Path` is.

    What is written is there as a whole or not at all, and seen by all readers at once (Amazon S3 is strongly consistent since 2020, as are the
    stores that follow it). Raises, as `Path` does, FileNotFoundError for what is not there, and PermissionError; ConnectionError where the
    store cannot be reached or fails.
    """

    bucket: str
    key: str
    """Without a slash at either end; empty for the bucket itself."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, posixpath.join(self.key, name))

    @property
    def name(self) -> str:
        """Last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "ObjectPath":
        """All but the last part of the key."""
        return ObjectPath(self.bucket, posixpath.dirname(self.key))

    def with_name(self, name: str) -> "ObjectPath":
        """Another object of the same parent."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "ObjectPath":
        """The same place with another ending."""
        return self.parent / f"{self.stem}{suffix}"

    def absolute(self) -> "ObjectPath":
        """Itself."""
        return self

    def is_absolute(self) -> bool:
        """True."""
        return True

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self._meta() is not None

    def exists(self) -> bool:
        """Whether there is such an object: a prefix is no more than the names of its objects."""
        return self.is_file()

    def is_dir(self) -> bool:
        """Whether there is any object below this prefix."""
        return next(self._listed(), None) is not None

    def read_bytes(self) -> bytes:
        """The object's content."""
        return self._asked(lambda store: bytes(obstore.get(store, self.key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The object's content as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> io.BytesIO:
        """The object's content as a file in memory."""
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, content: bytes | Path) -> None:
        """Writes the object, from memory or from a local file, as a whole or not at all."""
        # In one request: what is left of an upload in parts whose writer was killed costs money, and is seen nowhere.
        self._asked(lambda store: obstore.put(store, self.key, content, use_multipart=False))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object; one that is not there is no fault on a store."""
        self._asked(lambda store: obstore.delete(store, self.key))

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Objects and prefixes right below this one."""
        found = self._asked(lambda store: obstore.list_with_delimiter(store, self.key or None))
        for key in [*found["common_prefixes"], *(item["path"] for item in found["objects"])]:
            yield ObjectPath(self.bucket, key.rstrip("/"))

    def read_tagged(self) -> tuple[bytes, str]:
        """The object's content and its tag (ETag), which any change of it changes."""

        def get(store: "S3Store") -> tuple[bytes, str]:
            answer = obstore.get(store, self.key)
            return bytes(answer.bytes()), str(answer.meta["e_tag"])

        return self._asked(get)

    def write_if(self, content: bytes, tag: str | None) -> str | None:
        """Writes the object if its tag is this one (None: if there is no such object); its new tag, or None if it was not so."""
        condition: Any = "create" if tag is None else {"e_tag": tag}

        def put(store: "S3Store") -> str | None:
            try:
                return str(obstore.put(store, self.key, content, mode=condition)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError:
                if tag is None:
                    raise
                return None

        return self._asked(put)

    def _meta(self) -> Any | None:
        try:
            return self._asked(lambda store: obstore.head(store, self.key))
        except FileNotFoundError:
            return None

    def _listed(self) -> Iterator[Any]:
        """Description of every object below this prefix, in no order."""
        pages = self._asked(lambda store: iter(obstore.list(store, self.key or None)))
        while page := self._asked(lambda _: next(pages, None)):
            yield from page

    def _asked(self, question: Callable[["S3Store"], Result]) -> Result:
        try:
            return question(_store(self.bucket, _environment()))
        except (FileNotFoundError, BaseError) as error:
            # Not chained: obstore's errors go on with a dump of all that was sent.
            raise self._told(error) from None

    def _told(self, error: Exception) -> OSError:
        said = _MESSAGE.search(str(error))
        reason = said[1] if said else str(error).split("\n", 1)[0].rsplit(" - ", 1)[-1]
        if isinstance(error, FileNotFoundError) or "<Code>NoSuchBucket" in str(error):
            return FileNotFoundError(errno.ENOENT, reason, str(self))
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return PermissionError(errno.EACCES, f"The object store refuses: {reason}", str(self))
        return ConnectionError(f"{self}: the object store failed: {reason}")


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
    if obstore is None:
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
            for item in place._listed()
        )
    else:
        paths = ((path, path.stat()) for path in place.rglob("*") if path.is_file())
        listed = (Entry(path, status.st_size, stamp_by(status)) for path, status in paths)
    return sorted(listed, key=lambda entry: str(entry.place))


def stamp_at(place: Place) -> Stamp | None:
    """Stamp of a file; None if there is no such file."""
    if isinstance(place, ObjectPath):
        meta = place._meta()
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
        source._asked(lambda store: obstore.copy(store, source.key, target.key))
        source.unlink()
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
    """The place as TensorStore names it."""
    if isinstance(place, Path):
        return {"driver": "file", "path": str(place)}
    environment = dict(_environment())
    spec: dict[str, Any] = {"driver": "s3", "bucket": place.bucket, "path": f"{place.key}/"}
    if endpoint := _endpoint(environment):
        spec["endpoint"] = endpoint
    if region := environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"):
        spec["aws_region"] = region
    if "AWS_ACCESS_KEY_ID" in environment:
        # Else it looks for files of profiles first, and logs that there are none.
        spec["aws_credentials"] = {"type": "environment"}
    return spec


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def _endpoint(environment: dict[str, str]) -> str | None:
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")


@functools.lru_cache(maxsize=8)
def _store(bucket: str, environment: tuple[tuple[str, str], ...]) -> "S3Store":
    """The bucket, with its connections kept open, under that environment."""
    endpoint = _endpoint(dict(environment))
    options: Any = {"timeout": _TIMEOUT, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
    place: Any = {"endpoint": endpoint} if endpoint else {}
    return S3Store(bucket, client_options=options, retry_config=_RETRIES, **place)
