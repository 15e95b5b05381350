"""Kills builds of phantom films at random moments and damages what they leave: the next build must give what an undisturbed one gives.

    python tests/chaos.py [--seed 0] [--rounds 24] [--only ROUND]

A round starts from an empty workspace, or from one with a published run of other settings. It kills something of a build, or damages or re-dates
files of a finished one; then it builds again with the same settings and compares every file of the workspace with an undisturbed build's, byte by byte, but
for what tells of times. Meanwhile the run that `current.json` names is verified over and over. What had a valid receipt must not have been done again.

Exit code 1 at the first difference: the round is told with the seed that repeats its choices, and its workspace kept. Moments depend on the machine, so
that a fault may need several tries.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from dask_processes import dask_scheduler, dask_workers, kill_group

from flows.build_dataset import BuildSummary, build_dataset
from flows.clusters import ClusterSettings, open_client
from mammo_etl import extract
from mammo_etl.catalog import verify_run
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.reader import ReaderError, open_run
from mammo_etl.settings import BuildSettings, SourceSettings, validated
from mammo_etl.workspace import UNFINISHED

KINDS = ("cbis-ddsm", "ddsm")
SETTINGS = {
    "inventory": {"mixed_ddsm": "all"},
    "patches": {"size": 64, "stride": 32, "normals_per_film": 40, "min_distance": 16},
    "store": {"shard_rows": 32},
}
OTHERS = {**SETTINGS, "cleaning": {"method": "otsu"}}
"""Settings of the run that some rounds begin with: no film of it serves the next."""

KILLS = ("worker", "workers", "flow", "all", "dask worker", "dask scheduler")
"""What is killed: of a local cluster one worker, all of them, the flow's process, or its whole group; of a cluster that runs elsewhere one worker with its
nanny, or the scheduler."""
SURVIVED = ("worker", "workers", "dask worker")
"""The build itself goes on and must end well."""

MOMENTS = {
    "start": ("lock", 0),
    "convert": ("images/*/*", 0.7),
    "candidates": ("candidates/*/*", 1.0),
    "extract": ("runs/*/patches.zarr/c/*/0/0", 1.0),
    "tables": ("runs/*/*.parquet", 1.0),
    "report": ("runs/*/report.html", 1),
    "publish": ("runs/*/manifest.json", 1),
}
"""Stage: the files by whose number a moment is known, and how many more of them there are, or the largest share of them."""

DAMAGES = {
    "shard": "runs/*/patches.zarr/c/*/0/0",
    "shard's receipt": "runs/*/shards/*.json",
    "array's metadata": "runs/*/patches.zarr/zarr.json",
    "table": "runs/*/*.parquet",
    "film": "images/*/*.png",
    "film's receipt": "images/*/*.json",
    "candidates": "candidates/*/*.json",
    "manifest": "runs/*/manifest.json",
    "catalog": "catalog.parquet",
    "pointer": "current.json",
    "lock": "lock",
}
TIMES = {"created", "timings", "seal"}
"""Keys of a manifest that tell of times."""
PARENT = ", parent"
"""Appended to a manifest's name for what it says of the run before."""
SECONDS = 180
"""A build that takes longer hangs: undisturbed, it takes some ten seconds."""

_BUILD = """
import json, sys
from pathlib import Path
from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from mammo_etl.settings import BuildSettings, SourceSettings
if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    sources = [SourceSettings.model_validate(source) for source in job["sources"]]
    settings, cluster = BuildSettings.model_validate(job["settings"]), ClusterSettings.model_validate(job["cluster"])
    build_dataset.fn(sources, Path(job["workspace"]), settings, cluster)
"""


class DifferenceError(Exception):
    """What an undisturbed build does not do."""


@dataclass(frozen=True)
class Beginning:
    """What a round begins with, and what has to come of it."""

    name: str
    workspace: Path
    expected: dict[str, bytes]
    """Files of the workspace after the build, as `told`."""

    @property
    def new(self) -> dict[str, bytes]:
        """Those of them that are not there at the beginning."""
        return {name: content for name, content in self.expected.items() if not (self.workspace / name).exists()}


