"""The report page, on small run folders made here."""

import base64
import dataclasses
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mammo_etl import film_pictures, report
from mammo_etl.breast import find_breast
from mammo_etl.catalog import write_table
from mammo_etl.cleaning import blacken
from mammo_etl.png import decode_png, encode_png
from mammo_etl.records import (
    REASONS,
    VERDICTS,
    Abnormality,
    Box,
    Finding,
    Label,
    Laterality,
    Patch,
    Pathology,
    Reason,
    Rejection,
    RoiFlag,
    RoiKind,
    Scan,
    Verdict,
    View,
)
from mammo_etl.roi import Region, region_to_json
from mammo_etl.schema import from_rows, to_table
from mammo_etl.settings import BuildSettings, CleaningSettings
from mammo_etl.workspace import write_bytes, write_json

PHANTOM = "they say nothing about medicine"
DASH = "\N{EN DASH}"
HOSTILE = "<script>alert('x')&"


@dataclasses.dataclass(frozen=True)
class Made:
    """A film to be put in a run, with a square finding of `roi` pixels unless its label is normal or none."""

    label: Label | None = Label.NORMAL
    patient: str = "P1"
    split: str = "train"
    source: str = "ddsm"
    view: View = View.CC
    scanner: str = "HOWTEK"
    patches: int = 1
    roi: int = 40
    rows: int = 840
    columns: int = 420
    quality: tuple[float, float, float] = (0.3, 0.95, 0.2)
    """Share of the film, solidity, border contact."""
    image: NDArray[np.uint8] | None = None
    name: str = ""


