"""How well a run's labels can be told from what is not the lesion: source, scanner, and the film around it.

In DDSM one scanner, DBA, digitised most of the normal cases and few of the others; where normals come from one data set and lesions from
another it is worse still. A model can then reach good figures without looking at tissue. The audit measures that, and chooses nothing: so
it looks at all splits together, and whatever it fits is judged on patients it was not fitted to.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.records import Label, Scan, Split
from mammo_etl.settings import BuildSettings

FOLDS = 5
"""Parts of the cross-validation; a patient is in one only."""
RESAMPLES = 1000
"""Resamples of the bootstrap."""
LEVEL = 0.95
"""Probability that an interval is meant to hold."""
SEED = 0

TASKS = {"binary": "normal from abnormal", "five": "the five classes"}
"""What is to be told."""
CLUES = {
    "source": "the source",
    "scanner": "the scanner",
    "statistics": "the look of the film outside its lesions",
    "tissue": "the look of the breast outside its lesions",
}
"""From what. The first two by a majority rule, the others by a logistic regression on `mammo_etl.film_statistics`: all of them, and those
of tissue alone, which is what patches show (the rest of a film is blackened before they are cut)."""
_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_Fit = Callable[[_Ints, _Ints], _Floats]
"""Rows to learn from, rows to answer for -> how well each class goes with each of these, (rows, classes), were all classes as frequent."""


def audit(
    scans: Sequence[Scan],
    patches: pd.DataFrame,
    statistics: Mapping[str, Mapping[str, float]],
    settings: BuildSettings = BuildSettings(),
) -> dict[str, Any]:
    """The audit of a run, ready for JSON; equal arguments give equal results, in whatever order.

    `patches` has columns source, image_id, patient_id, split and label; `statistics` maps image_id to `film_statistics`.

    `tables` counts patches, films and patients of each class and split by `source`, `scanner` (with its source and institution) and `bits`, and gives the films' `size`.
    `told` has a row per task (`TASKS`) and clue (`CLUES`): `accuracy` and `balanced_accuracy`, each as value, low, high (95% bootstrap
    over patients) and chance (always the most frequent class; one over the number of classes), `above_chance`: whether either interval
    lies above chance; or else `cannot` says why it cannot be told. `warnings` are sentences about those above chance, with advice that
    the run's `settings` do not follow already.

    The unit is a film with one of the labels that its patches carry, weighted by these patches: patches are what a model learns from,
    is judged on, and what normals.match_scanner balances, while a clue is the same for all patches of a film. Accuracy is that of the
    answer that is most probable; balanced accuracy that of the answer whose class the clue speaks for most, classes counted as equally
    frequent: where 85% of the patches are normal, the former hardly leaves room above chance.
    """
    films = _films(scans).loc[sorted(set(patches["image_id"]))]
    units = {task: _units(films, patches, binary=task == "binary") for task in TASKS}
    told = [_told(task, clue, units[task], statistics) for task in TASKS for clue in CLUES]
    return {
        "unit": "film and label, weighted by patches",
        "folds": FOLDS,
        "resamples": RESAMPLES,
        "level": LEVEL,
        "tables": _tables(films, patches),
        "told": told,
        "warnings": _warnings(told, settings),
    }


def scanner_of(scan: Scan) -> str:
    """Scanner and institution in words."""
    return " ".join(filter(None, (scan.scanner, scan.institution))) or "not stated"


def _films(scans: Sequence[Scan]) -> pd.DataFrame:
    rows = [
        {
            "image_id": scan.image_id,
            "patient": f"{scan.source}/{scan.patient_id}",
            "source": scan.source,
            "scanner": f"{scan.source}: {scanner_of(scan)}",
            "bits": scan.bits,
            "rows": scan.rows,
            "columns": scan.columns,
        }
        for scan in scans
    ]
    return pd.DataFrame(rows).set_index("image_id")


def _tables(films: pd.DataFrame, patches: pd.DataFrame) -> dict[str, list[dict[Hashable, Any]]]:
    """Rows of split (or `all`), label and value; combinations without a patch have none."""
    frame = patches[["image_id", "split", "label"]].astype({"split": str}).join(films, on="image_id")
    frame = pd.concat([frame, frame.assign(split="all")])
    frame["split"] = pd.Categorical(frame["split"], [*(split.value for split in Split), "all"], ordered=True)
    tables = {}
    for name in ("source", "scanner", "bits"):
        counted = frame.groupby(["split", "label", name], observed=True).agg(
            patches=("image_id", "size"), films=("image_id", "nunique"), patients=("patient", "nunique")
        )
        tables[name] = counted.reset_index().rename(columns={name: "value"}).to_dict("records")
    shown = frame.drop_duplicates(["split", "label", "image_id"]).groupby(["split", "label"], observed=True)
    sizes = shown.agg(films=("image_id", "size"), rows=("rows", _span), columns=("columns", _span))
    tables["size"] = sizes.reset_index().to_dict("records")
    return tables


def _span(values: pd.Series) -> list[float]:
    """Smallest, median, largest."""
    return [float(values.min()), float(values.median()), float(values.max())]


def _units(films: pd.DataFrame, patches: pd.DataFrame, *, binary: bool) -> pd.DataFrame:
    """One row per film and label, sorted: label, weight, and the columns of `films`."""
    labels = patches["label"].to_numpy(np.int64)
    if binary:
        labels = (labels != Label.NORMAL).astype(np.int64)
    pairs = pd.DataFrame({"image_id": patches["image_id"].to_numpy(), "label": labels})
    counted = pairs.groupby(["image_id", "label"], as_index=False).size().rename(columns={"size": "weight"})
    return counted.join(films, on="image_id")


def _told(task: str, clue: str, units: pd.DataFrame, statistics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    row = {"task": task, "clue": clue, "accuracy": None, "balanced_accuracy": None, "above_chance": False}
    cannot = _obstacle(clue, units, statistics)
    if cannot:
        return {**row, "cannot": f"cannot be told: {cannot}"}
    labels = _numbered(units["label"])
    weights = units["weight"].to_numpy(np.float64)
    patients = _numbered(units["patient"])
    if clue in ("source", "scanner"):
        fit = _majority(_numbered(units[clue]), labels, weights)
    else:
        fit = _regression(_matrix(clue, units, statistics), labels, weights)
    figures = _figures(*_answers(fit, labels, weights, patients), labels, weights, patients)
    above = any(figure["low"] > figure["chance"] for figure in figures.values())
    return {**row, **figures, "above_chance": above, "cannot": ""}


def _numbered(values: pd.Series) -> _Ints:
    """The place of each value among all that occur, sorted, from 0."""
    return np.unique(values.to_numpy(), return_inverse=True)[1].astype(np.int64)


def _obstacle(clue: str, units: pd.DataFrame, statistics: Mapping[str, Mapping[str, float]]) -> str:
    """Why nothing can be told; empty if it can."""
    if units["label"].nunique() < 2:
        return "all patches are of one class"
    patients = units["patient"].nunique()
    if patients < FOLDS:
        return f"{patients} patients are too few for {FOLDS} parts"
    if clue == "source" and units["source"].nunique() == 1:
        return "all films are of one source"
    if clue == "scanner" and units["scanner"].nunique() == units["source"].nunique():
        return "the scanner is the source" if units["source"].nunique() > 1 else "all films are of one scanner"
    if clue in ("statistics", "tissue"):
        films = set(units["image_id"])
        missing = len(films - statistics.keys())
        if missing:
            return f"{missing:,} of {len(films):,} films have no statistics"
    return ""


def _matrix(clue: str, units: pd.DataFrame, statistics: Mapping[str, Mapping[str, float]]) -> _Floats:
    """Statistics of the units' films, (units, statistics)."""
    table = pd.DataFrame([statistics[image_id] for image_id in units["image_id"]])
    names = [name for name in sorted(table.columns) if clue == "statistics" or name.startswith("tissue_")]
    return table[names].to_numpy(np.float64)


