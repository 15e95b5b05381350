"""A Dask client that is not put off by the news of other clients."""

import uuid

from distributed import Client

_CONNECTING = 5
"""Attempts to connect to a running scheduler."""


class PatientClient(Client):
    """A client that tries again to connect where the scheduler speaks to all clients at that moment.

    distributed's own asserts that the scheduler's first message to it stands alone. It does not where another client's key is forgotten, say, in
    the same two milliseconds.
    """

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        for _ in range(_CONNECTING - 1):
            try:
                await super()._ensure_connected(timeout)  # type: ignore[no-untyped-call]
            except AssertionError:
                # The scheduler will take leave of the name that it has just welcomed.
                self.id = f"{type(self).__name__}-{uuid.uuid4()}"
            else:
                return
        await super()._ensure_connected(timeout)  # type: ignore[no-untyped-call]