def breast(rows: int, columns: int) -> NDArray[np.uint8]:
    """The lower right quarter of a film, bright."""
    return np.full((rows - rows // 2, columns - columns // 2), 180, np.uint8)


def make_run(folder: Path, films: Sequence[Made], rejects: Sequence[Rejection] = ()) -> tuple[Path, Path]:
    """Writes tables, images and receipts; returns run folder and images folder."""
    run, images = folder / "runs" / "r1", folder / "images" / "d"
    scans: list[Scan] = []
    findings: list[Finding] = []
    patches: list[Patch] = []
    for number, film in enumerate(films):
        name = film.name or f"{film.source}_{film.patient}_{number:03d}"
        image = breast(film.rows, film.columns) if film.image is None else film.image
        box = [film.rows - image.shape[0], film.columns - image.shape[1], *image.shape]
        common: dict[str, Any] = {"source": film.source, "patient_id": film.patient, "image_id": name}
        scan = Scan(
            **common,
            laterality=Laterality.LEFT,
            view=film.view,
            normal=film.label is Label.NORMAL,
            path=f"/very/secret/{name}.LJPEG",
            rows=film.rows,
            columns=film.columns,
            bits=12,
            scanner=film.scanner,
            pixel_um=50.0,
        )
        scans.append(scan)
        regions = []
        if film.label:
            pathology, _, kind = film.label.name.partition("_")
            finding = Finding(
                **common,
                finding_id=f"{name}_1",
                abnormality=Abnormality(kind.lower()),
                pathology=Pathology(pathology),
                pathology_listed=pathology,
                label=film.label,
                roi_kind=RoiKind.OUTLINE,
            )
            findings.append(finding)
            mask = np.full((film.roi, film.roi), 255, np.uint8)
            regions.append(
                region_to_json(Region(finding.finding_id, film.label, Box(500, 300, film.roi, film.roi), mask))
            )
        if film.label is not None:
            patches += [
                Patch(
                    **common,
                    row=len(patches) + i,
                    patch_id=f"{name}_{i}",
                    run_id="r1",
                    laterality="LEFT",
                    view=film.view,
                    split=film.split,
                    label=film.label,
                    label_name=film.label.title,
                    finding_id=f"{name}_1" if film.label else "",
                    finding_ids=(f"{name}_1",) if film.label else (),
                    origin="centre",
                    y=480,
                    x=280,
                    size=64,
                    roi_fraction=1.0,
                    roi_coverage=0.4,
                    breast_fraction=1.0,
                    mean=100.0,
                    std=5.0,
                    scanner=film.scanner,
                )
                for i in range(film.patches)
            ]
        write_bytes(images / f"{name}.png", encode_png(image))
        write_json(
            images / f"{name}.json", {"box": box, "quality": quality(*film.quality), "regions": regions, "rejects": []}
        )
    write_table(run / "scans.parquet", to_table(scans, Scan))
    write_table(run / "findings.parquet", to_table(findings, Finding))
    write_table(run / "rejects.parquet", to_table(rejects, Rejection))
    write_table(run / "patches.parquet", to_table(patches, Patch))
    return run, images


def leak(method: str, *counts: int, chosen: bool = False) -> dict[str, Any]:
    patients, films, pairs = counts or (0, 0, 0)
    return {"method": method, "chosen": chosen, "patients": patients, "films": films, "patch_pairs": pairs}


def of_class(label: int, value: Any, split: str = "all", patches: int = 1) -> dict[str, Any]:
    return {"split": split, "label": label, "value": value, "patches": patches, "films": patches, "patients": 1}


NOTHING_TOLD: dict[str, Any] = {
    "folds": 5,
    "resamples": 1000,
    "level": 0.95,
    "tables": {"source": [], "scanner": [], "bits": [], "size": []},
    "told": [],
    "warnings": [],
}


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": "20260102-0123456789abcdef",
        "parent": None,
        "sources": [
            {"kind": "ddsm", "paths": ["/very/secret/ddsm-folder/", "s3://bucket/more"], "films": 3, "findings": 2}
        ],
        "settings": BuildSettings().model_dump(mode="json"),
        "timings": [{"stage": "convert", "seconds": 4.0, "items": 10, "unit": "films", "skipped": 3}],
        "phantom": False,
        "warnings": [],
        "leaks": [leak("patient", chosen=True)],
        "confounds": NOTHING_TOLD,
        **changes,
    }


def page_of(folder: Path, films: Sequence[Made], rejects: Sequence[Rejection] = (), **changes: Any) -> str:
    run, images = make_run(folder, films, rejects)
    report.write_report(run, images, manifest(**changes))
    return (run / "report.html").read_text(encoding="utf-8")


def plain(page: str) -> str:
    """What a reader sees: no tags, single spaces."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def row_of(page: str, heading: str) -> list[str]:
    """Cells of the first table row with that heading."""
    match = re.search(rf"<tr[^>]*><th scope=\"row\">(?:<i[^>]*></i>)?{re.escape(heading)}.*?</tr>", page, re.DOTALL)
    assert match, heading
    return re.findall(r"<td[^>]*>(.*?)</td>", match[0], re.DOTALL)


def reject(number: int, message: str = "It ends early.") -> Rejection:
    path = f"zip://deep/film{number}.pgm::/very/secret/all.zip"
    return Rejection(stage="inventory", code=Reason.TRUNCATED_FILE, message=message, source="ddsm", path=path)


ALL_CLASSES = [
    Made(Label.NORMAL, "P1", patches=17),
    Made(Label.BENIGN_CALCIFICATION, "P2", patches=2),
    Made(Label.BENIGN_MASS, "P3", source="cbis-ddsm", scanner=""),
    Made(Label.MALIGNANT_CALCIFICATION, "P4", "validation", view=View.MLO),
    Made(Label.MALIGNANT_MASS, "P5", "test", roi=300),
]


class Tags(HTMLParser):
    """Every tag, and every address in an attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"href", "src", "srcset", "xlink:href"}]


def test_it_states_counts_classes_and_splits(tmp_path: Path) -> None:
    page = page_of(tmp_path, ALL_CLASSES)
    text = plain(page)
    assert "20260102-0123456789abcdef" in text
    assert "Research software, not a medical device" in text
    assert re.findall(r"<dt>(\w+)</dt><dd>(\d+)</dd>", page) == [
        ("films", "5"),
        ("patients", "5"),
        ("findings", "4"),
        ("patches", "22"),
        ("rejects", "0"),
    ]
    assert row_of(page, "Normal") == ["17", "0", "0", "17"]
    assert row_of(page, "Malignant Mass") == ["0", "0", "1", "1"]
    assert row_of(page, "normal, share reached") == ["85.0%", "0.0%", "0.0%", "77.3%"]
    assert row_of(page, "normal, share asked for") == ["85.0%"] * 4
    assert row_of(page, "patients with patches") == ["3", "1", "1", "5"]
    assert "no patient is in two splits" in text
    assert "Located findings without a patch: 0" in text
    assert 'class="alarm"' not in page


