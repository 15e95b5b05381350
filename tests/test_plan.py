"""The plan: split, chosen by share and scanner, in an order of its own; and the warnings about it."""

import random
import re
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_etl.leaks import leaks_of
from mammo_etl.plan import COLUMNS, PlanError, apportion, plan_patches, total_warnings
from mammo_etl.presets import preset
from mammo_etl.records import Candidate, Laterality, Scan, Split, View
from mammo_etl.settings import BuildSettings, NormalSettings, PlanSettings
from mammo_etl.sources import Inventory
from mammo_etl.split import split_of
from mammo_etl.summary import warnings_of


def scan(
    patient: str, view: View, normal: bool, scanner: str = "LUMISYS", institution: str = "WFU", source: str = "ddsm"
) -> Scan:
    return Scan(
        image_id=f"{source}_{patient}_{view}",
        source=source,
        patient_id=patient,
        laterality=Laterality.LEFT,
        view=view,
        normal=normal,
        path="/x",
        rows=1000,
        columns=800,
        bits=12,
        scanner=scanner,
        institution=institution,
    )


def candidate(image_id: str, number: int, label: int) -> Candidate:
    return Candidate(
        image_id=image_id,
        finding_id=f"{image_id}_1" if label else "",
        finding_ids=(f"{image_id}_1",) if label else (),
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


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["patient", "official", "patch"]), st.booleans(), st.booleans())
def test_the_order_of_the_input_does_not_matter(seed: int, method: str, match: bool, total: bool) -> None:
    scans, candidates = world_of_scanners(HOWTEK=(5, 2, 9), DBA=(2, 5, 9))
    scans = [replace(film, official_split="test" if number % 3 else "train") for number, film in enumerate(scans)]
    plan = PlanSettings.model_validate({"split": method, "patches": 60 if total else None})
    normals = NormalSettings(match_scanner=match)
    expected = plan_patches(scans, candidates, plan, normals)
    random.Random(seed).shuffle(scans)
    random.Random(seed).shuffle(candidates)
    pd.testing.assert_frame_equal(plan_patches(scans, candidates, plan, normals), expected)


def test_official_and_patch_splits_are_planned_by_their_setting() -> None:
    scans, candidates = world(40)
    tested = {f"P{number:03d}" for number in range(40) if number % 3 == 0}
    scans = [replace(film, official_split="test" if film.patient_id in tested else "train") for film in scans]
    official = plan_patches(scans, candidates, PlanSettings(split="official"))
    assert set(official.loc[official["split"] == "test", "patient_id"]) == tested
    patch = plan_patches(scans, candidates, PlanSettings(split="patch"))
    assert list(patch.columns) == COLUMNS
    assert patch["split"].drop_duplicates().tolist() == ["train", "validation", "test"]
    assert (patch[patch["label"] == 0].groupby("patient_id")["split"].nunique() > 1).all()


def world_of_scanners(**scanners: tuple[int, int, int]) -> tuple[list[Scan], list[Candidate]]:
    """Per scanner: abnormal patients of 3 patches a film, normal patients, places for normal patches in a film of theirs."""
    scans, candidates = [], []
    for scanner, (abnormal, normal, places) in scanners.items():
        for number in range(abnormal + normal):
            for view in View:
                film = scan(f"{scanner}{number:03d}", view, number >= abnormal, scanner, institution="MGH")
                scans.append(film)
                count = places if film.normal else 3
                label = 0 if film.normal else 1 + number % 4
                candidates += [candidate(film.image_id, i, label) for i in range(count)]
    return scans, candidates


def ratios(plan: pd.DataFrame) -> "pd.Series[float]":
    """Normal patches to an abnormal one, by split and scanner."""
    counts = plan.assign(normal=plan["label"] == 0).groupby(["split", "scanner"])["normal"].agg(["sum", "size"])
    return counts["sum"] / (counts["size"] - counts["sum"])


def test_matched_scanners_do_not_tell_the_class() -> None:
    scans, candidates = world_of_scanners(DBA=(20, 60, 40), HOWTEK=(60, 40, 60))
    quarters = PlanSettings(validation=0.25, test=0.25)
    plain = ratios(plan_patches(scans, candidates, quarters))
    matched = plan_patches(scans, candidates, quarters, NormalSettings(match_scanner=True))
    assert list(matched.columns) == COLUMNS
    assert plain["train", "DBA"] > 2 * plain["train", "HOWTEK"]
    ratio = ratios(matched)
    assert len(ratio) == 6
    assert ratio.between(0.85 / 0.15 - 0.5, 0.85 / 0.15 + 0.5).all()
    assert (matched["label"] > 0).sum() == sum(c.label > 0 for c in candidates)


