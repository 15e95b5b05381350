"""Gzip files, told by content: some copies of DDSM hold a few, with or without a `.gz` at the end of the name.

Decompression stops at what the content can need, so that a small file that swells without end takes no memory.
"""

import gzip
import zlib
from io import BytesIO

from mammo_etl.files import SourceFileError
from mammo_etl.records import Reason

_MAGIC = b"\x1f\x8b"
_STEP = 1 << 18
_GZIP_FORMAT = 16 + zlib.MAX_WBITS


def is_gzip(content: bytes) -> bool:
    """Whether these are the first bytes of a gzip file (RFC 1952)."""
    return content.startswith(_MAGIC)


def gunzip_start(start: bytes, size: int) -> bytes:
    """At most the first `size` bytes of what a gzip file holds, from its own first bytes.

    Raises SourceFileError `unreadable-file` if these are broken.
    """
    try:
        return zlib.decompressobj(_GZIP_FORMAT).decompress(start, size)
    except zlib.error as error:
        raise SourceFileError(Reason.UNREADABLE_FILE, "The gzip file is broken.") from error


def gunzip(content: bytes, limit: int) -> bytes:
    """All that a gzip file holds.

    Raises SourceFileError `unreadable-file` if it is broken, cut short, or holds more than `limit` bytes.
    """
    found = BytesIO()
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as file:
            # In steps: a single read would ask for the whole limit's memory at once.
            while part := file.read(_STEP):
                found.write(part)
                if found.tell() > limit:
                    raise SourceFileError(
                        Reason.UNREADABLE_FILE,
                        f"The gzip file holds more than the {limit} bytes that its content can need.",
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceFileError(Reason.UNREADABLE_FILE, "The gzip file is broken or cut short.") from error
    # Without a copy: what there is may be all that fits into memory.
    return found.getvalue()
