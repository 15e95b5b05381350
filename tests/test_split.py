"""Splits: stable by patient, true to the official parts, or by patch."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_etl.records import Laterality, Scan, View
from mammo_etl.settings import PlanSettings
from mammo_etl.split import split_of, split_patches

OFFICIAL = st.sampled_from(["train", "test", ""])
FILMS = st.lists(
    st.tuples(st.sampled_from(["cbis-ddsm", "ddsm"]), st.integers(0, 12), OFFICIAL), min_size=1, max_size=40
)
"""Films as (source, patient, official part)."""


def scans_of(films: Sequence[tuple[str, int, str]]) -> list[Scan]:
    return [
        Scan(
            image_id=f"{source}_P{patient}_{number}",
            source=source,
            patient_id=f"P{patient}",
            laterality=Laterality.LEFT,
            view=View.CC,
            normal=False,
            path="/x",
            rows=1000,
            columns=800,
            bits=16,
            official_split=part,
        )
        for number, (source, patient, part) in enumerate(films)
    ]


def patches_of(scans: Sequence[Scan], each: int = 2) -> pd.DataFrame:
    """Some patches of every film, without a split."""
    rows = [
        {"source": scan.source, "patient_id": scan.patient_id, "patch_id": f"{scan.image_id}_{number}"}
        for scan in scans
        for number in range(each)
    ]
    return pd.DataFrame(rows)


def splits_of_patients(scans: Sequence[Scan], plan: PlanSettings) -> dict[tuple[str, str], set[str]]:
    patches = patches_of(scans)
    splits = patches.assign(split=split_patches(patches, scans, plan)).groupby(["source", "patient_id"])["split"]
    return {(str(source), str(patient)): set(part) for (source, patient), part in splits}


@settings(max_examples=50, deadline=None)
@given(FILMS, FILMS)
def test_by_patient_adding_films_never_moves_a_patient(
    films: list[tuple[str, int, str]], more: list[tuple[str, int, str]]
) -> None:
    before = splits_of_patients(scans_of(films), PlanSettings())
    after = splits_of_patients(scans_of([*films, *more]), PlanSettings())
    assert {patient: after[patient] for patient in before} == before
    assert all(split == {split_of(*patient, PlanSettings()).value} for patient, split in after.items())


@settings(max_examples=50, deadline=None)
@given(FILMS, st.sampled_from(["train", "test"]))
def test_official_puts_each_patient_in_one_split_and_test_patients_in_the_test(
    films: list[tuple[str, int, str]], in_both: str
) -> None:
    scans = scans_of(films)
    plan = PlanSettings.model_validate({"split": "official", "in_both_parts": in_both, "validation": 0.4})
    parts: dict[tuple[str, str], set[str]] = {}
    for scan in scans:
        parts.setdefault((scan.source, scan.patient_id), set()).update({scan.official_split} - {""})
    for patient, splits in splits_of_patients(scans, plan).items():
        assert len(splits) == 1
        if not parts[patient]:
            assert splits == {split_of(*patient, plan).value}
        else:
            tested = parts[patient] == {"test"} or (len(parts[patient]) == 2 and in_both == "test")
            assert (splits == {"test"}) == tested


def test_official_takes_validation_from_the_training_part_by_its_share() -> None:
    films = [("cbis-ddsm", patient, "train" if patient % 5 else "test") for patient in range(4000)]
    plan = PlanSettings(split="official", validation=0.25, test=0.5)
    splits = pd.Series({patient: next(iter(s)) for patient, s in splits_of_patients(scans_of(films), plan).items()})
    assert (splits == "test").sum() == 800
    assert (splits == "validation").sum() == pytest.approx(0.25 * 3200, rel=0.08)


def test_a_film_without_patches_counts_for_the_official_part_of_its_patient() -> None:
    scans = scans_of([("cbis-ddsm", 1, "train"), ("cbis-ddsm", 1, "test")])
    patches = patches_of(scans[:1])
    assert set(split_patches(patches, scans, PlanSettings(split="official"))) == {"test"}
    kept = PlanSettings(split="official", in_both_parts="train", validation=0)
    assert set(split_patches(patches, scans, kept)) == {"train"}


def test_by_patch_has_the_shares_of_patches_and_depends_on_the_patch_alone() -> None:
    scans = scans_of([("cbis-ddsm", patient, "test") for patient in range(10)])
    patches = patches_of(scans, each=500)
    plan = PlanSettings(split="patch", validation=0.2)
    splits = split_patches(patches, scans, plan)
    shares = splits.value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(0.2, abs=0.02)
    assert shares["test"] == pytest.approx(0.1, abs=0.02)
    assert splits.groupby(patches["patient_id"]).nunique().eq(3).all()
    part = patches.sample(1000, random_state=0)
    pd.testing.assert_series_equal(split_patches(part, scans, plan), splits[part.index])
    assert not split_patches(patches, scans, PlanSettings(split="patch", validation=0.2, seed=1)).equals(splits)


@pytest.mark.parametrize("in_both", ["train", "test"])
def test_official_knows_the_part_of_a_film_that_is_not_there(in_both: str) -> None:
    """A partial download must not bring a patient of the test tables into training."""
    (scan,) = scans_of([("cbis-ddsm", 1, "train")])
    listed = replace(scan, official_parts=("test", "train"))
    plan = PlanSettings(split="official", in_both_parts=in_both, validation=0)  # type: ignore[arg-type]
    assert splits_of_patients([listed], plan) == {("cbis-ddsm", "P1"): {in_both}}
    assert splits_of_patients([scan], plan) == {("cbis-ddsm", "P1"): {"train"}}
