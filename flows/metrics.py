"""What flows have done, counted for Prometheus in the folder of PROMETHEUS_MULTIPROC_DIR; where that is not set, nothing is done.

A flow is a process that comes and goes, often before anybody has asked it anything. So its counters lie in files, as prometheus_client keeps those of
a server of several processes, and `serve` adds them up for whoever asks. What is in the files outlives the process, however it ended.

prometheus_client is imported where it is used: a command that counts nothing does not pay for it.
"""

import fcntl
import functools
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mammo_etl.records import Rejection
from mammo_etl.settings import SettingsError

if TYPE_CHECKING:
    import prometheus_client

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable with the folder's name: prometheus_client's own."""

_MARK = "mammo-"
"""Files of flows are TYPE_mammo-NUMBER.db."""

AnyFlow = TypeVar("AnyFlow")


class _Metrics:
    """The metrics of this process. No label has a film's name: each value of a label is another series for ever."""

    def __init__(self, folder: Path) -> None:
        from prometheus_client import Counter, Summary, values

        # Before the first metric is made. By prometheus_client's own way, files would be named by process numbers, which containers that share the
        # folder have in common, and there would be one more for every process that ever ran.
        values.ValueClass = values.MultiProcessValue(functools.partial(_slot, folder))  # type: ignore[no-untyped-call]
        flow, stage = "flow", "stage"
        self.items: prometheus_client.Counter = Counter(
            "mammo_items_total",
            "Items that ended, by outcome: done, skipped (done before), rejected (with a reason), failed (given up).",
            [flow, stage, "unit", "outcome"],
            registry=None,
        )
        self.rejects: prometheus_client.Counter = Counter(
            "mammo_rejects_total", "Rows of rejects, by reason code.", [flow, stage, "reason"], registry=None
        )
        self.seconds: prometheus_client.Summary = Summary(
            "mammo_stage_seconds", "Seconds that stages took that ended well.", [flow, stage], registry=None
        )
        self.runs: prometheus_client.Counter = Counter(
            "mammo_flow_runs_total",
            "Flow runs that ended: completed, failed, crashed, cancelled.",
            [flow, "outcome"],
            registry=None,
        )


def count_items(stage: str, unit: str, items: int, *, skipped: int, rejected: int, failed: int) -> None:
    """Counts items of a stage that have ended; `items` are all of them."""
    if (metrics := _metrics()) is not None and (flow := _flow()):
        outcomes = {"skipped": skipped, "rejected": rejected, "failed": failed}
        for outcome, count in {"done": items - sum(outcomes.values()), **outcomes}.items():
            # A training that goes on from an earlier epoch takes steps back.
            if count > 0:
                metrics.items.labels(flow, stage, unit, outcome).inc(count)


def count_rejects(rejects: Iterable[Rejection]) -> None:
    """Counts rows of rejects, once in a flow run."""
    if (metrics := _metrics()) is not None and (flow := _flow()):
        for (stage, reason), count in Counter((row.stage, row.code.value) for row in rejects).items():
            metrics.rejects.labels(flow, stage, reason).inc(count)


def count_stage(stage: str, seconds: float) -> None:
    """Counts a stage that has ended well."""
    if (metrics := _metrics()) is not None and (flow := _flow()):
        metrics.seconds.labels(flow, stage).observe(seconds)


def counting_runs(flow: AnyFlow) -> AnyFlow:
    """A flow whose runs are counted as they end, also by a worker of Prefect's for one that was killed."""
    # A hook adds lines to the log of each run.
    # The folder has to be there before anything of Prefect's server is imported, which has counters of its own.
    if _folder() is not None:
        hooked: Any = flow
        for register in (hooked.on_completion, hooked.on_failure, hooked.on_crashed, hooked.on_cancellation):
            register(_count_run)
    return flow


def _count_run(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook; whoever runs it for a process that died, names its arguments."""
    del flow_run
    if (metrics := _metrics()) is not None:
        metrics.runs.labels(flow.name, state.type.value.lower()).inc()


def serve(host: str, port: int) -> None:
    """Serves the counters of all flows at http://HOST:PORT/metrics until SIGTERM or Ctrl-C.

    Raises SettingsError if PROMETHEUS_MULTIPROC_DIR is not set, and OSError if the port is taken.
    """
    folder = _folder()
    if folder is None:
        raise SettingsError(f"{FOLDER}: expected the folder in which flows count, as in their environment")
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.metrics_core import Metric
    from prometheus_client.multiprocess import MultiProcessCollector

    counted: Path = folder

    class Flows:
        """All flows' counters, without those of Prefect's own that any process with this variable leaves there, in files of its own or in ours."""

        def collect(self) -> Iterable[Metric]:
            merged: Iterable[Metric] = MultiProcessCollector.merge(map(str, counted.glob(f"*_{_MARK}*.db")))  # type: ignore[no-untyped-call]
            return (metric for metric in merged if metric.name.startswith("mammo_"))

    registry = CollectorRegistry()
    registry.register(Flows())
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server, thread = start_http_server(port, host, registry)
        ended.wait()
        server.shutdown()
        server.server_close()
        thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder() -> Path | None:
    """The folder, made if need be; None if none is asked for."""
    name = os.environ.get(FOLDER)
    if not name:
        return None
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{FOLDER}: {name} cannot be made a folder: {error.strerror}") from error
    return folder


@functools.cache
def _of_folder(name: str) -> _Metrics:
    folder = _folder()
    assert folder is not None
    return _Metrics(folder)


def _metrics() -> _Metrics | None:
    name = os.environ.get(FOLDER)
    return _of_folder(name) if name else None


@functools.cache
def _taken(folder: Path, process: int) -> tuple[int, Any]:
    """Number and locked file of the first set of counters in the folder that no living process adds to.

    A lock ends with its process, and holds among containers that share the folder. Counters only ever grow, so the next process goes on with them.
    """
    number = 0
    while True:
        file = (folder / f"{number}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            number += 1
        else:
            return number, file


def _slot(folder: Path) -> str:
    """What tells this process from all others that are at work in the folder: prometheus_client asks at each count."""
    return f"{_MARK}{_taken(folder, os.getpid())[0]}"


def _flow() -> str:
    """Name of the flow under way; empty outside a flow run."""
    if "prefect" not in sys.modules:
        return ""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context.flow.name if context is not None and context.flow is not None else ""
