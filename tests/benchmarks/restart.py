"""What it costs that workers are killed in the middle of a build, or all of it at half.

    python tests/benchmarks/restart.py [--patients 166] [--workers 5] [--pairs 3] [--height 960] [--width 600]

166 patients give about 500 phantom films. Each build starts from an empty workspace and runs in a process of its own, with a cluster of its own; undisturbed
and disturbed ones take turns, and must give the same bytes.

- One worker in five is killed (SIGKILL) when a random share of the films, 20 to 80%, is done. Its nanny starts another, so that the cluster is short of it
  for some seconds only. `ratio` is the convert stage's time over the undisturbed one's; `per surviving worker` is the same after the undisturbed time is
  lengthened by workers over survivors, as it would be without nannies and with a core per worker. With fewer cores than workers, a lost worker
  loses no core, and `ratio` alone tells. Where others contend for the cores, the ratio of the processor time of the whole builds tells more.
- The process group of a build is killed when half of the films are done, then the build is run again: `done again` counts films that it converted over
  films that were not finished when all was killed.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from flows.clusters import cores

_BUILD = """
if __name__ == "__main__":
    import json, sys
    from pathlib import Path
    from flows.build_dataset import build_dataset
    from flows.clusters import ClusterSettings
    from mammo_etl.settings import BuildSettings, InventorySettings, PatchSettings, SourceSettings

    films, workspace, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    built = build_dataset.fn(
        [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")],
        workspace,
        BuildSettings(inventory=InventorySettings(mixed_ddsm="all"), patches=PatchSettings(size=64, stride=32)),
        ClusterSettings(workers=workers),
    )
    print(built.model_dump_json())
"""


class Builds:
    """Builds of one set of films, each in a process of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        self._last: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Builds":
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None and self._last.poll() is None:
            os.killpg(self._last.pid, signal.SIGKILL)
            self._last.wait()

    def start(self, workspace: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", _BUILD, str(self.folder / "films"), str(workspace), str(self.workers)]
        self._last = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        return self._last

    def run(self, workspace: Path) -> dict[str, Any]:
        return ended(self.start(workspace))


def ended(build: "subprocess.Popen[str]") -> dict[str, Any]:
    """Summary of a build that is under way."""
    said, _ = build.communicate()
    assert build.returncode == 0, "the build failed"
    summary: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return summary


def processor_seconds() -> float:
    """Of all builds that have ended, with their workers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def convert_of(summary: dict[str, Any]) -> dict[str, Any]:
    (stage,) = (row for row in summary["timings"] if row["stage"] == "convert")
    return dict(stage)


def digests(summary: dict[str, Any]) -> dict[str, str]:
    """Of the run's files but the report, which tells of times."""
    manifest = json.loads((Path(summary["folder"]) / "manifest.json").read_text())
    return {name: digest for name, digest in manifest["digests"].items() if name != "report.html"}


def finished(workspace: Path) -> int:
    """Films whose last file is there."""
    return len(list(workspace.glob("candidates/*/[!.]*.json")))


def await_films(workspace: Path, films: int, build: "subprocess.Popen[str]") -> None:
    while finished(workspace) < films:
        assert build.poll() is None, "the build had ended before"
        time.sleep(0.01)


def kill_workers(build: "subprocess.Popen[str]", number: int, chance: random.Random) -> None:
    children = psutil.Process(build.pid).children(recursive=True)
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    for worker in chance.sample(workers, number):
        worker.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=166)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--width", type=int, default=600)
    arguments = parser.parse_args()
    from mammo_etl.phantom.write import write_phantoms

    chance, killed = random.Random(0), max(1, arguments.workers // 5)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        write_phantoms(
            folder / "films", arguments.patients, 0, height=arguments.height, width=arguments.width, workers=2
        )
        # A benchmark that is ended leaves no build behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        builds = stack.enter_context(Builds(folder, arguments.workers))
        whole = builds.run(folder / "first")
        films, expected = convert_of(whole)["items"], digests(whole)
        print(
            f"{films} films of about {arguments.height} x {arguments.width}, {arguments.workers} workers, {cores()} cores, "
            f"load {os.getloadavg()[0]:.1f}\n\n"
            f"| undisturbed, s | {killed} of {arguments.workers} workers killed at | s | ratio | per surviving worker | processor time, ratio | load |\n"
            "|---|---|---|---|---|---|---|"
        )
        ratios, halves = [], []
        for pair in range(arguments.pairs):
            used = [processor_seconds()]
            undisturbed = convert_of(builds.run(folder / f"undisturbed-{pair}"))["seconds"]
            used.append(processor_seconds())
            moment, workspace = chance.uniform(0.2, 0.8), folder / f"killed-{pair}"
            build = builds.start(workspace)
            await_films(workspace, int(moment * films), build)
            kill_workers(build, killed, chance)
            summary = ended(build)
            used.append(processor_seconds())
            assert digests(summary) == expected, "not the bytes of an undisturbed build"
            ratios.append(convert_of(summary)["seconds"] / undisturbed)
            each = ratios[-1] * (arguments.workers - killed) / arguments.workers
            print(
                f"| {undisturbed:.1f} | {moment:.0%} | {ratios[-1] * undisturbed:.1f} | {ratios[-1]:.2f} | {each:.2f} | "
                f"{(used[2] - used[1]) / (used[1] - used[0]):.2f} | {os.getloadavg()[0]:.1f} |",
                flush=True,
            )
        print(f"\nratio, median of the pairs: {median(ratios):.2f}\n")
        print(
            "| finished when all was killed | missing | done after it | done again, over missing | convert, s | load |"
        )
        print("|---|---|---|---|---|---|")
        for pair in range(arguments.pairs):
            workspace = folder / f"resumed-{pair}"
            build = builds.start(workspace)
            await_films(workspace, films // 2, build)
            os.killpg(build.pid, signal.SIGKILL)
            build.communicate()
            there = finished(workspace)
            summary = builds.run(workspace)
            assert digests(summary) == expected, "not the bytes of an undisturbed build"
            stage = convert_of(summary)
            done = stage["items"] - stage["skipped"]
            halves.append(done / (films - there))
            print(
                f"| {there} | {films - there} | {done} | {halves[-1]:.3f} | {stage['seconds']:.1f} | {os.getloadavg()[0]:.1f} |",
                flush=True,
            )
        print(f"\ndone over missing, most of the pairs: {max(halves):.3f}")


if __name__ == "__main__":
    main()
