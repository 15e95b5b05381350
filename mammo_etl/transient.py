"""Faults of file systems, networks and object stores that pass by themselves: worth another try, and no verdict on a file."""

import errno
from collections.abc import Iterator
from typing import Any

try:
    from botocore.exceptions import ConnectionError as StoreConnectionError
    from botocore.exceptions import HTTPClientError
except ImportError:  # The extra `s3` is not installed.
    StoreConnectionError = HTTPClientError = ConnectionError

_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        # What s3fs makes of the status 503, and of 500.
        errno.EBUSY,
        errno.EREMOTEIO,
        # A network file system whose server was restarted, or is out of reach.
        errno.ESTALE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)

_STATUSES = frozenset({408, 429})
"""HTTP statuses below 500 that ask for another try (RFC 9110, 15.5.9; RFC 6585, 4)."""


def is_transient(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is of a kind that passes."""
    return any(_passes(link) for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _passes(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | StoreConnectionError | HTTPClientError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    status = _http_status(error)
    return status in _STATUSES or 500 <= status < 600


def _http_status(error: BaseException) -> int:
    """Status of the answer as aiohttp's and botocore's errors carry it; 0 if there is none."""
    response: Any = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = metadata.get("HTTPStatusCode", getattr(error, "status", 0))
    return status if isinstance(status, int) else 0
