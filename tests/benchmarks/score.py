"""Speed of scoring a whole film beside scoring it patch by patch.

    python tests/benchmarks/score.py [--height 4800] [--stride 128] [--width 32] [--repeats 3]

score: a film from its file to its pictures and figures, as `mammo score` does it, by an untrained network of the default settings. Patch by patch: the same, with
a `model.predict` for each of the same patches. Predict: one `model.predict` of all patches, in batches of 32. They take turns; the figures are
medians, of seconds. The film is a phantom.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
from numpy.typing import NDArray

from flows.clusters import cores
from mammo_etl.extract import cut
from mammo_etl.files import digest_of_file
from mammo_etl.film_files import loose_films
from mammo_etl.phantom.write import write_phantoms
from mammo_etl.settings import CleaningSettings
from mammo_etl.workspace import read_json
from mammo_model import scoring
from mammo_model.architectures import build_network
from mammo_model.scoring_settings import ScoringSettings
from mammo_model.settings import TrainingSettings

SIZE = 256


def patch_by_patch(
    model: Any,
    image: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    places: NDArray[np.int64],
    size: int,
    threads: int,
) -> NDArray[np.float32]:
    """The answers, by a call for each patch."""
    patches = (cut(image, box, int(y), int(x), size)[np.newaxis, ..., np.newaxis] for y, x in places)
    return np.concatenate([model.predict(one, verbose=0) for one in patches])


def at_once(
    model: Any,
    image: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    places: NDArray[np.int64],
    size: int,
    threads: int,
) -> NDArray[np.float32]:
    """The answers, by one call for all patches."""
    patches = np.stack([cut(image, box, int(y), int(x), size) for y, x in places])[..., np.newaxis]
    answers: NDArray[np.float32] = model.predict(patches, batch_size=32, verbose=0)
    return answers


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=4800)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    threads = cores()
    settings, training = ScoringSettings(stride=arguments.stride), TrainingSettings(width=arguments.width)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantoms(folder, 2, 0, height=arguments.height, width=arguments.height * 5 // 8)
        ((film,), _) = loose_films(str(next((folder / "ddsm").rglob("*.LJPEG"))))
        keras.utils.set_random_seed(0)
        path = folder / "model.keras"
        build_network(SIZE, training).save(path)
        model = scoring.AppliedModel(
            "model", "run", path, digest_of_file(path), training.classes, SIZE, CleaningSettings(), True
        )
        ways: dict[str, Callable[..., NDArray[np.float32]]] = {
            "score": scoring.ask,
            "predict, all at once": at_once,
            "predict, patch by patch": patch_by_patch,
        }
        figures: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(arguments.repeats + 1):
            for way, ask in ways.items():
                if not turn and ask is patch_by_patch:
                    scoring.loaded(path, model.sha256).predict(np.zeros((1, SIZE, SIZE, 1), np.uint8), verbose=0)
                    continue
                started = time.perf_counter()
                with patch.object(scoring, "ask", ask):
                    result = scoring.score_film(film, folder / way / str(turn), model, settings, threads)
                assert result.rejection is None
                if turn:
                    figures[way].append(time.perf_counter() - started)
        scores = next((folder / "score" / "1" / "films").rglob("scores.json"))
        patches = len(read_json(scores)["places"])
    print(
        f"{arguments.height} rows, {patches:,} patches of {SIZE}, every {arguments.stride} pixels; {arguments.repeats} turns\n"
    )
    print("| | s | times score's |\n|---|---|---|")
    for way, values in figures.items():
        print(f"| {way} | {median(values):.1f} | {median(values) / median(figures['score']):.2f} |")


if __name__ == "__main__":
    main()
