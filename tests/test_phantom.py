"""Phantom films: real files of both sources, the truth beside them, the same bytes every time."""

import hashlib
import json
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from flows.cli import main
from mammo_etl.inventory import assemble, list_sources, read_headers
from mammo_etl.ljpeg import decode
from mammo_etl.phantom.ddsm import grey_levels
from mammo_etl.phantom.film import make_film
from mammo_etl.phantom.ljpeg_writer import encode
from mammo_etl.phantom.plan import CbisPatient, DdsmPatient, FilmPlan, Lesion, Scanner, plan_patient
from mammo_etl.phantom.source_faults import Fault, deal, parse_faults
from mammo_etl.phantom.write import PhantomSummary, write_phantoms
from mammo_etl.records import Abnormality, Laterality, View
from mammo_etl.settings import SourceSettings

SIZE = {"height": 480, "width": 300}
LABELS = {"Benign Calcification", "Benign Mass", "Malignant Calcification", "Malignant Mass"}
TABLES = [f"{kind}_case_description_{part}_set.csv" for kind in ("mass", "calc") for part in ("train", "test")]

Phantoms = tuple[Path, PhantomSummary]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    out = tmp_path_factory.mktemp("phantoms")
    return out, write_phantoms(out, 16, 11, **SIZE)


@pytest.fixture(scope="module")
def findings(phantoms: Phantoms) -> pd.DataFrame:
    return pd.read_csv(phantoms[0] / "truth" / "findings.csv")


@pytest.fixture(scope="module")
def films(phantoms: Phantoms) -> pd.DataFrame:
    return pd.read_csv(phantoms[0] / "truth" / "films.csv", keep_default_na=False).set_index("image_id")


