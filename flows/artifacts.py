"""What a flow run leaves in Prefect beside its log and its bars: a summary, a table, links and pictures. Outside a flow run nothing is made.

Pictures lie within a Markdown artifact, which Prefect's pages show as they are; below an image artifact they print the picture's address, which
here is the picture itself. Links to files are shown, but no browser follows one from a page of a server's: they are to be copied.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from pydantic import BaseModel

from mammo_etl.cleaning import to_8bit
from mammo_etl.places import Place
from mammo_etl.reader import PublishedRun, read_table
from mammo_etl.records import Label

MOST_BYTES = 70_000
"""Of one picture; a third more as text, in the server's database for ever."""

PHANTOM = "PHANTOMS: they say nothing about medicine"

_COLUMNS, _SIDE, _LINE = 8, 96, 20
"""Of a contact sheet: patches of a class, pixels of a patch, and of a line of text."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and what it shows."""

    title: str
    image: NDArray[np.uint8]
    """(rows, columns, 3), blue, green, red."""

    @classmethod
    def of_file(cls, title: str, path: Place) -> "Picture":
        """A PNG file."""
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return cls(title, np.asarray(image, np.uint8))


def leave(
    name: str,
    summary: str,
    rows: Sequence[Mapping[str, Any]],
    links: Mapping[str, Path | str],
    pictures: Callable[[], Sequence[Picture]],
    phantom: bool,
) -> None:
    """Leaves the artifacts NAME-summary, NAME-table, NAME-LINK for each link, and NAME-pictures; those without content are left out.

    `summary` is Markdown, `links` name local paths or URLs.
    """
    if FlowRunContext.get() is None:
        return
    create_markdown_artifact(summary, key=f"{name}-summary")
    if rows:
        create_table_artifact([dict(row) for row in rows], key=f"{name}-table")
    for link, place in links.items():
        url = place.as_uri() if isinstance(place, Path) else place
        create_link_artifact(url, str(place), key=f"{name}-{link}", description=f"`{place}`")
    if shown := pictures():
        create_markdown_artifact(as_markdown(shown, phantom), key=f"{name}-pictures")


def as_markdown(pictures: Sequence[Picture], phantom: bool) -> str:
    """Pictures with their titles; those of phantoms say so, in the picture too."""
    lines = [f"**{PHANTOM}**", ""] if phantom else []
    for picture in pictures:
        image = _marked(picture.image) if phantom else picture.image
        lines += [f"## {picture.title}", "", f"![{picture.title}]({_as_url(image)})", ""]
    return "\n".join(lines)


def differing(settings: BaseModel) -> dict[str, Any]:
    """The settings that differ from their defaults, by dotted name."""
    return _differences(settings.model_dump(mode="json"), type(settings)().model_dump(mode="json"))


def settings_lines(settings: BaseModel) -> list[str]:
    """A Markdown list of the settings that differ from their defaults."""
    found = differing(settings)
    return ["Settings other than the defaults:" if found else "All settings have their defaults.", ""] + [
        f"- `{name} = {value!r}`" for name, value in found.items()
    ]


def contact_sheet(run: PublishedRun) -> Picture:
    """Some patches of each class of a run, spread evenly over its rows."""
    labels = read_table(run.folder / "patches.parquet", ["label"])["label"].to_numpy()
    patches = run.open_patches()
    sheet = np.zeros((len(Label) * (_LINE + _SIDE), _COLUMNS * _SIDE, 3), np.uint8)
    for number, label in enumerate(Label):
        rows = np.flatnonzero(labels == label)
        top = number * (_LINE + _SIDE)
        _write(sheet, f"{label.title}: {len(rows):,}", top + _LINE - 6)
        spread = np.linspace(0, len(rows) - 1, min(_COLUMNS, len(rows))).astype(int)
        for column, row in enumerate(rows[spread]):
            patch = np.asarray(patches[int(row)].read().result())
            small = cv2.resize(to_8bit(patch, patch.dtype.itemsize * 8), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
            sheet[top + _LINE : top + _LINE + _SIDE, column * _SIDE : (column + 1) * _SIDE] = small[..., np.newaxis]
    return Picture("Patches of each class", sheet)


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            found |= {f"{name}.{below}": item for below, item in _differences(value, default).items()}
        elif value != default:
            found[name] = value
    return found


def _marked(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture below a line that says that it is of phantoms."""
    strip = np.zeros((_LINE, image.shape[1], 3), np.uint8)
    _write(strip, PHANTOM, _LINE - 6)
    return np.concatenate([strip, image])


def _write(image: NDArray[np.uint8], text: str, y: int) -> None:
    cv2.putText(image, text, (6, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (240, 240, 240), 1, cv2.LINE_AA)


def _as_url(image: NDArray[np.uint8]) -> str:
    """A picture as a data: URL of a PNG, or if that is too large, of a JPEG, made smaller until it is small enough."""
    content, kind = cv2.imencode(".png", image)[1].tobytes(), "png"
    while len(content) > MOST_BYTES:
        content, kind = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes(), "jpeg"
        image = np.asarray(cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA), np.uint8)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
