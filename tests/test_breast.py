"""Finding the breast: on film with all that a scan shows beside it, on digital views, on real films."""

import re
import zipfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_etl.breast import find_breast
from mammo_etl.phantom import film_faults
from mammo_etl.phantom.breast import FILM_HEIGHT_MM, make_breast
from mammo_etl.phantom.film import make_film
from mammo_etl.phantom.plan import FilmPlan
from mammo_etl.records import Laterality, View
from mammo_etl.settings import CleaningSettings

ROWS, COLUMNS = 1200, 800
Image = NDArray[np.uint8] | NDArray[np.uint16]
Mask = NDArray[np.uint8]


def overlap(pixels: Image, truth: Mask, method: str = "skin") -> float:
    """Intersection over union of the found mask and the true one."""
    breast = find_breast(pixels, CleaningSettings(method=method))
    if breast is None:
        return 0.0
    return np.count_nonzero(breast.mask & truth) / np.count_nonzero(breast.mask | truth)


def drawn(left: bool = True) -> tuple[Mask, Mask]:
    """A breast at one edge, a label, a frame along the edges and a scratch; and the breast alone."""
    random = np.random.default_rng(1)
    truth = np.zeros((ROWS, COLUMNS), np.uint8)
    cv2.ellipse(truth, (0, ROWS // 2), (500, 450), 0, -90, 90, 255, cv2.FILLED)
    grey = random.normal(12, 2, truth.shape) + (truth > 0) * random.normal(110, 15, truth.shape)
    grey[100:160, 600:760] = 240
    grey[:6], grey[-6:] = 250, 250
    grey[:, -6:] = 250
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    cv2.line(grey, (550, 0), (700, ROWS), 200, 2)
    return (grey, truth) if left else (grey[:, ::-1].copy(), truth[:, ::-1].copy())


@pytest.mark.parametrize("left", [True, False])
def test_mask_box_and_figures(left: bool) -> None:
    grey, truth = drawn(left)
    breast = find_breast(grey, CleaningSettings())
    assert breast is not None
    assert overlap(grey, truth) > 0.98
    found, box = breast.mask > 0, breast.box
    assert found[box.y : box.bottom, box.x : box.right].sum() == found.sum()
    assert found[box.y].any()
    assert found[:, box.x].any()
    assert 0.36 < breast.area_share < 0.38
    assert breast.solidity > 0.97
    assert 0 < breast.border_contact < 0.4
    assert 0.9 < breast.agreement <= 1
    assert 0.8 < breast.contrast <= 1


def test_holes_are_filled() -> None:
    grey, _truth = drawn()
    cv2.circle(grey, (200, 600), 60, 5, cv2.FILLED)
    breast = find_breast(grey, CleaningSettings())
    assert breast is not None
    assert breast.mask[600, 200] == 255


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_film_without_a_breast(level: int) -> None:
    assert find_breast(np.full((ROWS, COLUMNS), level, np.uint8), CleaningSettings()) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3, 3), (40, 30), (5000, 2), (1203, 803)])
