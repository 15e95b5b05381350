"""How far a build goes: time, requests, money and memory for many films on many workers, computed from what was measured on few.

    python infra/capacity.py [--films 1000000] [--workers 200]

Nothing is run: each stage takes as long as the slowest of what it waits for, its workers, the one process that hands work out, or what that process
does alone. Full-size films (4,560 x 2,864, 16 bits) with default settings, an external scheduler, workers of one core. Constants say which measurement they come from;
all were taken on two shared cores, so that other machines differ by a factor, but hardly in which limit comes first.
"""

import argparse
from dataclasses import dataclass

HEADER_SECONDS = 0.00145
"""A worker, a header. tests/benchmarks/inventory.py."""
HEADERS_PER_FILM = 2.0
"""Assumed: each second film has a mask and a cut-out."""
HEADERS_PER_TASK = 128
"""flows/read_sources.py."""
CONVERT_SECONDS = 0.17
"""A worker, a film. tests/benchmarks/convert.py."""
ENGINE_SECONDS = 0.0028
"""Client and scheduler, an item. tests/benchmarks/engine.py."""
WORK_SECONDS = 20e-6
"""The flow's process, a film: `film_work`, with one in a hundred rejected."""
PLAN_SECONDS = 0.0026
"""The flow's process, a film. tests/benchmarks/plan.py."""
PATCHES_PER_FILM = 13.3
"""tests/benchmarks/plan.py: one film in four abnormal, normal_share = 0.85."""
SHARD_ROWS = 1024
SHARD_SECONDS = 3.7
"""A worker, a shard from 77 films, processor time. `extract_shard` on the films of tests/benchmarks/extract.py."""
SHARD_BYTES = 37e6
"""The same."""
RECEIPT_SECONDS = 0.00029
"""The flow's process, reading and checking a receipt of 7 KB on a local disk."""
SHA256_BYTES_PER_SECOND = 1.1e9
"""The flow's process."""
PUBLISH_READS = 1
"""How often `publish` reads each shard: against its receipt, which has the manifest's digest. The rate is that of one thread."""

RECORD_BYTES = 1300
"""The flow's process, a film: its rows of scans and findings, and what convert said of it. tests/benchmarks/plan.py."""
PLAN_BYTES = 90e3
"""The flow's process, a film, at the plan's peak. tests/benchmarks/plan.py."""
FLOW_BYTES = 0.4e9
"""The flow's process before its first film. tests/benchmarks/engine.py."""
SOURCE_BYTES, PNG_BYTES, CANDIDATES_BYTES, FILM_RECEIPT_BYTES = 26e6, 2.3e6, 13.3e3, 4e3
"""A film, its cleaned PNG (films of tests/benchmarks/extract.py), its candidates (tests/benchmarks/plan.py) and its receipt."""

CONVERT_GETS, CONVERT_PUTS = 5, 3
"""Requests of a film not seen before: its header's range and its pixels, three that ask for receipts and find none; PNG, receipt, candidates."""
REQUEST_SECONDS = 0.03
"""Assumed: one small object, by a client in the store's region."""
READERS = 16
"""Small objects that the flow's process reads at a time. mammo_etl/places.py."""
LIST_SECONDS, LIST_KEYS = 0.2, 1000
"""Assumed; S3 lists so many keys a request."""
PUTS_A_SECOND, GETS_A_SECOND = 3500, 5500
"""S3's documented rates for one prefix."""
PUT_PRICE, GET_PRICE, STORAGE_PRICE = 0.005 / 1000, 0.0004 / 1000, 0.023
"""US dollars a PUT or LIST, a GET, and a GB and month: S3 Standard's public list price in us-east-1, assumed as of 2025. Traffic within the region is free."""


@dataclass(frozen=True)
class Stage:
    """One stage of a build."""

    name: str
    items: float
    """Tasks that go through the scheduler."""
    work: float
    """Seconds of workers in all."""
    alone: float = 0
    """Seconds that the flow's process needs by itself, while all wait."""
    reads: float = 0
    """Small objects that the flow's process reads, some at a time."""
    gets: float = 0
    puts: float = 0

    def waits(self, workers: int, store: bool) -> dict[str, float]:
        """Seconds of what it waits for at the same time: the longest is what counts. With `store`, sources and workspace are on an object store."""
        requests = (self.gets - self.reads + self.puts) * REQUEST_SECONDS if self.items and store else 0
        return {
            "workers": (self.work + requests) / workers,
            "scheduler and client": self.items * ENGINE_SECONDS,
            "the store's rate": max(self.gets / GETS_A_SECOND, self.puts / PUTS_A_SECOND) if store else 0,
            "the flow's process": self.alone + (self.reads * REQUEST_SECONDS / READERS if store else 0),
        }

    def seconds(self, workers: int, store: bool) -> float:
        """How long it takes."""
        *together, alone = self.waits(workers, store).values()
        return max(together) + alone

    def limit(self, workers: int, store: bool) -> str:
        """What it waits for most."""
        waits = self.waits(workers, store)
        return max(waits, key=lambda name: waits[name])