@pytest.fixture(scope="module")
def by_series(phantoms: Phantoms) -> dict[str, list[pydicom.Dataset]]:
    """Every DICOM file, under its series UID."""
    series: dict[str, list[pydicom.Dataset]] = {}
    for path in sorted((phantoms[0] / "cbis-ddsm").rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        series.setdefault(dataset.SeriesInstanceUID, []).append(dataset)
    return series


def read_tables(out: Path) -> pd.DataFrame:
    """All CBIS-DDSM rows with one name for each path column and the table they come from."""
    return pd.concat(
        pd.read_csv(out / "cbis-ddsm" / table, keep_default_na=False).assign(table=table) for table in TABLES
    )


def truth_mask(out: Path, name: str) -> NDArray[np.uint8]:
    mask = cv2.imread(str(out / "truth" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert set(np.unique(mask)) <= {0, 255}
    return np.asarray(mask, np.uint8)


def digests(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_same_bytes_whatever_the_workers_reruns_and_later_patients(phantoms: Phantoms, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_phantoms(tmp_path, 4, 11, **SIZE, workers=2, on_patient=lambda done, total: seen.append((done, total)))
    by_two = digests(tmp_path)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    write_phantoms(tmp_path, 4, 11, **SIZE)
    assert digests(tmp_path) == by_two

    of_sixteen = digests(phantoms[0])
    whole = {name for name in by_two if name.endswith(".csv") or name == "truth/phantom.json"}
    assert {name: of_sixteen[name] for name in by_two.keys() - whole} == {
        name: by_two[name] for name in by_two.keys() - whole
    }
    for name in sorted(whole - {"truth/phantom.json"}):
        assert (phantoms[0] / name).read_text().startswith((tmp_path / name).read_text()), name


def test_another_seed_gives_other_films(phantoms: Phantoms, tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, 12, **SIZE)
    first = {name for name, digest in digests(tmp_path).items() if digests(phantoms[0]).get(name) == digest}
    assert not {name for name in first if name.endswith((".dcm", ".png"))}


def test_sixteen_patients_have_every_class_and_normals(
    phantoms: Phantoms, films: pd.DataFrame, findings: pd.DataFrame
) -> None:
    summary = phantoms[1]
    assert set(findings["label_name"]) == LABELS
    assert summary.findings_by_label == Counter(findings["label_name"])
    assert (summary.films, summary.findings) == (len(films), len(findings))
    assert summary.normal_films == films["normal"].sum() > 0
    assert set(films["scanner"]) == {"", "DBA", "HOWTEK", "LUMISYS"}
    assert {"BENIGN", "BENIGN_WITHOUT_CALLBACK", "MALIGNANT"} == set(findings["pathology"])
    # A side and view in both a calcification and a mass image.
    stems = Counter(re.sub("_(mass|calc)$", "", image_id) for image_id in films.index)
    assert max(stems.values()) == 2


@pytest.mark.parametrize("patients", [-1, 0])
def test_refuses_no_patients(tmp_path: Path, patients: int) -> None:
    with pytest.raises(ValueError, match="patients"):
        write_phantoms(tmp_path, patients, 1, **SIZE)


def test_refuses_films_too_small(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too small"):
        write_phantoms(tmp_path, 1, 1, height=100, width=100)
    assert not list(tmp_path.iterdir())


def test_refuses_to_mix_two_sets(phantoms: Phantoms) -> None:
    before = digests(phantoms[0])
    with pytest.raises(FileExistsError, match="empty folder"):
        write_phantoms(phantoms[0], 16, 99, **SIZE)
    with pytest.raises(FileExistsError, match="empty folder"):
        write_phantoms(phantoms[0], 2, 11, **SIZE)
    assert digests(phantoms[0]) == before


def test_refuses_to_mix_other_faults(tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, 11, **SIZE, faults=[Fault.GZIP, Fault.SWAPPED])
    before = digests(tmp_path)
    assert (tmp_path / "truth" / "phantom.json").read_text().count("swapped") == 1
    for faults in ([], [Fault.SWAPPED], list(Fault)):
        with pytest.raises(FileExistsError, match="empty folder"):
            write_phantoms(tmp_path, 1, 11, **SIZE, faults=faults)
    write_phantoms(tmp_path, 1, 11, **SIZE, faults=[Fault.SWAPPED, Fault.GZIP])
    assert digests(tmp_path) == before


def test_phantoms_without_faults_know_of_none(phantoms: Phantoms) -> None:
    assert not (phantoms[0] / "truth" / "source_faults.csv").exists()
    assert json.loads((phantoms[0] / "truth" / "phantom.json").read_text()) == {"seed": 11, "patients": 16, **SIZE}


def test_all_faults_at_once(tmp_path: Path) -> None:
    small = {"height": 320, "width": 200}
    write_phantoms(tmp_path / "a", 16, 11, **small, faults=list(Fault))
    carriers = pd.read_csv(tmp_path / "a" / "truth" / "source_faults.csv", keep_default_na=False)
    assert set(carriers["fault"]) == set(Fault)
    of_findings = carriers[carriers["finding_id"] != ""]
    assert of_findings["finding_id"].is_unique
    films = pd.read_csv(tmp_path / "a" / "truth" / "films.csv")
    assert set(carriers["image_id"]) <= {"", *films["image_id"]}
    # Later patients and other workers leave the earlier ones as they are; only the extras are of the whole source.
    write_phantoms(tmp_path / "b", 3, 11, **small, workers=2, faults=list(Fault))
    many, few = digests(tmp_path / "a"), digests(tmp_path / "b")
    own = {name for name in few if not name.endswith((".csv", "phantom.json"))}
    assert own
    assert {name: many[name] for name in own} == {name: few[name] for name in own}
    for kind in ("cbis-ddsm", "ddsm"):
        (source,) = list_sources([SourceSettings(kind=kind, path=str(tmp_path / "a" / kind))])
        inventory = assemble(source, dict(read_headers(kind, source.with_headers)))
        assert inventory.scans
        assert inventory.findings


def test_faults_by_name() -> None:
    assert parse_faults([]) == frozenset()
    assert parse_faults(["gzip", "flat", "gzip"]) == {Fault.GZIP, Fault.FLAT}
    assert parse_faults(["gzip", "all"]) == set(Fault)
    with pytest.raises(ValueError, match=r"unknown fault 'GZIP': expected all, or some of swapped, .*gzip"):
        parse_faults(["GZIP"])


def test_faults_are_dealt_in_turn() -> None:
    kinds, wanted = [Fault.FLAT, Fault.GZIP, Fault.TWIN], {Fault.TWIN, Fault.FLAT}
    assert list(islice(deal(kinds, wanted, 0), 3)) == [Fault.FLAT, Fault.TWIN, Fault.FLAT]
    assert list(islice(deal(kinds, wanted, 4, one_whole=True), 3)) == [Fault.TWIN, None, Fault.FLAT]
    assert list(islice(deal(kinds, [], 5), 2)) == [None, None]


@pytest.mark.parametrize("arguments", [["--fault", "swapped", "--fault", "gzip"], ["--fault", "nonsense"]])
def test_the_command_takes_faults(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    size = ["--patients", "2", "--height", "320", "--width", "200", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["mammo", "phantom", str(out), *size, *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    if "nonsense" in arguments:
        assert stopped.value.code == 2
        assert "blank-header" in capsys.readouterr().err
        assert not out.exists()
    else:
        assert not stopped.value.code
        assert set(pd.read_csv(out / "truth" / "source_faults.csv")["fault"]) == {"swapped", "gzip"}


def test_restart_markers_change_no_pixel() -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, (50, 31), dtype=np.uint16)
    coded = encode(pixels, 12, rows_per_restart=16)
    assert [coded.count(bytes((0xFF, marker))) for marker in (0xDD, 0xD0, 0xD1, 0xD2, 0xD3)] == [1, 1, 1, 1, 0]
    np.testing.assert_array_equal(decode(coded), pixels)
    with pytest.raises(ValueError, match="between restart markers"):
        encode(pixels, 12, rows_per_restart=3000)


def test_dicom_files_are_as_cbis_ddsm_writes_them(by_series: dict[str, list[pydicom.Dataset]]) -> None:
    kinds = Counter()
    for dataset in (dataset for series in by_series.values() for dataset in series):
        assert dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert dataset.SOPClassUID == SecondaryCaptureImageStorage
        assert (dataset.Modality, dataset.PhotometricInterpretation) == ("MG", "MONOCHROME2")
        assert dataset.PixelRepresentation == 0
        assert len(dataset.PixelData) % 2 == 0
        for absent in ("WindowCenter", "PixelSpacing", "ImagerPixelSpacing", "ViewPosition", "Manufacturer"):
            assert absent not in dataset
        name = re.fullmatch(r"(Mass|Calc)-(Training|Test)_P_\d{5}_(LEFT|RIGHT)_(CC|MLO)(_\d)?", dataset.PatientID)
        assert name is not None
        assert dataset.Laterality == name[3][0]
        assert dataset.PatientOrientation == name[4]
        pixels = dataset.pixel_array
        if name[5] is None:
            assert dataset.SeriesDescription == "full mammogram images"
        else:
            assert dataset.SeriesDescription in ("ROI mask images", "cropped images")
        if pixels.dtype == np.uint8:
            assert set(np.unique(pixels)) == {0, 255}
            kinds["mask"] += 1
        else:
            assert pixels.dtype == np.uint16
            kinds["full" if name[5] is None else "crop"] += 1
    assert kinds["mask"] == kinds["crop"] >= kinds["full"] > 0
    uids = [dataset.SOPInstanceUID for series in by_series.values() for dataset in series]
    assert len(set(uids)) == len(uids)


def test_both_folder_layouts_occur(phantoms: Phantoms) -> None:
    folder = phantoms[0] / "cbis-ddsm" / "CBIS-DDSM"
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm")]
    old = r"[^/]+/\d\d-\d\d-\d{4}-DDSM-\d{5}/1-[a-zROI ]+-\d{5}/00000[01]\.dcm"
    new = r"[^/]+/\d\d-\d\d-\d{4}-DDSM-\d{5}/1\.000000-[a-zROI ]+-\d{5}/1-[12]\.dcm"
    matches = Counter((re.fullmatch(old, name) is not None, re.fullmatch(new, name) is not None) for name in names)
    assert set(matches) == {(True, False), (False, True)}


def test_tables_have_the_quirks_of_the_real_ones(phantoms: Phantoms) -> None:
    for table in TABLES:
        path = phantoms[0] / "cbis-ddsm" / table
        rows = pd.read_csv(path, keep_default_na=False)
        # A line break inside the quotes of one path in every row.
        assert path.read_text().count("\n") == 1 + 2 * len(rows)
        broken = "ROI mask file path" if table.startswith("mass") else "cropped image file path"
        for column in ("image file path", "cropped image file path", "ROI mask file path"):
            assert all(value.endswith("\n") == (column == broken) for value in rows[column])
            assert all(len(value.split("/")) == 4 for value in rows[column])
    assert len(read_tables(phantoms[0])) > 0
    assert len(pd.read_csv(phantoms[0] / "cbis-ddsm" / "mass_case_description_test_set.csv")) > 0


@pytest.mark.parametrize("table", TABLES)
def test_table_headers_and_words_are_those_of_the_real_tables(phantoms: Phantoms, realdata: Path, table: str) -> None:
    real = realdata / "cbis_csv" / table
    made = phantoms[0] / "cbis-ddsm" / table
    assert made.read_text().splitlines()[0] == real.read_text().splitlines()[0]
    both = realdata / "cbis_csv" / table.replace("_test_", "_train_")
    known, rows = pd.read_csv(both, keep_default_na=False), pd.read_csv(made, keep_default_na=False)
    for column in rows.columns[1:11]:
        assert set(rows[column]) <= set(known[column]), column


def test_findings_of_cbis_ddsm_agree_with_truth(
    phantoms: Phantoms, findings: pd.DataFrame, by_series: dict[str, list[pydicom.Dataset]]
) -> None:
    out = phantoms[0]
    truth = findings.set_index("finding_id")
    listed_right = Counter()
    rows = read_tables(out)
    for row in rows.to_dict("records"):
        paths = [
            row[column].strip().split("/")
            for column in ("image file path", "cropped image file path", "ROI mask file path")
        ]
        (full,) = by_series[paths[0][2]]
        assert (full.PatientID, full.StudyInstanceUID) == (paths[0][0], paths[0][1])
        kind = "mass" if row["abnormality type"] == "mass" else "calc"
        image_id = f"cbis-ddsm_{row['patient_id']}_{row['left or right breast']}_{row['image view']}_{kind}"
        finding = truth.loc[f"{image_id}_{row['abnormality id']}"]
        assert (finding["abnormality"], finding["pathology"]) == (row["abnormality type"], row["pathology"])
        images = {id(image): image for path in paths[1:] for image in by_series[path[2]]}.values()
        assert {image.PatientID for image in images} == {f"{paths[0][0]}_{row['abnormality id']}"}
        (mask,) = (image for image in images if image.BitsAllocated == 8)
        (crop,) = (image for image in images if image.BitsAllocated == 16)

        roi = truth_mask(out, f"{finding.name}.roi")
        np.testing.assert_array_equal(mask.pixel_array, roi)
        assert cv2.boundingRect(roi) == (finding["x"], finding["y"], finding["width"], finding["height"])
        film, cut = full.pixel_array, crop.pixel_array
        assert film.shape == roi.shape
        found = cv2.matchTemplate(film.astype(np.float32), cut.astype(np.float32), cv2.TM_SQDIFF)
        y, x = np.unravel_index(int(np.argmin(found)), found.shape)
        np.testing.assert_array_equal(film[y : y + cut.shape[0], x : x + cut.shape[1]], cut)
        assert 0 < finding["y"] - y < 0.2 * max(cut.shape)
        assert 0 < finding["x"] - x < 0.2 * max(cut.shape)
        assert y + cut.shape[0] > finding["y"] + finding["height"]
        assert x + cut.shape[1] > finding["x"] + finding["width"]
        if paths[1][2] == paths[2][2]:
            number = int(paths[2][3].removesuffix(".dcm"))
            listed_right[kind, int(mask.InstanceNumber) == number + 1] += 1
    assert len(rows) == sum(findings["image_id"].str.startswith("cbis-ddsm"))
    assert listed_right["calc", False] > listed_right["calc", True]
    assert listed_right["mass", False] > 0
    assert listed_right["mass", True] > 0


def follow(line: str) -> NDArray[np.int32]:
    """Points x, y of a Freeman chain as DDSM writes it."""
    words = line.split()
    assert words[-1] == "#"
    steps = {0: (0, -1), 1: (1, -1), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (-1, 1), 6: (-1, 0), 7: (-1, -1)}
    points = np.cumsum([(int(words[0]), int(words[1])), *(steps[int(word)] for word in words[2:-1])], axis=0)
    assert tuple(points[0]) == tuple(points[-1]), "the chain does not close"
    return points.astype(np.int32)


def test_ddsm_cases_agree_with_truth(phantoms: Phantoms, films: pd.DataFrame, findings: pd.DataFrame) -> None:
    out = phantoms[0]
    cases = sorted((out / "ddsm").rglob("*.ics"))
    seen = 0
    for ics in cases:
        text = ics.read_text()
        assert f"filename {ics.stem}\n" in text
        views = re.findall(
            r"^(LEFT|RIGHT)_(CC|MLO) LINES (\d+) PIXELS_PER_LINE (\d+) "
            r"BITS_PER_PIXEL (\d+) RESOLUTION ([\d.]+) (OVERLAY|NON_OVERLAY)$",
            text,
            re.MULTILINE,
        )
        assert len(views) == 4
        for side, view, lines, pixels_per_line, bits, _, marked in views:
            stem = f"{ics.stem.replace('-', '_')}.{side}_{view}"
            film = films.loc[f"ddsm_{ics.stem}_{side}_{view}"]
            pixels = decode((ics.parent / f"{stem}.LJPEG").read_bytes())
            assert pixels.shape == (int(lines), int(pixels_per_line)) == (film["rows"], film["columns"])
            assert pixels.max() < 2 ** int(bits)
            assert int(bits) == (16 if film["scanner"] == "DBA" else 12)
            overlay = ics.parent / f"{stem}.OVERLAY"
            assert overlay.exists() == (marked == "OVERLAY") == bool((findings["image_id"] == film.name).any())
            if overlay.exists():
                seen += 1
                check_overlay(out, overlay, findings[findings["image_id"] == film.name])
    assert seen == sum(findings["image_id"].str.startswith("ddsm")) > 0
    assert 4 * len(cases) == sum(films["source"] == "ddsm")


def check_overlay(out: Path, overlay: Path, findings: pd.DataFrame) -> None:
    lines = overlay.read_text().splitlines()
    assert lines[0] == f"TOTAL_ABNORMALITIES {len(findings)}"
    boundaries = [lines[number + 1] for number, line in enumerate(lines) if line == "BOUNDARY"]
    total = sum(int(line.split()[1]) for line in lines if line.startswith("TOTAL_OUTLINES"))
    assert total == sum(line.endswith("#") for line in lines)
    for boundary, finding in zip(boundaries, findings.to_dict("records"), strict=True):
        assert f"PATHOLOGY {finding['pathology']}" in lines
        roi = truth_mask(out, f"{finding['finding_id']}.roi")
        filled = np.zeros_like(roi)
        cv2.fillPoly(filled, [follow(boundary)], 255)
        np.testing.assert_array_equal(filled, roi)


SCANNERS = [
    Scanner("DBA", "DBA M2100", "A", 16, "42"),
    Scanner("HOWTEK", "HOWTEK 43.5", "A", 12, "43.5"),
    Scanner("LUMISYS", "LUMISYS LASER", "B", 12, "50"),
    Scanner("HOWTEK", "HOWTEK 43.5", "D", 12, "43.5"),
]


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.name + scanner.institution)
def test_grey_levels_give_the_film_back(scanner: Scanner) -> None:
    pixels = np.repeat(np.arange(65536, dtype=np.uint16), 2).reshape(256, 512)
    pixels[:32] = 0
    levels = grey_levels(pixels, scanner, np.random.default_rng(1)).astype(float)
    # DDSM's published calibrations, grey level to optical density.
    density = {
        "DBAA": lambda gl: (np.log10(np.maximum(gl, 4)) - 4.80662) / -1.07553,
        "HOWTEKA": lambda gl: 3.789 - 0.00094568 * gl,
        "LUMISYSB": lambda gl: (gl - 4096.99) / -1009.01,
        "HOWTEKD": lambda gl: 3.96604095240593 - 0.00099055807612 * gl,
    }[scanner.name + scanner.institution]
    back = (3.0 - np.clip(density(levels), 0.05, 3.0)) / 2.95 * 65535
    # Half a grey level, as grey of CBIS-DDSM.
    step = np.abs(density(levels + 0.5) - density(levels)) / 2.95 * 65535
    error = np.abs(back - pixels)[pixels > 0]
    assert (error <= 1.02 * step[pixels > 0] + 0.5).all()
    assert (back[pixels == 0] <= 1.02 * step[pixels == 0]).all()
    assert levels.max() < 2**scanner.bits


def test_breast_truth_is_brighter_than_the_film_around_it(
    phantoms: Phantoms, films: pd.DataFrame, findings: pd.DataFrame
) -> None:
    out = phantoms[0]
    for path in sorted((out / "cbis-ddsm").rglob("*.dcm")):
        if "full" not in path.parent.name:
            continue
        dataset = pydicom.dcmread(path)
        name = re.fullmatch(r"(Mass|Calc)-\w+?_(P_\d+_\w+)", dataset.PatientID)
        assert name is not None
        image_id = f"cbis-ddsm_{name[2]}_{name[1].lower()}"
        breast = truth_mask(out, f"{image_id}.breast") > 0
        pixels = dataset.pixel_array
        assert pixels.shape == breast.shape == tuple(films.loc[image_id, ["rows", "columns"]])
        assert 0.1 < breast.mean() < 0.8
        assert np.median(pixels[breast]) > 3 * np.median(pixels[~breast])
        assert np.median(pixels[~breast]) > 0
        assert np.percentile(pixels[breast], 99.5) < 65535
        columns = np.flatnonzero(breast.any(axis=0))
        chest_wall = columns[0] if dataset.Laterality == "L" else breast.shape[1] - 1 - columns[-1]
        assert chest_wall < 0.04 * breast.shape[1]
        for finding_id in findings.loc[findings["image_id"] == image_id, "finding_id"]:
            roi = truth_mask(out, f"{finding_id}.roi") > 0
            assert breast[roi].all()


def test_lesions_stand_out_and_malignant_ones_more() -> None:
    def contrast(pathology: str, margins: str, seed: int) -> float:
        lesion = Lesion(1, Abnormality.MASS, pathology, 12.0, "OVAL", margins, 4, 4)
        plan = FilmPlan(Laterality.LEFT, View.CC, (lesion,))
        film = make_film(np.random.default_rng(seed), plan, 1, 0.7, **SIZE)
        (placed,) = film.lesions
        roi = placed.roi.on_film(*film.pixels.shape)
        ring = cv2.dilate(roi, np.ones((15, 15), np.uint8)) & ~cv2.dilate(roi, np.ones((7, 7), np.uint8))
        core = cv2.erode(roi, np.ones((9, 9), np.uint8))
        return float(film.pixels[core > 0].mean() - film.pixels[ring > 0].mean()) / 65535

    benign = [contrast("BENIGN", "CIRCUMSCRIBED", seed) for seed in range(5)]
    malignant = [contrast("MALIGNANT", "SPICULATED", seed) for seed in range(5)]
    assert 0.05 < np.mean(benign) < np.mean(malignant) < 0.4


def test_plan_of_many_patients() -> None:
    patients = [plan_patient(3, index) for index in range(400)]
    assert patients[:50] == [plan_patient(3, index) for index in range(50)]
    cbis = [patient for patient in patients if isinstance(patient, CbisPatient)]
    ddsm = [patient for patient in patients if isinstance(patient, DdsmPatient)]
    assert len(cbis) == len(ddsm) == 200
    assert len({patient.patient_id for patient in patients}) == 400
    assert len({patient.folder for patient in ddsm}) == 200

    assert sum("Test" in patient.parts.values() for patient in cbis) == pytest.approx(40, abs=6)
    twins = [patient for patient in cbis if len(patient.parts) == 2]
    assert 5 <= len(twins) <= 15
    assert any(len(set(patient.parts.values())) == 2 for patient in twins), "in both official parts"
    assert all(len(film.lesions) >= 2 for patient in twins for film in patient.films)
    sides = Counter(len({film.laterality for film in patient.films}) for patient in cbis)
    assert sides[1] > 4 * sides[2] > 0
    assert any(len(patient.films) == 1 for patient in cbis)
    numbers = [
        [lesion.number for lesion in film.lesions if lesion.abnormality is kind]
        for patient in cbis
        for film in patient.films
        for kind in patient.parts
    ]
    assert [1, 2] in numbers
    assert [1, 3] in numbers
    diameters = [lesion.diameter_mm for patient in patients for film in patient.films for lesion in film.lesions]
    assert 5 <= min(diameters) < 12.8 < max(diameters) <= 30

    assert sum(patient.normal for patient in ddsm) == 150
    normals = Counter(patient.scanner.name for patient in ddsm if patient.normal)
    abnormal = Counter(patient.scanner.name for patient in ddsm if not patient.normal)
    assert normals["DBA"] / 150 > 0.4 > 0.2 > abnormal["DBA"] / 50 > 0
    assert all(len(patient.films) == 4 for patient in ddsm)
    folders = {patient.folder.split("/")[0] for patient in ddsm}
    assert folders == {"normals", "cancers", "benigns", "benign_without_callbacks"}


def test_loaders_find_what_truth_says(phantoms: Phantoms, films: pd.DataFrame, findings: pd.DataFrame) -> None:
    out = phantoms[0]
    sources = list_sources([SourceSettings(kind=kind, path=str(out / kind)) for kind in ("cbis-ddsm", "ddsm")])
    assert all(source.phantom for source in sources)
    inventories = [assemble(source, dict(read_headers(source.kind, source.with_headers))) for source in sources]
    assert not [reject for inventory in inventories for reject in inventory.rejects]
    scans = {scan.image_id: scan for inventory in inventories for scan in inventory.scans}
    assert set(scans) == set(films.index)
    columns = ("patient_id", "laterality", "view", "rows", "columns", "density", "normal", "scanner")
    for image_id, film in films.iterrows():
        assert [getattr(scans[str(image_id)], name) for name in columns] == [film[name] for name in columns]
    found = {finding.finding_id: finding for inventory in inventories for finding in inventory.findings}
    assert set(found) == set(findings["finding_id"])
    for truth in findings.to_dict("records"):
        finding = found[truth["finding_id"]]
        assert (finding.label.title, finding.pathology_listed) == (truth["label_name"], truth["pathology"])
