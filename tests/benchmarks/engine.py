"""What the engine costs: time per item beside plain `client.map` and `client.gather`, and memory and speed of long steps.

    python tests/benchmarks/engine.py [--items 10000] [--pairs 7] [--batch 1000] [--workers 2]

Items do next to nothing, so that all the time is the engine's and Dask's. The overhead is of runs that take turns on one cluster, the plain
one with all its futures held at once. Then a step of 1,000 items, one of all of them, and one of 1,000 again, each in a process of its own:
memory is the peak of the resident set of the process that runs flow and scheduler, and what of it came with the step. Processor time is that of
this process and of the workers: where others contend for the cores, it tells more than the wall time.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from timeit import timeit

import psutil

SHORT = 1000
"""Items of a short step."""


def tiny(number: int) -> int:
    return number + 1


class Peak:
    """Peak of this process's resident memory in a block, bytes; `before` is where it began."""

    def __enter__(self) -> "Peak":
        self.before = self.most = psutil.Process().memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.1):
            self.most = max(self.most, process.memory_info().rss)


def processor_seconds() -> float:
    """Of this process and its workers so far."""
    workers = (worker.cpu_times() for worker in psutil.Process().children(recursive=True))
    return time.process_time() + float(sum(times.user + times.system for times in workers))


def compare(items: int, pairs: int, workers: int) -> None:
    """Seconds per item of the engine and of plain Dask, in turn."""
    from flows.clusters import ClusterSettings, open_client
    from flows.fan_out import fan_out

    with open_client(ClusterSettings(workers=workers)) as client:

        def engine() -> None:
            work = ((f"item-{number}", number) for number in range(items))
            assert sum(result for _, result in fan_out(client, tiny, work)) == items * (items + 1) // 2

        def plain() -> None:
            assert sum(client.gather(client.map(tiny, range(items), pure=False))) == items * (items + 1) // 2

        engine()
        plain()
        times = [(timeit(engine, number=1), timeit(plain, number=1)) for _ in range(max(5, pairs))]
    print(
        f"{items:,} items, {workers} workers, {len(times)} pairs\n\n| | ms an item, median | least | most |\n|---|---|---|---|"
    )
    for title, seconds in zip(("engine", "client.map and gather"), zip(*times, strict=True), strict=True):
        each = [1e3 * second / items for second in seconds]
        print(f"| {title} | {median(each):.3f} | {min(each):.3f} | {max(each):.3f} |")
    print(f"\nratio, median of the pairs: {median(ours / theirs for ours, theirs in times):.2f}\n", flush=True)


def long_step(items: int, workers: int) -> None:
    """One step; prints seconds, processor seconds, peak memory, and memory beyond the start."""
    from flows.clusters import ClusterSettings, open_client
    from flows.fan_out import fan_out

    with open_client(ClusterSettings(workers=workers)) as client:
        list(fan_out(client, tiny, ((f"first-{number}", number) for number in range(500))))
        used = processor_seconds()
        with Peak() as peak:
            work = ((f"item-{number}", number) for number in range(items))
            # Not by timeit, which switches off the collection of garbage: memory is measured as well.
            started = time.perf_counter()
            for _ in fan_out(client, tiny, work):
                pass
            seconds = time.perf_counter() - started
        used = processor_seconds() - used
    print(seconds, used, peak.most, peak.most - peak.before)


def measured(items: int, workers: int) -> tuple[float, float, int, int]:
    """`long_step` in a process of its own."""
    command = [sys.executable, __file__, "--step", str(items), "--workers", str(workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    seconds, used, most, grown = done.stdout.split()
    return float(seconds), float(used), int(most), int(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, help="of the long step; 100000 take some minutes")
    parser.add_argument("--pairs", type=int, default=7, help="at least 5")
    parser.add_argument("--batch", type=int, default=1000, help="items of each run that is compared with plain Dask")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        long_step(arguments.step, arguments.workers)
        return
    compare(arguments.batch, arguments.pairs, arguments.workers)
    print("| items | s | items/s | processor ms an item | peak MB | MB of the step |\n|---|---|---|---|---|---|")
    steps = []
    for items in (SHORT, arguments.items, SHORT):
        seconds, used, most, grown = measured(items, arguments.workers)
        steps.append((items / seconds, items / used, most))
        speed = f"{items / seconds:.0f} | {1e3 * used / items:.2f}"
        print(f"| {items:,} | {seconds:.1f} | {speed} | {most / 1e6:.0f} | {grown / 1e6:.0f} |", flush=True)
    short = [(first + last) / 2 for first, last in zip(steps[0], steps[2], strict=True)]
    wall, processor, most = steps[1]
    print(
        f"\nspeed {wall / short[0]:.2f} of the short steps' by the clock, {processor / short[1]:.2f} by processor time; "
        f"{(most - short[2]) / 1e6:.0f} MB more memory"
    )


if __name__ == "__main__":
    main()