def stages_of(films: float) -> list[Stage]:
    """The stages of a build of so many films."""
    headers, shards = films * HEADERS_PER_FILM, films * PATCHES_PER_FILM / SHARD_ROWS
    listing = headers / LIST_KEYS
    return [
        Stage("listing", 0, 0, alone=listing * LIST_SECONDS, puts=listing),
        Stage("inventory", headers / HEADERS_PER_TASK, headers * HEADER_SECONDS, gets=headers),
        Stage(
            "convert",
            films,
            films * CONVERT_SECONDS,
            alone=films * WORK_SECONDS,
            gets=films * CONVERT_GETS,
            puts=films * CONVERT_PUTS,
        ),
        Stage("plan", 0, 0, alone=films * PLAN_SECONDS, reads=films, gets=films),
        Stage("extract", shards, shards * SHARD_SECONDS, gets=films + shards, puts=2 * shards),
        Stage(
            "publish",
            0,
            0,
            alone=films * RECEIPT_SECONDS + PUBLISH_READS * shards * SHARD_BYTES / SHA256_BYTES_PER_SECOND,
            reads=films,
            gets=films + (PUBLISH_READS + 1) * shards,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=float, default=1e6)
    parser.add_argument("--workers", type=int, default=200)
    arguments = parser.parse_args()
    films, workers = arguments.films, arguments.workers
    stages = stages_of(films)
    print(
        f"{films:,.0f} films, {workers} workers\n\n"
        "| stage | minutes | waits for | workers busy | minutes, all on S3 | waits for | requests/s | requests, $ |\n|---|---|---|---|---|---|---|---|"
    )
    for stage in stages:
        local, store = stage.seconds(workers, False), stage.seconds(workers, True)
        rate, price = (stage.gets + stage.puts) / store, stage.gets * GET_PRICE + stage.puts * PUT_PRICE
        print(
            f"| {stage.name} | {local / 60:.0f} | {stage.limit(workers, False)} | {stage.work / local / workers:.0%} | "
            f"{store / 60:.0f} | {stage.limit(workers, True)} | {rate:,.0f} | {price:.2f} |"
        )
    total = [sum(stage.seconds(workers, store) for stage in stages) / 60 for store in (False, True)]
    price = sum(stage.gets * GET_PRICE + stage.puts * PUT_PRICE for stage in stages)
    print(f"| all | {total[0]:.0f} | | | {total[1]:.0f} | | | {price:.2f} |\n")
    kept = films * (PNG_BYTES + CANDIDATES_BYTES + FILM_RECEIPT_BYTES + PATCHES_PER_FILM / SHARD_ROWS * SHARD_BYTES)
    print(
        f"sources {films * SOURCE_BYTES / 1e12:.1f} TB; workspace {kept / 1e12:.1f} TB, ${kept / 1e9 * STORAGE_PRICE:,.0f} a month"
    )
    print(
        f"the flow's process: {(FLOW_BYTES + films * RECORD_BYTES) / 1e9:.1f} GB before the plan, "
        f"{(FLOW_BYTES + films * (RECORD_BYTES + PLAN_BYTES)) / 1e9:.0f} GB at its peak; "
        f"{(64e9 - FLOW_BYTES) / (RECORD_BYTES + PLAN_BYTES):,.0f} films fit in 64 GB"
    )
    print(
        f"the scheduler hands out {1 / ENGINE_SECONDS:.0f} items a second: films for {CONVERT_SECONDS / ENGINE_SECONDS:.0f} workers"
    )
    print(
        f"one prefix of S3 takes {PUTS_A_SECOND:,} PUTs and {GETS_A_SECOND:,} GETs a second: films of "
        f"{min(PUTS_A_SECOND / CONVERT_PUTS, GETS_A_SECOND / CONVERT_GETS) * CONVERT_SECONDS:.0f} workers"
    )


if __name__ == "__main__":
    main()
