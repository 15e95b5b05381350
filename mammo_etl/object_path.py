"""An object of an S3-compatible store, or a prefix of several, with those methods of `pathlib.Path` that a workspace needs.

Stores are reached by obstore; credentials, region and endpoint come from the environment alone, by the names that all AWS programs know
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION, AWS_ENDPOINT_URL), or from the machine's role.
"""

import errno
import functools
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterator
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

Result = TypeVar("Result")


def is_installed() -> bool:
    """Whether the package that stores are reached by is there."""
    return obstore is not None


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
        return self.with_name(f"{self.stem}{suffix}")

    def absolute(self) -> "ObjectPath":
        """Itself."""
        return self

    def is_absolute(self) -> bool:
        """True."""
        return True

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.meta() is not None

    def exists(self) -> bool:
        """Whether there is such an object: a prefix is no more than the names of its objects."""
        return self.is_file()

    def is_dir(self) -> bool:
        """Whether there is any object below this prefix."""
        return next(self.metas_below(), None) is not None

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

    def rename(self, target: "ObjectPath") -> None:
        """Gives the object another key of its bucket; one that has it is replaced."""
        self._asked(lambda store: obstore.copy(store, self.key, target.key))
        self.unlink()

    def meta(self) -> Any | None:
        """What the store tells of the object (`size`, `e_tag`, `path` and more); None if there is no such object."""
        try:
            return self._asked(lambda store: obstore.head(store, self.key))
        except FileNotFoundError:
            return None

    def metas_below(self) -> Iterator[Any]:
        """The same of every object below this prefix, in no order."""
        pages = self._asked(lambda store: iter(obstore.list(store, self.key or None)))
        while page := self._asked(lambda _: next(pages, None)):
            yield from page

    def kvstore(self) -> dict[str, Any]:
        """The place as TensorStore names it."""
        environment = dict(_environment())
        spec: dict[str, Any] = {"driver": "s3", "bucket": self.bucket, "path": f"{self.key}/"}
        if endpoint := _endpoint(environment):
            spec["endpoint"] = endpoint
        if region := environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"):
            spec["aws_region"] = region
        if "AWS_ACCESS_KEY_ID" in environment:
            # Else it looks for files of profiles first, and logs that there are none.
            spec["aws_credentials"] = {"type": "environment"}
        return spec

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
