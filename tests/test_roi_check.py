"""What a finding's mask turns out to be, proved by its cut-out."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_etl.records import Abnormality, Box, Finding, Label, Pathology, Reason, RoiKind, Verdict
from mammo_etl.roi_check import CheckedRoi, check_roi

RANDOM = np.random.default_rng(0)
FILM = np.asarray(cv2.GaussianBlur(RANDOM.integers(0, 65536, (1078, 733)).astype(np.float32), (0, 0), 2) / 2, np.uint16)
"""A fifth of the size of CBIS-DDSM's film Mass-Test_P_00381_LEFT_MLO, whose mask is of another size."""
BOX = Box(300, 200, 130, 110)


def truth() -> NDArray[np.uint8]:
    mask = np.zeros(FILM.shape, np.uint8)
    cv2.ellipse(mask, (BOX.x + 55, BOX.y + 65), (54, 64), 0, 0, 360, 255, cv2.FILLED)
    return mask


MASK = truth()
RESCALED = cv2.resize(MASK, (637, 937), interpolation=cv2.INTER_NEAREST)
CROP = FILM[BOX.y - 15 : BOX.bottom + 15, BOX.x - 15 : BOX.right + 15]


def finding(folder: Path, mask: NDArray[np.generic], crop: NDArray[np.generic] | None) -> Finding:
    assert cv2.imwrite(str(folder / "mask.png"), mask)
    if crop is not None:
        assert cv2.imwrite(str(folder / "crop.png"), crop)
    return Finding(
        finding_id="f_1",
        image_id="f",
        source="test",
        patient_id="p",
        abnormality=Abnormality.MASS,
        pathology=Pathology.BENIGN,
        pathology_listed="BENIGN",
        label=Label.BENIGN_MASS,
        roi_kind=RoiKind.MASK,
        roi_path=str(folder / "mask.png"),
        crop_path="" if crop is None else str(folder / "crop.png"),
        verdict=Verdict.SWAPPED if mask.shape == FILM.shape else Verdict.RESCALED,
    )


def overlap(checked: CheckedRoi) -> float:
    """Intersection over union with the truth."""
    assert checked.region is not None
    box = checked.region.box
    found = np.zeros_like(MASK)
    found[box.y : box.bottom, box.x : box.right] = checked.region.mask
    return float((found & MASK).sum() / (found | MASK).sum())


def quarantined(checked: CheckedRoi) -> Reason:
    assert checked.region is None
    assert checked.fault is not None
    assert (checked.finding.verdict, checked.finding.roi_kind) == (Verdict.QUARANTINED, RoiKind.NONE)
    return checked.fault.code


@pytest.mark.parametrize("scale", [1.0, 50 / 43.5], ids=["film's scale", "mask's scale"])
def test_a_mask_of_another_size_is_brought_to_the_film_and_proved(tmp_path: Path, scale: float) -> None:
    crop = cv2.resize(CROP, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    checked = check_roi(finding(tmp_path, RESCALED, crop), FILM)
    assert checked.fault is None
    assert checked.finding.verdict is Verdict.RESCALED
    assert checked.finding.mask_values == (0, 255)
    assert checked.finding.match_score is not None
    assert checked.finding.match_score > 0.9
    assert overlap(checked) > 0.97


@pytest.mark.parametrize("axis", ["rows", "columns", "both"])
def test_a_cut_out_is_reduced_by_one_ratio_though_its_mask_has_two(tmp_path: Path, axis: str) -> None:
    """The mask lost some columns: its ratios differ by just less than 0.5%. On a sharp film the cut-out, which has one, tells them apart."""
    grain = cv2.GaussianBlur(RANDOM.integers(0, 65536, FILM.shape).astype(np.float32), (0, 0), 0.6)
    film = np.asarray(grain, np.uint16)
    box = Box(200, 100, 500, 500)
    mask = cv2.resize(elsewhere(box.y, box.x, box.height, box.width), (634, 937), interpolation=cv2.INTER_NEAREST)
    rows, columns = FILM.shape[0] / 937, FILM.shape[1] / 634
    ratio = {"rows": rows, "columns": columns, "both": (rows * columns) ** 0.5}[axis]
    crop = cv2.resize(
        film[box.y - 15 : box.bottom + 15, box.x - 15 : box.right + 15],
        None,
        fx=1 / ratio,
        fy=1 / ratio,
        interpolation=cv2.INTER_AREA,
    )
    checked = check_roi(finding(tmp_path, mask, crop), film)
    assert checked.fault is None
    assert checked.finding.match_score is not None
    assert checked.finding.match_score > 0.93


def test_a_mask_of_another_size_without_cut_out_is_not_used(tmp_path: Path) -> None:
    checked = check_roi(finding(tmp_path, RESCALED, None), FILM)
    assert quarantined(checked) is Reason.MASK_UNPROVED
    assert (checked.finding.match_score, checked.finding.mask_values) == (None, (0, 255))


def test_a_mask_of_another_size_in_another_place_is_not_used(tmp_path: Path) -> None:
    checked = check_roi(finding(tmp_path, RESCALED, FILM[700:860, 400:560]), FILM)
    assert quarantined(checked) is Reason.MASK_UNPROVED
    assert checked.finding.match_score is not None
    assert checked.finding.match_score < 0.9


def test_a_mask_of_another_shape_is_not_used(tmp_path: Path) -> None:
    mask = cv2.resize(MASK, (637, 945), interpolation=cv2.INTER_NEAREST)
    assert quarantined(check_roi(finding(tmp_path, mask, CROP), FILM)) is Reason.MASK_SIZE


def test_a_mask_of_the_films_size_is_proved(tmp_path: Path) -> None:
    checked = check_roi(finding(tmp_path, MASK, CROP), FILM)
    assert checked.finding.verdict is Verdict.SWAPPED
    assert checked.finding.match_score == pytest.approx(1, abs=0.01)
    assert overlap(checked) == 1


@pytest.mark.parametrize("crop", [FILM[700:860, 400:560], np.ascontiguousarray(CROP[::-1])])
def test_a_mask_laid_on_the_wrong_film_is_caught(tmp_path: Path, crop: NDArray[np.uint16]) -> None:
    """The cut-out shows another place of this film, or nothing of it."""
    assert quarantined(check_roi(finding(tmp_path, MASK, crop), FILM)) is Reason.WRONG_MASK


@pytest.mark.parametrize("crop", [None, CROP[:5, :5], np.full((50, 50), 9, np.uint16)], ids=["none", "tiny", "flat"])
def test_a_mask_of_the_films_size_needs_no_proof(tmp_path: Path, crop: NDArray[np.uint16] | None) -> None:
    checked = check_roi(finding(tmp_path, MASK, crop), FILM)
    assert checked.fault is None
    assert checked.finding.match_score is None
    assert overlap(checked) == 1


def test_a_broken_cut_out_proves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    item = finding(tmp_path, MASK, CROP)
    Path(item.crop_path).write_bytes(b"no picture")
    assert check_roi(item, FILM).fault is None
    Path(item.roi_path).write_bytes(b"no picture")
    assert quarantined(check_roi(item, FILM)) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    ("mask", "code", "values"),
    [
        (np.zeros_like(MASK), Reason.EMPTY_MASK, (0,)),
        ((FILM >> 8).astype(np.uint8), Reason.MISSING_MASK, (0, 1, 2)),
        (FILM, Reason.MISSING_MASK, None),
    ],
    ids=["empty", "grey", "grey of 16 bits"],
)
def test_what_is_no_mask(
    tmp_path: Path, mask: NDArray[np.generic], code: Reason, values: tuple[int, ...] | None
) -> None:
    if values is not None and len(values) == 3:
        mask = np.asarray(np.minimum(mask, 9) - 0, np.uint8)
        mask[0, :10] = np.arange(10)
    checked = check_roi(finding(tmp_path, mask, CROP), FILM)
    assert quarantined(checked) is code
    assert values is None or checked.finding.mask_values == values


