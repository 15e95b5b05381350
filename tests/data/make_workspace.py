"""Makes a small workspace of phantoms by whatever mammo is installed or on PYTHONPATH, to be kept as a fixture of its format version.

    mkdir /data; cd /data
    python REPOSITORY/tests/data/make_workspace.py /data/phantoms /data/format_N TRAINING   # for an old version: PYTHONPATH=ITS_CHECKOUT

Absolute paths of the films stand in the tables, so choose ones that name no machine. TRAINING are settings of the training as JSON, such as make a
small network. Reports and pictures of films and models, which nothing reads, are removed afterwards; what is left is not to be edited.
"""

import json
import shutil
import sys
from pathlib import Path

SETTINGS = {
    "patches": {
        "size": 32,
        "stride": 16,
        "around": 0,
        "normals_per_film": 3,
        "min_distance": 16,
        "normals": "background",
    },
    # By this seed each of the three patients is in a split of her own.
    "plan": {"validation": 0.3, "test": 0.3, "normal_share": 0.5, "seed": 13},
    "store": {"shard_rows": 16},
}


def make(films: Path, workspace: Path, training: dict) -> None:
    from flows.build_dataset import build_dataset
    from flows.clusters import ClusterSettings
    from flows.train_model import train_model
    from mammo_etl.phantom.write import write_phantoms
    from mammo_etl.settings import BuildSettings, SourceSettings, validated
    from mammo_model.settings import TrainingSettings

    write_phantoms(films, 6, 0, height=320, width=200, workers=1)
    source = SourceSettings(kind="cbis-ddsm", path=str(films / "cbis-ddsm"))
    build_dataset.fn([source], workspace, validated(BuildSettings, SETTINGS, "fixture"), ClusterSettings(workers=1))
    train_model.fn(workspace, TrainingSettings(binary=True, epochs=1, batch_size=8, **training))
    for path in [*workspace.rglob("report.html"), *workspace.glob("images/*/*.png"), *workspace.rglob("*.onnx")]:
        path.unlink()
    for folder in workspace.glob("models/*/figures"):
        shutil.rmtree(folder)
    for name in ("lock", "latest.json"):
        for path in workspace.rglob(name):
            path.unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
