"""The command: what it writes, and what it says when something is wrong."""

import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Command

from flows.summary_tables import counted
from mammo_etl.film import read_film


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["build", "--source", "ddsm=/nowhere", "--workspace", "{ws}"],
            "source ddsm=/nowhere: no such folder or zip archive",
        ),
        (
            ["build", "--source", "inbreast=/x", "--workspace", "{ws}"],
            "unknown source 'inbreast': expected one of cbis-ddsm, ddsm, mini-mias",
        ),
        (["build", "--source", "/x", "--workspace", "{ws}"], "--source /x: expected KIND=PATH"),
        (
            ["build", "--source", "ddsm=/nowhere", "--workspace", "{ws}", "--set", "patches.sise=2"],
            "unknown setting patches.sise",
        ),
        (
            ["build", "--source", "ddsm=/nowhere", "--workspace", "{ws}", "--settings", "no.toml"],
            "no.toml: the settings file could not be read",
        ),
        (
            ["build", "--source", "ddsm=/nowhere", "--workspace", "{ws}", "--preset", "2020"],
            "unknown preset '2020': expected one of seed",
        ),
        (["train", "--workspace", "{ws}"], "no published run here; make one with `mammo build`"),
        (
            ["train", "--workspace", "{ws}", "--epochs", "0"],
            "training.epochs: Input should be greater than or equal to 1",
        ),
        (["score", "none.dcm", "--workspace", "{ws}", "--out", "{ws}-scores"], "no finished model here; make one with"),
        (
            ["score", "x", "--workspace", "{ws}", "--out", "y", "--set", "scoring.strides=2"],
            "unknown setting scoring.strides",
        ),
        (["image", "none.dcm", "out.npy"], "none.dcm: no such file"),
        (["image", "none.dcm", "out.jpg"], "out.jpg: expected a name that ends in .npy or .png"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_two(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    mammo: Command,
) -> None:
    code, _, said = mammo(*(argument.replace("{ws}", str(tmp_path)) for argument in arguments))
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said
    assert said.count("\n") == 1


def test_signals_are_as_they_were_after_a_command(mammo: Command) -> None:
    before = signal.getsignal(signal.SIGTERM)
    mammo("--version")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_workspace_that_is_a_file(tmp_path: Path, mammo: Command) -> None:
    (tmp_path / "file").write_text("x")
    code, _, said = mammo("build", "--source", f"ddsm={tmp_path}", "--workspace", tmp_path / "file")
    assert code == 2
    assert "not a folder that can be made" in said


def test_places_that_are_something_else(tmp_path: Path, mammo: Command) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.zip").write_text("x")
    (tmp_path / "folder.npy").mkdir()
    cv2.imwrite(str(tmp_path / "film.png"), np.full((64, 64), 9, np.uint8))
    for arguments in (
        ["build", "--source", f"mini-mias={tmp_path}/bad.zip", "--workspace", f"{tmp_path}/ws"],
        ["build", "--source", "ddsm=foo://bucket/x", "--workspace", f"{tmp_path}/ws"],
        ["train", "--workspace", f"{tmp_path}/file/ws"],
        ["phantom", f"{tmp_path}/file/x", "--patients", "1"],
        ["image", f"{tmp_path}/film.png", f"{tmp_path}/file/x.npy"],
        ["image", f"{tmp_path}/film.png", f"{tmp_path}/folder.npy"],
    ):
        code, _, said = mammo(*arguments)
        assert code == 2, arguments
        assert "mammo: " in said
        assert "Traceback" not in said


def test_exact_pixels_of_each_format(phantoms: Path, tmp_path: Path, mammo: Command) -> None:
    dicom = next(path for path in sorted((phantoms / "cbis-ddsm").rglob("*.dcm")) if "full" in str(path))
    ljpeg = next(iter(sorted((phantoms / "ddsm").rglob("*.LJPEG"))))
    for film in (dicom, ljpeg):
        expected = read_film(str(film)).pixels
        for suffix in ("npy", "png"):
            code, *_ = mammo("image", film, tmp_path / f"out.{suffix}")
            assert code == 0
        assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
        assert np.array_equal(cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED), expected)


