"""One film, end to end, and what its receipts hold on to."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mammo_etl.convert import convert_film, input_files, read_candidates, read_receipt
from mammo_etl.files import SourceFileError, read_bytes
from mammo_etl.film_work import FilmWork, film_work
from mammo_etl.inventory import assemble, list_sources, read_headers
from mammo_etl.png import decode_png
from mammo_etl.records import Box, Reason, Rejection
from mammo_etl.settings import CleaningSettings, PatchSettings, SourceSettings, digest
from mammo_etl.sources import Inventory
from mammo_etl.workspace import Workspace

CLEANING = CleaningSettings()
PATCHES = PatchSettings(size=64, stride=32, normals_per_film=8, min_distance=16)


def inventory_of(kind: str, path: Path) -> Inventory:
    (files,) = list_sources([SourceSettings(kind=kind, path=str(path))])
    return assemble(files, dict(read_headers(kind, files.with_headers)))


@pytest.fixture(scope="module")
def cbis(phantoms: Path) -> list[FilmWork]:
    inventory = inventory_of("cbis-ddsm", phantoms / "cbis-ddsm")
    return film_work(inventory.scans, inventory.findings)


@pytest.fixture(scope="module")
def ddsm(phantoms: Path) -> list[FilmWork]:
    inventory = inventory_of("ddsm", phantoms / "ddsm")
    return film_work(inventory.scans, inventory.findings)


def image_of(workspace: Path, image_id: str) -> np.ndarray:
    return decode_png((Workspace(workspace).images(digest(CLEANING)) / f"{image_id}.png").read_bytes())


def test_cleaned_phantoms_show_the_breast_and_their_rois(
    phantoms: Path, cbis: list[FilmWork], ddsm: list[FilmWork], tmp_path: Path
) -> None:
    overlaps = []
    for work in [*cbis, *ddsm]:
        result = convert_film(work, tmp_path, CLEANING, PATCHES)
        assert result.rejects == ()
        receipt = read_receipt(tmp_path, CLEANING, work.scan.image_id)
        truth = cv2.imread(str(phantoms / "truth" / f"{work.scan.image_id}.breast.png"), cv2.IMREAD_GRAYSCALE) > 0
        box = Box(*receipt["box"])
        found = np.zeros_like(truth)
        found[box.y : box.bottom, box.x : box.right] = image_of(tmp_path, work.scan.image_id) > 0
        overlaps.append((found & truth).sum() / (found | truth).sum())
        for region in receipt["regions"]:
            roi = cv2.imread(str(phantoms / "truth" / f"{region['finding_id']}.roi.png"), cv2.IMREAD_GRAYSCALE)
            assert Box(*region["box"]) == Box(*(cv2.boundingRect(roi)[i] for i in (1, 0, 3, 2)))
            assert region["area"] == pytest.approx(cv2.countNonZero(roi), rel=0.02)
        labels = {candidate.label for candidate in read_candidates(tmp_path, CLEANING, PATCHES, work.scan.image_id)}
        expected = {int(finding.label) for finding in work.findings} or ({0} if work.scan.normal else set())
        assert labels == expected
    assert np.mean(overlaps) > 0.96
    assert np.min(overlaps) > 0.9


def test_density_brings_ddsm_to_the_scale_of_cbis_ddsm(ddsm: list[FilmWork], tmp_path: Path) -> None:
    """The phantoms' DDSM films were written through the inverse of each scanner's curve."""
    means = []
    for work in ddsm:
        convert_film(work, tmp_path, CLEANING, PATCHES)
        image = image_of(tmp_path, work.scan.image_id)
        means.append({"scanner": work.scan.scanner, "mean": image[image > 0].mean()})
    by_scanner = pd.DataFrame(means).groupby("scanner")["mean"].mean()
    assert len(by_scanner) >= 2
    assert by_scanner.max() - by_scanner.min() < 40


def test_nothing_is_done_twice(cbis: list[FilmWork], tmp_path: Path) -> None:
    first = convert_film(cbis[0], tmp_path, CLEANING, PATCHES)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = convert_film(cbis[0], tmp_path, CLEANING, PATCHES)
    assert (first.image_skipped, first.candidates_skipped) == (False, False)
    assert (again.image_skipped, again.candidates_skipped) == (True, True)
    assert replace(again, image_skipped=False, candidates_skipped=False) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_other_patch_settings_reuse_the_cleaned_film(cbis: list[FilmWork], tmp_path: Path) -> None:
    convert_film(cbis[0], tmp_path, CLEANING, PATCHES)
    other = convert_film(cbis[0], tmp_path, CLEANING, PATCHES.model_copy(update={"stride": 16}))
    assert (other.image_skipped, other.candidates_skipped) == (True, False)
    cleaned = convert_film(cbis[0], tmp_path, CleaningSettings(method="otsu"), PATCHES)
    assert (cleaned.image_skipped, cleaned.candidates_skipped) == (False, False)
    assert convert_film(cbis[0], tmp_path, CLEANING, PATCHES).candidates_skipped


@pytest.mark.parametrize("damage", ["png", "receipt", "digit", "key", "list", "candidates", "gone"])
def test_a_damaged_output_is_made_again(cbis: list[FilmWork], tmp_path: Path, damage: str) -> None:
    name = cbis[0].scan.image_id
    first = convert_film(cbis[0], tmp_path, CLEANING, PATCHES)
    places = Workspace(tmp_path)
    png = places.images(digest(CLEANING)) / f"{name}.png"
    content = png.read_bytes()
    candidates = places.candidates(digest(CLEANING, PATCHES)) / f"{name}.json"
    known = candidates.read_bytes()
    if damage == "png":
        png.write_bytes(content[:-100] + bytes(100))
    elif damage == "receipt":
        png.with_suffix(".json").write_text("{")
    elif damage == "digit":
        receipt = png.with_suffix(".json").read_text()
        png.with_suffix(".json").write_text(receipt.replace('"area_share": 0.', '"area_share": 0.1'))
    elif damage == "key":
        receipt = png.with_suffix(".json").read_text()
        png.with_suffix(".json").write_text(receipt.replace('"meaning"', '"meanint"'))
    elif damage == "list":
        png.with_suffix(".json").write_text("[]")
    elif damage == "candidates":
        candidates.write_bytes(known.replace(b'"y": ', b'"y": 1'))
    else:
        png.unlink()
    again = convert_film(cbis[0], tmp_path, CLEANING, PATCHES)
    assert again.image_skipped == (damage == "candidates")
    assert (png.read_bytes(), candidates.read_bytes()) == (content, known)
    assert again.png == first.png


def copied(work: FilmWork, folder: Path) -> FilmWork:
    """The same work on copies of its files."""
    folder.mkdir()

    def copy(path: str, name: str) -> str:
        return str(shutil.copy(path, folder / name)) if path else ""

    return replace(
        work,
        scan=replace(work.scan, path=copy(work.scan.path, "film.dcm")),
        findings=tuple(replace(f, roi_path=copy(f.roi_path, f"{f.finding_id}.dcm")) for f in work.findings),
    )


def test_a_changed_source_is_seen_by_its_content(cbis: list[FilmWork], tmp_path: Path) -> None:
    work = copied(cbis[0], tmp_path / "source")
    first = convert_film(work, tmp_path, CLEANING, PATCHES)
    film = Path(work.scan.path)
    film.touch()
    assert convert_film(work, tmp_path, CLEANING, PATCHES).image_skipped
    content = bytearray(film.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    film.write_bytes(content)
    changed = convert_film(work, tmp_path, CLEANING, PATCHES)
    assert not changed.image_skipped
    assert changed.png != first.png


def test_a_change_is_seen_where_size_and_time_are_as_before(cbis: list[FilmWork], tmp_path: Path) -> None:
    """As after copying with times, or a clock that was set back."""
    work = copied(cbis[0], tmp_path / "source")
    first = convert_film(work, tmp_path, CLEANING, PATCHES)
    film = Path(work.scan.path)
    before = film.stat()
    content = bytearray(film.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    film.write_bytes(content)
    os.utime(film, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (film.stat().st_size, film.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = convert_film(work, tmp_path, CLEANING, PATCHES)
    assert not changed.image_skipped
    assert changed.png != first.png


def test_a_file_that_was_touched_is_read_once_more_and_not_again(
    cbis: list[FilmWork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = copied(cbis[0], tmp_path / "source")
    convert_film(work, tmp_path, CLEANING, PATCHES)
    receipt = read_receipt(tmp_path, CLEANING, work.scan.image_id)
    read: list[str] = []
    monkeypatch.setattr("mammo_etl.convert.read_bytes", lambda url: read.append(url) or read_bytes(url))
    touched = [path for path in input_files(work.scan, work.findings) if Path(path).parent == tmp_path / "source"]
    for path in touched:
        Path(path).touch()
    for expected in (touched, []):
        assert convert_film(work, tmp_path, CLEANING, PATCHES).image_skipped
        assert read == expected
        read.clear()
    again = read_receipt(tmp_path, CLEANING, work.scan.image_id)
    assert again["files"] != receipt["files"]
    assert {**again, "files": None} == {**receipt, "files": None}


def test_a_film_that_is_cut_short_is_rejected_by_name_and_leaves_nothing(cbis: list[FilmWork], tmp_path: Path) -> None:
    work = copied(cbis[0], tmp_path / "source")
    film = Path(work.scan.path)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    result = convert_film(work, tmp_path, CLEANING, PATCHES)
    (row,) = result.rejects
    assert (row.code, row.path, row.image_id) == (Reason.TRUNCATED_FILE, work.scan.path, work.scan.image_id)
    assert result.png == ""
    assert not (tmp_path / "images").exists()


def test_a_broken_mask_costs_its_finding_and_not_the_film(cbis: list[FilmWork], tmp_path: Path) -> None:
    work = copied(cbis[0], tmp_path / "source")
    mask = Path(work.findings[0].roi_path)
    mask.write_bytes(mask.read_bytes()[:5000])
    result = convert_film(work, tmp_path, CLEANING, PATCHES)
    (row,) = result.rejects
    assert (row.code, row.finding_id, row.path) == (Reason.TRUNCATED_FILE, work.findings[0].finding_id, str(mask))
    assert result.png
    assert convert_film(work, tmp_path, CLEANING, PATCHES).rejects == result.rejects


def test_a_film_smaller_than_a_patch_is_rejected(cbis: list[FilmWork], tmp_path: Path) -> None:
    result = convert_film(cbis[0], tmp_path, CLEANING, PatchSettings(size=1024))
    assert [row.code for row in result.rejects] == [Reason.TOO_SMALL]


def test_background_stays_away_from_the_film_s_lesions_and_its_twin_s(cbis: list[FilmWork], tmp_path: Path) -> None:
    patches = PATCHES.model_copy(update={"normals": "background", "normals_per_film": 40, "min_distance": 4.0})
    twins = [work for work in cbis if work.twins]
    assert twins, "the phantoms hold a mass/calc twin"
    for work in cbis:
        convert_film(work, tmp_path, CLEANING, patches)
    for work in twins:
        found = read_candidates(tmp_path, CLEANING, patches, work.scan.image_id)
        background = [candidate for candidate in found if candidate.origin == "background"]
        assert background
        boxes = [Box(*region["box"]) for region in read_receipt(tmp_path, CLEANING, work.scan.image_id)["regions"]]
        for twin, _ in work.twins:
            boxes += [Box(*region["box"]) for region in read_receipt(tmp_path, CLEANING, twin.image_id)["regions"]]
        assert len(boxes) >= 2
        for c in background:
            for box in boxes:
                outside = c.y >= box.bottom or c.y + c.size <= box.y or c.x >= box.right or c.x + c.size <= box.x
                assert outside


def test_no_background_where_a_finding_has_no_place(cbis: list[FilmWork], tmp_path: Path) -> None:
    work = copied(cbis[0], tmp_path / "source")
    Path(work.findings[0].roi_path).unlink()
    patches = PATCHES.model_copy(update={"normals": "background"})
    convert_film(work, tmp_path, CLEANING, patches)
    assert all(c.label for c in read_candidates(tmp_path, CLEANING, patches, work.scan.image_id))


def test_a_film_that_is_no_longer_normal_has_no_normal_patches(ddsm: list[FilmWork], tmp_path: Path) -> None:
    """As after a correction of the source's table that locates no lesion."""
    work = next(work for work in ddsm if work.scan.normal)
    convert_film(work, tmp_path, CLEANING, PATCHES)
    assert read_candidates(tmp_path, CLEANING, PATCHES, work.scan.image_id)
    corrected = replace(work, scan=replace(work.scan, normal=False))
    assert not convert_film(corrected, tmp_path, CLEANING, PATCHES).candidates_skipped
    assert read_candidates(tmp_path, CLEANING, PATCHES, work.scan.image_id) == []