@dataclass(frozen=True)
class Stand:
    """All that rounds have in common."""

    folder: Path
    sources: list[SourceSettings]
    beginnings: list[Beginning]
    cluster: ClusterSettings
    """A cluster that nobody kills."""

    def build(self, workspace: Path, settings: dict[str, object]) -> BuildSummary:
        with contextlib.redirect_stderr(io.StringIO()):
            return build_dataset.fn(self.sources, workspace, validated(BuildSettings, settings, "chaos"), self.cluster)

    @contextmanager
    def building(self, workspace: Path, cluster: ClusterSettings, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """The process of a build, leader of its group; nothing of it is left at the end."""
        job = {
            "sources": [source.model_dump(mode="json") for source in self.sources],
            "workspace": str(workspace),
            "settings": SETTINGS,
            "cluster": cluster.model_dump(mode="json"),
        }
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", _BUILD, json.dumps(job)], stderr=file, start_new_session=True
            )
        try:
            yield process
        finally:
            kill_group(process)


@dataclass(frozen=True)
class Kept:
    """What needs not be done again, as receipts and outputs are what they should be."""

    films: int
    rows: int
    """Patches in whole shards."""


_TIMED = ("catalog.parquet", "latest.json", "report.html")
"""Files that tell of times."""


def told(workspace: Path) -> dict[str, bytes]:
    """Every file of a workspace by relative path, but those that tell of times, and what was left half written."""
    files = {}
    for path in sorted(workspace.rglob("*")):
        name = path.relative_to(workspace).as_posix()
        if not path.is_file() or path.name.startswith(UNFINISHED) or path.name in _TIMED:
            continue
        files[name] = path.read_bytes()
        if name.startswith("images/") and path.suffix == ".json":
            receipt = json.loads(files[name])
            for file in receipt["files"]:
                del file["stamp"]
            del receipt["seal"]
            files[name] = json.dumps(receipt, sort_keys=True).encode()
        if path.name == "manifest.json":
            manifest = json.loads(files[name])
            del manifest["digests"]["report.html"]
            files[f"{name}{PARENT}"] = json.dumps(manifest.pop("parent")).encode()
            files[name] = json.dumps({key: manifest[key] for key in manifest.keys() - TIMES}, sort_keys=True).encode()
    return {name: content for name, content in files.items() if name != "lock"}


def compare(found: dict[str, bytes], expected: dict[str, bytes], damaged: bool = False) -> None:
    """Raises DifferenceError naming the files that differ. Which run was published before one whose manifest was `damaged`, nothing else tells."""
    if damaged:
        found, expected = (
            {name: text for name, text in files.items() if not name.endswith(PARENT)} for files in (found, expected)
        )
    parts = {
        "missing": expected.keys() - found.keys(),
        "too many": found.keys() - expected.keys(),
        "different": {name for name in expected.keys() & found.keys() if expected[name] != found[name]},
    }
    faults = [f"{kind}: {', '.join(sorted(names)[:5])} ({len(names)})" for kind, names in parts.items() if names]
    if faults:
        raise DifferenceError("; ".join(faults))


def kept(workspace: Path, beginning: Beginning) -> Kept:
    """What of a build is there and valid, by comparison with the undisturbed one."""
    films: dict[str, bool] = {}
    for name, content in beginning.expected.items():
        if name.startswith(("images/", "candidates/")) and name in beginning.new:
            path = workspace / name
            films[path.stem] = films.get(path.stem, True) and path.is_file() and path.read_bytes() == content
    rows = 0
    for path in workspace.glob("runs/*/shards/*.json"):
        receipt = extract.valid_receipt(path.parent.parent, int(path.stem))
        rows += receipt["rows"] if receipt else 0
    return Kept(sum(films.values()), rows)


@contextmanager
def watched(workspace: Path) -> Iterator[None]:
    """Verifies the published run over and over; raises DifferenceError at the end if it was not complete at some moment."""
    ended = threading.Event()
    faults: list[str] = []

    def watch() -> None:
        while not ended.wait(0.1) and not faults:
            if (workspace / "current.json").exists():
                try:
                    faults.extend(verify_run(open_run(workspace)))
                except ReaderError as error:
                    faults.append(str(error))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if faults:
        raise DifferenceError(f"current.json named a run that was not complete: {'; '.join(faults)}")


def until(reached: Callable[[], bool], process: "subprocess.Popen[bytes]") -> bool:
    """Waits; False if the build has ended before."""
    end = time.monotonic() + SECONDS
    while not reached():
        if process.poll() is not None:
            return False
        if time.monotonic() > end:
            raise DifferenceError(f"the build was not so far after {SECONDS} seconds")
        time.sleep(0.002)
    return True


