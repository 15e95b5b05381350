"""The worst errors: what a model missed, and what it saw where nothing is."""

from typing import Any

import pandas as pd

from mammo_model.levels import THRESHOLD, with_scores

ERRORS = {"missed": "missed lesions", "false_alarms": "false alarms"}
"""Kinds of errors, in words."""

MOST = 18
"""Errors on a sheet."""


def worst_errors(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """`missed`: abnormal patches with P(abnormal) of at most one half, the least first; `false_alarms`: normal patches above it, the greatest first.

    Of a finding only its worst patch, and of a film only its worst false alarm, so that a sheet shows many of them; at most MOST each. Columns as of
    the predictions, and `abnormal`, the score. Ties go by row.
    """
    scored = with_scores(predictions, classes)
    wrong = {
        "missed": (scored["is_abnormal"] & (scored["abnormal"] <= THRESHOLD), True, "finding_id"),
        "false_alarms": (~scored["is_abnormal"] & (scored["abnormal"] > THRESHOLD), False, "image_id"),
    }
    return {
        name: scored[chosen]
        .sort_values(["abnormal", "row"], ascending=[ascending, True])
        .drop_duplicates(once)
        .head(MOST)
        .reset_index(drop=True)
        for name, (chosen, ascending, once) in wrong.items()
    }


def as_rows(errors: pd.DataFrame, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Errors for metrics.json: number (from 1, as on the sheet), row of the store, finding_id, image_id, place on the film, true class, answer, P(abnormal)."""
    return [
        {
            "number": number,
            **{name: int(error[name]) for name in ("row", "y", "x", "size")},
            **{name: str(error[name]) for name in ("finding_id", "image_id")},
            **{name: classes[error[name]] for name in ("target", "predicted")},
            "abnormal": float(error["abnormal"]),
        }
        for number, error in enumerate(errors.to_dict("records"), start=1)
    ]
