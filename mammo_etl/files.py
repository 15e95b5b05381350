"""Reading source files wherever they lie: a local folder, a zip archive or an object-store prefix, all by fsspec.

A file is named by a plain local path or by an fsspec URL (`zip://mdb001.pgm::/data/mias.zip`, `s3://bucket/key`), which travels to workers
as a string and is opened there.
"""

import functools
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import xxhash
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

try:
    from botocore.exceptions import BotoCoreError
except ImportError:  # The extra `s3` is not installed.
    BotoCoreError = OSError

from mammo_etl.places import Place, Stamp, stamp_at
from mammo_etl.records import Reason, Rejection
from mammo_etl.transient import is_transient

NOT_READ = "The file could not be read: "
"""What a message begins with where a file's content never came to be seen."""


class SourceFileError(Exception):
    """A file, film or finding that cannot be used; becomes a row of `rejects`."""

    def __init__(self, code: Reason, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Listing:
    """Files below a root in sorted order, and the folders that could not be read."""

    files: tuple[str, ...]
    stamps: tuple[Stamp | None, ...]
    """Of each file, as `stamp_of` gives them."""
    rejects: tuple[Rejection, ...]


def name_of(url: str) -> str:
    """File name of a path or URL, without folders and archive."""
    return PurePosixPath(url.split("::", 1)[0].replace("\\", "/")).name


def list_files(root: str, source: str) -> Listing:
    """Every file below a folder, in a zip archive, or below an object-store prefix, sorted by name; hidden ones are left out.

    Raises OSError if there is nothing at `root` (FileNotFoundError), or its object store cannot be reached.
    """
    if "://" in root:
        return _list_remote(root)
    path = Path(root).absolute()
    if path.is_file() and path.suffix.lower() == ".zip":
        return _list_remote(f"zip://::{path}")
    if not path.is_dir():
        raise FileNotFoundError("no such folder or zip archive")
    rejects: list[Rejection] = []

    def unreadable(error: OSError) -> None:
        rejects.append(
            Rejection(
                stage="inventory",
                code=Reason.UNREADABLE_FOLDER,
                message=f"The folder could not be listed: {error.strerror}.",
                source=source,
                path=str(error.filename),
            )
        )

    files = sorted(
        str(Path(folder) / name)
        for folder, _, names in os.walk(path, onerror=unreadable, followlinks=True)
        for name in names
        if not name.startswith(".")
    )
    return Listing(tuple(files), tuple(map(stamp_of, files)), tuple(rejects))


def _list_remote(url: str) -> Listing:
    filesystem, prefix = url_to_fs(url)
    chain = url.split("::", 1)[1] if "::" in url else None
    # Not what an earlier listing has told.
    filesystem.invalidate_cache()
    try:
        found = filesystem.find(prefix, detail=True)
    except BotoCoreError as error:
        raise ConnectionError(f"the object store cannot be listed: {error}") from error
    names = sorted(name for name in found if not PurePosixPath(name).name.startswith("."))
    if not names:
        raise FileNotFoundError("nothing there")
    if chain is not None:
        files = tuple(f"{url.split('://', 1)[0]}://{name}::{chain}" for name in names)
        return Listing(files, (stamp_of(chain),) * len(files), ())
    files = tuple(filesystem.unstrip_protocol(name) for name in names)
    return Listing(files, tuple(_tag(found[name]) for name in names), ())


def read_bytes(url: str, limit: int | None = None) -> bytes:
    """Content of a file (its first `limit` bytes).

    Raises SourceFileError with `unreadable-file` if it cannot be read, and the error itself if that is one that passes.
    """
    try:
        if "://" not in url:
            with Path(url).open("rb") as file:
                return file.read(-1 if limit is None else limit)
        filesystem, path = _filesystem(url)
        # Not a file object's read: on an object store that would fetch a read-ahead block for a header.
        content: bytes = filesystem.cat_file(path, end=limit)
        return content
    except (OSError, BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        # The last two are what zipfile raises for an encrypted member and for an unknown compression.
        if is_transient(error):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceFileError(Reason.UNREADABLE_FILE, f"{NOT_READ}{reason}.") from error


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Filesystem and path of an URL."""
    path, *archive = url.split("::", 1)
    if not archive:
        filesystem, path = url_to_fs(url)
        return filesystem, path
    protocol, member = path.split("://", 1)
    stamp = stamp_of(archive[0])
    if stamp is None:
        return url_to_fs(f"{protocol}://::{archive[0]}")[0], member
    return _archive(protocol, archive[0], tuple(stamp)), member


@functools.lru_cache(maxsize=8)
def _archive(protocol: str, place: str, stamp: tuple[int | str, ...]) -> AbstractFileSystem:
    """An archive's filesystem, kept open while the archive's `stamp` is the same: its list of contents is read only once."""
    filesystem: AbstractFileSystem = url_to_fs(f"{protocol}://::{place}")[0]
    return filesystem


def size_of(url: str) -> int:
    """Size of a file in bytes; raises SourceFileError if it is not there, and the error itself if that is one that passes."""
    try:
        if "://" not in url:
            return Path(url).stat().st_size
        filesystem, path = _filesystem(url)
        return int(filesystem.size(path))
    except OSError as error:
        if is_transient(error):
            raise
        raise SourceFileError(Reason.UNREADABLE_FILE, f"{NOT_READ}{error}.") from error


def fingerprint_of(content: bytes) -> str:
    """XXH3 of bytes, 128 bits, hexadecimal: tells whether a source file has changed, in a seventh of the time of SHA-256."""
    return xxhash.xxh3_128_hexdigest(content)


def digest_of(content: bytes) -> str:
    """SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: Place) -> str:
    """SHA-256 of a workspace's file of any size, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(url: str) -> Stamp | None:
    """What tells cheaply that a file is still the same: with an equal stamp it is, with any other its content has to be looked at.

    Of a local file: size, and the times (nanoseconds) of the last change of its content and of its status. The latter is the system's: no program
    sets it back, as copying with times, unpacking and synchronising do the former. Of an archive's member: the archive's. On an object store: size
    and ETag, which follows from the content. None where there is no telling, or no such file. Raises errors of a store that pass.
    """
    path, *archive = url.split("::", 1)
    if archive:
        return stamp_of(archive[0])
    if "://" in path:
        return _remote_stamp(path)
    return stamp_at(Path(path))


def _remote_stamp(url: str) -> Stamp | None:
    filesystem, path = url_to_fs(url)
    filesystem.invalidate_cache(path)
    try:
        return _tag(filesystem.info(path))
    except OSError as error:
        if is_transient(error):
            raise
        return None


def _tag(info: Mapping[str, Any]) -> Stamp | None:
    """Stamp by what a store tells of an object; stores spell the tag's name in two ways."""
    tag = info.get("ETag") or info.get("etag")
    size = info.get("size")
    return [int(size), str(tag)] if tag and size is not None else None
