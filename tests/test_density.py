"""Grey level -> optical density -> CBIS-DDSM's scale."""

import numpy as np
import pytest

from mammo_etl.density import has_curve, scanner_name, to_cbis_scale

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
