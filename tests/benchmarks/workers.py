"""Wall time of a whole build with one worker and with two, on phantom films of full size.

    python tests/benchmarks/workers.py [--patients 13] [--pairs 1] [--height 4800] [--width 3000]

Each build starts from an empty workspace and runs in a process of its own, with a cluster of its own; the two take turns. 66 patients give
about 200 films, which take 10 GB of disk, and some minutes to draw.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

_BUILD = """
if __name__ == "__main__":
    # Not above: each worker process imports this file anew, and has no use for Prefect.
    import sys, time
    from pathlib import Path
    from flows.build_dataset import build_dataset
    from flows.clusters import ClusterSettings
    from mammo_etl.settings import BuildSettings, InventorySettings, SourceSettings

    films, workspace, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    started = time.perf_counter()
    built = build_dataset.fn(
        [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")],
        workspace,
        BuildSettings(inventory=InventorySettings(mixed_ddsm="all")),
        ClusterSettings(workers=workers),
    )
    stages = ", ".join(f"{row['stage']} {row['seconds']:.1f}" for row in built.timings)
    print(time.perf_counter() - started, built.counts["patches"], stages, sep="|")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=13, help="13 give 40 films, 66 give 200")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--height", type=int, default=4800)
    parser.add_argument("--width", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "build.py"
        script.write_text(_BUILD)
        started = time.perf_counter()
        size = ["--height", str(arguments.height), "--width", str(arguments.width)]
        command = ["-m", "flows.cli", "phantom", str(folder / "films"), "--patients", str(arguments.patients), *size]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        films = len(list((folder / "films" / "truth").glob("*.breast.png")))
        print(f"{films} films of {arguments.height} x {arguments.width}, in {time.perf_counter() - started:.0f} s\n")
        times: dict[int, list[float]] = {1: [], 2: []}
        print("| workers | s | patches | stages, s |\n|---|---|---|---|")
        for pair in range(arguments.pairs):
            for workers in (1, 2):
                workspace = folder / f"{workers}-{pair}"
                run = [sys.executable, str(script), str(folder / "films"), str(workspace), str(workers)]
                done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True)
                seconds, patches, stages = done.stdout.strip().splitlines()[-1].split("|")
                times[workers].append(float(seconds))
                print(f"| {workers} | {float(seconds):.1f} | {patches} | {stages} |", flush=True)
        ratio = median(one / two for one, two in zip(times[1], times[2], strict=True))
        print(f"\nTwo workers are {ratio:.2f} times as fast as one.")


if __name__ == "__main__":
    main()
