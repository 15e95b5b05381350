"""What a flow run leaves in Prefect: settings that count, and pictures that are small and say what they are of."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows import artifacts
from flows.artifacts import Picture, as_markdown, contact_sheet, differing, settings_lines
from flows.build_dataset import build_dataset
from flows.clusters import ClusterSettings
from mammo_etl.reader import open_run
from mammo_etl.settings import BuildSettings, SourceSettings

SETTINGS = BuildSettings.model_validate({"patches": {"size": 64, "stride": 32, "min_distance": 16}})


def shown(markdown: str) -> list[tuple[str, int, np.ndarray]]:
    """Kind, bytes and pixels of each picture in a Markdown text."""
    found = re.findall(r"!\[[^]]*\]\(data:image/(\w+);base64,([^)]+)\)", markdown)
    contents = [(kind, base64.b64decode(text, validate=True)) for kind, text in found]
    return [
        (kind, len(content), cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
        for kind, content in contents
    ]


def test_settings_that_differ_from_their_defaults_are_told() -> None:
    assert differing(BuildSettings()) == {}
    assert settings_lines(BuildSettings())[0] == "All settings have their defaults."
    assert differing(SETTINGS) == {"patches.size": 64, "patches.stride": 32, "patches.min_distance": 16.0}
    assert "- `patches.size = 64`" in settings_lines(SETTINGS)


def test_a_picture_is_made_small_enough() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 700, 3), np.uint8)
    [(kind, size, image)] = shown(as_markdown([Picture("Noise", noise)], False))
    assert kind == "jpeg"
    assert size <= artifacts.MOST_BYTES
    assert image.shape[0] / image.shape[1] == pytest.approx(900 / 700, rel=0.01)
    flat = np.full((90, 70, 3), 7, np.uint8)
    [(kind, _, image)] = shown(as_markdown([Picture("Flat", flat)], False))
    assert kind == "png"
    assert (image == flat).all()


def test_pictures_of_phantoms_say_so() -> None:
    flat = np.zeros((90, 400, 3), np.uint8)
    assert artifacts.PHANTOM not in as_markdown([Picture("Flat", flat)], False)
    marked = as_markdown([Picture("Flat", flat)], True)
    assert artifacts.PHANTOM in marked
    [(_, _, image)] = shown(marked)
    # Within the picture too, which may be saved by itself.
    assert image.shape[0] > 90
    assert image[:-90].any()
    assert not image[-90:].any()


def test_a_run_has_a_sheet_of_patches_of_each_class(phantoms: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    source = SourceSettings(kind="cbis-ddsm", path=str(phantoms / "cbis-ddsm"))
    settings = SETTINGS.model_copy(update={"patches": SETTINGS.patches.model_copy(update={"normals": "background"})})
    # Outside a flow run nothing is left in Prefect, and no server is asked for.
    build_dataset.fn([source], tmp_path, settings, cluster)
    run = open_run(tmp_path)
    labels = run.patches()["label"].to_numpy()
    image = contact_sheet(run).image
    assert image.shape == (5 * 116, 8 * 96, 3)
    for label in range(5):
        filled = [
            image[label * 116 + 20 : (label + 1) * 116, column * 96 : column * 96 + 96].any() for column in range(8)
        ]
        assert sum(filled) == min(8, int((labels == label).sum()))