def test_a_scanner_with_too_few_normals_is_not_made_up_for_by_another() -> None:
    scans, candidates = world_of_scanners(DBA=(20, 100, 30), HOWTEK=(100, 10, 6), LUMISYS=(0, 50, 30))
    plan = plan_patches(scans, candidates, PlanSettings(), NormalSettings(match_scanner=True))
    normal = plan[plan["label"] == 0]
    assert (normal["scanner"] == "HOWTEK").sum() == 10 * 2 * 6
    assert (normal["scanner"] == "DBA").sum() == pytest.approx(20 * 2 * 3 * 0.85 / 0.15, abs=3)
    assert "LUMISYS" not in set(normal["scanner"])
    assert (plan["label"] == 0).mean() < 0.7


def test_institutions_and_sources_are_matched_apart() -> None:
    def films(patient: str, normal: bool, source: str, institution: str) -> list[Scan]:
        return [scan(patient, view, normal, "HOWTEK", institution, source) for view in View]

    scans = [
        *films("A", False, "ddsm", "MGH"),
        *films("B", True, "ddsm", "MGH"),
        *films("C", True, "ddsm", "ISMD"),
        *films("D", True, "mini-mias", "MGH"),
    ]
    candidates = [
        candidate(film.image_id, i, int(not film.normal)) for film in scans for i in range(9 if film.normal else 2)
    ]
    plan = plan_patches(
        scans, candidates, PlanSettings(validation=0, test=0, normal_share=0.5), NormalSettings(match_scanner=True)
    )
    assert plan.loc[plan["label"] == 0, "patient_id"].value_counts().to_dict() == {"B": 4}


def test_all_matched_normals_are_the_most_that_are_in_proportion() -> None:
    scans, candidates = world_of_scanners(DBA=(10, 40, 30), HOWTEK=(40, 20, 30), LUMISYS=(5, 0, 0))
    plan = plan_patches(
        scans, candidates, PlanSettings(normal_share="all", validation=0, test=0), NormalSettings(match_scanner=True)
    )
    ratio = ratios(plan)
    assert ratio["train", "LUMISYS"] == 0
    assert ratio["train", "HOWTEK"] == 20 * 30 / (40 * 3)  # all there are
    assert ratio["train", "DBA"] == pytest.approx(ratio["train", "HOWTEK"], abs=0.1)


def test_a_split_without_findings_keeps_the_usual_share_of_each_matched_scanner() -> None:
    scans, candidates = world_of_scanners(DBA=(50, 50, 30), HOWTEK=(50, 100, 30), LUMISYS=(0, 50, 30))
    bare = {
        film.image_id
        for film in scans
        if not film.normal and split_of("ddsm", film.patient_id, PlanSettings()) == "test"
    }
    plan = plan_patches(
        scans, [c for c in candidates if c.image_id not in bare], PlanSettings(), NormalSettings(match_scanner=True)
    )
    kept = plan[plan["split"] == "test"].groupby("scanner").size()
    assert set(kept.index) == {"DBA", "HOWTEK"}
    assert (plan.loc[plan["split"] == "test", "label"] == 0).all()


def test_scanners_that_cannot_be_matched_are_refused_with_what_to_do() -> None:
    films = [scan("P1", view, False, "", "", "cbis-ddsm") for view in View] + [scan("P2", view, True) for view in View]
    candidates = [candidate(film.image_id, i, int(not film.normal)) for film in films for i in range(5)]
    match = NormalSettings(match_scanner=True)
    for share in (0.85, "all"):
        with pytest.raises(PlanError, match=r"abnormal patches \(cbis-ddsm\).*patches.normals=background") as error:
            plan_patches(films, candidates, PlanSettings.model_validate({"normal_share": share}), match)
        assert "leave normals.match_scanner off" in str(error.value)
    normal = [item for item in candidates if item.label == 0]
    assert len(plan_patches(films, normal, PlanSettings(), match)) == len(normal)


def world_of_findings(
    findings: int, places: int, normal_films: int, normals_each: int
) -> tuple[list[Scan], list[Candidate]]:
    """Patients with one finding each, shown in so many patches, the third of them best, and normal ones; one film each."""
    scans, candidates = [], []
    for number in range(findings + normal_films):
        film = scan(f"P{number:05d}", View.CC, number >= findings)
        scans.append(film)
        if film.normal:
            candidates += [candidate(film.image_id, i, 0) for i in range(normals_each)]
        else:
            candidates += [
                replace(candidate(film.image_id, i, 1 + number % 4), roi_fraction=1.0 if i == 2 else 0.4)
                for i in range(places)
            ]
    return scans, candidates