def held(workspace: Path) -> bool:
    """Whether a build has begun."""
    return (workspace / "lock").exists() and (workspace / "lock").stat().st_size > 0


def strike(
    whom: str, build: "subprocess.Popen[bytes]", others: list["subprocess.Popen[bytes]"], chance: random.Random
) -> None:
    """Kills it, as the system would for want of memory."""
    if whom == "all":
        kill_group(build)
    elif whom == "flow":
        build.kill()
    elif others:
        kill_group(others[0])
    else:
        workers = [
            child
            for child in psutil.Process(build.pid).children(recursive=True)
            if "spawn_main" in " ".join(child.cmdline())
        ]
        for worker in [chance.choice(workers)] if whom == "worker" and workers else workers:
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGKILL)


def killing(stand: Stand, beginning: Beginning, workspace: Path, chance: random.Random, whom: str) -> str:
    """A build of which something is killed. Returns what was done."""
    stage = chance.choice(list(MOMENTS))
    pattern, share = MOMENTS[stage]
    there = len(list(workspace.glob(pattern)))
    new = sum(Path(name).match(pattern) for name in beginning.new)
    more = share if isinstance(share, int) else max(1, int(new * share * chance.random()))
    delay = chance.uniform(0, 3) if stage == "start" else chance.choice((0, chance.uniform(0, 0.1)))
    log = workspace.with_suffix(".log")
    with contextlib.ExitStack() as stack:
        others: list[subprocess.Popen[bytes]] = []
        cluster = ClusterSettings(workers=2)
        if whom.startswith("dask"):
            scheduler, address = stack.enter_context(dask_scheduler(workspace.with_suffix(".scheduler")))
            logs = [workspace.with_suffix(f".worker{number}") for number in range(2)]
            workers = stack.enter_context(dask_workers(address, logs))
            cluster = ClusterSettings(address=address)
            others = [scheduler] if whom == "dask scheduler" else [chance.choice(workers)]
        build = stack.enter_context(stand.building(workspace, cluster, log))
        found = until(lambda: len(list(workspace.glob(pattern))) >= there + more and held(workspace), build)
        time.sleep(delay)
        strike(whom, build, others, chance)
        what = f"{whom} killed at {stage}, {more} files" if found else f"{whom} not killed in time"
        if whom in ("flow", "all"):
            build.wait()
            return what
        try:
            code = build.wait(SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DifferenceError(f"{what}: the build hangs") from error
        last = (log.read_text().strip().splitlines() or [""])[-1]
        if code and whom in SURVIVED:
            raise DifferenceError(f"{what}: the build failed: {last}")
        if code and not last.startswith(("ConnectionError: the cluster", "mammo_etl.settings.SettingsError: cluster")):
            raise DifferenceError(f"{what}: the build did not say that the scheduler is lost: {last}")
    return what


def damaging(beginning: Beginning, workspace: Path, chance: random.Random) -> str:
    """Flips, cuts, empties or deletes some files, but none of another run's: a build does not look after those."""
    others = {path.relative_to(beginning.workspace) for path in beginning.workspace.glob("*/**/*")}
    done = []
    for kind in chance.sample(list(DAMAGES), chance.randint(1, 3)):
        paths = sorted(path for path in workspace.glob(DAMAGES[kind]) if path.relative_to(workspace) not in others)
        if not paths:
            continue
        path = chance.choice(paths)
        content = path.read_bytes()
        way = chance.choice(("flipped", "cut", "emptied", "deleted")) if content else "deleted"
        if way == "deleted":
            path.unlink()
        elif way == "flipped":
            place = chance.randrange(len(content))
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
            )
        else:
            path.write_bytes(content[: chance.randrange(len(content)) if way == "cut" else 0])
        done.append(f"{path.relative_to(workspace)} {way}")
    return ", ".join(done) or "nothing to damage"


@contextmanager
def redated(stand: Stand, workspace: Path, chance: random.Random) -> Iterator[None]:
    """Sources and receipts from a clock that was years ahead or behind; the sources' times are put back at the end."""
    sources = [path for kind in KINDS for path in (stand.folder / "films" / kind).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in sources}
    try:
        for path in [*sources, *(path for path in workspace.rglob("*") if path.is_file())]:
            if chance.random() < 0.5:
                when = time.time() + chance.uniform(-30, 30) * 365 * 86400
                os.utime(path, (when, when))
        yield
    finally:
        for path, nanoseconds in before.items():
            os.utime(path, ns=(nanoseconds, nanoseconds))


