"""Grey level -> optical density -> CBIS-DDSM's scale."""

import numpy as np
import pytest

from mammo_etl.cleaning import calibrated, to_8bit
from mammo_etl.density import has_curve, scanner_name, to_cbis_scale
from mammo_etl.film import Film
from mammo_etl.settings import CleaningSettings

ALL_LEVELS = np.arange(65536, dtype=np.uint16)


def density_of(grey: np.ndarray) -> np.ndarray:
    """Optical density that a grey level on CBIS-DDSM's scale stands for."""
    return 3.0 - grey / 65535 * (3.0 - 0.05)


@pytest.mark.parametrize(
    ("scanner", "institution", "level", "density"),
    [
        # The step wedge measured on the DBA scanner at MGH, as DDSM publishes it.
        ("DBA", "MGH", 37201, 0.21),
        ("DBA", "MGH", 18445, 0.50),
        ("DBA", "MGH", 2603, 1.28),
        ("DBA", "MGH", 393, 2.07),
        ("DBA", "MGH", 65, 2.84),
        # The others by hand from their formulas.
        ("HOWTEK", "MGH", 2000, 3.789 - 1.89136),
        ("LUMISYS", "WFU", 2079, 2.0),
        ("HOWTEK", "ISMD", 1000, 3.96604 - 0.99056),
    ],
)
def test_density(scanner: str, institution: str, level: int, density: float) -> None:
    grey = to_cbis_scale(np.array([[level]], np.uint16), scanner, institution)
    assert density_of(grey)[0, 0] == pytest.approx(density, abs=0.07 if scanner == "DBA" else 1e-3)


@pytest.mark.parametrize(
    ("scanner", "institution"), [("DBA", "MGH"), ("HOWTEK", "MGH"), ("LUMISYS", "WFU"), ("HOWTEK", "ISMD")]
)
def test_scale_runs_from_black_to_white(scanner: str, institution: str) -> None:
    grey = to_cbis_scale(ALL_LEVELS, scanner, institution)
    assert grey.dtype == np.uint16
    assert grey[0] == 0
    assert grey[-1] == 65535
    assert (np.diff(grey.astype(int)) >= 0).all()


def test_noise_of_dba_does_not_turn_white() -> None:
    # log10(0) is -inf: without the clamp GL 0 is infinitely dense, and a careless cast makes it white.
    assert (
        to_cbis_scale(np.array([0, 1, 3, 4, 64064, 65535], np.uint16), "DBA", "MGH").tolist() == [0] * 4 + [65535] * 2
    )


def test_clipping_at_both_ends() -> None:
    # LUMISYS: OD 3.0 at GL 1069.96, OD 0.05 at GL 4046.54.
    levels = np.array([1069, 1071, 4046, 4047], np.uint16)
    black, dark, bright, white = to_cbis_scale(levels, "LUMISYS", "WFU")
    assert (black, white) == (0, 65535)
    assert 0 < dark < 100
    assert 65400 < bright < 65535


def test_shape_is_kept() -> None:
    assert to_cbis_scale(np.zeros((3, 5), np.uint16), "DBA", "MGH").shape == (3, 5)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("HOWTEK 43.5", "HOWTEK"),
        ("howtek", "HOWTEK"),
        ("LUMISYS", "LUMISYS"),
        ("LUMISYS LASER", "LUMISYS"),
        ("LUMYSIS", "LUMISYS"),
        ("DBA M2100", "DBA"),
        ("  DBA  ", "DBA"),
        ("Vidar x", "VIDAR X"),
        ("", ""),
    ],
)
def test_scanner_names(text: str, name: str) -> None:
    assert scanner_name(text) == name


def test_curves_belong_to_a_scanner_at_an_institution() -> None:
    assert has_curve("HOWTEK", "MGH")
    assert has_curve("HOWTEK", "ISMD")
    assert not has_curve("HOWTEK", "WFU")
    assert not has_curve("", "")
    assert not np.array_equal(to_cbis_scale(ALL_LEVELS, "HOWTEK", "MGH"), to_cbis_scale(ALL_LEVELS, "HOWTEK", "ISMD"))
    with pytest.raises(KeyError):
        to_cbis_scale(ALL_LEVELS, "DBA", "ISMD")


LEVELS = np.array([[0, 1000, 2000, 4000]], np.uint16)


def cleaned(scanner: str, institution: str, **words: str) -> list[int]:
    film = Film(LEVELS, 12)
    settings = CleaningSettings.model_validate(words)
    levels = calibrated(film, 12, scanner, institution, settings)
    return [int(level) for level in to_8bit(levels.pixels, levels.bits)[0]]


def test_curves_are_the_default_and_can_be_left_out() -> None:
    raw = [0, 62, 125, 249]  # 4095 is 255.
    assert cleaned("HOWTEK", "ISMD", density_scale="raw") == pytest.approx(raw, abs=1)
    assert cleaned("LUMISYS", "WFU", density_scale="raw") == cleaned("HOWTEK", "ISMD", density_scale="raw")
    # OD of GL 2000 by the formulas, and its share of 3.0 ... 0.05.
    for scanner, institution, density in (("HOWTEK", "ISMD", 1.98493), ("HOWTEK", "MGH", 1.89764), ("LUMISYS", "WFU", 2.07829)):  # fmt: skip
        assert cleaned(scanner, institution)[2] == pytest.approx(255 * (3 - density) / 2.95, abs=1)
        assert cleaned(scanner, institution)[0] == 0


def test_films_without_a_curve_are_taken_raw() -> None:
    assert cleaned("HOWTEK", "WFU") == cleaned("", "") == cleaned("HOWTEK", "ISMD", density_scale="raw")