@pytest.mark.parametrize("split", ["patient", "patch"])
@pytest.mark.parametrize("total", [400, 777])
def test_a_total_is_met_to_the_patch_evenly_over_findings_and_films(split: str, total: int) -> None:
    scans, candidates = world_of_findings(50, 9, 100, 20)
    settings = PlanSettings.model_validate({"patches": total, "split": split, "validation": 0.2, "test": 0.2})
    plan = plan_patches(scans, candidates, settings)
    assert len(plan) == total
    abnormal, normal = plan[plan["label"] > 0], plan[plan["label"] == 0]
    assert len(normal) == round(0.85 * total)
    of_finding = abnormal["finding_id"].value_counts()
    assert len(of_finding) == 50
    assert of_finding.max() - of_finding.min() <= 1
    assert (abnormal.groupby("finding_id")["roi_fraction"].max() == 1).all()
    for name, part in plan.groupby("split"):
        assert (part["label"] == 0).mean() == pytest.approx(0.85, abs=0.02), name
        if split == "patient":
            of_film = part[part["label"] == 0]["image_id"].value_counts()
            assert of_film.max() - of_film.min() <= 1
    assert total_warnings(candidates, plan, settings) == []


def test_a_total_too_small_for_all_findings_takes_the_best_patch_of_some() -> None:
    scans, candidates = world_of_findings(50, 9, 100, 20)
    settings = PlanSettings(patches=200)
    plan = plan_patches(scans, candidates, settings)
    abnormal = plan[plan["label"] > 0]
    assert len(abnormal) == abnormal["finding_id"].nunique() == 30
    assert (abnormal["roi_fraction"] == 1).all()
    [warning] = total_warnings(candidates, plan, settings)
    assert (
        warning
        == "20 of 50 findings have no patch of their own: plan.patches = 200 at plan.normal_share = 0.85 has room for 30 abnormal patches"
    )


def test_findings_dropped_for_want_of_normal_places_are_not_blamed_on_the_total() -> None:
    scans, candidates = world_of_findings(50, 9, 10, 17)
    settings = PlanSettings(patches=5000, split="patch")
    plan = plan_patches(scans, candidates, settings)
    assert (plan["label"] > 0).sum() == 30
    warnings = total_warnings(candidates, plan, settings)
    assert warnings[-1] == (
        "20 of 50 findings have no patch of their own: only 30 abnormal patches go with 170 normal ones at plan.normal_share = 0.85; "
        "a smaller share, or more places for normal patches, leaves room for them"
    )


@pytest.mark.parametrize(("places", "normals"), [(1, 40), (9, 4)])
def test_where_places_are_too_few_for_a_total_the_share_is_kept_and_told(places: int, normals: int) -> None:
    scans, candidates = world_of_findings(60, places, 100, normals)
    settings = PlanSettings(patches=5000, split="patch")
    plan = plan_patches(scans, candidates, settings)
    assert len(plan) == pytest.approx(min(60 * places / 0.15, 100 * normals / 0.85), rel=0.03)
    assert (plan["label"] == 0).mean() == pytest.approx(0.85, abs=0.01)
    [warning] = total_warnings(candidates, plan, settings)
    assert f"the run has {len(plan):,} patches, not 5,000 (plan.patches)" in warning
    assert "expected places for 750 abnormal and 4,250 normal ones" in warning
    assert f"found {60 * places:,} and {100 * normals:,}" in warning


def test_a_total_without_places_of_one_kind_is_refused() -> None:
    for findings, normal_films in ((5, 0), (0, 5)):
        scans, candidates = world_of_findings(findings, 3, normal_films, 3)
        with pytest.raises(
            PlanError, match=r"plan.patches = 100: expected places for normal and abnormal patches, found"
        ):
            plan_patches(scans, candidates, PlanSettings(patches=100))


def test_a_total_of_matched_scanners() -> None:
    scans, candidates = world_of_scanners(DBA=(20, 60, 40), HOWTEK=(60, 40, 60), LUMISYS=(0, 20, 60))
    settings = PlanSettings(validation=0, test=0, patches=2000)
    plan = plan_patches(scans, candidates, settings, NormalSettings(match_scanner=True))
    assert len(plan) == 2000
    assert ratios(plan).between(5.4, 5.9).all()
    assert set(plan["scanner"]) == {"DBA", "HOWTEK"}


