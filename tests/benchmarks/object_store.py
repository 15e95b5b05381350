"""The same build into a workspace on a local disk and on an S3 server, in turn, on phantom films of full size.

    python tests/benchmarks/object_store.py [--patients 13] [--workers 2] [--pairs 3] [--height 4800] [--width 3000]

The server is moto's, in a process of its own on loopback: it shares the cores with the build, and answers in about 4 ms of them. The time is
that of the stages, without the start of the cluster; a first build warms up both.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

TESTS = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=13, help="13 give 40 films")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--height", type=int, default=4800)
    parser.add_argument("--width", type=int, default=3000)
    arguments = parser.parse_args()
    # The server and its environment are the tests'.
    sys.path.insert(0, str(TESTS))
    from store_server import environment_of, s3_server

    with tempfile.TemporaryDirectory() as folder, s3_server() as url:
        # Before Dask's workers are started, which inherit it.
        os.environ.update(environment_of(url))
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    import fsspec

    from flows.clusters import ClusterSettings, open_client
    from mammo_etl.phantom.write import write_phantoms

    films = folder / "phantoms"
    write_phantoms(
        films, arguments.patients, 0, height=arguments.height, width=arguments.width, workers=arguments.workers
    )
    fsspec.filesystem("s3").mkdir("bench")
    seconds: dict[str, list[dict[str, float]]] = {"disk": [], "store": []}
    with open_client(ClusterSettings(workers=arguments.workers)) as client:
        for turn in range(arguments.pairs + 1):
            for kind, workspace in (("disk", str(folder / f"ws{turn}")), ("store", f"s3://bench/ws{turn}")):
                stages = build(films, workspace, client.scheduler.address)
                if turn:
                    seconds[kind].append(stages)
    print(f"{'stage':<12}{'disk, s':>10}{'store, s':>10}{'ratio':>8}")
    for stage in [*seconds["disk"][0], "all"]:
        times = [
            [sum(turn.values()) if stage == "all" else turn[stage] for turn in seconds[kind]]
            for kind in ("disk", "store")
        ]
        ratio = median(there / here for here, there in zip(*times, strict=True))
        print(f"{stage:<12}{median(times[0]):>10.2f}{median(times[1]):>10.2f}{ratio:>8.2f}")


def build(films: Path, workspace: str, address: str) -> dict[str, float]:
    """Seconds of each stage."""
    from flows.build_dataset import build_dataset
    from flows.clusters import ClusterSettings
    from mammo_etl.settings import BuildSettings, InventorySettings, SourceSettings

    sources = [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")]
    settings = BuildSettings(inventory=InventorySettings(mixed_ddsm="all"))
    summary: Any = build_dataset.fn(sources, workspace, settings, ClusterSettings(address=address))
    return {row["stage"]: row["seconds"] for row in summary.timings}


if __name__ == "__main__":
    main()
