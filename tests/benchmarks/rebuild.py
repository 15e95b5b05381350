"""What builds after the first cost beside the first: nothing changed, a hundredth changed, a hundredth new, other patch settings.

    python tests/benchmarks/rebuild.py [--patients 100] [--height 2400] [--width 1500] [--workers 2]

Each build is a process of its own, by the clock, as `mammo build` is; the unchanged one is that command. Apart from it, every build has to import
Prefect, to start its temporary server, and a cluster: of these, the time of the stages alone is told as well. Processor time is that
of all its processes: where others contend for the cores, it tells more than the clock. The films that are changed get other
pixels at the same size and time. The new ones are of DDSM cases that were held back, as many whole cases as make a hundredth.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).parents[2]
KINDS = ("cbis-ddsm", "ddsm")


@dataclass(frozen=True)
class Build:
    """What a build took."""

    title: str
    seconds: float
    processor: float
    """Seconds of the processor, of all its processes."""
    summary: dict[str, Any]

    @property
    def stages(self) -> float:
        """Seconds of all stages."""
        return float(sum(row["seconds"] for row in self.summary["timings"]))


def processor_seconds() -> float:
    """Of all processes that this one has waited for, and those that they have."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(films: Path, workspace: Path, workers: int) -> tuple[float, float]:
    """Seconds of `mammo build`: by the clock, and of the processor."""
    sources = [f"--source={kind}={films / kind}" for kind in KINDS]
    settings = [f"--set={text}" for text in ("inventory.mixed_ddsm=all", f"cluster.workers={workers}")]
    program = [sys.executable, "-m", "flows.cli", "build", *sources, f"--workspace={workspace}", *settings]
    started, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(program, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    assert "Nothing has changed" in done.stdout
    return seconds, processor_seconds() - used


def build(title: str, films: Path, workspace: Path, workers: int, stride: int = 128) -> Build:
    """The same in a process of its own, with what it tells of its stages."""
    program = [sys.executable, __file__, "--build", str(films), str(workspace), "--workers", str(workers)]
    started, used = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [*program, "--stride", str(stride)], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["new"]
    return Build(title, seconds, processor_seconds() - used, summary)


def build_here(films: Path, workspace: Path, workers: int, stride: int) -> None:
    """Prints the summary as JSON."""
    from flows.cli import _quiet

    _quiet()
    from flows.build_dataset import build_dataset
    from flows.clusters import ClusterSettings
    from mammo_etl.settings import BuildSettings, InventorySettings, PatchSettings, SourceSettings

    settings = BuildSettings(inventory=InventorySettings(mixed_ddsm="all"), patches=PatchSettings(stride=stride))
    sources = [SourceSettings(kind=kind, path=str(films / kind)) for kind in KINDS]
    print(build_dataset(sources, workspace, settings, ClusterSettings(workers=workers)).model_dump_json())


def change(films: Path, count: int) -> int:
    """Other pixels in so many of CBIS-DDSM's films, or all of them; returns how many."""
    paths = [path for path in sorted((films / "cbis-ddsm").rglob("*.dcm")) if "full mammogram" in str(path)]
    paths = paths[:: max(1, len(paths) // count)][:count]
    for path in paths:
        before, content = path.stat(), bytearray(path.read_bytes())
        middle = slice(len(content) // 2, len(content) // 2 + 2000)
        content[middle] = bytes(byte ^ 0x41 for byte in content[middle])
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return len(paths)


def hold_back(films: Path, aside: Path, count: int) -> int:
    """Moves DDSM cases aside until there are so many films; returns how many."""
    taken = 0
    for case in sorted({path.parent for path in (films / "ddsm").rglob("*.LJPEG")}):
        if taken >= count:
            break
        taken += len(list(case.glob("*.LJPEG")))
        shutil.move(case, aside / case.relative_to(films))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100, help="100 give 314 films")
    parser.add_argument("--height", type=int, default=2400)
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--build", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--stride", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build is not None:
        build_here(*arguments.build, arguments.workers, arguments.stride)
        return
    from mammo_etl.phantom.write import write_phantoms

    workers = arguments.workers
    with tempfile.TemporaryDirectory() as name:
        films, aside, workspace = (Path(name) / part for part in ("films", "aside", "workspace"))
        size = {"height": arguments.height, "width": arguments.width}
        written = write_phantoms(films, arguments.patients, 0, workers=workers, **size)
        hundredth = max(1, round(written.films / 100))
        held = hold_back(films, aside, hundredth)
        first = build("first", films, workspace, workers)
        unchanged, used = map(median, zip(*(command(films, workspace, workers) for _ in range(5)), strict=True))
        changed = build(f"{change(films, hundredth)} films changed", films, workspace, workers)
        shutil.copytree(aside, films, dirs_exist_ok=True)
        more = build(f"{held} films new", films, workspace, workers)
        other = build("other patch settings", films, workspace, workers, stride=64)
    print(
        f"{written.films - held} films, {first.summary['counts']['patches']:,} patches; nothing changed (median of 5): {unchanged:.2f} s, "
        f"processor {used:.2f} s; the first build takes {first.seconds / unchanged:.0f} times as long, {first.processor / used:.0f} times the processor\n"
    )
    names = [row["stage"] for row in first.summary["timings"]]
    print(
        f"| build | s | share of the first | processor, s | share of the first's | stages, s | share of the first's | {' | '.join(names)} |"
    )
    print("|---" * (7 + len(names)) + "|")
    for built in (first, changed, more, other):
        share, of_stages = built.seconds / first.seconds, built.stages / first.stages
        each = " | ".join(f"{row['seconds']:.1f}" for row in built.summary["timings"])
        processor = f"{built.processor:.1f} | {built.processor / first.processor:.1%}"
        print(
            f"| {built.title} | {built.seconds:.1f} | {share:.1%} | {processor} | {built.stages:.1f} | {of_stages:.1%} | {each} |"
        )


if __name__ == "__main__":
    main()