def finish(stand: Stand, beginning: Beginning, workspace: Path, damaged: bool = False) -> str:
    """The next build, and all that must be true of it."""
    before = kept(workspace, beginning)
    summary = stand.build(workspace, SETTINGS)
    compare(told(workspace), beginning.expected, damaged)
    run = open_run(workspace)
    if run.run_id != summary.run_id:
        raise DifferenceError(f"current.json names {run.run_id}, not {summary.run_id}")
    if faults := verify_run(run):
        raise DifferenceError("; ".join(faults))
    stages = {row["stage"]: row for row in summary.timings}
    if not stages:
        return "nothing left to do"
    films, shards = stages["convert"], stages.get("extract", {"items": 0, "skipped": 0})
    # Workers that outlive their flow for a moment may finish more.
    if films["skipped"] < before.films:
        raise DifferenceError(f"{before.films} films were there, but only {films['skipped']} were skipped")
    if summary.new and shards["skipped"] < before.rows:
        raise DifferenceError(f"{before.rows} patches were there, but only {shards['skipped']} were skipped")
    again = f"{films['items'] - films['skipped']} of {films['items']} films"
    return f"{again} and {shards['items'] - shards['skipped']} of {shards['items']} patches done"


def play(stand: Stand, kind: str, workspace: Path, chance: random.Random) -> str:
    """One round in a workspace that is not there yet; returns what happened."""
    beginning = chance.choice(stand.beginnings)
    shutil.copytree(beginning.workspace, workspace)
    if kind in KILLS:
        with watched(workspace):
            what = killing(stand, beginning, workspace, chance, kind)
            if kind in SURVIVED:
                compare(told(workspace), beginning.expected)
            elif chance.random() < 0.5:
                what += f", then {finish(stand, beginning, workspace)}"
        damaged = chance.random() < 0.5
        if damaged:
            what += f"; {damaging(beginning, workspace, chance)}"
        return f"{beginning.name}: {what}: {finish(stand, beginning, workspace, damaged)}"
    stand.build(workspace, SETTINGS)
    if kind == "damage":
        what = damaging(beginning, workspace, chance)
        return f"{beginning.name}: {what}: {finish(stand, beginning, workspace, damaged=True)}"
    with redated(stand, workspace, chance):
        done = finish(stand, beginning, workspace)
    if not done.startswith("0 of"):
        raise DifferenceError(f"work was done again as files had other times: {done}")
    return f"{beginning.name}: files from other years: {done}"


def prepare(folder: Path, cluster: ClusterSettings) -> Stand:
    """Films, both beginnings, and what undisturbed builds make of them."""
    write_phantoms(folder / "films", 16, 0, height=480, width=320, workers=2)
    sources = [SourceSettings(kind=kind, path=str(folder / "films" / kind)) for kind in KINDS]
    stand = Stand(folder, sources, [], cluster)
    (folder / "empty").mkdir()
    (folder / "older").mkdir()
    stand.build(folder / "older", OTHERS)
    for name in ("empty", "older"):
        shutil.copytree(folder / name, folder / f"{name}-built")
        stand.build(folder / f"{name}-built", SETTINGS)
        stand.beginnings.append(Beginning(name, folder / name, told(folder / f"{name}-built")))
    return stand


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=24, help="of ten to twenty seconds")
    parser.add_argument("--only", type=int, help="one of the rounds of that seed")
    arguments = parser.parse_args()
    kinds = [*KILLS, "damage", "damage", "clock"]
    folder = Path(tempfile.mkdtemp(prefix="mammo-chaos-"))
    with open_client(ClusterSettings(workers=2)) as client:
        stand = prepare(folder, ClusterSettings(address=client.scheduler.address))
        for number in range(arguments.rounds) if arguments.only is None else [arguments.only]:
            chance = random.Random(f"{arguments.seed} {number}")
            order = random.Random(f"{arguments.seed} {number // len(kinds)}").sample(kinds, len(kinds))
            kind, workspace = order[number % len(kinds)], folder / f"round-{number}"
            started = time.monotonic()
            try:
                what = play(stand, kind, workspace, chance)
            except Exception as error:
                error.add_note(
                    f"round {number} ({kind}), python tests/chaos.py --seed {arguments.seed} --only {number}; see {workspace}*"
                )
                raise
            print(f"{number:3} {time.monotonic() - started:5.1f} s  {what}", flush=True)
            shutil.rmtree(workspace)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
