"""Many items over a Dask cluster, through a bounded window of futures."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from distributed import Client, Future, KilledWorker, as_completed

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """An item whose work killed its worker as often as the cluster allows; it is left out, and the rest goes on."""

    message: str


def fan_out(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[tuple[str, Item]],
    *,
    window_per_worker: int = 4,
) -> Iterator[tuple[str, Result | WorkerDied]]:
    """Calls `function` on each (name, item) on the cluster and yields (name, result) as they end, in no fixed order.

    Never more than `window_per_worker` items per worker thread are in flight, and each future is released as it ends, so that the
    scheduler's memory does not grow with the number of items. Names must be unique. Work may be done twice (a lost worker's is), so it has to
    be idempotent. Items that were queued on a worker when it died are tried again at the end, each alone: only what kills its worker by itself
    is given up. An exception in `function` is a fault of the program: it is raised here, with the item's name, after the other futures
    were cancelled.
    """
    suspects: list[tuple[str, Item]] = []
    width = max(1, window_per_worker * sum(client.nthreads().values()))
    for name, item, result in _window(client, function, items, width):
        if isinstance(result, WorkerDied):
            suspects.append((name, item))
        else:
            yield name, result
    for suspect in suspects:
        for name, _, result in _window(client, function, [suspect], 1):
            yield name, result


def _window(
    client: Client, function: Callable[[Item], Result], items: Iterable[tuple[str, Item]], width: int
) -> Iterator[tuple[str, Item, Result | WorkerDied]]:
    """Name, item and result of each item, with `width` of them in flight."""
    source = iter(items)
    # Other clients of the same scheduler must never be given our results for theirs.
    ours = uuid.uuid4().hex
    running: dict[Future[Result], tuple[str, Item]] = {}

    def submit(name: str, item: Item) -> Future[Result]:
        future = client.submit(function, item, pure=False, key=f"{_title(function)}-{name}-{ours}", retries=0)
        running[future] = (name, item)
        return future

    first = [submit(name, item) for name, item in islice(source, width)]
    if not first:
        return
    ended = as_completed(first, loop=client.loop)
    try:
        for future in ended:
            name, item = running.pop(future)
            result = _outcome(future, name)
            future.release()
            for following in islice(source, 1):
                ended.add(submit(*following))
            yield name, item, result
    finally:
        client.cancel(list(running), force=True)


def _outcome(future: Future[Result], name: str) -> Result | WorkerDied:
    error = future.exception() if future.status != "finished" else None
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return WorkerDied(f"Work on {name} killed its worker repeatedly; it may need more memory than the worker has.")
    error.add_note(f"while working on {name}")
    raise error


def _title(function: Callable[[Item], Result]) -> str:
    """Name of a function for Dask's dashboard, also below functools.partial."""
    return str(getattr(getattr(function, "func", function), "__name__", "work"))
