"""What a study came to: its tables, its page and study.json."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pandas as pd
import pyarrow as pa

from mammo_etl import catalog
from mammo_etl.formats import STUDY_VERSION
from mammo_etl.places import Place
from mammo_etl.reader import open_run
from mammo_etl.workspace import write_bytes, write_json
from mammo_model import backend, study_figures
from mammo_model.figures import save
from mammo_model.report import embedded, page_environment
from mammo_model.settings import TrainingSettings
from mammo_model.studies import ranked, training_command
from mammo_model.tuning import LEAST_FOR_IMPORTANCES, Search, TrialResult, best_of
from mammo_model.tuning_settings import TuningSettings


def conclude(search: Search) -> dict[str, Any]:
    """Writes tables, pictures and page of a study whose trials have ended, and study.json last; content of that."""
    study = search.study
    results = sorted(search.results, key=lambda result: result.number)
    best = best_of(results)
    importances = search.importances()
    found = {
        "format_version": STUDY_VERSION,
        "study_id": study.study_id,
        "run_id": study.run_id,
        "phantom": bool(open_run(study.workspace, study.run_id).manifest.get("phantom", False)),
        "settings": {
            "training": study.training.model_dump(mode="json"),
            "tuning": study.tuning.model_dump(mode="json"),
        },
        "best": {
            "number": best.number,
            "value": best.value,
            "params": best.parameters,
            "settings": study.training.model_copy(update=best.parameters).model_dump(mode="json"),
        },
        "importances": importances,
        "trials": [
            {
                "number": result.number,
                "state": "pruned" if result.pruned else "complete",
                "value": result.value,
                "params": result.parameters,
                "epochs": len(result.curve),
                "seconds": result.seconds,
                "val_macro_f1": list(result.curve.values()),
            }
            for result in results
        ],
        "device": "GPU" if backend.on_gpu() else "CPU",
        "versions": {**backend.versions(), "optuna": version("optuna")},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    table = trials_table(found)
    trials = catalog.versioned(pa.Table.from_pandas(table, preserve_index=False), STUDY_VERSION)
    catalog.write_table(study.folder / "trials.parquet", trials)
    write_bytes(study.folder / "trials.csv", table.to_csv(index=False).encode())
    page = render(found, draw(results, importances, study.folder / "figures"))
    write_bytes(study.page_path, page.encode())
    write_json(study.result_path, found)
    return found


def trials_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Trials of a study.json as a table: number, state, value, epochs, seconds and each parameter."""
    columns = ("number", "state", "value", "epochs", "seconds")
    return pd.DataFrame([{**{name: trial[name] for name in columns}, **trial["params"]} for trial in found["trials"]])


def draw(results: Sequence[TrialResult], importances: dict[str, float] | None, folder: Place) -> dict[str, Place]:
    """Draws all pictures into a folder; name, as the page asks for it -> file."""
    drawn = {
        "history": study_figures.history_figure(results),
        "curves": study_figures.curves_figure(results),
        "slices": study_figures.slices_figure(results),
        "parallel": study_figures.parallel_figure(results),
    }
    if importances is not None:
        drawn["importances"] = study_figures.importances_figure(importances)
    return {name: save(figure, folder / f"{name}.png") for name, figure in drawn.items()}


def render(found: Mapping[str, Any], figures: Mapping[str, Place]) -> str:
    """The page of a study.json; it needs no other file."""
    environment = page_environment()
    environment.filters["short"] = lambda value: f"{value:.4g}"
    trials = ranked(found["trials"])
    return environment.get_template("study.html.j2").render(
        study=found,
        best=found["best"],
        trials=trials,
        pruned=sum(trial["state"] == "pruned" for trial in trials),
        seconds=sum(trial["seconds"] for trial in trials),
        command=training_command(found, "WORKSPACE"),
        least=LEAST_FOR_IMPORTANCES,
        tables=[
            (
                title,
                table,
                [
                    (name, found["settings"][table][name], field.description)
                    for name, field in model.model_fields.items()
                ],
            )
            for title, table, model in (
                ("Search", "tuning", TuningSettings),
                ("Training", "training", TrainingSettings),
            )
        ],
        figures=embedded(figures),
    )
