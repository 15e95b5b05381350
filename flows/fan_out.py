"""Many items over a Dask cluster, through a bounded window of futures."""

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from dask.typing import Key
from distributed import Client, Future, KilledWorker, Scheduler
from distributed.scheduler import NoWorkerError

from flows.run_log import StepLog, Wanted, item_named, listening
from mammo_etl.records import Reason
from mammo_etl.transient import is_transient

Item = TypeVar("Item")
Result = TypeVar("Result")
Element = TypeVar("Element")

_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before each further try of an item that met a passing fault."""

_COLLECTING_SECONDS = 0.02
"""How long ended items are collected, so that quick ones share the messages by which they are fetched and replaced. A window is more work than
that."""

_RESTART_SECONDS = 30.0
"""What a worker is given to come back."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An item that the infrastructure failed; it is left out, and the rest goes on."""

    code: Reason
    """`worker-died`: its work killed its worker as often as the cluster allows. `too-slow`: it ran too long. `unreachable`: it met a passing
    fault at every try."""
    message: str


@dataclass(frozen=True, slots=True)
class _Passing:
    """A fault that passes, as the worker tells of it."""

    message: str


@dataclass(frozen=True, slots=True)
class _Try(Generic[Item]):
    """One item under way, or waiting for another try."""

    name: str
    item: Item
    number: int = 0
    """Tries before this one."""

    def again(self) -> "_Try[Item]":
        """The next try."""
        return replace(self, number=self.number + 1)


def fan_out(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[tuple[str, Item]],
    *,
    window_per_worker: int = 32,
    seconds: float = math.inf,
) -> Iterator[tuple[str, Result | GivenUp]]:
    """Calls `function` on each (name, item) on the cluster and yields (name, result) as they end, in no fixed order.

    Never more than `window_per_worker` items per worker thread are in flight, and each future is released as it ends, so that the
    scheduler's memory does not grow with the number of items. Names must be unique. Work may be done twice (a lost worker's is), so it has to
    be idempotent.

    An exception that `is_transient` has the item tried again, after pauses. An item that runs for longer than `seconds` is given up, and its
    worker restarted, which needs a nanny as workers have by default: a running thread cannot be stopped. Items that were queued on a worker
    when it died are tried again at the end, each alone: only what kills its worker by itself is given up. Any other exception in
    `function` is a fault of the program: it is raised here, with the item's name, after the other futures were cancelled.
    Raises ConnectionError if the scheduler is lost, or has no workers for longer than its configuration allows.
    """
    suspects: list[tuple[str, Item]] = []

    def width() -> int:
        with _reaching(client):
            threads: dict[str, int] = client.nthreads()
        return max(1, window_per_worker * sum(threads.values()))

    with listening(client) as log:
        for name, item, result in _window(client, function, items, width, seconds, log):
            if isinstance(result, GivenUp) and result.code is Reason.WORKER_DIED:
                suspects.append((name, item))
                log.tell(name, "was on a worker that died; tried again at the end, alone")
            else:
                yield name, _told(log, name, result)
        for suspect in suspects:
            for name, _, result in _window(client, function, [suspect], lambda: 1, seconds, log):
                yield name, _told(log, name, result)


def _told(log: StepLog, name: str, result: Result | GivenUp) -> Result | GivenUp:
    """The result of an item; the log is told if it was given up."""
    if isinstance(result, GivenUp):
        log.tell(name, f"given up, {result.code}: {result.message}")
    return result


def _window(
    client: Client,
    function: Callable[[Item], Result],
    items: Iterable[tuple[str, Item]],
    width: Callable[[], int],
    seconds: float,
    log: StepLog,
) -> Iterator[tuple[str, Item, Result | GivenUp]]:
    """Name, item and result of each item, with `width()` of them in flight or waiting for another try."""
    source = (_Try(name, item) for name, item in items)
    # Other clients of the same scheduler must never be given our results for theirs.
    group = f"{_title(function)}-{uuid.uuid4().hex}"
    running: dict[Future[Result | _Passing], _Try[Item]] = {}
    resting: list[tuple[float, _Try[Item]]] = []
    ended: SimpleQueue[Future[Result | _Passing]] = SimpleQueue()
    pause = min(max(seconds / 4, 0.1), 10.0)
    look, room = time.monotonic() + pause, width()
    try:
        while True:
            now = time.monotonic()
            tries = [rested for due, rested in resting if due <= now]
            resting = [(due, waiting) for due, waiting in resting if due > now]
            tries += islice(source, max(0, room - len(running) - len(resting) - len(tries)))
            running |= _submitted(client, partial(_attempt, function, log.wanted), group, tries, ended)
            if not running and not resting:
                return
            wake = min([look, *(due for due, _ in resting)])
            over = [future for future in _drained(ended, wake - now) if future in running]
            results = _results(client, over)
            _in_loop(client, over, lambda future: future.release())
            for future, result in zip(over, results, strict=True):
                one = running.pop(future)
                if isinstance(result, _Passing) and one.number < len(_PAUSES):
                    resting.append((time.monotonic() + _PAUSES[one.number], one.again()))
                    log.tell(one.name, f"tried again in {_PAUSES[one.number]:g} seconds, after {result.message}")
                else:
                    yield one.name, one.item, _outcome(result, one)
            if time.monotonic() >= look:
                look, room = time.monotonic() + pause, width()
                for future in _stopped(client, group, seconds, running):
                    one = running.pop(future)
                    message = f"Work on {one.name} ran longer than {seconds:g} seconds."
                    yield one.name, one.item, GivenUp(Reason.TOO_SLOW, message)
    finally:
        # Without its scheduler, the client has cancelled all of them itself.
        left = [future for future in running if not future.cancelled()]
        if left:
            client.cancel(left, force=True)


