"""Regions from masks, outlines and circles."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mammo_etl.files import SourceFileError
from mammo_etl.records import Abnormality, Box, Finding, Label, Pathology, Reason, RoiKind
from mammo_etl.roi import chain_points, region_from_json, region_of, region_to_json


def finding(**roi: Any) -> Finding:
    return Finding(
        finding_id="f_1",
        image_id="f",
        source="test",
        patient_id="p",
        abnormality=Abnormality.MASS,
        pathology=Pathology.BENIGN,
        pathology_listed="BENIGN",
        label=Label.BENIGN_MASS,
        **roi,
    )


def test_a_chain_goes_clockwise_from_north() -> None:
    assert chain_points("10 20 02460").tolist() == [[10, 20], [10, 19], [11, 19], [11, 20], [10, 20], [10, 19]]
    assert chain_points("5 5 1357").tolist() == [[5, 5], [6, 4], [7, 5], [6, 6], [5, 5]]
    assert chain_points("3 4").tolist() == [[3, 4]]


def test_an_outline_is_filled_with_its_border() -> None:
    # A square of 5 x 4 pixels with its top-left corner at column 10, row 20.
    region = region_of(finding(roi_kind=RoiKind.OUTLINE, roi_outlines=("10 20 22224446666000",)), 100, 100)
    assert region is not None
    assert region.box == Box(20, 10, 4, 5)
    assert region.area == 20


def test_the_real_outline_fills_to_its_known_pixels(realdata: Path) -> None:
    """The ground truth published with the file: columns 910 to 1602, rows 2092 to 2876, 399,633 pixels."""
    words = (realdata / "ddsm" / "D_4000_1.LEFT_CC.OVERLAY").read_text().split("BOUNDARY")[1].split("#")[0].split()
    chain = f"{words[0]} {words[1]} {''.join(words[2:])}"
    region = region_of(finding(roi_kind=RoiKind.OUTLINE, roi_outlines=(chain,)), 5296, 2566)
    assert region is not None
    assert region.area == 399_633
    assert (region.box.x, region.box.right - 1) == (910, 1602)
    assert (region.box.y, region.box.bottom - 1) == (2092, 2876)


RING = "2222444466660000"
"""A square of 5 x 5 pixels, clockwise from its top-left corner."""


@pytest.mark.parametrize(
    ("outlines", "area"),
    [
        ((f"10 20 {RING}",), 25),
        ((f"10 20 {RING}",) * 2, 25),
        ((f"10 20 {RING * 2}",), 25),
        ((f"10 20 {RING * 3}",), 25),
        # Past its start: along its own line, then inwards, or outwards, which the closing line cuts short.
        ((f"10 20 {RING}22",), 25),
        ((f"10 20 {RING}2244",), 25),
        ((f"10 20 {RING}22000",), 25 + 5),
        # Overlapping, one within another, apart.
        ((f"10 20 {RING}", f"12 22 {RING}"), 25 + 25 - 9),
        ((f"10 20 {RING}", "11 21 22446600"), 25),
        ((f"10 20 {RING}", f"50 60 {RING}"), 50),
        # A figure of eight.
        (("10 20 2244660000664422",), 9 + 9 - 1),
        # Over the film's right edge, twice; over a corner; closed by a line that starts off the film.
        ((f"98 50 {RING * 2}",), 10),
        ((f"-3 97 {RING}",), 6),
        (("-2 50 2222222244444444",), 3 + 4 + 5 + 6 + 7 + 8 + 9),
        # Two arms with a bay between them, which opens above the film, below a bend of the left one.
        ((f"10 10 {'0' * 16}{'2' * 10}444{'6' * 7}{'4' * 10}2222{'0' * 8}222{'4' * 11}{'6' * 10}",), 44 + 44 + 12),
        # A bend far off the film on each side of it.
        ((f"10 10 {'0' * 900}{'2' * 9}{'4' * 2000}{'6' * 9}{'0' * 1100}",), 1000),
    ],
)
def test_outlines_are_filled_whatever_they_overlap(outlines: tuple[str, ...], area: int) -> None:
    region = region_of(finding(roi_kind=RoiKind.OUTLINE, roi_outlines=outlines), 100, 100)
    assert region is not None
    assert region.area == area


def test_an_outline_that_leaves_the_film_is_cut_off() -> None:
    region = region_of(finding(roi_kind=RoiKind.OUTLINE, roi_outlines=("96 50 222222224444666666660000",)), 100, 100)
    assert region is not None
    assert region.box == Box(50, 96, 5, 4)


def test_a_circle() -> None:
    region = region_of(finding(roi_kind=RoiKind.CIRCLE, roi_y=50.0, roi_x=40.0, roi_radius=10.0), 100, 100)
    assert region is not None
    assert region.box == Box(40, 30, 21, 21)
    assert region.area == pytest.approx(np.pi * 10**2, rel=0.1)


@pytest.mark.parametrize(
    ("roi", "code"),
    [
        ({"roi_kind": RoiKind.CIRCLE, "roi_y": 500.0, "roi_x": 40.0, "roi_radius": 10.0}, Reason.ROI_OUTSIDE),
        ({"roi_kind": RoiKind.OUTLINE, "roi_outlines": ("500 500 2460",)}, Reason.ROI_OUTSIDE),
        ({"roi_kind": RoiKind.MASK, "roi_path": "missing.png"}, Reason.UNREADABLE_FILE),
    ],
)
def test_a_roi_that_cannot_be_used(roi: dict[str, Any], code: Reason) -> None:
    with pytest.raises(SourceFileError) as raised:
        region_of(finding(**roi), 100, 100)
    assert raised.value.code == code


def test_masks(tmp_path: Path) -> None:
    mask = np.zeros((100, 80), np.uint8)
    mask[30:40, 50:70] = 255
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), mask)
    of_mask = finding(roi_kind=RoiKind.MASK, roi_path=str(path))
    region = region_of(of_mask, 100, 80)
    assert region is not None
    assert (region.box, region.area) == (Box(30, 50, 10, 20), 200)
    with pytest.raises(SourceFileError, match="100 x 80 pixels, its film 100 x 90") as raised:
        region_of(of_mask, 100, 90)
    assert raised.value.code == Reason.MASK_SIZE
    cv2.imwrite(str(path), np.zeros_like(mask))
    with pytest.raises(SourceFileError) as raised:
        region_of(of_mask, 100, 80)
    assert raised.value.code == Reason.EMPTY_MASK


def test_a_finding_without_a_place_has_no_region() -> None:
    assert region_of(finding(roi_kind=RoiKind.NONE), 100, 100) is None


def test_a_region_survives_its_receipt() -> None:
    region = region_of(finding(roi_kind=RoiKind.CIRCLE, roi_y=50.0, roi_x=5.0, roi_radius=13.0), 100, 100)
    assert region is not None
    again = region_from_json(region_to_json(region))
    assert again.box == region.box
    assert np.array_equal(again.mask, region.mask)