@pytest.mark.parametrize(("level", "dtype"), [(1, np.uint8), (65535, np.uint16), (200, np.uint8)])
def test_masks_of_any_depth(tmp_path: Path, level: int, dtype: type[np.generic]) -> None:
    checked = check_roi(finding(tmp_path, np.where(MASK > 0, level, 0).astype(dtype), CROP), FILM)
    assert checked.finding.mask_values == (0, level)
    assert overlap(checked) == 1


def test_other_kinds_of_roi_are_taken_as_they_are(tmp_path: Path) -> None:
    circle = replace(finding(tmp_path, MASK, None), roi_kind=RoiKind.CIRCLE, roi_y=50.0, roi_x=60.0, roi_radius=9.0)
    checked = check_roi(circle, FILM)
    assert (checked.finding, checked.fault) == (circle, None)
    outside = check_roi(replace(circle, roi_y=5000.0), FILM)
    assert quarantined(outside) is Reason.ROI_OUTSIDE
    nowhere = replace(circle, roi_kind=RoiKind.NONE)
    assert check_roi(nowhere, FILM) == CheckedRoi(nowhere, None, None)


def elsewhere(y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    mask = np.zeros_like(MASK)
    mask[y : y + height, x : x + width] = 255
    return mask


@pytest.mark.parametrize("with_crop", [True, False])
@pytest.mark.parametrize("mask", [np.full_like(MASK, 255), 255 - MASK], ids=["all white", "inverted"])
def test_a_mask_of_the_whole_film_is_refused(tmp_path: Path, mask: NDArray[np.uint8], with_crop: bool) -> None:
    code = quarantined(check_roi(finding(tmp_path, mask, CROP if with_crop else None), FILM))
    assert code in (Reason.MISSING_MASK, Reason.WRONG_MASK)


@pytest.mark.parametrize(
    "mask",
    [
        elsewhere(20, 20, 1000, 650),
        MASK | elsewhere(600, 300, 90, 90),
        MASK | elsewhere(0, 0, 3, 3),
        elsewhere(BOX.y, BOX.right + 20, 20, 20),
        elsewhere(BOX.y + 40, BOX.right - 10, 100, 100),
        elsewhere(BOX.y - 60, BOX.x - 60, 250, 230),
        elsewhere(BOX.y + 60, BOX.x + 50, 5, 5),
    ],
    ids=["most of the film", "two lesions", "stray corner", "beside it", "half beside it", "far too large", "a speck"],
)
def test_the_cut_out_must_frame_the_mask(tmp_path: Path, mask: NDArray[np.uint8]) -> None:
    """The cut-out is this film's, and near: that alone proves nothing."""
    assert quarantined(check_roi(finding(tmp_path, mask, CROP), FILM)) is Reason.WRONG_MASK


@pytest.mark.parametrize("margin", [0, 40])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 300), (1078 - 130, 733 - 110), (400, 0)])
def test_a_cut_out_that_the_films_edge_clips_frames_its_mask(tmp_path: Path, y: int, x: int, margin: int) -> None:
    mask = elsewhere(y, x, 130, 110)
    crop = FILM[max(0, y - margin) : y + 130 + margin, max(0, x - margin) : x + 110 + margin]
    checked = check_roi(finding(tmp_path, mask, np.ascontiguousarray(crop)), FILM)
    assert checked.fault is None
