"""The headers of all source files, read on a cluster, and joined to tables of films and findings."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from distributed import Client

from flows.fan_out import GivenUp, fan_out
from flows.progress import Stages
from mammo_etl.inventory import SourceFiles, assemble, read_headers
from mammo_etl.records import Rejection
from mammo_etl.sources import Inventory

_HEADERS_PER_TASK = 128
"""Header reads take about a millisecond each, and a task some milliseconds of the flow's process, which shares the cores of its workers:
where measured, 16 in a task took a quarter more processor time in all than 64, and 256 a tenth less."""


def read_sources(
    client: Client, files: Sequence[SourceFiles], stages: Stages, seconds: float = math.inf
) -> dict[str, Inventory]:
    """What each kind of source holds; `seconds` is the longest that a worker may be busy with one task."""
    found: dict[str, Inventory] = {}
    with stages.stage("inventory", "files", sum(len(source.with_headers) for source in files)) as stage:
        for source in files:
            headers: dict[str, Any] = {}
            function = partial(read_headers, source.kind)
            batches = {
                f"{source.kind}-headers-{number}": urls for number, urls in enumerate(_batched(source.with_headers))
            }
            suspects: list[str] = []
            for name, result in fan_out(client, function, batches.items(), seconds=seconds):
                if isinstance(result, GivenUp):
                    suspects += batches[name]
                else:
                    headers.update(result)
                    stage.advance(len(result), rejected=sum(isinstance(header, Rejection) for _, header in result))
            # One file of the batch killed the worker, hung, or was out of reach: which, is found out by reading each alone.
            for url, alone in fan_out(client, function, ((url, (url,)) for url in suspects), seconds=seconds):
                if isinstance(alone, GivenUp):
                    headers[url] = _given_up(source.kind, url, alone)
                    stage.advance(failed=1)
                else:
                    headers.update(alone)
                    stage.advance(rejected=sum(isinstance(header, Rejection) for _, header in alone))
            found[source.kind] = assemble(source, headers)
    return found


def _given_up(kind: str, url: str, outcome: GivenUp) -> Rejection:
    return Rejection(stage="inventory", code=outcome.code, message=outcome.message, source=kind, path=url)


def _batched(urls: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(urls[start : start + _HEADERS_PER_TASK]) for start in range(0, len(urls), _HEADERS_PER_TASK)]
