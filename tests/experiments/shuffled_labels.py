"""Whether a network that was taught nothing true scores at chance: labels dealt out anew for training, the true ones for the test.

    python tests/experiments/shuffled_labels.py WORKSPACE [--permutations 3]

WORKSPACE is that of phantoms.py. The labels of its run are permuted among the patches of the train and validation splits, and the network of phantoms.py is
trained on them for two epochs; the test split keeps its own. All of it is done for several permutations. If the balanced accuracy over the five classes is
not about 0.2, labels reach the answers by another way than through training.

Each figure has a 95% interval by patient. It does not cover the luck in the permutation itself: a network that answers all patches of a kind alike is above or
below chance by whatever name it happens to give them. For that there is the range that holds 95% of the 120 ways to name its answers, and the share of them
that score at least as high: below 0.05 in all permutations, that would tell of a leak.

Patients or overlapping patches that are in two splits are not found by this, since their labels were permuted too: a run's report counts these.
"""

import argparse
from pathlib import Path

import numpy as np
from chance import by_naming, share_as_high
from changed_run import changed, permuted_labels
from figure_table import as_table, shown
from phantoms import SETTINGS

from flows.settings import load_settings
from mammo_etl.reader import open_run
from mammo_etl.records import Split
from mammo_model.classification import metrics_of
from mammo_model.evaluation import predict
from mammo_model.training import train

EPOCHS = 2
"""Epochs of each training, a third of those of phantoms.py."""


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--permutations", type=int, default=3)
    arguments = parser.parse_args()
    run = open_run(arguments.workspace)
    rows = [["permutation", "balanced accuracy", "95% of all namings", "share as high", "answers of each class"]]
    values = []
    for seed in range(arguments.permutations):
        settings = load_settings(None, [*SETTINGS, f"training.epochs={EPOCHS}", f"training.seed={seed}"]).training
        permuted = changed(run, f"permuted-{seed}", label=permuted_labels(run.patches(), seed))
        trained = train(permuted, settings, arguments.workspace / "experiments")
        predictions = predict(permuted, settings, trained)
        test = metrics_of(predictions[predictions["split"] == Split.TEST], settings.classes)
        answers = ", ".join(str(entry["predicted"]) for entry in test["per_class"])
        namings = by_naming(np.array(test["confusion"]))
        low, high = np.quantile(namings, [0.025, 0.975])
        of_namings = [f"{low:.3f} to {high:.3f}", f"{share_as_high(namings):.2f}"]
        rows.append([str(seed), shown(test["balanced_accuracy"]), *of_namings, answers])
        values.append(test["balanced_accuracy"]["value"])
    print(as_table(rows))
    print(f"\nMean balanced accuracy {np.mean(values):.3f}; chance is 0.200.")


if __name__ == "__main__":
    main()