def test_no_background_beside_something_rejected_of_the_same_patient(cbis: list[FilmWork], tmp_path: Path) -> None:
    """As a lesion of unknown pathology, or a twin whose file is missing."""
    scan = cbis[0].scan
    lost = Rejection(
        stage="inventory", code=Reason.UNKNOWN_PATHOLOGY, message="x", image_id=scan.image_id.replace("mass", "calc")
    )
    patches = PATCHES.model_copy(update={"normals": "background"})
    (work,) = film_work([scan], cbis[0].findings)
    convert_film(work, tmp_path / "sound", CLEANING, patches)
    assert any(c.label == 0 for c in read_candidates(tmp_path / "sound", CLEANING, patches, scan.image_id))
    (work,) = film_work([scan], cbis[0].findings, [lost])
    convert_film(work, tmp_path / "lost", CLEANING, patches)
    assert all(c.label for c in read_candidates(tmp_path / "lost", CLEANING, patches, scan.image_id))


def test_a_mask_that_could_not_be_read_is_tried_again(
    cbis: list[FilmWork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(url: str, limit: int | None = None) -> bytes:
        if url == cbis[0].findings[0].roi_path:
            raise SourceFileError(Reason.UNREADABLE_FILE, "The file could not be read: Input/output error.")
        return read_bytes(url, limit)

    with monkeypatch.context() as patched:
        patched.setattr("mammo_etl.convert.read_bytes", failing)
        patched.setattr("mammo_etl.film.read_bytes", failing)
        (row,) = convert_film(cbis[0], tmp_path, CLEANING, PATCHES).rejects
        assert row.finding_id == cbis[0].findings[0].finding_id
    again = convert_film(cbis[0], tmp_path, CLEANING, PATCHES)
    assert (again.image_skipped, again.rejects) == (False, ())


def test_rejects_name_the_files_of_the_build_at_hand(cbis: list[FilmWork], tmp_path: Path) -> None:
    work = copied(cbis[0], tmp_path / "source")
    Path(work.findings[0].roi_path).write_bytes(b"x" * 100)
    convert_film(work, tmp_path, CLEANING, PATCHES)
    moved = copied(work, tmp_path / "moved")
    result = convert_film(moved, tmp_path, CLEANING, PATCHES)
    assert result.image_skipped
    assert [row.path for row in result.rejects] == [moved.findings[0].roi_path]
