"""Wall time and peak memory of each stage of a build, on phantom films of full size.

    python tests/benchmarks/stages.py [--patients 13] [--workers 2] [--height 4800] [--width 3000]

Memory is the resident set of the process that runs the flow, and the largest of a Dask worker, sampled ten times a second.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


class Watch:
    """Peaks of resident memory since the last `reset`, bytes."""

    def __init__(self) -> None:
        self.flow = self.worker = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        self.flow = self.worker = 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.1):
            self.flow = max(self.flow, process.memory_info().rss)
            for child in process.children(recursive=True):
                try:
                    self.worker = max(self.worker, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=13, help="13 give 40 films")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--height", type=int, default=4800)
    parser.add_argument("--width", type=int, default=3000)
    arguments = parser.parse_args()
    # Not at the top: each worker process imports this file anew, and has no use for Prefect.
    from flows import build_dataset as flow
    from flows.clusters import ClusterSettings
    from flows.progress import Stage, Stages
    from mammo_etl.phantom.write import write_phantoms
    from mammo_etl.settings import BuildSettings, InventorySettings, SourceSettings

    watch = Watch()
    peaks: dict[str, tuple[int, int]] = {}

    class WatchedStages(Stages):
        """Stages that note the peaks of memory while they ran."""

        @contextmanager
        def stage(self, name: str, unit: str, total: int | None = None) -> Iterator[Stage]:
            watch.reset()
            with super().stage(name, unit, total) as stage:
                yield stage
            peaks[name] = (watch.flow, watch.worker)

    flow.Stages = WatchedStages  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        films = Path(folder) / "phantoms"
        started = time.perf_counter()
        summary = write_phantoms(
            films, arguments.patients, 0, height=arguments.height, width=arguments.width, workers=arguments.workers
        )
        print(
            f"{summary.films} films of {arguments.height} x {arguments.width} in {time.perf_counter() - started:.1f} s"
        )
        for title in ("first build", "the same build again"):
            started = time.perf_counter()
            built = flow.build_dataset.fn(
                [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")],
                Path(folder) / "workspace",
                BuildSettings(inventory=InventorySettings(mixed_ddsm="all")),
                ClusterSettings(workers=arguments.workers),
            )
            print(f"\n{title}: {time.perf_counter() - started:.1f} s, {built.counts['patches']} patches\n")
            print("| stage | items | seconds | flow, peak MB | largest worker, peak MB |\n|---|---|---|---|---|")
            for row in built.timings:
                flow_peak, worker_peak = peaks[row["stage"]]
                items = f"{row['items']} {row['unit']}"
                print(
                    f"| {row['stage']} | {items} | {row['seconds']:.1f} | {flow_peak / 1e6:.0f} | {worker_peak / 1e6:.0f} |"
                )
    watch.close()


if __name__ == "__main__":
    main()
