"""What splits leak, against a plain count and on the real tables."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_etl.cbis_tables import read_tables
from mammo_etl.leaks import AS_LISTED, LeakError, LeakRow, check_leaks, leaks_of
from mammo_etl.records import Laterality, Scan, View
from mammo_etl.settings import PlanSettings
from mammo_etl.split import split_patches


def scan(
    image_id: str, patient: str = "P1", view: View = View.CC, part: str = "", rows: int = 1000, columns: int = 800
) -> Scan:
    return Scan(
        image_id=image_id,
        source="cbis-ddsm",
        patient_id=patient,
        laterality=Laterality.LEFT,
        view=view,
        normal=False,
        path="/x",
        rows=rows,
        columns=columns,
        bits=16,
        official_split=part,
    )


def patches_at(places: Sequence[tuple[Scan, int, int, int, str]]) -> pd.DataFrame:
    """Patches as (film, y, x, size, split)."""
    return pd.DataFrame(
        [
            {
                "source": film.source,
                "patient_id": film.patient_id,
                "image_id": film.image_id,
                "patch_id": f"{film.image_id}_{number}",
                "laterality": film.laterality,
                "view": film.view,
                "split": split,
                "y": y,
                "x": x,
                "size": size,
            }
            for number, (film, y, x, size, split) in enumerate(places)
        ]
    )


def counts(scans: Sequence[Scan], patches: pd.DataFrame, plan: PlanSettings) -> dict[str, tuple[int, int, int]]:
    return {row.method: (row.patients, row.films, row.patch_pairs) for row in leaks_of(scans, patches, plan)}


def plain_count(scans: Sequence[Scan], patches: pd.DataFrame, splits: Sequence[str]) -> tuple[int, int, int]:
    """Pair by pair, in exact fractions."""
    films = {film.image_id: film for film in scans}
    patients, views, pairs = set(), set(), 0
    for (one, a), (two, b) in combinations(zip(splits, patches.to_dict("records"), strict=True), 2):
        if one == two or a["patient_id"] != b["patient_id"]:
            continue
        patients.add(a["patient_id"])
        if (a["laterality"], a["view"]) != (b["laterality"], b["view"]):
            continue
        views.add((a["patient_id"], a["view"]))
        pairs += all(
            Fraction(p[axis], getattr(films[p["image_id"]], length))
            < Fraction(q[axis] + q["size"], getattr(films[q["image_id"]], length))
            for p, q in ((a, b), (b, a))
            for axis, length in (("y", "rows"), ("x", "columns"))
        )
    return len(patients), len(views), pairs


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Scan], pd.DataFrame]:
    """A few small films of a few patients, twins of other sizes among them, crowded with patches."""
    films = [
        scan(
            f"film{number}",
            patient=draw(st.sampled_from(["P1", "P2", "P3"])),
            view=draw(st.sampled_from([*View])),
            part=draw(st.sampled_from(["train", "test", ""])),
            rows=draw(st.sampled_from([30, 40, 60])),
            columns=draw(st.sampled_from([30, 45])),
        )
        for number in range(draw(st.integers(1, 5)))
    ]
    splits = st.sampled_from(["train", "validation", "test"])
    place = st.tuples(st.sampled_from(films), st.integers(0, 20), st.integers(0, 20), st.sampled_from([5, 10]), splits)
    return films, patches_at(draw(st.lists(place, min_size=1, max_size=30)))


@settings(max_examples=60, deadline=None)
@given(runs(), st.sampled_from(["patient", "official", "patch"]))
def test_counts_are_those_of_a_plain_count(run: tuple[list[Scan], pd.DataFrame], method: str) -> None:
    scans, patches = run
    plan = PlanSettings.model_validate({"split": method, "validation": 0.3, "test": 0.3})
    found = counts(scans, patches, plan)
    for name in ("patient", "official", "patch"):
        other = plan.model_copy(update={"split": name})
        splits = patches["split"] if name == method else split_patches(patches, scans, other)
        if name in found:
            assert found[name] == plain_count(scans, patches, list(splits))
        if name in ("patient", "official") and name != method:
            assert found.get(name, (0, 0, 0)) == (0, 0, 0)


@settings(max_examples=10, deadline=None)
@given(runs(), st.integers(0, 2**16))
def test_the_order_of_the_patches_does_not_matter(run: tuple[list[Scan], pd.DataFrame], seed: int) -> None:
    scans, patches = run
    assert leaks_of(scans, patches.sample(frac=1, random_state=seed), PlanSettings()) == leaks_of(
        scans, patches, PlanSettings()
    )


def test_methods_come_in_order_with_the_chosen_one_marked() -> None:
    film = scan("a", part="train")
    rows = leaks_of([film], patches_at([(film, 0, 0, 10, "train")]), PlanSettings(split="official"))
    assert [row.method for row in rows] == ["patient", "official", "patch", AS_LISTED]
    assert [row.method for row in rows if row.chosen] == ["official"]
    assert asdict(rows[0]) == {"method": "patient", "chosen": False, "patients": 0, "films": 0, "patch_pairs": 0}


def test_without_official_parts_there_is_no_official_row_unless_chosen() -> None:
    film = scan("a")
    patches = patches_at([(film, 0, 0, 10, "train")])
    assert list(counts([film], patches, PlanSettings())) == ["patient", "patch"]
    assert list(counts([film], patches, PlanSettings(split="official"))) == ["patient", "official", "patch"]


def test_patches_that_touch_do_not_overlap() -> None:
    film = scan("a", rows=333, columns=777)
    patches = patches_at([(film, 0, 0, 10, "train"), (film, 10, 0, 10, "test"), (film, 0, 10, 10, "test")])
    assert counts([film], patches, PlanSettings())["patient"] == (1, 1, 0)
    patches["size"] = 11
    assert counts([film], patches, PlanSettings())["patient"] == (1, 1, 2)


def test_twins_are_one_film_and_compared_relative_to_their_sizes() -> None:
    large, small = scan("calc", rows=2000, columns=1600), scan("mass", rows=1000, columns=800)
    patches = patches_at([(large, 1000, 800, 200, "train"), (small, 500, 400, 100, "test"), (small, 0, 0, 100, "test")])
    assert counts([large, small], patches, PlanSettings())["patient"] == (1, 1, 1)


def test_another_source_or_view_is_another_film() -> None:
    cc, mlo = scan("cc"), scan("mlo", view=View.MLO)
    patches = patches_at([(cc, 0, 0, 50, "train"), (mlo, 0, 0, 50, "test")])
    assert counts([cc, mlo], patches, PlanSettings())["patient"] == (1, 0, 0)
    patches.loc[1, "source"] = "ddsm"
    assert counts([cc, replace(mlo, source="ddsm")], patches, PlanSettings())["patient"] == (0, 0, 0)


def test_films_without_an_official_part_leak_nothing_as_listed() -> None:
    listed, other = scan("a", part="test"), scan("b", patient="P2")
    patches = patches_at([(listed, 0, 0, 50, "train")] + [(other, 0, 0, 50, "train")] * 20)
    assert counts([listed, other], patches, PlanSettings())[AS_LISTED] == (0, 0, 0)


def test_a_run_that_leaks_against_its_setting_is_refused() -> None:
    film = scan("a", part="train")
    patches = patches_at([(film, 0, 0, 50, "train"), (film, 20, 20, 50, "test")])
    for method in ("patient", "official"):
        rows = leaks_of([film], patches, PlanSettings.model_validate({"split": method}))
        with pytest.raises(LeakError, match=rf"plan.split = {method}: .* 1 patients, 1 views and 1 pairs"):
            check_leaks(rows)
    check_leaks(leaks_of([film], patches, PlanSettings(split="patch")))
    check_leaks(leaks_of([film], patches.assign(split="test"), PlanSettings()))


@pytest.mark.parametrize("field", ["patients", "films", "patch_pairs"])
def test_any_one_number_of_the_chosen_method_refuses_and_none_of_another(field: str) -> None:
    numbers: dict[str, Any] = {"patients": 0, "films": 0, "patch_pairs": 0, field: 1}
    check_leaks([LeakRow(method="patient", chosen=False, **numbers), LeakRow(method="patch", chosen=True, **numbers)])
    with pytest.raises(LeakError):
        check_leaks([LeakRow(method="patient", chosen=True, **numbers)])


def test_a_large_run_takes_seconds() -> None:
    random = np.random.default_rng(0)
    scans = [scan(f"f{i}", patient=f"P{i // 2}", view=[*View][i % 2], rows=5000, columns=3000) for i in range(3000)]
    places = zip(
        random.integers(0, 3000, 50_000),
        random.integers(0, 4744, 50_000),
        random.integers(0, 2744, 50_000),
        strict=True,
    )
    patches = patches_at([(scans[i], int(y), int(x), 256, "train") for i, y, x in places])
    started = time.process_time()
    found = counts(scans, patches, PlanSettings())
    assert time.process_time() - started < 10  # half a second where measured
    assert found["patient"] == (0, 0, 0)
    assert found["patch"][2] > 1000


@pytest.fixture(scope="module")
def listed(realdata: Path) -> list[Scan]:
    """The films of the real tables; their sizes are not in there."""
    tables = read_tables(str(path) for path in (realdata / "cbis_csv").glob("*.csv"))
    films = {
        row.image_id: replace(
            scan(row.image_id, patient=row.patient_id, view=row.view, part=row.split, rows=5000, columns=3000),
            laterality=row.laterality,
        )
        for row in tables.rows
    }
    return list(films.values())


def test_real_tables_as_listed_leak_31_patients_and_29_views(listed: list[Scan]) -> None:
    plan = PlanSettings()
    patches = patches_at([(film, 1000, 1000, 256, "") for film in listed])
    patches["split"] = split_patches(patches, listed, plan)
    rows = {row.method: row for row in leaks_of(listed, patches, plan)}
    assert rows[AS_LISTED] == LeakRow(AS_LISTED, chosen=False, patients=31, films=29, patch_pairs=29)
    assert rows["official"] == LeakRow("official", chosen=False, patients=0, films=0, patch_pairs=0)
    assert rows["patient"] == LeakRow("patient", chosen=True, patients=0, films=0, patch_pairs=0)
    assert rows["patch"].patients > 100


@pytest.mark.parametrize("in_both_parts", ["train", "test"])
def test_real_tables_by_official_parts_leak_nothing(listed: list[Scan], in_both_parts: str) -> None:
    plan = PlanSettings.model_validate({"split": "official", "in_both_parts": in_both_parts})
    patches = patches_at([(film, 1000, 1000, 256, "") for film in listed])
    patches["split"] = split_patches(patches, listed, plan)
    rows = leaks_of(listed, patches, plan)
    check_leaks(rows)
    assert next(row for row in rows if row.chosen) == LeakRow("official", True, 0, 0, 0)
    patients = patches.drop_duplicates("patient_id").set_index("patient_id")["split"]
    parts = pd.Series({(film.patient_id, film.official_split): 1 for film in listed}).groupby(level=0).size()
    assert (parts == 2).sum() == 31
    assert ((patients[parts.index[parts == 2]] == "test").all()) == (in_both_parts == "test")
    tested = {film.patient_id for film in listed if film.official_split == "test"}
    assert (patients == "test").sum() == len(tested) - (31 if in_both_parts == "train" else 0)
