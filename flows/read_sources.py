"""The headers of all source files, read on a cluster, and joined to tables of films and findings."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from distributed import Client

from flows.fan_out import WorkerDied, fan_out
from flows.progress import Stages
from mammo_etl.inventory import SourceFiles, assemble, read_headers
from mammo_etl.records import Reason, Rejection
from mammo_etl.sources import Inventory

_HEADERS_PER_TASK = 128
"""Header reads take about a millisecond each, and a task some milliseconds of the flow's process, which shares the cores of its workers:
where measured, 16 in a task took a quarter more processor time in all than 64, and 256 a tenth less."""


def read_sources(client: Client, files: Sequence[SourceFiles], stages: Stages) -> dict[str, Inventory]:
    """What each kind of source holds."""
    found: dict[str, Inventory] = {}
    with stages.stage("inventory", "files", sum(len(source.with_headers) for source in files)) as stage:
        for source in files:
            headers: dict[str, Any] = {}
            function = partial(read_headers, source.kind)
            batches = dict(enumerate(_batched(source.with_headers)))
            suspects: list[str] = []
            for name, result in fan_out(client, function, ((str(number), urls) for number, urls in batches.items())):
                if isinstance(result, WorkerDied):
                    suspects += batches[int(name)]
                else:
                    headers.update(result)
                    stage.advance(len(result))
            # One file of the batch killed the worker: which, is found out by reading each alone.
            for url, alone in fan_out(client, function, ((url, (url,)) for url in suspects)):
                headers.update({url: _poison(source.kind, url, alone)} if isinstance(alone, WorkerDied) else alone)
                stage.advance()
            found[source.kind] = assemble(source, headers)
    return found


def _poison(kind: str, url: str, outcome: WorkerDied) -> Rejection:
    return Rejection(stage="inventory", code=Reason.WORKER_DIED, message=outcome.message, source=kind, path=url)


def _batched(urls: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(urls[start : start + _HEADERS_PER_TASK]) for start in range(0, len(urls), _HEADERS_PER_TASK)]