def test_findings_have_sizes_in_pixels_and_millimetres(tmp_path: Path) -> None:
    page = page_of(tmp_path, ALL_CLASSES)
    sizes = page[page.index("Sizes of the located findings") :]
    # Squares of 40 and 300 pixels: 2 * side / sqrt(pi) is the diameter; a pixel is 50 um.
    assert row_of(sizes, "Malignant Mass") == ["1", "339 / 339 / 339", "16.9 / 16.9 / 16.9", "1 / 1 / 1"]
    assert row_of(sizes, "all") == ["4", "45 / 45 / 339", "2.3 / 2.3 / 16.9", "1 / 1 / 2"]
    assert re.search(r"<span>256 to 512</span>.*?<span>1</span>", sizes, re.DOTALL)


def test_every_class_source_and_view_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, ALL_CLASSES)
    films = page[page.index("Some films") :]
    for number, film in enumerate(ALL_CLASSES):
        assert f"<b>{film.source}_{film.patient}_{number:03d}</b>" in films
    for label in Label:
        assert f'class="patches c{label:d}"' in films
        assert label is Label.NORMAL or f'class="roi c{label:d}"' in films


def test_phantoms_and_warnings_are_shouted(tmp_path: Path) -> None:
    assert PHANTOM not in page_of(tmp_path / "a", ALL_CLASSES)
    page = page_of(tmp_path / "b", ALL_CLASSES, phantom=True, warnings=["All normal films are DBA."], parent="r0")
    assert PHANTOM in page
    assert "published before it: <code>r0</code>" in page
    assert "<li>All normal films are DBA.</li>" in page


def test_a_patient_in_two_splits_is_shouted(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(patient="P7"), Made(patient="P7", split="test"), Made(patient="P8")])
    assert "Patients in two splits (1): ddsm P7<" in page
    assert "no patient is in two splits" not in page


def test_patients_of_two_sources_may_share_a_name(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(patient="P7"), Made(patient="P7", split="test", source="mini-mias")])
    assert "no patient is in two splits" in page


def test_a_located_finding_without_a_patch_is_shouted(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(), Made(Label.BENIGN_MASS, "P2", patches=0)])
    assert "Located findings without a patch (1): ddsm_P2_001_1<" in page
    assert "Located findings without a patch: 1" in plain(page)


def test_it_says_what_crosses_the_splits_under_each_method(tmp_path: Path) -> None:
    leaks = [leak("patient"), leak("official", chosen=True), leak("patch", 1200, 1300, 45678)]
    leaks.append(leak("official-as-listed", 31, 29, 7))
    page = page_of(tmp_path, ALL_CLASSES, leaks=leaks)
    section = page[page.index("What crosses the splits") :]
    assert row_of(section, "official (this run)")[:3] == ["0", "0", "0"]
    assert row_of(section, "patch")[:3] == ["1,200", "1,300", "45,678"]
    assert row_of(section, "official-as-listed")[:3] == ["31", "29", "7"]
    assert section.count("(this run)") == 1


def test_it_says_how_well_the_class_is_told_without_the_lesion(tmp_path: Path) -> None:
    figures = {
        "accuracy": {"value": 0.851, "low": 0.842, "high": 0.861, "chance": 0.85},
        "balanced_accuracy": {"value": 0.785, "low": 0.74, "high": 0.83, "chance": 0.5},
    }
    nothing = {"accuracy": None, "balanced_accuracy": None, "above_chance": False}
    source = {"task": "binary", "clue": "source", **nothing, "cannot": "cannot be told: all films are of one source"}
    scanner = {"task": "binary", "clue": "scanner", **figures, "above_chance": True, "cannot": ""}
    size = {"split": "all", "label": 2, "films": 1, "rows": [4000.0, 4500.0, 5000.0], "columns": [3000.0] * 3}
    tables = {
        "source": [of_class(0, "ddsm", patches=17), of_class(2, "cbis-ddsm"), of_class(2, "cbis-ddsm", "train")],
        "scanner": [of_class(0, "ddsm: DBA MGH", patches=17)],
        "bits": [of_class(0, 16, patches=17)],
        "size": [size, {**size, "split": "train"}],
    }
    confounds = {**NOTHING_TOLD, "tables": tables, "told": [source, scanner], "warnings": ["the scanner tells"]}
    page = page_of(tmp_path, ALL_CLASSES, confounds=confounds)
    section = page[page.index("What tells the class") :]
    assert "all films are of one source" in row_of(section, "the source")[0]
    cells = [plain("<body>" + cell).strip() for cell in row_of(section, "the scanner")]
    assert cells == ["85.1% (84.2% to 86.1%)", "85.0%", "78.5% (74.0% to 83.0%)", "50.0%", "yes"]
    assert row_of(section, "ddsm: DBA MGH") == ["100.0%", DASH, DASH, DASH, DASH]
    assert row_of(section, "cbis-ddsm")[2] == "100.0%"
    assert row_of(section, "rows")[2] == "4,000 / 4,500 / 5,000"
    assert row_of(section, "train") == ["cbis-ddsm", DASH, DASH, "1 / 1 / 1", DASH, DASH]
    # It is among the run's warnings; the page does not say it twice.
    assert "the scanner tells" not in page