def test_films_of_any_size(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    breast = find_breast(noise, CleaningSettings())
    assert breast is None or breast.mask.shape == shape


def test_rows_and_columns_beyond_whole_blocks_are_not_lost() -> None:
    grey, truth = drawn()
    grey = cv2.resize(grey, (1603, 4103))
    truth = cv2.resize(truth, (1603, 4103), interpolation=cv2.INTER_NEAREST)
    assert overlap(grey, truth) > 0.97
    breast = find_breast(np.rot90(grey, 2).copy(), CleaningSettings())
    assert breast is not None
    # The last column holds the chest wall now.
    assert breast.mask[1000:3000, -1].all()


def phantom(number: int, rows: int, columns: int) -> tuple[NDArray[np.uint16], Mask]:
    """A film of any side, view and density with the usual faults, and its breast."""
    plan = FilmPlan(list(Laterality)[number % 2], list(View)[number // 2 % 2], ())
    rng = np.random.default_rng([5, number])
    film = make_film(rng, plan, 1 + number // 4 % 4, rng.random(), rows, columns)
    return film.pixels, film.breast


def overlap_of_phantom(number: int) -> float:
    return overlap(*phantom(number, 1200, 750))


def test_phantoms() -> None:
    overlaps = [overlap(*phantom(number, 640, 400)) for number in range(32)]
    assert np.mean(overlaps) > 0.985
    assert min(overlaps) > 0.96


def test_phantoms_with_every_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_faults, "_RATES", dict.fromkeys(film_faults._RATES, 1.0))
    overlaps = [overlap(*phantom(number, 640, 400)) for number in range(16)]
    assert np.mean(overlaps) > 0.98
    assert min(overlaps) > 0.96


@pytest.mark.slow
def test_two_hundred_phantoms() -> None:
    with get_context("spawn").Pool(2) as pool:
        overlaps = pool.map(overlap_of_phantom, range(200), chunksize=10)
    assert np.mean(overlaps) > 0.985
    assert min(overlaps) > 0.96


def test_otsu_is_the_baseline() -> None:
    pixels, truth = phantom(3, 640, 400)
    assert overlap(pixels, truth, "otsu") < 0.9 < overlap(pixels, truth)


def digital(number: int) -> tuple[NDArray[np.uint16], Mask]:
    """A digital view of 12 bits: background exactly 0, letters in its corner, a marker at the nipple; dense tissue much brighter than fat."""
    rng = np.random.default_rng([6, number])
    rows, columns = 1000, 620
    breast = make_breast(
        rng, list(View)[number // 2 % 2], rng.random(), 1 + number // 4 % 4, rows, columns, FILM_HEIGHT_MM / rows
    )
    inside = breast.mask > 0
    relative = np.clip(breast.tissue / np.percentile(breast.tissue[inside], 99.8), 0, 1)
    levels = 16 + 3900 * relative ** rng.uniform(0.8, 3) + rng.normal(0, 16, relative.shape)
    pixels = np.where(inside, np.clip(levels, 1, 4095), 0).astype(np.uint16)
    drawing = np.zeros(pixels.shape, np.uint8)
    cv2.putText(drawing, "R-CC", (columns - 140, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3)
    nipple = int(np.flatnonzero(inside.any(axis=0))[-1])
    cv2.circle(drawing, (nipple + 8, int(np.flatnonzero(inside[:, nipple])[0])), 6, 255, cv2.FILLED)
    pixels[(drawing > 127) & ~inside] = 4095
    mirrored = number % 2 == 1
    return (pixels[:, ::-1].copy(), breast.mask[:, ::-1].copy()) if mirrored else (pixels, breast.mask)


@pytest.mark.parametrize("number", range(12))
def test_digital_views(number: int) -> None:
    pixels, truth = digital(number)
    assert overlap(pixels, truth) > 0.97
    # Twelve bits in a file that claims sixteen, and eight bits.
    assert overlap(np.right_shift(pixels, 4).astype(np.uint8), truth) > 0.97


@pytest.mark.parametrize("gain", [2, 64, *(pytest.param(gain, marks=pytest.mark.slow) for gain in (4, 8))])
def test_saturated_tissue_is_no_border(gain: int) -> None:
    for number in (0, 2, 5):
        pixels, truth = digital(number)
        assert overlap(np.minimum(pixels.astype(np.uint32) * gain, 4095).astype(np.uint16), truth) > 0.97
    # Without a frame, which is as white as such tissue: the two cannot be told apart.
    for number in (0, 1, 3, 4):
        film, truth = phantom(number, 1200, 750)
        assert overlap(np.minimum(film.astype(np.uint32) * min(gain, 3), 65535).astype(np.uint16), truth) > 0.97


@pytest.mark.parametrize("faint", [4, 8, 32])
def test_a_marker_far_brighter_than_tissue(faint: int) -> None:
    for number in (0, 9):
        pixels, truth = digital(number)
        assert (
            overlap(np.where((pixels == 4095) & (truth == 0), 4095, -(-pixels // faint)).astype(np.uint16), truth)
            > 0.97
        )


def test_twelve_bits_at_the_upper_end_of_sixteen() -> None:
    """As an untagged inversion leaves them."""
    pixels, truth = digital(1)
    assert overlap((pixels + 61440).astype(np.uint16), truth) > 0.97


def test_little_background() -> None:
    for number in (0, 4, 8):
        pixels, truth = digital(number)
        right = int(np.flatnonzero(truth.any(axis=0))[-1]) + 1
        rows = np.flatnonzero(truth[:, : right // 2].any(axis=1))
        cut = np.s_[rows[0] + 100 : rows[-1] - 100, : right - 30]
        assert 0.85 < np.mean(truth[cut] > 0) < 0.97
        assert overlap(np.ascontiguousarray(pixels[cut]), np.ascontiguousarray(truth[cut])) > 0.97


def test_a_label_alone_is_no_breast() -> None:
    grey = np.random.default_rng(0).normal(20, 4, (1200, 800)).clip(0, 255).astype(np.uint8)
    grey[100:140, 500:660] = 250
    assert find_breast(grey, CleaningSettings()) is None


def test_an_outline_through_tissue_has_little_contrast() -> None:
    """Of a film that is all breast the brighter part is taken: the figures have to tell."""
    pixels, truth = digital(0)
    rows = np.flatnonzero(truth[:, 150] > 0)
    breast = find_breast(np.ascontiguousarray(pixels[rows[0] + 50 : rows[-1] - 50, :150]), CleaningSettings())
    whole = find_breast(pixels, CleaningSettings())
    assert breast is not None
    assert whole is not None
    assert breast.contrast < 0.6 < whole.contrast


def bordered(pixels: Image, width: int, level: int, degrees: float) -> Image:
    """The film on a light box: a bright border around it, a little askew."""
    wide = cv2.copyMakeBorder(pixels, width, width, width, width, cv2.BORDER_CONSTANT, value=level)
    turn = cv2.getRotationMatrix2D((wide.shape[1] / 2, wide.shape[0] / 2), degrees, 1)
    return cv2.warpAffine(wide, turn, wide.shape[::-1], borderValue=level)


@pytest.mark.parametrize(("width", "level", "degrees"), [(20, 255, 0), (45, 215, 1.2), (80, 245, -0.7)])
def test_a_white_border_is_not_breast(width: int, level: int, degrees: float) -> None:
    overlaps = []
    for number in range(8):
        pixels, truth = phantom(number, 1200, 750)
        inner = bordered(truth, width, 0, degrees)
        overlaps.append(
            overlap(bordered(pixels, width, 257 * level, degrees), np.where(inner > 127, 255, 0).astype(np.uint8))
        )
    assert np.mean(overlaps) > 0.97
    assert min(overlaps) > 0.95


def test_turned_and_mirrored_films_have_turned_and_mirrored_masks() -> None:
    pixels, _ = phantom(2, 640, 640)
    upright = find_breast(pixels, CleaningSettings())
    assert upright is not None
    for turns in range(4):
        for flip in (1, -1):
            other = find_breast(np.ascontiguousarray(np.rot90(pixels, turns)[:, ::flip]), CleaningSettings())
            assert other is not None
            back = np.rot90(other.mask[:, ::flip], -turns)
            assert np.count_nonzero(back & upright.mask) > 0.985 * np.count_nonzero(back | upright.mask)


def mini_mias(realdata: Path) -> Iterator[tuple[str, Mask, list[tuple[int, int, int]]]]:
    """Name, film and circles (x, y from the top, radius) of its lesions."""
    with zipfile.ZipFile(realdata / "mini_mias" / "mini_mias_subset.zip") as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        circles: dict[str, list[tuple[int, int, int]]] = {}
        for line in archive.read(names["Info.txt"]).decode().splitlines():
            if located := re.match(r"(mdb\d+) \S+ \S+ [BM] +(\d+) +(\d+) +(\d+)", line):
                x, y, radius = map(int, located.groups()[1:])
                circles.setdefault(located[1], []).append((x, 1024 - y, radius))
        for name in sorted(names):
            if name.endswith(".pgm"):
                film = cv2.imdecode(np.frombuffer(archive.read(names[name]), np.uint8), cv2.IMREAD_GRAYSCALE)
                yield name[:-4], np.asarray(film, np.uint8), circles.get(name[:-4], [])


def test_lesions_of_mini_mias_are_kept_and_labels_are_not(realdata: Path) -> None:
    lost, located = [], 0
    for name, film, circles in mini_mias(realdata):
        breast = find_breast(film, CleaningSettings())
        assert breast is not None, name
        # The films are padded to a square with exact black: circles reach into it.
        frame = np.flatnonzero((film > 0).any(axis=0))
        for x, y, radius in circles:
            lesion = np.zeros(film.shape, np.uint8)
            cv2.circle(lesion, (x, y), radius, 255, cv2.FILLED)
            lesion[:, : frame[0]], lesion[:, frame[-1] + 1 :] = 0, 0
            located += 1
            if cv2.countNonZero(lesion & breast.mask) < 0.99 * cv2.countNonZero(lesion):
                lost.append(name)
        # Labels are the brightest there is; tissue is not quite.
        assert np.count_nonzero(film[breast.mask > 0] >= 250) < 50, name
        assert 0.05 < breast.area_share < 0.85, name
        assert breast.solidity > 0.8, name
    assert located == 57
    # Its coordinates lie outside the breast by error.
    assert set(lost) <= {"mdb214"}


def test_a_real_film_of_cbis_ddsm_with_and_without_a_border(realdata: Path) -> None:
    film = cv2.imread(str(realdata / "cbis_png" / "P_00060_RIGHT_CC.png"), cv2.IMREAD_GRAYSCALE)
    breast = find_breast(np.asarray(film, np.uint8), CleaningSettings())
    assert breast is not None
    # Markers and labels lie left of column 700.
    assert not breast.mask[:, :700].any()
    assert breast.mask[1500:3500, 2000:2860].all()
    for width, level, degrees in ((60, 255, 0), (200, 235, 0.8)):
        truth = np.where(bordered(breast.mask, width, 0, degrees) > 127, 255, 0).astype(np.uint8)
        assert overlap(bordered(film, width, level, degrees), truth) > 0.97
