"""The page of a model run: one HTML file that needs nothing else."""

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from mammo_etl.places import Place
from mammo_etl.records import Label, Split
from mammo_model.errors import ERRORS
from mammo_model.settings import TrainingSettings

SEED_WORK = "the seed work (2020)"
"""Whose network this is: 4,091 images, 50,718 patches, 85% normal, split 80/10/10 by patch."""

PUBLISHED_FIVE: tuple[tuple[str, float, tuple[str, str] | str], ...] = (
    ("Accuracy", 0.907, "accuracy"),
    ("Precision, weighted", 0.898, "weighted_precision"),
    ("Recall, weighted", 0.907, "weighted_recall"),
    ("Precision, Normal", 0.972, ("Normal", "precision")),
    ("Precision, Benign Calcification", 0.688, ("Benign Calcification", "precision")),
    ("Precision, Benign Mass", 0.485, ("Benign Mass", "precision")),
    ("Precision, Malignant Calcification", 0.567, ("Malignant Calcification", "precision")),
    ("Precision, Malignant Mass", 0.571, ("Malignant Mass", "precision")),
    ("Recall, Normal", 0.998, ("Normal", "recall")),
    ("Recall, Benign Calcification", 0.684, ("Benign Calcification", "recall")),
    ("Recall, Benign Mass", 0.505, ("Benign Mass", "recall")),
    ("Recall, Malignant Calcification", 0.358, ("Malignant Calcification", "recall")),
    ("Recall, Malignant Mass", 0.471, ("Malignant Mass", "recall")),
)
"""The seed work's figures for five classes, each with where ours stands in the metrics: its name, or class and name."""

PUBLISHED_BINARY: tuple[tuple[str, float, tuple[str, str] | str], ...] = (
    ("Precision, Abnormal", 0.984, ("Abnormal", "precision")),
    ("Recall, Abnormal", 0.892, ("Abnormal", "recall")),
)
"""The same for normal against abnormal."""


def render(
    manifest: Mapping[str, Any],
    settings: TrainingSettings,
    metrics: Mapping[str, Any],
    patches: pd.DataFrame,
    figures: Mapping[str, Place],
) -> str:
    """The page; `figures` are pictures by the names that the template asks for, left out where there is none, and `patches` is the run's patch table.

    It needs no other file; links to films and to the dataset run's page work where it lies in its workspace.
    """
    environment = page_environment()
    environment.filters["interval"] = _interval
    environment.filters["film"] = lambda image_id: f"../../{manifest['cleaned_films']}/{quote(image_id)}.png"
    test = metrics["splits"][Split.TEST.value]
    published = PUBLISHED_BINARY if settings.binary else PUBLISHED_FIVE
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        metrics=metrics,
        test=test,
        validation=metrics["splits"][Split.VALIDATION.value],
        settings={
            name: (getattr(settings, name), field.description) for name, field in TrainingSettings.model_fields.items()
        },
        published=[(name, theirs, _ours(test, place)) for name, theirs, place in published],
        seed_work=SEED_WORK,
        data=data_table(patches),
        shared_patients=shared_patients(patches),
        errors=ERRORS,
        figures=embedded(figures),
    )


def page_environment() -> jinja2.Environment:
    """The templates of pages, with the filter `share` for figures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mammo_model"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["share"] = _share
    return environment


def embedded(figures: Mapping[str, Place]) -> dict[str, str]:
    """Pictures as a page holds them."""
    return {name: base64.b64encode(path.read_bytes()).decode("ascii") for name, path in figures.items()}


def data_table(patches: pd.DataFrame) -> list[dict[str, Any]]:
    """Patches and patients of each class, and of all, in each split: rows of name and (patches, patients) per split."""
    groups = [(label.title, patches[patches["label"] == label]) for label in Label]
    return [
        {
            "name": name,
            "splits": [_patches_and_patients(group[group["split"] == split]) for split in Split],
        }
        for name, group in [*groups, ("All", patches)]
    ]


def shared_patients(patches: pd.DataFrame) -> int:
    """Patients of the test split who are in the train split too (none where the run was split by patient)."""
    patients = patches["source"] + "/" + patches["patient_id"]
    train, test = (set(patients[patches["split"] == split]) for split in (Split.TRAIN, Split.TEST))
    return len(train & test)


def _patches_and_patients(group: pd.DataFrame) -> tuple[int, int]:
    return len(group), len(group[["source", "patient_id"]].drop_duplicates())


def _ours(test: Mapping[str, Any], place: tuple[str, str] | str) -> dict[str, float | None]:
    if isinstance(place, str):
        figure: dict[str, float | None] = test[place]
        return figure
    name, measure = place
    return next(entry[measure] for entry in test["per_class"] if entry["name"] == name)


def _share(value: float | None) -> str:
    """A figure between 0 and 1 with three places; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def _interval(figure: Mapping[str, float | None]) -> Markup:
    """A figure and, below it, its interval, if it has one."""
    if figure["low"] is None:
        return Markup("{}").format(_share(figure["value"]))
    interval = f"{_share(figure['low'])} to {_share(figure['high'])}"
    return Markup("{}<small>{}</small>").format(_share(figure["value"]), interval)
