"""Places for patches: inside the film, over every finding, away from what is to be avoided."""

import itertools
import random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_etl.candidates import EQUAL_SHARES, BoxSums, find_candidates, grid
from mammo_etl.records import Box, Candidate
from mammo_etl.roi import Region
from mammo_etl.settings import PatchSettings

ROWS, COLUMNS = 700, 500


def ellipse(name: str, label: int, box: Box) -> Region:
    mask = np.zeros((box.height, box.width), np.uint8)
    centre = (box.width // 2, box.height // 2)
    cv2.ellipse(mask, centre, (max(1, box.width // 2), max(1, box.height // 2)), 0, 0, 360, 255, cv2.FILLED)
    mask[box.height // 2, :] = 255
    mask[:, box.width // 2] = 255
    return Region(name, label, box, mask)


def breast() -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    cv2.ellipse(mask, (0, ROWS // 2), (420, 330), 0, -90, 90, 255, cv2.FILLED)
    return mask


def candidates(regions: list[Region], patch: PatchSettings, **changes: object) -> list[Candidate]:
    arguments: dict[str, object] = {
        "image_id": "film",
        "rows": ROWS,
        "columns": COLUMNS,
        "image": breast(),
        "image_box": Box(0, 0, ROWS, COLUMNS),
        "regions": regions,
        "normals": None,
        "avoid": (),
        "settings": patch,
    }
    return find_candidates(**{**arguments, **changes})  # type: ignore[arg-type]


boxes = st.builds(
    lambda y, x, height, width: Box(min(y, ROWS - height), min(x, COLUMNS - width), height, width),
    st.integers(0, ROWS - 1),
    st.integers(0, COLUMNS - 1),
    st.integers(1, ROWS),
    st.integers(1, COLUMNS),
)


def on_film(region: Region) -> np.ndarray:
    full = np.zeros((ROWS, COLUMNS), bool)
    full[region.box.y : region.box.bottom, region.box.x : region.box.right] = region.mask > 0
    return full


def shown(candidate: Candidate, full: np.ndarray) -> int:
    return int(full[candidate.y : candidate.y + candidate.size, candidate.x : candidate.x + candidate.size].sum())


@settings(deadline=None, max_examples=80)
@given(
    st.lists(boxes, min_size=1, max_size=4),
    st.sampled_from([32, 63, 64, 201]),
    st.integers(0, 5),
    st.integers(0, 9),
)
def test_every_finding_has_a_patch_and_every_patch_is_inside_with_all_that_it_shows(
    places: list[Box], size: int, around: int, seed: int
) -> None:
    regions = [ellipse(f"film_{i}", 1 + i % 4, box) for i, box in enumerate(places)]
    found = candidates(regions, PatchSettings(size=size, stride=size // 2, around=around, seed=seed))
    assert {candidate.finding_id for candidate in found} == {region.finding_id for region in regions}
    assert len({(c.y, c.x) for c in found}) == len(found)
    films = {region.finding_id: on_film(region) for region in regions}
    labels = {region.finding_id: region.label for region in regions}
    for candidate in found:
        assert 0 <= candidate.y <= ROWS - size
        assert 0 <= candidate.x <= COLUMNS - size
        pixels = {name: count for name, full in films.items() if (count := shown(candidate, full))}
        shares = {name: count / films[name].sum() for name, count in pixels.items()}
        assert set(candidate.finding_ids) == set(pixels)
        assert candidate.finding_ids[0] == candidate.finding_id
        others = candidate.finding_ids[1:]
        assert list(others) == sorted(others, key=lambda name: (-shares[name], -pixels[name], name))
        assert candidate.roi_fraction == pytest.approx(shares[candidate.finding_id])
        assert candidate.roi_coverage == pytest.approx(pixels[candidate.finding_id] / size**2)
        assert candidate.label == labels[candidate.finding_id]
        if candidate.origin != "apart":
            close = [name for name in shares if shares[name] >= max(shares.values()) - EQUAL_SHARES]
            assert candidate.finding_id == min(close, key=lambda name: (-pixels[name], name))


@settings(deadline=None, max_examples=30)
@given(st.lists(boxes, min_size=2, max_size=5), st.integers(0, 2**32))
def test_the_order_of_the_findings_does_not_matter(places: list[Box], seed: int) -> None:
    regions = [ellipse(f"film_{i}", 1 + i % 4, box) for i, box in enumerate(places)]
    shuffled = random.Random(seed).sample(regions, len(regions))
    patch = PatchSettings(size=64, hard_normals=0.5)
    assert candidates(shuffled, patch, normals="normal") == candidates(regions, patch, normals="normal")


@settings(deadline=None, max_examples=40)
@given(boxes, st.integers(0, 9), st.integers(16, 211), st.integers(1, 400))
def test_every_pixel_of_a_roi_of_many_blobs_is_in_some_patch(box: Box, seed: int, size: int, stride: int) -> None:
    box = Box(box.y, box.x, min(box.height, 300), min(box.width, 300))
    blobs = np.random.default_rng(seed).random((box.height, box.width)) < 0.002
    blobs[0, 0] = blobs[-1, -1] = True
    region = Region("film_1", 2, box, np.where(blobs, np.uint8(255), np.uint8(0)))
    covered = np.zeros((ROWS, COLUMNS), bool)
    for c in candidates([region], PatchSettings(size=size, stride=max(stride, size // 4), around=0, min_roi=0)):
        covered[c.y : c.y + size, c.x : c.x + size] = True
        assert c.roi_fraction > 0
    assert covered[on_film(region)].all()


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 3000), st.integers(16, 512), st.integers(1, 512))
def test_the_grid_covers_and_ends_at_the_end(start: int, length: int, size: int, stride: int) -> None:
    starts = grid(start, length, size, stride)
    assert starts[0] == start
    assert starts[-1] + size == max(start + length, start + size)
    assert all(0 < b - a <= min(stride, size) for a, b in itertools.pairwise(starts))


def test_a_roi_larger_than_a_patch_is_covered_by_its_grid() -> None:
    box = Box(100, 60, 300, 260)
    region = Region("film_1", 2, box, np.full((box.height, box.width), 255, np.uint8))
    found = candidates([region], PatchSettings(size=128, stride=64, around=0, min_roi=0))
    covered = np.zeros((ROWS, COLUMNS), bool)
    for candidate in found:
        covered[candidate.y : candidate.y + 128, candidate.x : candidate.x + 128] = True
    assert covered[box.y : box.bottom, box.x : box.right].all()
    assert {c.y for c in found if c.origin == "grid"} == {100, 164, 228, 272}
    assert {c.x for c in found if c.origin == "grid"} == {60, 124, 188, 192}


@pytest.mark.parametrize("kind", ["blobs", "line"])
def test_by_default_too_no_part_of_a_scattered_roi_is_left_out(kind: str) -> None:
    """Each patch holds a small share of the ROI, and is hardly ROI itself."""
    mask = np.zeros((600, 450), np.uint8)
    if kind == "line":
        cv2.line(mask, (0, 0), (449, 599), 255, 3)
    else:
        for y, x in np.random.default_rng(0).integers(3, 445, (60, 2)):
            cv2.circle(mask, (int(x), int(y)), 3, 255, cv2.FILLED)
    mask[0, 0] = mask[-1, -1] = 255
    region = Region("film_1", 1, Box(50, 20, 600, 450), mask)
    found = candidates([region], PatchSettings(size=64, stride=32))
    seen = np.zeros((ROWS, COLUMNS), bool)
    for candidate in found:
        seen[candidate.y : candidate.y + 64, candidate.x : candidate.x + 64] = True
        assert candidate.roi_fraction > 0
    assert seen[50:650, 20:470][mask > 0].all()


def test_a_patch_goes_to_the_finding_that_it_shows_more_of() -> None:
    large, small = ellipse("film_1", 2, Box(100, 100, 300, 300)), ellipse("film_2", 3, Box(240, 240, 20, 20))
    found = candidates([large, small], PatchSettings(size=64, stride=32))
    over_small = [c for c in found if c.y <= 240 and c.y + 64 >= 260 and c.x <= 240 and c.x + 64 >= 260]
    assert over_small
    assert {c.finding_id for c in over_small} == {"film_2"}
    assert any(c.finding_id == "film_1" for c in found)


def solid(name: str, label: int, box: Box) -> Region:
    return Region(name, label, box, np.full((box.height, box.width), 255, np.uint8))


@pytest.mark.parametrize(
    "nested",
    [
        Box(290, 190, 20, 20),  # in the middle
        Box(275, 175, 50, 49),  # all but its rim
        Box(270, 170, 60, 59),  # all but one column
    ],
)
def test_a_finding_nested_in_another_has_a_patch_where_it_leads(nested: Box) -> None:
    outer, inner = solid("film_1", 2, Box(270, 170, 60, 60)), solid("film_2", 3, nested)
    found = candidates([outer, inner], PatchSettings(size=128))
    [patch] = [c for c in found if c.finding_id == "film_2"]
    assert patch.origin == "apart"
    assert patch.finding_ids == ("film_2", "film_1")
    outer_share = shown(patch, on_film(outer)) / outer.area
    assert patch.roi_fraction > outer_share
    assert sum(c.finding_id == "film_1" for c in found) == 5


def test_two_findings_with_one_roi_each_have_a_patch_and_no_place_has_two_labels() -> None:
    box = Box(270, 170, 60, 60)
    found = candidates([solid("film_1", 2, box), solid("film_2", 3, box)], PatchSettings(size=128))
    assert [c.finding_id for c in found] == ["film_1"] * 5 + ["film_2"]
    assert len({(c.y, c.x) for c in found}) == 6
    assert {frozenset(c.finding_ids) for c in found} == {frozenset({"film_1", "film_2"})}


def test_a_film_of_one_patch_has_one_place_which_lists_all_findings() -> None:
    regions = [solid("film_1", 2, Box(10, 10, 9, 9)), solid("film_2", 3, Box(30, 30, 20, 20))]
    [only] = candidates(regions, PatchSettings(size=64), rows=64, columns=64)
    assert (only.y, only.x, only.finding_id, only.finding_ids) == (0, 0, "film_2", ("film_2", "film_1"))


def test_the_label_of_a_patch_with_two_whole_findings_holds_when_their_rims_are_cut() -> None:
    """Near-identical places have one label: the larger finding's, whichever has lost a row at the patch's edge."""
    large, small = solid("film_1", 1, Box(100, 100, 110, 60)), solid("film_2", 4, Box(100, 200, 101, 28))
    for shift in range(-1, 2):
        place = Box(100 + shift, 100 + shift, 128, 128)
        found = candidates(
            [large, small], PatchSettings(size=128, around=0), rows=place.bottom, columns=place.right, normals=None
        )
        assert {c.finding_id for c in found if abs(c.y - 100) <= 1 and abs(c.x - 100) <= 1} <= {"film_1"}


@pytest.mark.parametrize("corner", [Box(0, 0, 7, 5), Box(ROWS - 7, COLUMNS - 5, 7, 5), Box(0, COLUMNS - 1, 1, 1)])
def test_a_small_roi_in_a_corner_is_whole_in_its_patches(corner: Box) -> None:
    found = candidates([solid("film_1", 2, corner)], PatchSettings(size=128))
    assert found
    assert all(c.roi_fraction == 1 for c in found)


def test_a_roi_larger_than_half_the_film() -> None:
    region = solid("film_1", 2, Box(20, 10, ROWS - 40, COLUMNS - 20))
    found = candidates([region], PatchSettings(size=128, stride=128))
    covered = np.zeros((ROWS, COLUMNS), bool)
    for c in found:
        covered[c.y : c.y + 128, c.x : c.x + 128] = True
    assert covered[on_film(region)].all()


def test_normal_patches_are_breast_apart_and_away_from_findings() -> None:
    patch = PatchSettings(size=64, normals_per_film=40, min_distance=30, min_breast=0.8)
    lesion = Box(300, 150, 90, 90)
    found = candidates([], patch, normals="background", avoid=[lesion])
    assert len(found) > 10
    mask = breast() > 0
    for c in found:
        assert (c.label, c.origin, c.finding_id) == (0, "background", "")
        share = mask[c.y : c.y + 64, c.x : c.x + 64].mean()
        assert share >= 0.8
        assert c.breast_fraction == pytest.approx(share)
        assert c.y + 64 <= lesion.y or c.y >= lesion.bottom or c.x + 64 <= lesion.x or c.x >= lesion.right
    places = np.array([(c.y, c.x) for c in found])
    distances = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert distances[~np.eye(len(found), dtype=bool)].min() >= 30


@settings(deadline=None, max_examples=40)
@given(
    st.lists(boxes, max_size=2),
    st.integers(16, 201),
    st.floats(0.05, 1),
    st.floats(0, 120),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_normal_patches_keep_to_the_frame_the_breast_and_their_distance(
    avoid: list[Box], size: int, share: float, distance: float, hard: float, seed: int
) -> None:
    patch = PatchSettings(
        size=size, min_breast=share, min_distance=distance, hard_normals=hard, normals_per_film=15, seed=seed
    )
    found = candidates([], patch, normals="background", avoid=avoid)
    assert len(found) <= 15
    assert [c.origin for c in found] == sorted((c.origin for c in found), reverse=True)
    for a, b in itertools.combinations(found, 2):
        assert (a.y - b.y) ** 2 + (a.x - b.x) ** 2 >= max(distance, 1) ** 2
    mask = breast() > 0
    for c in found:
        assert 0 <= c.y <= ROWS - size
        assert 0 <= c.x <= COLUMNS - size
        assert mask[c.y : c.y + size, c.x : c.x + size].mean() >= share
        for box in avoid:
            assert c.y + size <= box.y or c.y >= box.bottom or c.x + size <= box.x or c.x >= box.right


def test_normal_places_are_uniform_over_the_breast_not_over_its_box() -> None:
    """An L of two equal parts, the one compact, the other long and thin: as many centres in either."""
    film = np.zeros((600, 500), np.uint8)
    film[:200, :200] = film[520:600, :500] = 200
    settings = PatchSettings(size=16, normals_per_film=2000, min_distance=0, min_breast=0.01)
    found = candidates([], settings, rows=600, columns=500, image=film, image_box=Box(0, 0, 600, 500), normals="normal")
    assert len(found) == 2000
    centres = np.array([(c.y + 8, c.x + 8) for c in found])
    assert (film[centres[:, 0], centres[:, 1]] > 0).all()
    upper = (centres[:, 0] < 200).sum()
    expected = 192 * 192 / (192 * 192 + 73 * 485)  # centres of patches that are inside the film
    assert upper / 2000 == pytest.approx(expected, abs=0.035)
    halves = np.histogram(centres[centres[:, 0] > 300, 1], bins=5, range=(8, 493))[0]
    assert halves.max() < 1.35 * halves.min()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_hard_normals_are_where_tissue_is_brightest(depth: type[np.unsignedinteger]) -> None:
    top = np.iinfo(depth).max
    film = np.where(breast() > 0, depth(top // 5), depth(0))
    cv2.ellipse(film, (150, 350), (90, 120), 0, 0, 360, int(top * 0.8), cv2.FILLED)
    patch = PatchSettings(size=64, normals_per_film=20, hard_normals=0.3, min_distance=40)
    found = candidates([], patch, normals="normal", image=film)
    assert [c.origin for c in found] == ["hard"] * 6 + ["normal"] * 14
    brightness = [film[c.y : c.y + 64, c.x : c.x + 64].mean() for c in found]
    assert min(brightness[:6]) > 0.7 * top
    assert np.mean(brightness[6:]) < 0.6 * top
    places = np.array([(c.y, c.x) for c in found])
    distances = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert distances[~np.eye(len(found), dtype=bool)].min() >= 40
    without = candidates([], PatchSettings(size=64, normals_per_film=20, min_distance=40), normals="normal", image=film)
    assert {c.origin for c in without} == {"normal"}


def test_hard_normals_of_a_patch_that_is_partly_breast_go_by_the_breast_alone() -> None:
    """A bright rim beside the film's black is brighter than duller tissue all over a patch."""
    film = np.zeros((ROWS, COLUMNS), np.uint8)
    film[100:600, :40] = 250
    film[100:600, 40:400] = 100
    patch = PatchSettings(size=64, normals_per_film=4, hard_normals=1, min_distance=70, min_breast=0.3)
    found = candidates([], patch, normals="normal", image=film)
    assert all(c.x < 40 for c in found)


def test_places_follow_seed_and_film_alone() -> None:
    patch = PatchSettings(size=64)
    regions = [ellipse("film_1", 2, Box(100, 100, 50, 50)), ellipse("film_2", 4, Box(400, 200, 30, 30))]
    first = candidates(regions, patch, normals="normal")
    assert candidates(regions[::-1], patch, normals="normal") == first
    assert candidates(regions, PatchSettings(size=64, seed=1), normals="normal") != first
    other = candidates(regions, patch, normals="normal", image_id="other")
    assert [(c.y, c.x) for c in other] != [(c.y, c.x) for c in first]


def test_a_film_smaller_than_a_patch_has_none() -> None:
    assert candidates([], PatchSettings(size=512), normals="normal") == []


def test_box_sums_count_what_lies_in_the_box_and_on_the_mask() -> None:
    mask = np.ones((10, 10), np.uint8)
    sums = BoxSums(mask, Box(100, 200, 10, 10))
    assert sums(np.array([95, 100, 105, 300]), np.array([195, 200, 205, 300]), 8).tolist() == [9, 64, 25, 0]
