"""Places for patches: inside the film, over every finding, away from what is to be avoided."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_etl.candidates import BoxSums, find_candidates, grid
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
        "mask": breast(),
        "mask_box": Box(0, 0, ROWS, COLUMNS),
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


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes, min_size=1, max_size=4), st.sampled_from([32, 64, 200]), st.integers(0, 5), st.integers(0, 9))
def test_every_finding_has_a_patch_and_every_patch_is_inside(
    places: list[Box], size: int, around: int, seed: int
) -> None:
    regions = [ellipse(f"film_{i}", 1 + i % 4, box) for i, box in enumerate(places)]
    found = candidates(regions, PatchSettings(size=size, stride=size // 2, around=around, seed=seed))
    assert {candidate.finding_id for candidate in found} == {region.finding_id for region in regions}
    for candidate in found:
        assert 0 <= candidate.y <= ROWS - size
        assert 0 <= candidate.x <= COLUMNS - size
        region = next(region for region in regions if region.finding_id == candidate.finding_id)
        full = np.zeros((ROWS, COLUMNS), np.uint8)
        full[region.box.y : region.box.bottom, region.box.x : region.box.right] = region.mask
        inside = np.count_nonzero(full[candidate.y : candidate.y + size, candidate.x : candidate.x + size])
        assert inside > 0
        assert candidate.roi_fraction == pytest.approx(inside / region.area)
        assert candidate.roi_coverage == pytest.approx(inside / size**2)
        assert candidate.label == region.label
    assert len({(c.finding_id, c.y, c.x) for c in found}) == len(found)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 3000), st.integers(16, 512), st.integers(1, 512))
def test_the_grid_covers_and_ends_at_the_end(start: int, length: int, size: int, stride: int) -> None:
    starts = grid(start, length, size, min(stride, size))
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


def test_a_patch_goes_to_the_finding_that_it_shows_more_of() -> None:
    large, small = ellipse("film_1", 2, Box(100, 100, 300, 300)), ellipse("film_2", 3, Box(240, 240, 20, 20))
    found = candidates([large, small], PatchSettings(size=64, stride=32))
    over_small = [c for c in found if c.y <= 240 and c.y + 64 >= 260 and c.x <= 240 and c.x + 64 >= 260]
    assert over_small
    assert {c.finding_id for c in over_small} == {"film_2"}
    assert any(c.finding_id == "film_1" for c in found)


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
