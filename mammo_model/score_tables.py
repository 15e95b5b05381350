"""Tables and page of scored films."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from mammo_etl.catalog import write_parts, write_table
from mammo_etl.files import digest_of_file
from mammo_etl.film_files import FilmFile
from mammo_etl.inventory import sort_rejects
from mammo_etl.places import Place, read_each
from mammo_etl.records import Rejection
from mammo_etl.schema import to_table
from mammo_etl.versions import package_versions
from mammo_etl.workspace import DamagedFileError, read_sealed, write_bytes, write_json
from mammo_model.levels import RULES, questions
from mammo_model.report import page_environment
from mammo_model.scoring import FORMAT_VERSION, AppliedModel, ScoredFilm, engine, file_name
from mammo_model.scoring_settings import ScoringSettings

_FILM = {
    "image_id": (pa.string(), "Film: its name in the data set, or its path below what was scored, `_` for `/`."),
    "source": (pa.string(), "Data set; empty for a film that belongs to none."),
    "patient_id": (
        pa.string(),
        "Patient, unique within the source; of films of no data set, the first folder, or the film itself.",
    ),
}
_PLACE = {
    "y": (pa.int32(), "Top row, pixels of the film."),
    "x": (pa.int32(), "Left column, pixels of the film."),
}
_ROW_GROUP = 65536
"""Least rows of a row group of windows.parquet, but the last: so many are held at a time."""

TABLES = ("images", "patients", "candidates", "windows", "rejects")
"""OUT/<name>.parquet."""


def write_scores(
    out: Place,
    model: AppliedModel,
    settings: ScoringSettings,
    scored: Sequence[ScoredFilm],
    rejects: Sequence[Rejection],
    on_film: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Writes the tables, `index.html` and, last, `manifest.json`, of films that `score_film` has scored into OUT; returns the manifest and the number of rejects by reason.

    While they are written there is no manifest. `rejects` are those of an inventory: what they say of findings of films that were scored is left out. `on_film` is
    called after each film. Raises DamagedFileError if a film's figures are gone, or another's.
    """
    good = sorted((entry for entry in scored if entry.rejection is None), key=lambda entry: entry.film.image_id)
    names = {entry.film.image_id for entry in good}
    rejected = sort_rejects(
        [
            *(row for row in rejects if row.image_id not in names and not row.finding_id),
            *(entry.rejection for entry in scored if entry.rejection is not None),
        ]
    )
    if (out / "manifest.json").exists():
        (out / "manifest.json").unlink()
    images: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []

    def windows() -> Iterator[pa.Table]:
        """A table of the patches of every so many films; the other tables' rows on the way, so that each film's figures are read once."""
        waiting: list[pa.Table] = []
        for entry, found in zip(good, read_each(partial(_figures, out), good), strict=True):
            images.append(_image_row(entry.film, found, model))
            candidates.extend(_candidate_rows(entry.film, found, model))
            waiting.append(_windows_table(entry.film, found, model))
            on_film()
            if sum(map(len, waiting)) >= _ROW_GROUP:
                yield pa.concat_tables(waiting)
                waiting.clear()
        if waiting:
            yield pa.concat_tables(waiting)

    patches = write_parts(out / "windows.parquet", _windows_schema(model), windows())
    patients = _patient_rows(images, model)
    tables = {
        "images": pa.Table.from_pylist(images, schema=_images_schema(model)),
        "patients": pa.Table.from_pylist(patients, schema=_patients_schema(model)),
        "candidates": pa.Table.from_pylist(candidates, schema=_candidates_schema(model)),
        "rejects": to_table(rejected, Rejection),
    }
    for name, table in tables.items():
        write_table(out / f"{name}.parquet", table)
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model_id": model.model_id,
        "run_id": model.run_id,
        "model_sha256": model.sha256,
        "phantom": model.phantom,
        "note": model.note,
        "classes": list(model.classes),
        "settings": settings.model_dump(mode="json"),
        "rules": {"image": RULES["image"], "patient": RULES["patient"]},
        "counts": {**{name: len(table) for name, table in tables.items()}, "windows": patches},
        "versions": package_versions() | engine(),
    }
    write_bytes(out / "index.html", _page(manifest, images, patients, candidates, rejected).encode())
    manifest["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    files = [*(f"{name}.parquet" for name in TABLES), "index.html"]
    manifest["digests"] = {name: digest_of_file(out / name) for name in files}
    write_json(out / "manifest.json", manifest)
    return manifest, dict(sorted(Counter(row.code.value for row in rejected).items()))


def _figures(out: Place, entry: ScoredFilm) -> dict[str, Any]:
    path = out / "films" / entry.film.image_id / "scores.json"
    found = read_sealed(path)
    if found is None or found.get("basis") != entry.basis:
        raise DamagedFileError(f"{path}: missing, or changed after it was written; score the films again")
    return found


def _columns(names: Sequence[str]) -> list[str]:
    return [file_name(name).replace("-", "_") for name in names]


def _of_classes(model: AppliedModel, values: Sequence[Any]) -> dict[str, Any]:
    return {f"p_{name}": value for name, value in zip(_columns(model.classes), values, strict=True)}


def _image_row(film: FilmFile, found: Mapping[str, Any], model: AppliedModel) -> dict[str, Any]:
    return {
        **{name: getattr(film, name) for name in (*_FILM, "laterality", "view", "path")},
        **{name: found[name] for name in ("rows", "columns")},
        "windows": len(found["places"]),
        "candidates": len(found["candidates"]),
        **found["scores"],
        **_of_classes(model, found["probabilities"]),
    }


def _patient_rows(images: Sequence[Mapping[str, Any]], model: AppliedModel) -> list[dict[str, Any]]:
    of_patient: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for image in images:
        of_patient[image["source"], image["patient_id"]].append(image)
    return [
        {
            "source": source,
            "patient_id": patient_id,
            "images": len(rows),
            **{name: max(row[name] for row in rows) for name in questions(model.classes)},
        }
        for (source, patient_id), rows in sorted(of_patient.items())
    ]


def _candidate_rows(film: FilmFile, found: Mapping[str, Any], model: AppliedModel) -> list[dict[str, Any]]:
    return [
        {
            **{name: getattr(film, name) for name in _FILM},
            "number": number,
            **{name: lesion["box"][name] for name in ("y", "x", "height", "width")},
            "peak_y": lesion["y"],
            "peak_x": lesion["x"],
            "label_name": lesion["label_name"],
            **lesion["scores"],
            **_of_classes(model, lesion["probabilities"]),
        }
        for number, lesion in enumerate(found["candidates"], start=1)
    ]


def _windows_table(film: FilmFile, found: Mapping[str, Any], model: AppliedModel) -> pa.Table:
    places, answers = np.array(found["places"]), np.array(found["answers"])
    columns = {
        "image_id": [film.image_id] * len(places),
        "y": places[:, 0],
        "x": places[:, 1],
        "size": np.full(len(places), model.size),
        **_of_classes(model, list(answers.T)),
    }
    return pa.table(columns, schema=_windows_schema(model))


def _score_fields(model: AppliedModel, where: str) -> dict[str, tuple[pa.DataType, str]]:
    return {
        name: (pa.float64(), f"P({name}) {where}: the sum over its classes, 0 to 1.")
        for name in questions(model.classes)
    }


def _class_fields(model: AppliedModel, where: str) -> dict[str, tuple[pa.DataType, str]]:
    return {
        f"p_{column}": (pa.float64(), f"P({name}) {where}.")
        for column, name in zip(_columns(model.classes), model.classes, strict=True)
    }


def _images_schema(model: AppliedModel) -> pa.Schema:
    at = "of the film, the maximum over its patches"
    return _schema(
        model,
        {
            **_FILM,
            "laterality": (pa.string(), "LEFT or RIGHT; empty if unknown."),
            "view": (pa.string(), "CC or MLO; empty if unknown."),
            "path": (pa.string(), "Where the pixels are: a path or an fsspec URL."),
            "rows": (pa.int32(), "Height of the film, pixels."),
            "columns": (pa.int32(), "Width of the film, pixels."),
            "windows": (pa.int32(), "Patches scored."),
            "candidates": (pa.int32(), "Lesion candidates."),
            **_score_fields(model, at),
            **_class_fields(model, at),
        },
    )


def _patients_schema(model: AppliedModel) -> pa.Schema:
    return _schema(
        model,
        {
            **{name: _FILM[name] for name in ("source", "patient_id")},
            "images": (pa.int32(), "Films scored."),
            **_score_fields(model, "of the patient, the maximum over her films"),
        },
    )


def _candidates_schema(model: AppliedModel) -> pa.Schema:
    at = "where it is most abnormal"
    return _schema(
        model,
        {
            **_FILM,
            "number": (pa.int32(), "Number on the film, from 1, the highest score first; as on its picture."),
            **_PLACE,
            "height": (pa.int32(), "Height of the box, pixels."),
            "width": (pa.int32(), "Width of the box, pixels."),
            "peak_y": (pa.int32(), "Row where P(abnormal) is highest, pixels of the film."),
            "peak_x": (pa.int32(), "Column, likewise."),
            "label_name": (pa.string(), "The most probable abnormal class there."),
            **_score_fields(model, at),
            **_class_fields(model, at),
        },
    )


def _windows_schema(model: AppliedModel) -> pa.Schema:
    return _schema(
        model,
        {
            "image_id": _FILM["image_id"],
            **_PLACE,
            "size": (pa.int32(), "Height and width of the patch, pixels."),
            **_class_fields(model, "of the patch"),
        },
    )


def _schema(model: AppliedModel, columns: Mapping[str, tuple[pa.DataType, str]]) -> pa.Schema:
    fields = [pa.field(name, kind, False, {"description": text}) for name, (kind, text) in columns.items()]
    return pa.schema(fields, metadata={"format_version": str(FORMAT_VERSION), "note": model.note})


def _page(
    manifest: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    patients: Sequence[Mapping[str, Any]],
    candidates: Sequence[Mapping[str, Any]],
    rejected: Sequence[Rejection],
) -> str:
    lesions: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for candidate in candidates:
        lesions[candidate["image_id"]].append(candidate)
    first = sorted(images, key=lambda image: (-image["abnormal"], image["image_id"]))
    return (
        page_environment()
        .get_template("scores.html.j2")
        .render(
            manifest=manifest,
            images=[
                {
                    **image,
                    "folder": f"films/{quote(image['image_id'])}",
                    "lesions": lesions[image["image_id"]],
                }
                for image in first
            ],
            patients=sorted(patients, key=lambda row: (-row["abnormal"], row["source"], row["patient_id"])),
            maps=[(name, f"{file_name(name)}.png") for name in manifest["classes"]],
            questions=list(questions(tuple(manifest["classes"]))),
            rejected=rejected,
        )
    )