def test_verdicts_and_flags_have_their_meaning(tmp_path: Path) -> None:
    films = [Made(), *(Made(Label.BENIGN_MASS, f"P{i}") for i in range(2, 6))]
    run, images = make_run(tmp_path, films)
    findings = from_rows(pq.read_table(run / "findings.parquet").to_pylist(), Finding)
    findings[0] = dataclasses.replace(findings[0], verdict=Verdict.RESCALED, match_score=0.9312)
    findings[1] = dataclasses.replace(findings[1], match_score=0.99, roi_flags=(RoiFlag.CLIPPED, RoiFlag.OPEN))
    findings[2] = dataclasses.replace(findings[2], roi_flags=(RoiFlag.OPEN,))
    write_table(run / "findings.parquet", to_table(findings, Finding))
    report.write_report(run, images, manifest())
    page = (run / "report.html").read_text(encoding="utf-8")
    assert row_of(page, "rescaled") == ["1", "0", "1", "0", "0", VERDICTS[Verdict.RESCALED]]
    assert row_of(page, "as-listed")[0] == "3"
    assert row_of(page, "quarantined")[0] == "0"
    assert row_of(page, "open")[0] == "2"
    assert row_of(page, "clipped")[0] == "1"
    assert "miscounted" not in page
    assert "films of 2 findings" in page
    assert "0.931 / 0.961 / 0.990" in page


@pytest.mark.parametrize("flag", RoiFlag)
def test_every_flag_can_be_shown(flag: RoiFlag) -> None:
    finding = Finding(
        finding_id="f",
        image_id="i",
        source="ddsm",
        patient_id="p",
        abnormality=Abnormality.MASS,
        pathology=Pathology.BENIGN,
        pathology_listed="BENIGN",
        label=Label.BENIGN_MASS,
        roi_kind=RoiKind.OUTLINE,
        roi_flags=(flag,),
    )
    assert [(name, count) for name, count, _ in report._flag_rows([finding])] == [(flag, 1)]


def test_rejects_are_explained_with_a_few_examples(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made()], [reject(0, "x" * 5000), *(reject(i) for i in range(1, 9))])
    assert REASONS[Reason.TRUNCATED_FILE] in page
    assert row_of(page, "truncated-file")[0] == "9"
    assert [f"film{i}.pgm" in page for i in range(9)] == [True] * 5 + [False] * 4
    assert "and 4 more" in page
    assert "x" * 1000 not in page


def test_without_rejects_it_says_so(tmp_path: Path) -> None:
    assert "Nothing was rejected." in page_of(tmp_path, [Made()])


def test_without_abnormal_films_it_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(patient="P1"), Made(patient="P2")])
    assert "The run has no finding" in page
    assert "The run has no abnormal patch" in page


def test_one_film_is_shown_once(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(Label.BENIGN_MASS)], timings=[])
    assert page.count("<figure") == 1
    assert "doubtful" not in page
    assert "No timings were recorded." in page


