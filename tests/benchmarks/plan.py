"""The plan of a run, which one process makes: time and memory by the number of films.

    python tests/benchmarks/plan.py [--films 1000 4000 10000] [--candidates 64]

Films are rows of tables, without pixels, with as many candidates each as a normal film has by default; one in four is abnormal, with an eighth as many. A
process each: first the inventory's records and the results of convert alone, then these and the plan. Processor seconds of the process; memory is the
peak of its resident set beyond what it takes before its first film.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path


def films_of(number: int) -> "tuple[list[Scan], list[Finding], dict[str, FilmResult]]":  # noqa: F821
    """What inventory and convert hold of them."""
    from mammo_etl.convert import FilmResult
    from mammo_etl.records import Abnormality, Finding, Label, Laterality, Pathology, RoiKind, Scan, View

    scans, findings, films = [], [], {}
    for index in range(number):
        name = f"cbis-ddsm_P_{index // 4:07}_{('LEFT', 'RIGHT')[index % 2]}_{('CC', 'MLO')[index // 2 % 2]}"
        scan = Scan(
            image_id=name,
            source="cbis-ddsm",
            patient_id=f"P_{index // 4:07}",
            laterality=(Laterality.LEFT, Laterality.RIGHT)[index % 2],
            view=(View.CC, View.MLO)[index // 2 % 2],
            normal=index % 4 > 0,
            path=f"/data/mammography/films/P_{index // 4:07}/{'1.2.840.113619.2' * 3}/{index}.dcm",
            rows=4800,
            columns=3000,
            bits=16,
            scanner="LUMISYS",
            sop_instance_uid=f"1.3.6.1.4.1.9590.100.1.2.{index:039}",
        )
        own = []
        if not scan.normal:
            own.append(
                Finding(
                    finding_id=f"{name}_1",
                    image_id=name,
                    source="cbis-ddsm",
                    patient_id=scan.patient_id,
                    abnormality=Abnormality.MASS,
                    pathology=Pathology.BENIGN,
                    pathology_listed="BENIGN",
                    label=Label.BENIGN_MASS,
                    roi_kind=RoiKind.MASK,
                    roi_path=f"{scan.path}.mask.dcm",
                    crop_path=f"{scan.path}.crop.dcm",
                )
            )
        scans.append(scan)
        findings += own
        # Results come from workers: nothing of them is shared with the inventory.
        of_worker = replace(scan, mask_area_share=0.3, mask_solidity=0.9, mask_border_contact=0.1, mask_contrast=0.9)
        films[name] = FilmResult(
            of_worker, False, False, 0, (), tuple(map(replace, own)), f"{index:064x}", (0, 0, 4000, 2000)
        )
    return scans, findings, films


def write_candidates_of(scans: "list[Scan]", workspace: Path, number: int) -> int:  # noqa: F821
    """Writes each film's candidates as `convert_film` does; returns the bytes of them all."""
    from mammo_etl.records import Candidate, Label
    from mammo_etl.schema import FORMAT_VERSION, to_rows
    from mammo_etl.settings import BuildSettings, digest
    from mammo_etl.workspace import Workspace, write_sealed

    settings, chance = BuildSettings(), random.Random(0)
    folder = Workspace(workspace).candidates(digest(settings.cleaning, settings.patches))
    size = 0
    for scan in scans:
        finding = "" if scan.normal else f"{scan.image_id}_1"
        candidates = [
            Candidate(
                image_id=scan.image_id,
                finding_id=finding,
                finding_ids=(finding,) if finding else (),
                label=int(Label.BENIGN_MASS if finding else Label.NORMAL),
                origin="around" if finding else "normal",
                y=chance.randrange(4500),
                x=chance.randrange(2700),
                size=256,
                roi_fraction=chance.random(),
                roi_coverage=chance.random(),
                breast_fraction=chance.random(),
            )
            for _ in range(number // 8 if finding else number)
        ]
        path = folder / f"{scan.image_id}.json"
        content = {"format_version": FORMAT_VERSION, "basis": "0" * 64, "rows": to_rows(candidates, Candidate)}
        write_sealed(path, content, indent=None)
        size += path.stat().st_size
    return size


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(films: int, workspace: Path, planned: bool) -> None:
    """Prints processor seconds of the plan, patches, and bytes beyond the start."""
    from flows.build_dataset import make_plan
    from flows.progress import Stages
    from mammo_etl.settings import BuildSettings
    from mammo_etl.sources import Inventory

    before = peak()
    scans, findings, results = films_of(films)
    started, patches = time.process_time(), 0
    if planned:
        inventory = Inventory(tuple(scans), tuple(findings), ())
        patches = len(make_plan(inventory, results, True, workspace, BuildSettings(), Stages())[0])
    print(time.process_time() - started, patches, peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, nargs="+", default=[1000, 4000, 10_000])
    parser.add_argument("--candidates", type=int, default=64, help="of a normal film")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(int(arguments.one[0]), Path(arguments.one[1]), arguments.one[2] == "plan")
        return
    print(
        "| films | candidates' bytes a film | records, KB a film | plan, ms a film | plan, KB a film | patches |\n"
        "|---|---|---|---|---|---|"
    )
    for films in arguments.films:
        with tempfile.TemporaryDirectory() as name:
            size = write_candidates_of(films_of(films)[0], Path(name), arguments.candidates)
            figures = []
            for what in ("records", "plan"):
                command = [sys.executable, __file__, "--one", str(films), name, what]
                run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                figures.append([float(figure) for figure in run.stdout.split()])
        (_, _, records), (seconds, patches, most) = figures
        print(
            f"| {films:,} | {size / films:,.0f} | {records / films / 1e3:.2f} | {1e3 * seconds / films:.2f} | "
            f"{(most - records) / films / 1e3:.1f} | {patches:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