def _submitted(
    client: Client,
    attempt: Callable[[str, Item], Result | _Passing],
    group: str,
    tries: Sequence[_Try[Item]],
    ended: SimpleQueue[Future[Result | _Passing]],
) -> dict[Future[Result | _Passing], _Try[Item]]:
    """Futures of items, each put into the queue when it has ended, by one message to the scheduler for all of them."""
    if not tries:
        return {}
    keys = [(group, one.name, one.number) for one in tries]
    with _reaching(client):
        names, items = [one.name for one in tries], [one.item for one in tries]
        futures = client.map(attempt, names, items, key=keys, pure=False, retries=0)
    _in_loop(client, futures, lambda future: future.add_done_callback(ended.put))
    return dict(zip(futures, tries, strict=True))


def _in_loop(client: Client, futures: Sequence[Future[Any]], action: Callable[[Future[Any]], None]) -> None:
    """Does something to each future in the client's thread: from here, each would have to wake it."""

    def act() -> None:
        for future in futures:
            action(future)

    assert client.loop is not None
    client.loop.add_callback(act)


def _attempt(function: Callable[[Item], Result], wanted: Wanted | None, name: str, item: Item) -> Result | _Passing:
    """What a worker does: here a fault is told to be a passing one, as the errors that it was raised from do not travel."""
    started = time.perf_counter()
    with item_named(name, wanted):
        try:
            result = function(item)
        except Exception as error:
            if not is_transient(error):
                raise
            return _Passing(f"{type(error).__name__}: {error}")
        _log.debug("ended after %.3f seconds", time.perf_counter() - started)
        return result


def _drained(queue: SimpleQueue[Element], seconds: float) -> list[Element]:
    """All elements of a queue; waits for the first, no longer than that, and a moment for others."""
    try:
        elements = [queue.get(timeout=max(0.0, seconds))]
    except Empty:
        return []
    time.sleep(_COLLECTING_SECONDS)
    while not queue.empty():
        elements.append(queue.get())
    return elements


def _results(client: Client, futures: Sequence[Future[Result]]) -> list[Result | BaseException]:
    """Result of each ended future, or its exception, by one message to each worker."""
    if not futures:
        return []
    with _reaching(client):
        results = client.gather(dict(enumerate(futures)), errors="skip")
        # Only now: a future may be cancelled meanwhile, and its result would be None.
        if any(future.cancelled() for future in futures):
            raise CancelledError
        return [
            future.exception() if future.status == "error" else results[number] for number, future in enumerate(futures)
        ]


@contextmanager
def _reaching(client: Client) -> Iterator[None]:
    """Raises ConnectionError for what Dask's client raises, of many kinds, when it has lost its scheduler."""
    try:
        yield
    except (OSError, RuntimeError, CancelledError) as error:
        if isinstance(error, RuntimeError) and client.status == "running":
            raise
        raise ConnectionError("the cluster's scheduler was lost, or dropped the work") from error


def _outcome(result: Result | _Passing | BaseException, one: _Try[Item]) -> Result | GivenUp:
    if isinstance(result, _Passing):
        return GivenUp(
            Reason.UNREACHABLE, f"Work on {one.name} failed {one.number + 1} times, at last by {result.message}"
        )
    if isinstance(result, KilledWorker):
        message = f"Work on {one.name} killed its worker repeatedly; it may need more memory than the worker has."
        return GivenUp(Reason.WORKER_DIED, message)
    if isinstance(result, NoWorkerError):
        raise ConnectionError(
            f"the cluster has had no worker for too long, with {one.name} still to be done"
        ) from result
    if isinstance(result, BaseException):
        result.add_note(f"while working on {one.name}")
        raise result
    return result


def _stopped(client: Client, group: str, seconds: float, running: Iterable[Future[Result]]) -> list[Future[Result]]:
    """Those of the running futures whose work has run too long, after they were cancelled and their workers restarted."""
    with _reaching(client):
        found: dict[Key, str] = client.run_on_scheduler(_overrunning, group, seconds)
        futures = [future for future in running if future.key in found]
        if futures:
            client.cancel(futures, force=True)
            # Not to come back in time is a worker's end, not the step's.
            client.restart_workers(
                sorted({found[future.key] for future in futures}), _RESTART_SECONDS, raise_for_error=False
            )
    return futures


def _overrunning(group: str, seconds: float, dask_scheduler: Scheduler) -> dict[Key, str]:
    """Tasks of a group that have been running for longer, with their workers' addresses, as far as workers have told of them."""
    now = time.time()
    return {
        task.key: worker.address
        for worker in dask_scheduler.workers.values()
        for task, ran in worker.executing.items()
        if task.group_key == group and task.processing_on is worker and ran + now - worker.last_seen > seconds
    }


def _title(function: Callable[[Item], Result]) -> str:
    """Name of a function for Dask's dashboard, also below functools.partial."""
    return str(getattr(getattr(function, "func", function), "__name__", "work"))