def test_a_film_without_patch_or_place_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(), Made(None, "P2", view=View.MLO)])
    assert "0 patches" in page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    films = [Made(Label.BENIGN_MASS, HOSTILE, source=HOSTILE, scanner=HOSTILE, name=HOSTILE), Made(patches=0)]
    settings = BuildSettings().model_dump(mode="json") | {HOSTILE: {HOSTILE: HOSTILE}}
    page = page_of(
        tmp_path,
        films,
        [reject(1, HOSTILE), dataclasses.replace(reject(2), stage=HOSTILE, path=f"/data/{HOSTILE}")],
        run_id=HOSTILE,
        sources=[{"kind": HOSTILE, "paths": [f"/data/{HOSTILE}"], "films": 1, "findings": 1}],
        settings=settings,
        timings=[{"stage": HOSTILE, "seconds": 0.0, "items": 1, "unit": HOSTILE, "skipped": 0}],
        warnings=[HOSTILE],
    )
    assert "script" not in Tags(page).tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 12


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = page_of(tmp_path, ALL_CLASSES, [reject(1)])
    found = Tags(page)
    assert not re.search(r"https?://|//\w+\.", page)
    assert not {"script", "link", "iframe", "img", "a"} & set(found.tags)
    assert found.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in found.addresses)
    assert "@import" not in page
    assert "url(" not in page


def test_it_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    rejects = [reject(1, "/very/secret/x.ics: LINES is missing."), reject(2)]
    page = page_of(tmp_path, ALL_CLASSES, rejects, warnings=["see /very/secret/notes.txt"])
    assert "secret" not in page
    assert "ddsm-folder, more" in page
    assert "x.ics: LINES is missing." in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/films/a.dcm: bad", "a.dcm: bad"),
        ("could not open '/data/films/a.dcm'", "could not open 'a.dcm'"),
        ("CC/MLO and 3/4/5", "CC/MLO and 3/4/5"),
        ("s3://bucket/key/a.dcm", "s3://bucket/key/a.dcm"),
    ],
)
def test_only_absolute_folders_are_cut_from_messages(text: str, expected: str) -> None:
    assert report.without_folders(text) == expected


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    rejects = [reject(1)]
    assert page_of(tmp_path / "a", ALL_CLASSES, rejects) == page_of(tmp_path / "b", ALL_CLASSES, rejects)


def test_the_page_stays_small_with_the_worst_of_films(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 256, (420, 420), dtype=np.uint8)
    film = Made(Label.BENIGN_MASS, rows=420, columns=420, image=noise, roi=20)
    films = [
        dataclasses.replace(film, patient=f"P{i}", patches=40, quality=(i / 60, i / 60, i / 60)) for i in range(60)
    ]
    page = page_of(tmp_path, films, [reject(i, "y" * 400) for i in range(500)])
    assert page.count("<figure") == 20
    assert len(page.encode()) < 3_000_000


def test_the_picture_is_the_whole_film_to_scale(tmp_path: Path) -> None:
    page = page_of(tmp_path, [Made(Label.BENIGN_MASS)])
    assert 'viewBox="0 0 210 420"' in page
    address = Tags(page).addresses[0].partition(",")[2]
    image = decode_png(base64.b64decode(address))
    assert image.shape == (420, 210)
    assert abs(float(image[215:, 110:].mean()) - 180) < 3
    assert float(image[:205].mean()) < 3
    assert float(image[:, :100].mean()) < 3

    def corners(kind: str) -> list[tuple[float, float]]:
        path = re.search(rf'<path class="{kind}" d="([^"]*)"', page)
        assert path
        return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path[1])]

    roi = corners("roi c2")
    assert (min(roi), max(roi)) == ((150.2, 250.2), (169.8, 269.8))
    mask = corners("breast")
    assert (min(mask), max(mask)) == ((105.2, 210.2), (209.8, 419.8))
    assert 'class="patches c2" d="M140.0 240.0h32.0v32.0h-32.0Z"' in page


def test_a_missing_receipt_raises_and_leaves_no_page(tmp_path: Path) -> None:
    run, images = make_run(tmp_path, ALL_CLASSES)
    next(images.glob("*.json")).unlink()
    with pytest.raises(FileNotFoundError):
        report.write_report(run, images, manifest())
    assert not list(run.glob("*report*"))


def scan(name: str, source: str = "ddsm", view: View = View.CC, scanner: str = "DBA") -> Scan:
    return Scan(
        image_id=name,
        source=source,
        patient_id=name,
        laterality=Laterality.LEFT,
        view=view,
        normal=False,
        path="",
        rows=10,
        columns=10,
        bits=12,
        scanner=scanner,
    )


