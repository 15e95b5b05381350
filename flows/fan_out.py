"""Many items over a Dask cluster, through a bounded window of futures."""

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
    scheduler's memory does not grow with the number of items. Names must be unique. Work may be done twice (a lost worker's is), so it has
    to be idempotent. An exception in `function` is a fault of the program: it is raised here, with the item's name, after the window's
    other futures were cancelled.
    """
    source = iter(items)
    names: dict[Future[Result], str] = {}

    def submit(name: str, item: Item) -> Future[Result]:
        future = client.submit(function, item, pure=False, key=f"{_title(function)}-{name}", retries=0)
        names[future] = name
        return future

    width = max(1, window_per_worker * sum(client.nthreads().values()))
    first = [submit(name, item) for name, item in islice(source, width)]
    if not first:
        return
    running = as_completed(first, loop=client.loop)
    try:
        for future in running:
            name = names.pop(future)
            result = _outcome(future, name)
            future.release()
            for following, item in islice(source, 1):
                running.add(submit(following, item))
            yield name, result
    finally:
        client.cancel(list(names), force=True)


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
