"""The plan: split by patient, chosen by share, in an order of its own."""

import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_etl.plan import COLUMNS, PlanError, check_disk, plan_patches
from mammo_etl.records import Candidate, Laterality, Scan, Split, View
from mammo_etl.settings import PlanSettings
from mammo_etl.split import split_of


def scan(patient: str, view: View, normal: bool) -> Scan:
    return Scan(
        image_id=f"ddsm_{patient}_{view}",
        source="ddsm",
        patient_id=patient,
        laterality=Laterality.LEFT,
        view=view,
        normal=normal,
        path="/x",
        rows=1000,
        columns=800,
        bits=12,
        scanner="LUMISYS",
    )


def candidate(image_id: str, number: int, label: int) -> Candidate:
    return Candidate(
        image_id=image_id,
        finding_id=f"{image_id}_1" if label else "",
        label=label,
        origin="centre" if label else "normal",
        y=number,
        x=7 * number,
        size=64,
        roi_fraction=0.5,
        roi_coverage=0.5,
        breast_fraction=1.0,
    )


def world(patients: int, abnormal_each: int = 3, normals_each: int = 30) -> tuple[list[Scan], list[Candidate]]:
    scans, candidates = [], []
    for number in range(patients):
        normal = number % 2 == 0
        for view in View:
            film = scan(f"P{number:03d}", view, normal)
            scans.append(film)
            count = normals_each if normal else abnormal_each
            label = 0 if normal else 1 + number % 4
            candidates += [candidate(film.image_id, i, label) for i in range(count)]
    return scans, candidates


def test_rows_are_numbered_and_sorted_by_split_and_film() -> None:
    plan = plan_patches(*world(60), PlanSettings())
    assert list(plan.columns) == COLUMNS
    assert plan["row"].tolist() == list(range(len(plan)))
    assert plan["patch_id"].is_unique
    assert plan["split"].drop_duplicates().tolist() == ["train", "validation", "test"]
    for _, part in plan.groupby("split"):
        assert part["image_id"].is_monotonic_increasing


def test_no_patient_is_in_two_splits() -> None:
    plan = plan_patches(*world(200), PlanSettings())
    assert (plan.groupby("patient_id")["split"].nunique() == 1).all()


def test_each_split_has_the_share_asked_for_and_every_abnormal_patch() -> None:
    scans, candidates = world(400)
    plan = plan_patches(scans, candidates, PlanSettings())
    for _, part in plan.groupby("split"):
        assert (part["label"] == 0).mean() == pytest.approx(0.85, abs=0.01)
    assert (plan["label"] > 0).sum() == sum(c.label > 0 for c in candidates)
    everything = plan_patches(scans, candidates, PlanSettings(normal_share="all"))
    assert len(everything) == len(candidates)


def test_normal_patches_are_taken_evenly_over_films() -> None:
    plan = plan_patches(*world(200), PlanSettings())
    for _, part in plan[plan["label"] == 0].groupby("split"):
        per_film = part.groupby("image_id").size()
        assert per_film.max() - per_film.min() <= 1


def test_too_few_normals_never_cost_an_abnormal_patch() -> None:
    scans, candidates = world(100, abnormal_each=9, normals_each=2)
    plan = plan_patches(scans, candidates, PlanSettings())
    assert len(plan) == len(candidates)


def test_only_normal_films() -> None:
    scans, candidates = world(40, abnormal_each=0)
    assert len(plan_patches(scans, candidates, PlanSettings())) == len(candidates)


def test_a_split_without_findings_keeps_the_usual_share_of_its_normals() -> None:
    scans, candidates = world(200)
    bare = {
        s.image_id for s in scans if split_of(s.source, s.patient_id, PlanSettings()) is Split.TEST and not s.normal
    }
    plan = plan_patches(scans, [c for c in candidates if c.image_id not in bare], PlanSettings())
    kept = plan[plan["split"] == "test"]
    assert (kept["label"] == 0).all()
    assert 0 < len(kept) < 30 * 2 * 200 * 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_the_input_does_not_matter(seed: int) -> None:
    scans, candidates = world(20)
    expected = plan_patches(scans, candidates, PlanSettings())
    random.Random(seed).shuffle(scans)
    random.Random(seed).shuffle(candidates)
    pd.testing.assert_frame_equal(plan_patches(scans, candidates, PlanSettings()), expected)


def test_new_patients_never_move_old_ones() -> None:
    before = plan_patches(*world(50), PlanSettings()).drop_duplicates("patient_id").set_index("patient_id")["split"]
    after = plan_patches(*world(100), PlanSettings()).drop_duplicates("patient_id").set_index("patient_id")["split"]
    assert after[before.index].equals(before)


def test_splits_have_about_their_shares_and_follow_the_seed() -> None:
    splits = pd.Series([split_of("ddsm", f"P{i}", PlanSettings()) for i in range(5000)])
    shares = splits.value_counts(normalize=True)
    assert shares[Split.TRAIN] == pytest.approx(0.8, abs=0.02)
    assert shares[Split.TEST] == pytest.approx(0.1, abs=0.02)
    assert list(splits) != [split_of("ddsm", f"P{i}", PlanSettings(seed=1)) for i in range(5000)]
    assert split_of("ddsm", "A-0001", PlanSettings()) == split_of("ddsm", "A-0001", PlanSettings(validation=0.2))


def test_nothing_to_plan_and_no_room() -> None:
    with pytest.raises(PlanError, match="no place for a patch"):
        plan_patches([scan("P", View.CC, True)], [], PlanSettings())
    check_disk(1000, 256, 1000 * 256 * 256)
    with pytest.raises(PlanError, match=r"extract: 1,000 patches of 256 x 256 need up to 0.1 GB"):
        check_disk(1000, 256, 1000 * 256 * 256 - 1)