def test_an_ljpeg_without_its_ics_is_read_by_its_own_header(realdata: Path, tmp_path: Path, mammo: Command) -> None:
    for film in sorted((realdata / "ljpeg").glob("*.LJPEG")):
        code, *_ = mammo("image", film, tmp_path / "out.npy")
        assert code == 0
        assert np.array_equal(np.load(tmp_path / "out.npy"), np.load(film.with_suffix(".expected.npy")))


def test_a_cleaned_film_in_full_frame_and_its_mask(realdata: Path, tmp_path: Path, mammo: Command) -> None:
    film = realdata / "cbis_png" / "P_00060_RIGHT_CC.png"
    clean, mask = tmp_path / "clean.png", tmp_path / "mask.png"
    code, said, _ = mammo("image", film, clean, "--clean", "--mask", mask)
    assert code == 0
    assert "of 8 bits" in said
    source = cv2.imread(str(film), cv2.IMREAD_UNCHANGED)
    cleaned, found = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (clean, mask))
    assert cleaned.shape == found.shape == source.shape
    assert set(np.unique(found)) == {0, 255}
    assert np.array_equal(cleaned > 0, found > 0)
    assert np.array_equal(cleaned[found > 0], np.maximum(source[found > 0], 1))
    assert 0.1 < (found > 0).mean() < 0.6


def test_the_bits_of_an_image_are_those_written(tmp_path: Path, mammo: Command) -> None:
    film = np.zeros((960, 600), np.uint8)
    cv2.ellipse(film, (0, 480), (400, 400), 0, 0, 360, 120, -1)
    cv2.imwrite(str(tmp_path / "film.png"), film)
    for bits in (8, 16):
        bits_wanted = ("--set", f"cleaning.bits={bits}")
        code, said, _ = mammo("image", tmp_path / "film.png", tmp_path / "out.png", "--clean", *bits_wanted)
        assert code == 0
        assert f"960 x 600 pixels of {bits} bits" in said
        assert cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED).itemsize == bits // 8


def test_a_folder_expected_where_there_is_a_file(tmp_path: Path, mammo: Command) -> None:
    (tmp_path / "file").write_text("x")
    for place, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "x", "Not a directory")):
        code, _, said = mammo("phantom", place)
        assert code == 2
        assert said == f"mammo: {place}: expected a folder, or a place where one can be made: {reason}\n"


@pytest.mark.parametrize("command", ["train", "verify", "gc"])
def test_help_tells_a_workspace_that_has_to_be_there(
    command: str, monkeypatch: pytest.MonkeyPatch, mammo: Command
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, said, _ = mammo(command, "--help")
    assert code == 0
    assert "Folder that `mammo build` has worked in." in said


def test_a_broken_film_is_named(tmp_path: Path, mammo: Command) -> None:
    (tmp_path / "film.dcm").write_bytes(b"x" * 5000)
    code, _, said = mammo("image", tmp_path / "film.dcm", tmp_path / "out.npy")
    assert code == 2
    assert "film.dcm" in said
    assert not (tmp_path / "out.npy").exists()


def test_phantoms_are_made_by_the_command(tmp_path: Path, mammo: Command) -> None:
    small = ("--height", 320, "--width", 200)
    code, said, _ = mammo("phantom", tmp_path, "--patients", 2, "--seed", 3, *small, "--workers", 1)
    assert code == 0
    assert "2 patients" in said
    assert {path.name for path in tmp_path.iterdir()} == {"cbis-ddsm", "ddsm", "truth"}


def test_models_that_cannot_be_compared(tmp_path: Path, mammo: Command) -> None:
    for models, sentence in (
        (["A"], "expected two models, or none: A"),
        (["A", "B"], f"{tmp_path}/models/A: no finished model run; make one with `mammo train`"),
        (["A", "A"], "A twice: expected two models; make one with `mammo train`"),
        ([], f"{tmp_path}: no published run here; make one with `mammo build`"),
    ):
        code, _, said = mammo("compare", "--workspace", tmp_path, *models)
        assert (code, said.strip()) == (2, f"mammo: {sentence}")


def test_one_of_a_kind_is_in_the_singular() -> None:
    assert counted(1, "patches") == "1 patch"
    assert counted(1, "abnormal patches") == "1 abnormal patch"
    assert [counted(count, "images") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
