"""Which faults pass by themselves, and that they are no verdict on a file."""

import errno
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from mammo_etl.files import SourceFileError, read_bytes, size_of
from mammo_etl.transient import is_transient


def answered(status: int) -> OSError:
    """An error as s3fs raises it from the store's answer."""
    error = OSError(errno.EIO, "answered")
    error.__cause__ = ClientError(
        {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.EAGAIN, "again"),
        OSError(errno.ESTALE, "stale"),
        EndpointConnectionError(endpoint_url="http://127.0.0.1"),
        ReadTimeoutError(endpoint_url="http://127.0.0.1"),
        answered(429),
        answered(502),
    ],
)
def test_faults_that_pass(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    assert is_transient(error)
    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(Path, "stat", fail)
    for read in (read_bytes, size_of):
        with pytest.raises(type(error)):
            read(str(tmp_path / "film"))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(),
        PermissionError(),
        OSError(errno.EIO, "bad sector"),
        OSError(errno.ENOSPC, "full"),
        answered(400),
    ],
)
def test_faults_that_stay(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    assert not is_transient(error)
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(SourceFileError):
        read_bytes(str(tmp_path / "film"))


def test_other_errors_are_none_of_them() -> None:
    assert not any(map(is_transient, (ValueError("seven"), NoCredentialsError(), KeyError("status"))))