def test_the_seed_preset_gives_the_seeds_numbers_on_a_data_set_like_its() -> None:
    """4,091 films: 3,103 with a finding, 988 of normal cases, with few more places than it takes."""
    settings = preset("seed")
    scans, candidates = world_of_findings(3103, 5, 988, 44)
    plan = plan_patches(scans, candidates, settings.plan, settings.normals)
    assert len(scans) == 4091
    assert len(plan) == 50_718
    assert (plan["label"] == 0).sum() == 43_110
    shares = plan["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.8, abs=0.01)
    assert shares["validation"] == pytest.approx(0.1, abs=0.01)
    assert shares["test"] == pytest.approx(0.1, abs=0.01)
    assert plan.loc[plan["label"] > 0, "finding_id"].nunique() == 3103
    chosen = next(row for row in leaks_of(scans, plan, settings.plan) if row.chosen)
    assert chosen.method == "patch"
    assert chosen.patients > 900
    assert settings.patches.normals_per_film >= 44


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 99)), min_size=1, max_size=9), st.integers(0, 500))
def test_numbers_in_proportion_have_the_sum_asked_for_within_their_limits(
    cells: list[tuple[int, int]], total: int
) -> None:
    weights, limits = pd.Series([float(weight) for weight, _ in cells]), pd.Series([limit for _, limit in cells])
    numbers = apportion(total, weights, limits)
    assert numbers.sum() == min(total, limits[weights > 0].sum())
    assert (numbers <= limits).all()
    assert ((numbers - numbers.round()) == 0).all()
    free = (numbers < limits) & (weights > 0)
    in_proportion = weights[free] * (numbers[free].sum() / max(weights[free].sum(), 1))
    assert ((numbers[free] - in_proportion).abs() < 1).all()


def warnings(scans: list[Scan], candidates: list[Candidate], **stages: Mapping[str, object]) -> list[str]:
    build = BuildSettings.model_validate(stages)
    return warnings_of(
        Inventory(tuple(scans), (), ()), plan_patches(scans, candidates, build.plan, build.normals), build
    )


def test_a_run_as_it_should_be_has_no_warning() -> None:
    scans, candidates = world_of_scanners(DBA=(50, 70, 40), HOWTEK=(50, 70, 40))
    quarters = {"validation": 0.25, "test": 0.25}
    assert warnings(scans, candidates, plan=quarters) == []
    assert warnings(scans, candidates, plan=quarters, normals={"match_scanner": True}) == []


def test_warnings_name_the_leak_of_the_split_by_patch() -> None:
    scans, candidates = world_of_scanners(DBA=(40, 30, 40))
    [warning] = warnings(scans, candidates, plan={"split": "patch"})
    assert "plan.split = patch" in warning
    assert re.search(r"\d\d patients", warning)
    assert "for comparison only" in warning


def test_warnings_tell_when_there_is_no_official_part() -> None:
    scans, candidates = world(60)
    assert any(
        "no film has an official split" in text for text in warnings(scans, candidates, plan={"split": "official"})
    )
    listed = [replace(film, official_split="train") for film in scans]
    assert not any("no film has" in text for text in warnings(listed, candidates, plan={"split": "official"}))


def test_warnings_name_the_scanners_that_fell_short() -> None:
    scans, candidates = world_of_scanners(DBA=(30, 60, 40), HOWTEK=(30, 30, 3))
    found = warnings(scans, candidates, normals={"match_scanner": True})
    assert any("too few places for normal patches on the scanners of the abnormal ones" in text for text in found)
    [scanners] = [text for text in found if "still tells the class" in text]
    assert "ddsm HOWTEK MGH (50%)" in scanners
    assert "DBA" not in scanners


def test_warnings_name_the_scanners_without_a_density_curve() -> None:
    """CBIS-DDSM's films are on its scale already, and mini-MIAS has no scale that is known."""
    normal, abnormal = [place for place in world(2)[1] if place.label == 0], world(2)[1][-3:]
    films = world(2)[0]
    calibrated = [
        scan(f"C{number}", View.CC, True, scanner, institution)
        for number, (scanner, institution) in enumerate(
            [("DBA", "MGH"), ("HOWTEK", "MGH"), ("HOWTEK", "ISMD"), ("LUMISYS", "WFU")]
        )
    ]
    others = [
        scan("B1", View.CC, True, "HOWTEK", "WFU"),
        scan("B2", View.CC, True, "HOWTEK", "WFU"),
        scan("A1", View.CC, True, "LUMISYS", "MGH"),
        scan("D1", View.CC, True, "", "ISMD"),
    ]
    elsewhere = [scan("P1", View.CC, False, "", "", "cbis-ddsm"), scan("M1", View.MLO, True, "", "", "mini-mias")]
    every = [*films, *calibrated, *others, *elsewhere]
    [warning] = [text for text in warnings(every, [*normal, *abnormal]) if "density" in text]
    assert warning.startswith("4 films of ddsm have no density curve")
    assert warning.endswith(": HOWTEK of WFU (2), LUMISYS of MGH (1), unknown scanner of ISMD (1)")
    for scans, stages in (
        ([*films, *calibrated, *elsewhere], {}),
        (every, {"cleaning": {"density_scale": "raw"}}),
    ):
        assert not any("density" in text for text in warnings(scans, [*normal, *abnormal], **stages))


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


def test_nothing_to_plan() -> None:
    with pytest.raises(PlanError, match="no place for a patch"):
        plan_patches([scan("P", View.CC, True)], [], PlanSettings())
