"""`mammo inspect`: what sources hold, and what their tables list, against the truth of the phantoms and the real tables."""

import csv
import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from prefect.server.api.server import SubprocessASGIServer
from rich.console import Console

from flows.clusters import ClusterSettings
from flows.inspect_sources import inspect_sources
from flows.inspection_tables import show_inspection
from mammo_etl.inspection import Inspected, Inspection, inspect
from mammo_etl.inventory import InventoryError, SourceFiles, list_sources
from mammo_etl.listed import inspect_tables, listed_by_texts
from mammo_etl.records import (
    Abnormality,
    Finding,
    Label,
    Laterality,
    Pathology,
    Reason,
    Rejection,
    RoiFlag,
    RoiKind,
    Scan,
    Verdict,
    View,
    label_of,
)
from mammo_etl.settings import SourceSettings
from mammo_etl.sources import Inventory

CALC, MASS = Abnormality.CALCIFICATION, Abnormality.MASS


def sources(**places: Path | str) -> list[SourceSettings]:
    return [SourceSettings(kind=kind.replace("_", "-"), path=str(path)) for kind, path in places.items()]


def shown(inspection: Inspection, width: int) -> list[str]:
    stream = io.StringIO()
    show_inspection(inspection, Console(file=stream, width=width))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def truth(phantoms: Path, name: str) -> list[dict[str, str]]:
    with (phantoms / "truth" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scan(name: str, patient: str, split: str, **values: Any) -> Scan:
    defaults = {"laterality": Laterality.LEFT, "view": View.CC, "normal": False, "path": f"/{name}.dcm"}
    sizes = {"rows": 100, "columns": 50, "bits": 16}
    fields = {"image_id": name, "source": "cbis-ddsm", "patient_id": patient, "official_split": split}
    return Scan(**{**defaults, **sizes, **fields, **values})


def finding(of: Scan, number: int, abnormality: Abnormality, pathology: Pathology, **values: Any) -> Finding:
    fields = {
        "finding_id": f"{of.image_id}_{number}",
        "image_id": of.image_id,
        "source": of.source,
        "patient_id": of.patient_id,
        "abnormality": abnormality,
        "pathology": pathology,
        "pathology_listed": pathology.value,
        "label": label_of(abnormality, pathology),
        "roi_kind": RoiKind.MASK,
    }
    return Finding(**{**fields, **values})


def small() -> Inventory:
    """One woman with a twin in both parts, one with a film of two classes, and a normal one."""
    calc = scan("cbis-ddsm_P_1_LEFT_CC_calc", "P_1", "train", rows=300, scanner="HOWTEK")
    mass = scan("cbis-ddsm_P_1_LEFT_CC_mass", "P_1", "test", columns=80)
    other = scan("cbis-ddsm_P_2_LEFT_CC_mass", "P_2", "train")
    normal = scan("x", "P_3", "", source="ddsm", normal=True, bits=12)
    return Inventory(
        (calc, mass, other, normal),
        (
            finding(calc, 1, CALC, Pathology.BENIGN, roi_flags=(RoiFlag.CLIPPED, RoiFlag.OPEN)),
            finding(mass, 1, MASS, Pathology.BENIGN, verdict=Verdict.SWAPPED),
            finding(other, 1, MASS, Pathology.BENIGN),
            finding(other, 3, MASS, Pathology.MALIGNANT, verdict=Verdict.QUARANTINED, roi_kind=RoiKind.NONE),
        ),
        (
            Rejection(stage="inventory", code=Reason.MASK_SIZE, message="b", path="/b"),
            Rejection(stage="inventory", code=Reason.MASK_SIZE, message="a", path="/a"),
            Rejection(stage="inventory", code=Reason.BAD_TABLE, message="c"),
        ),
    )


def test_the_numbers_of_a_small_inventory() -> None:
    found = inspect({"cbis-ddsm": Inspected(small(), files=9, phantom=False)}).all
    assert (found.files, found.films, found.normal_films, found.patients, found.findings) == (9, 4, 1, 3, 4)
    assert found.patients_with == {"mass": 2, "calcification": 1, "both": 1}
    assert {name: (part.films, part.patients, part.findings) for name, part in found.classes.items()} == {
        "Normal": (1, 1, 0),
        "Benign Calcification": (1, 1, 1),
        "Benign Mass": (2, 2, 2),
        "Malignant Calcification": (0, 0, 0),
        "Malignant Mass": (1, 1, 1),
    }
    assert found.twins == 1
    assert found.mixed_side_views == 2
    assert (found.official_overlaps.patients, found.official_overlaps.side_views) == (1, 1)
    assert {name: (part.films, part.patients, part.findings) for name, part in found.official_splits.items()} == {
        "train": (2, 2, 3),
        "test": (1, 1, 1),
    }
    assert found.verdicts == {"as-listed": 2, "split-series": 0, "swapped": 1, "rescaled": 0, "quarantined": 1}
    assert found.roi_kinds == {"mask": 3, "outline": 0, "circle": 0, "none": 1}
    assert found.roi_flags == {"clipped": 1, "open": 1, "broken-outline": 0, "miscounted": 0}
    assert found.scanners == {"HOWTEK": 1, "unknown": 3}
    assert found.bits == {"12": 1, "16": 3}
    assert found.film_size is not None
    assert found.film_size.model_dump() == {
        "rows": {"least": 100, "median": 100, "most": 300},
        "columns": {"least": 50, "median": 50, "most": 80},
        "sizes": 3,
    }
    assert [(code, row.count, row.example, row.example_path) for code, row in found.rejects.items()] == [
        ("mask-size", 2, "a", "/a"),
        ("bad-table", 1, "c", ""),
    ]


def test_two_studies_of_one_ddsm_patient_are_no_twins() -> None:
    first = scan("ddsm_A-0001-1_LEFT_CC", "A-0001", "", source="ddsm")
    second = replace(first, image_id="ddsm_A-0001-2_LEFT_CC")
    found = inspect({"ddsm": Inspected(Inventory((first, second), (), ()), files=2, phantom=False)})
    assert found.all.twins == 0


def test_all_sources_together_count_patients_by_source() -> None:
    one, two = scan("a", "P_1", ""), scan("b", "P_1", "", source="ddsm")
    found = inspect(
        {
            "cbis-ddsm": Inspected(Inventory((one,), (), ()), files=1, phantom=True),
            "ddsm": Inspected(Inventory((two,), (), ()), files=2, phantom=False),
        }
    )
    assert (found.all.films, found.all.patients, found.all.files, found.all.phantom) == (2, 2, 3, True)
    assert [source.patients for source in found.sources.values()] == [1, 1]


def test_every_key_is_described_and_always_there() -> None:
    empty = inspect({"ddsm": Inspected(Inventory((), (), ()), files=0, phantom=False)})
    full = inspect({"ddsm": Inspected(small(), files=0, phantom=False)})
    assert empty.all.model_dump().keys() == full.all.model_dump().keys()
    assert empty.all.classes.keys() == {label.title for label in Label}
    schema = Inspection.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        for key, described in model["properties"].items():
            assert described.get("description") or key in ("least", "median", "most"), key


def test_json_of_the_phantoms_agrees_with_their_truth(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch, mammo: Command
) -> None:
    def no_server(*_: object, **__: object) -> None:
        raise AssertionError("a Prefect server was started")

    monkeypatch.setattr(SubprocessASGIServer, "start", no_server)
    places = [f"--source={kind}={phantoms / kind}" for kind in ("cbis-ddsm", "ddsm")]
    code, out, err = mammo("inspect", *places, "--json", "--workers", 1)
    assert code == 0
    assert "inventory" in err
    found = json.loads(out)
    assert found["tables_only"] is False
    films, findings = truth(phantoms, "films"), truth(phantoms, "findings")
    sources_of = {film["image_id"]: film["source"] for film in films}
    for kind, source in (*found["sources"].items(), ("all", found["all"])):
        own = [film for film in films if kind in (film["source"], "all")]
        lesions = [row for row in findings if kind in (sources_of[row["image_id"]], "all")]
        assert source["phantom"]
        assert source["films"] == len(own)
        assert source["normal_films"] == sum(film["normal"] == "True" for film in own)
        assert source["patients"] == len({(film["source"], film["patient_id"]) for film in own})
        assert source["findings"] == len(lesions)
        labels = Counter(row["label_name"] for row in lesions)
        assert {name: part["findings"] for name, part in source["classes"].items()} == {
            label.title: labels[label.title] for label in Label
        }
        assert source["pathologies"] == Counter(row["pathology"] for row in lesions)
        assert source["scanners"] == Counter(film["scanner"] or "unknown" for film in own)
        assert source["film_size"]["sizes"] == len({(film["rows"], film["columns"]) for film in own})
        assert sum(source["verdicts"].values()) == len(lesions)
    cbis = found["sources"]["cbis-ddsm"]
    assert cbis["verdicts"]["swapped"] > 0
    names = {film["image_id"] for film in films}
    assert cbis["twins"] == sum(name.removesuffix("mass") + "calc" in names for name in names if name.endswith("mass"))
    assert cbis["twins"] > 0


def test_sources_without_one_usable_film(phantoms: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    shutil.copytree(phantoms / "cbis-ddsm", tmp_path / "cbis-ddsm")
    for path in (tmp_path / "cbis-ddsm").rglob("*.dcm"):
        path.write_bytes(b"no film")
    (tmp_path / "ddsm").mkdir()
    (tmp_path / "mias").mkdir()
    (tmp_path / "mias" / "mdb001.pgm").write_bytes(b"P5 5 5")
    settings = sources(cbis_ddsm=tmp_path / "cbis-ddsm", ddsm=tmp_path / "ddsm", mini_mias=tmp_path / "mias")
    found = inspect_sources(list_sources(settings), cluster)
    assert (found.all.films, found.all.findings, found.all.film_size) == (0, 0, None)
    assert set(found.sources["cbis-ddsm"].rejects) == {"unreadable-file"}
    assert set(found.sources["ddsm"].rejects) == {"empty-source"}
    assert "unreadable-file" in found.sources["mini-mias"].rejects
    assert any("empty-source" in line for line in shown(found, 80))


@pytest.mark.parametrize("extra", [[], ["--tables-only"]])
def test_a_wrong_argument_is_one_sentence_and_exit_code_two(extra: list[str], tmp_path: Path, mammo: Command) -> None:
    for place, sentence in (
        (f"ddsm={tmp_path}/none", "no such folder or zip archive"),
        ("inbreast=/x", "unknown source 'inbreast'"),
        ("/x", "expected KIND=PATH"),
    ):
        code, out, err = mammo("inspect", "--source", place, *extra)
        assert (code, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1


def test_a_kind_without_tables() -> None:
    with pytest.raises(InventoryError, match="no tables that can be read alone"):
        listed_by_texts(SourceFiles("vindr", (), ()))


def test_the_real_tables_alone(realdata: Path, mammo: Command) -> None:
    code, out, err = mammo("inspect", f"--source=cbis-ddsm={realdata}/cbis_csv", "--tables-only", "--json")
    assert (code, err) == (0, "")
    inspection = json.loads(out)
    assert inspection["tables_only"] is True
    found = inspection["sources"]["cbis-ddsm"]
    assert found == inspection["all"]
    assert (found["findings"], found["films"], found["patients"]) == (3568, 3103, 1566)
    assert found["patients_with"] == {"mass": 892, "calcification": 753, "both": 79}
    assert {name: part["findings"] for name, part in found["classes"].items()} == {
        "Normal": 0,
        "Benign Calcification": 1199,
        "Benign Mass": 912,
        "Malignant Calcification": 673,
        "Malignant Mass": 784,
    }
    assert found["pathologies"] == {"BENIGN": 1429, "BENIGN_WITHOUT_CALLBACK": 682, "MALIGNANT": 1457}
    assert found["official_overlaps"] == {"patients": 31, "side_views": 29}
    assert (found["twins"], found["mixed_side_views"]) == (71, 86)
    assert found["official_splits"]["train"]["findings"] == 1318 + 1546
    assert found["official_splits"]["test"]["findings"] == 378 + 326
    assert (found["verdicts"], found["film_size"], found["rejects"]) == ({}, None, {})
    assert {name: table["rows"] for name, table in found["tables"].items()} == {
        "calc test": 326,
        "calc train": 1546,
        "mass test": 378,
        "mass train": 1318,
        "all": 3568,
    }
    everything = found["tables"]["all"]
    assert (everything["series"], everything["dicom_files"], everything["split_series"]) == (6775, 10239, 104)
    assert found["tables"]["calc test"]["unstated"] == {"breast density": 2, "calc distribution": 63, "calc type": 4}
    assert found["tables"]["mass train"]["pathologies"] == {
        "BENIGN": 577,
        "BENIGN_WITHOUT_CALLBACK": 104,
        "MALIGNANT": 637,
    }


def test_a_single_table(realdata: Path) -> None:
    (path,) = (realdata / "cbis_csv").glob("mass*test*.csv")
    found = inspect_tables(sources(cbis_ddsm=path))
    assert (found.all.findings, found.all.patients) == (378, 201)
    together = [*sources(cbis_ddsm=path), *sources(cbis_ddsm=path.parent)]
    assert inspect_tables(together).all.findings == 3568


def test_tables_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(b"x")
    found = inspect_tables(
        [SourceSettings(kind=kind, path=str(tmp_path)) for kind in ("cbis-ddsm", "ddsm", "mini-mias")]
    )
    assert {kind: set(source.rejects) for kind, source in found.sources.items()} == {
        "cbis-ddsm": {"bad-table"},
        "ddsm": {"empty-source"},
        "mini-mias": {"bad-table"},
    }
    assert found.all.films == 0


def test_tables_alone_list_what_the_films_hold(phantoms: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    for kind in ("cbis-ddsm", "ddsm"):
        shutil.copytree(
            phantoms / kind, tmp_path / kind, ignore=shutil.ignore_patterns("*.dcm", "*.LJPEG", "PHANTOM.txt")
        )
    listed = inspect_tables(sources(cbis_ddsm=tmp_path / "cbis-ddsm", ddsm=tmp_path / "ddsm"))
    held = inspect_sources(list_sources(sources(cbis_ddsm=phantoms / "cbis-ddsm", ddsm=phantoms / "ddsm")), cluster)
    only_in_films = {"files", "phantom", "verdicts", "roi_flags", "bits", "film_size", "tables"}
    for kind, source in listed.sources.items():
        assert source.rejects == {}
        assert source.model_dump(exclude=only_in_films) == held.sources[kind].model_dump(exclude=only_in_films)
    # An .ics file states the sizes too.
    assert listed.sources["ddsm"].film_size == held.sources["ddsm"].film_size
    assert listed.sources["ddsm"].bits == held.sources["ddsm"].bits


def test_the_real_list_of_mini_mias(realdata: Path) -> None:
    found = inspect_tables(sources(mini_mias=realdata / "mini_mias" / "mini_mias_subset.zip")).all
    assert (found.films, found.patients, found.normal_films, found.findings) == (322, 161, 207, 123)
    assert found.roi_kinds == {"mask": 0, "outline": 0, "circle": 119, "none": 4}
    assert {code: row.count for code, row in found.rejects.items()} == {"not-located": 4}


def test_a_bad_row_of_the_list_of_mini_mias_counts_once(tmp_path: Path) -> None:
    (tmp_path / "Info.txt").write_text("mdb001 G CIRC B 535 425 197\nmdb002 G CIRC ? 1\nmdb003 D NORM \n")
    found = inspect_tables(sources(mini_mias=tmp_path / "Info.txt")).all
    assert found.films == 2
    assert {code: row.count for code, row in found.rejects.items()} == {"bad-table-row": 1}


def test_a_person_reads_it_in_eighty_columns(realdata: Path) -> None:
    found = inspect_tables(
        sources(
            cbis_ddsm=realdata / "cbis_csv",
            ddsm=realdata / "ddsm",
            mini_mias=realdata / "mini_mias" / "mini_mias_subset.zip",
        )
    )
    narrow, wide = shown(found, 80), shown(found, 120)
    assert max(map(len, narrow)) <= 80
    assert not any("…" in line for line in narrow)
    tables = [[line for line in lines if line.startswith("  ")] for lines in (narrow, wide)]
    assert tables[0] == tables[1]
    (findings,) = [line.split() for line in narrow if line.startswith("findings  ")]
    assert findings == ["findings", "3,568", "-", "123", "3,691"]
    (mass,) = [line.split()[-5:] for line in narrow if line.startswith("  breast density")]
    assert mass == ["2", "-", "-", "-", "2"]


def test_nothing_of_the_data_is_taken_for_markup() -> None:
    part = Inventory(
        (scan("a", "P", "", scanner="[red]X[/red]"),),
        (),
        (
            Rejection(
                stage="inventory",
                code=Reason.UNREADABLE_FILE,
                message="[bold]no[/bold]",
                path=f"/data/[/red]/{'long/' * 30}[x].dcm",
            ),
        ),
    )
    lines = shown(inspect({"ddsm": Inspected(part, files=1, phantom=True)}), 80)
    assert any("[red]X[/red]" in line for line in lines)
    assert any("[bold]no[/bold]" in line for line in lines)
    assert f"/data/[/red]/{'long/' * 30}[x].dcm" in lines
    assert any("phantoms" in line for line in lines)


def test_the_command_prints_a_table(realdata: Path, mammo: Command) -> None:
    code, out, _ = mammo("inspect", f"--source=cbis-ddsm={realdata}/cbis_csv", "--tables-only")
    assert code == 0
    assert "3,568" in out
    assert "mass train" in out