def _majority(keys: _Ints, labels: _Ints, weights: _Floats) -> _Fit:
    """What share of each class's patches has the same source or scanner; a key not seen before speaks for no class."""
    shape = (int(keys.max()) + 1, int(labels.max()) + 1)

    def fit(known: _Ints, asked: _Ints) -> _Floats:
        counts = np.zeros(shape)
        np.add.at(counts, (keys[known], labels[known]), weights[known])
        shares = counts / np.maximum(counts.sum(0), 1)
        shares[counts.sum(1) == 0] = 1
        return np.asarray(shares[keys[asked]])

    return fit


def _regression(statistics: _Floats, labels: _Ints, weights: _Floats) -> _Fit:
    """Logistic regression on standardised statistics, classes weighted to be equally frequent."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    classes = int(labels.max()) + 1

    def fit(known: _Ints, asked: _Ints) -> _Floats:
        scores = np.zeros((len(asked), classes))
        there = np.unique(labels[known])
        if len(there) == 1:
            scores[:, there] = 1
            return scores
        of_class = np.bincount(labels[known], weights[known], minlength=classes)
        balanced = weights[known] / of_class[labels[known]] * len(known) / len(there)
        scaler = StandardScaler().fit(statistics[known])
        model = LogisticRegression(max_iter=1000)
        model.fit(scaler.transform(statistics[known]), labels[known], sample_weight=balanced)
        scores[:, there] = model.predict_proba(scaler.transform(statistics[asked]))
        return scores

    return fit


def _answers(fit: _Fit, labels: _Ints, weights: _Floats, patients: _Ints) -> tuple[_Ints, _Ints]:
    """For each row, by what was learned from other patients: the most probable class, and the class most spoken for."""
    from sklearn.model_selection import GroupKFold

    probable, spoken_for = np.zeros_like(labels), np.zeros_like(labels)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for known, asked in folds.split(labels, groups=patients):
        scores = fit(known, asked)
        frequent = np.bincount(labels[known], weights[known], minlength=scores.shape[1])
        probable[asked] = np.argmax(scores * frequent, axis=1)
        spoken_for[asked] = np.argmax(scores, axis=1)
    return probable, spoken_for


def _figures(
    probable: _Ints, spoken_for: _Ints, labels: _Ints, weights: _Floats, patients: _Ints
) -> dict[str, dict[str, float]]:
    """Accuracy and balanced accuracy with percentile bootstrap intervals: patients are drawn, since their films resemble each other."""
    shape = (int(patients.max()) + 1, int(labels.max()) + 1)

    def of_patients(rows: NDArray[np.bool_]) -> _Floats:
        sums = np.zeros(shape)
        np.add.at(sums, (patients[rows], labels[rows]), weights[rows])
        return sums

    every = of_patients(np.ones(len(labels), bool))
    hits, balanced_hits = of_patients(probable == labels), of_patients(spoken_for == labels)
    draws = np.random.default_rng(SEED).multinomial(shape[0], np.full(shape[0], 1 / shape[0]), size=RESAMPLES)
    draws = np.vstack([np.ones(shape[0]), draws])
    support = draws @ every
    accuracy = (draws @ hits).sum(1) / support.sum(1)
    # A class that a resample lacks keeps its recall: to leave it out would be as if there were fewer classes to guess among.
    recalls = np.tile(balanced_hits.sum(0) / every.sum(0), (len(draws), 1))
    np.divide(draws @ balanced_hits, support, out=recalls, where=support > 0)
    return {
        "accuracy": _figure(accuracy, float(support[0].max() / support[0].sum())),
        "balanced_accuracy": _figure(recalls.mean(1), 1 / shape[1]),
    }


def _figure(values: _Floats, chance: float) -> dict[str, float]:
    """The first of some values is that of the data, the others those of the resamples."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "value": round(float(values[0]), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "chance": round(chance, 4),
    }


