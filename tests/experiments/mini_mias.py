"""What the network learns from a few real films, beside two baselines, by cross-validation over women.

    python tests/experiments/mini_mias.py WORKSPACE FILMS [--seed 0]

FILMS is a folder or zip archive of mini-MIAS, or of a part of it. Run and models lie in WORKSPACE, and what is finished there is not done again. A patch has
64 pixels, 12.8 mm, which is what 256 pixels of the usual 0.05 mm measure. Women, never patches, are dealt out to five folds, of each class as evenly as can
be. Each fold is tested once; the next one is for validation, by which the epoch of the network and the C of the regression are chosen, and the other three
are for training. The answers for all folds are pooled; intervals are 95%, by bootstrap over women.

majority: the most frequent class, always. histogram: logistic regression on the patch's grey-level histogram, standardised, with balanced class weights.
network: vgg4-dropout-bn at width 8, 12 epochs. Each answers twice, with five classes and with two.

A class that fewer than five women have is missing in some folds, and of so few women the intervals tell how little is known.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from changed_run import changed
from figure_table import as_table, shown
from folds import FOLDS, folds_of, split_by_fold
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flows.build_dataset import build_dataset
from flows.settings import load_settings
from mammo_etl.reader import PublishedRun, open_run
from mammo_etl.records import Label, Split
from mammo_etl.settings import SourceSettings
from mammo_etl.store import read_rows
from mammo_model.classification import metrics_of
from mammo_model.levels import level_metrics
from mammo_model.settings import TrainingSettings

SETTINGS = [
    "patches.size=64",
    "patches.stride=64",
    "patches.min_distance=32",
    # Normal patches are the most in each fold, so that the majority is the same class in all.
    "plan.normal_share=0.6",
    "training.width=8",
    "training.epochs=12",
    "training.patience=0",
    "training.batch_size=32",
    "training.learning_rate=0.002",
    "training.dropout=0.3",
    "training.sampling=balanced",
]
"""Settings of the build and of the network, chosen beforehand."""

BINS = 32
"""Bins of the histogram."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse of the regression's regularisation, that are tried on the validation fold."""

Answer = Callable[[PublishedRun, TrainingSettings], NDArray[np.float64]]
"""From a run and settings to the probabilities for the patches of its test split, by row, (patches, classes)."""


def majority(run: PublishedRun, settings: TrainingSettings) -> NDArray[np.float64]:
    """The most frequent class of the train split."""
    patches = run.patches()
    targets = settings.targets(patches.loc[patches["split"] == Split.TRAIN, "label"].to_numpy())
    probabilities = np.zeros(((patches["split"] == Split.TEST).sum(), len(settings.classes)))
    probabilities[:, np.bincount(targets).argmax()] = 1
    return probabilities


def histogram(run: PublishedRun, settings: TrainingSettings) -> NDArray[np.float64]:
    """Logistic regression on grey levels; C is that with the highest balanced accuracy on the validation split."""
    patches = run.patches()
    pixels = read_rows(run.open_patches(), patches["row"].to_numpy(np.int64))
    features = np.stack([np.bincount(patch.ravel() // (256 // BINS), minlength=BINS) for patch in pixels])
    targets = settings.targets(patches["label"].to_numpy())
    trained, validated, tested = ((patches["split"] == split).to_numpy() for split in Split)

    def fitted(strength: float) -> Any:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=10_000)
        return make_pipeline(StandardScaler(), regression).fit(features[trained], targets[trained])

    def score(model: Any) -> float:
        # Its mean is over the classes that the validation fold has.
        there = np.unique(targets[validated])
        return float(
            recall_score(targets[validated], model.predict(features[validated]), labels=there, average="macro")
        )

    best = max(map(fitted, STRENGTHS), key=score)
    probabilities = np.zeros((tested.sum(), len(settings.classes)))
    probabilities[:, best.classes_] = best.predict_proba(features[tested])
    return probabilities


def network_in(models_folder: Path) -> Answer:
    """The network, trained and kept below `models_folder`."""
    # Not above: the build's workers import this file, and TensorFlow takes ten seconds.
    from mammo_model.evaluation import predict
    from mammo_model.training import train

    def network(run: PublishedRun, settings: TrainingSettings) -> NDArray[np.float64]:
        predictions = predict(run, settings, train(run, settings, models_folder))
        tested = predictions[predictions["split"] == Split.TEST]
        return tested[[f"p{index}" for index in range(len(settings.classes))]].to_numpy(np.float64)

    return network


def pooled(run: PublishedRun, folds: NDArray[np.int64], settings: TrainingSettings, answer: Answer) -> pd.DataFrame:
    """One row per patch of all folds, as `mammo_model.evaluation.predict`, with the answer of the model that was not trained on its fold."""
    from mammo_model.evaluation import described_patches

    parts = []
    for fold in range(FOLDS):
        of_fold = changed(run, f"fold-{fold}", split=split_by_fold(folds, fold))
        table = described_patches(of_fold)
        table = table[table["split"] == Split.TEST]
        probabilities = answer(of_fold, settings)
        columns = {f"p{index}": probabilities[:, index] for index in range(len(settings.classes))}
        targets = settings.targets(table["label"].to_numpy())
        parts.append(table.assign(target=targets, predicted=probabilities.argmax(1), **columns))
    return pd.concat(parts, ignore_index=True)


def women_by_class(patches: pd.DataFrame, folds: NDArray[np.int64]) -> str:
    """How many women show each class, in all and in each fold, as a table."""
    rows = [["class", "patches", "women", "in each fold"]]
    for label in Label:
        group = patches.assign(fold=folds)[patches["label"] == label]
        women = group.groupby("fold")["patient_id"].nunique().reindex(range(FOLDS), fill_value=0)
        rows.append([label.title, str(len(group)), str(women.sum()), ", ".join(map(str, women))])
    return as_table(rows)


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("films", help="folder or zip archive of mini-MIAS, or of a part of it")
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of the network")
    arguments = parser.parse_args()
    job = load_settings(None, [*SETTINGS, f"training.seed={arguments.seed}"])
    built = build_dataset.fn(
        [SourceSettings(kind="mini-mias", path=arguments.films)], arguments.workspace, job.build, job.cluster
    )
    run = open_run(arguments.workspace, built.run_id)
    folds = folds_of(run.patches(), arguments.seed)
    print(women_by_class(run.patches(), folds), end="\n\n", flush=True)
    answers: dict[str, Answer] = {
        "majority": majority,
        "histogram": histogram,
        "network": network_in(arguments.workspace / "experiments"),
    }
    rows = [["classes", "model", "balanced accuracy", "accuracy", "macro F1", "ROC AUC abnormal"]]
    for binary in (False, True):
        settings = job.training.model_copy(update={"binary": binary})
        for name, answer in answers.items():
            predictions = pooled(run, folds, settings, answer)
            figures = metrics_of(predictions, settings.classes)
            # Films are not asked: a normal one has more patches than one with a lesion, and so by mere noise a higher maximum.
            auc = level_metrics(predictions, settings.classes)["patch"]["questions"]["abnormal"]["roc_auc"]
            of_classes = [figures[measure] for measure in ("balanced_accuracy", "accuracy", "macro_f1")]
            rows.append([str(len(settings.classes)), name, *map(shown, [*of_classes, auc])])
            print(f"{name}, {len(settings.classes)} classes:", *figures["confusion"], flush=True)
    print("\n" + as_table(rows))


if __name__ == "__main__":
    main()