def test_rare_films_are_chosen_among_thousands() -> None:
    scans = [scan(f"c{i:04d}") for i in range(3000)]
    classes = {item.image_id: {0} for item in scans}
    rare = [
        scan("rare-source", source="mini-mias"),
        scan("rare-view", view=View.MLO),
        *(scan(f"rare-class-{label}") for label in range(1, 5)),
        scan("rare-scanner", scanner="LUMISYS"),
    ]
    classes |= {item.image_id: {int(item.image_id[-1])} for item in rare if item.image_id.startswith("rare-class")}
    chosen = film_pictures.choose_films([*scans, *rare], classes, ())
    assert {item.image_id for item in rare} <= set(chosen)
    assert len(chosen) == len(set(chosen)) == 12
    assert film_pictures.choose_films([*rare, *reversed(scans)], classes, ()) == chosen


def test_films_shown_elsewhere_are_chosen_only_for_what_no_other_has() -> None:
    scans = [scan(f"c{i}") for i in range(5)] + [scan("only-mlo", view=View.MLO)]
    chosen = film_pictures.choose_films(scans, {}, {"c0", "only-mlo"})
    assert set(chosen) == {"c1", "c2", "c3", "c4", "only-mlo"}


def quality(
    area: float = 0.3, solidity: float = 0.95, border: float = 0.2, agreement: float = 0.9, contrast: float = 0.8
) -> dict[str, float]:
    figures = {"area_share": area, "solidity": solidity, "border_contact": border}
    return {**figures, "agreement": agreement, "contrast": contrast}


def test_doubtful_masks_are_the_extremes_with_their_figures() -> None:
    films = {f"good{i}": quality() for i in range(20)}
    films |= {"rough": quality(solidity=0.7), "edge": quality(border=0.5)}
    films |= {"ragged": quality(solidity=0.5), "frame": quality(border=0.9)}
    films |= {"tiny": quality(area=0.01), "huge": quality(area=0.97), "lost": quality(agreement=0.1)}
    films |= {"cut": quality(contrast=0.2)}
    assert list(film_pictures.doubtful_masks(films).items()) == [
        ("cut", "least contrast at the outline: 0.200 (median of the run: 0.800)"),
        ("lost", "least agreement of the two methods: 0.100 (median of the run: 0.900)"),
        ("ragged", "lowest solidity: 0.500 (median of the run: 0.950)"),
        ("frame", "most border contact: 0.900 (median of the run: 0.200)"),
        ("tiny", "smallest share of the film: 0.010 (median of the run: 0.300)"),
        ("huge", "largest share of the film: 0.970 (median of the run: 0.300)"),
        ("rough", "lowest solidity: 0.700 (median of the run: 0.950)"),
        ("edge", "most border contact: 0.500 (median of the run: 0.200)"),
    ]


def test_a_figure_that_is_the_same_everywhere_makes_no_mask_doubtful() -> None:
    assert film_pictures.doubtful_masks({f"f{i}": quality() for i in range(9)}) == {}


def test_no_more_than_eight_or_half_of_the_films_are_doubtful() -> None:
    many = {f"f{i:02d}": quality(i / 100, i / 100, i / 100) for i in range(50)}
    assert len(film_pictures.doubtful_masks(many)) == 8
    assert len(film_pictures.doubtful_masks(dict(list(many.items())[:5]))) == 2
    assert film_pictures.doubtful_masks({"one": quality()}) == {}


def test_a_real_film(tmp_path: Path, realdata: Path) -> None:
    grey = np.asarray(cv2.imread(str(realdata / "cbis_png" / "P_00060_RIGHT_CC.png"), cv2.IMREAD_GRAYSCALE), np.uint8)
    found = find_breast(grey, CleaningSettings())
    assert found is not None
    run, images = make_run(tmp_path, [Made(rows=grey.shape[0], columns=grey.shape[1], name="real")])
    box = found.box
    cut = slice(box.y, box.bottom), slice(box.x, box.right)
    write_bytes(images / "real.png", encode_png(blacken(grey[cut], found.mask[cut])))
    measured = quality(found.area_share, found.solidity, found.border_contact, found.agreement, found.contrast)
    receipt = {"box": [box.y, box.x, box.height, box.width], "quality": measured, "regions": [], "rejects": []}
    write_json(images / "real.json", receipt)
    report.write_report(run, images, manifest())
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'viewBox="0 0 264 420"' in page
    outline = re.search(r'<path class="breast" d="([^"]*)"', page)
    assert outline
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", outline[1]), float)
    area = cv2.contourArea(points.astype(np.float32))
    assert area / (264 * 420) == pytest.approx(found.area_share, rel=0.01)