def _warnings(told: Sequence[Mapping[str, Any]], settings: BuildSettings) -> list[str]:
    """One sentence per clue at most: what tells normal from abnormal tells the five classes too."""
    warnings: dict[str, str] = {}
    for row in told:
        if not row["above_chance"] or row["clue"] in warnings:
            continue
        balanced = row["balanced_accuracy"]["low"] > row["balanced_accuracy"]["chance"]
        figure = row["balanced_accuracy"] if balanced else row["accuracy"]
        warnings[row["clue"]] = (
            f"{CLUES[row['clue']]} alone tells {TASKS[row['task']]} with {'a balanced' if balanced else 'an'} accuracy of "
            f"{figure['value']:.0%} ({figure['low']:.0%} to {figure['high']:.0%}), chance {figure['chance']:.0%}: a model may learn "
            f"it in place of the lesion; {_remedy(row['clue'], settings)}"
        )
    return list(warnings.values())


def _remedy(clue: str, settings: BuildSettings) -> str:
    if clue == "source" and settings.patches.normals == "cases":
        return "compare within one source, or take normal tissue from abnormal films too (patches.normals = background)"
    if clue == "scanner" and not settings.normals.match_scanner:
        return "see normals.match_scanner"
    return f"compare within one {clue}" if clue in ("source", "scanner") else "see the report"
