"""Two models on the same test patches: paired bootstrap against a plain loop, and what is refused."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from flows.comparison import compare_models, show_comparison
from mammo_model import bootstrap
from mammo_model.comparison import Comparison, ComparisonError
from mammo_model.settings import TrainingSettings

FIVE = TrainingSettings().classes
TWO = TrainingSettings(binary=True).classes
PATCHES, PATIENTS = 200, 40


def truth() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 5, PATCHES)


def model(workspace: Path, name: str, skill: float, seed: int, classes: tuple[str, ...] = FIVE) -> pd.DataFrame:
    """A model run of which only what is compared is there; returns its test predictions."""
    rng = np.random.default_rng(seed)
    targets = truth() if classes == FIVE else truth().clip(0, 1)
    logits = rng.normal(size=(PATCHES, len(classes)))
    logits[np.arange(PATCHES), targets] += skill
    probabilities = softmax(logits, axis=1)
    table = pd.DataFrame(
        {
            "source": "phantom",
            "patient_id": (np.arange(PATCHES) % PATIENTS).astype(str),
            "patch_id": [f"patch-{index:03}" for index in range(PATCHES)],
            "split": "test",
            "target": targets,
            "predicted": probabilities.argmax(1),
        }
    )
    for index in range(len(classes)):
        table[f"p{index}"] = probabilities[:, index].astype(np.float32)
    write(workspace, name, table, classes)
    return table


def write(workspace: Path, name: str, table: pd.DataFrame, classes: tuple[str, ...] = FIVE) -> None:
    folder = workspace / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    others = table.assign(split="validation", patch_id="other-" + table["patch_id"], target=0)
    shuffled = pd.concat([others, table]).sample(frac=1, random_state=len(name))
    shuffled.to_parquet(folder / "predictions.parquet")
    (folder / "metrics.json").write_text(json.dumps({"format_version": 2, "classes": classes}))
    (folder / "manifest.json").write_text(json.dumps({"format_version": 3, "phantom": True}))


def by_name(found: Comparison) -> dict:
    return {row.name: row for row in found.differences}


def test_values_are_scikit_learns(tmp_path: Path) -> None:
    tables = {"a": model(tmp_path, "a", 1.0, 2), "b": model(tmp_path, "b", 2.0, 3)}
    found = compare_models(tmp_path, "a", "b")
    assert (found.patches, found.patients, found.phantom) == (PATCHES, PATIENTS, True)
    rows = by_name(found)
    for name, table in tables.items():
        probabilities = table[[f"p{index}" for index in range(5)]].to_numpy(float)
        abnormal = probabilities[:, 1:].sum(1)
        wanted = {
            "accuracy": accuracy_score(table["target"], table["predicted"]),
            "balanced accuracy": balanced_accuracy_score(table["target"], table["predicted"]),
            "macro F1": f1_score(table["target"], table["predicted"], average="macro"),
            "macro ROC AUC": np.mean([roc_auc_score(table["target"] == k, probabilities[:, k]) for k in range(5)]),
            "ROC AUC, abnormal": roc_auc_score(table["target"] > 0, abnormal),
            "ROC AUC, malignant": roc_auc_score(table["target"] > 2, probabilities[:, 3:].sum(1)),
        }
        assert {figure: getattr(row, name) for figure, row in rows.items()} == pytest.approx(wanted)
    for row in found.differences:
        assert row.difference == pytest.approx(row.b - row.a)
        assert 0 < row.low < row.difference < row.high
        assert row.p == pytest.approx(2 / 1001)


def test_the_interval_is_that_of_a_loop_over_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    a, b = model(tmp_path, "a", 1.0, 2), model(tmp_path, "b", 1.1, 3)
    # Patients are numbered in the order of their names.
    patients = a.groupby("patient_id").ngroup().to_numpy()
    drawn = []
    for counts in bootstrap.draw(PATIENTS):
        rows = np.repeat(np.arange(PATCHES), counts[patients])
        f1 = [f1_score(table["target"].iloc[rows], table["predicted"].iloc[rows], average="macro") for table in (a, b)]
        drawn.append(f1[1] - f1[0])
    row = by_name(compare_models(tmp_path, "a", "b"))["macro F1"]
    assert [row.low, row.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]))
    assert row.low < 0 < row.high
    less, more = np.sum(np.array(drawn) <= 0), np.sum(np.array(drawn) >= 0)
    assert row.p == pytest.approx(2 * (min(less, more) + 1) / 201)


def test_pairs_are_told_apart_better_than_models_by_themselves(tmp_path: Path) -> None:
    a = model(tmp_path, "a", 1.0, 2)
    # The same answers, but for five more patches that are right, each of another patient.
    wrong = np.flatnonzero(a["target"] != a["predicted"])[:5]
    b = a.copy()
    b.loc[wrong, "predicted"] = b.loc[wrong, "target"]
    write(tmp_path, "b", b)
    row = by_name(compare_models(tmp_path, "a", "b"))["accuracy"]
    assert row.difference == pytest.approx(5 / PATCHES)
    assert row.low > 0
    assert row.p < 0.05


def test_a_model_is_no_better_than_one_that_answers_the_same(tmp_path: Path) -> None:
    write(tmp_path, "b", model(tmp_path, "a", 1.0, 2))
    for row in compare_models(tmp_path, "a", "b").differences:
        assert (row.difference, row.low, row.high, row.p) == (0, 0, 0, 1)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = model(tmp_path, "a", 1.0, 2)
    model(tmp_path, "binary", 1.0, 2, TWO)
    write(tmp_path, "fewer", a.iloc[:-5])
    write(tmp_path, "relabelled", a.assign(target=a["target"].where(a.index != 7, (a["target"] + 1) % 5)))
    with pytest.raises(ComparisonError, match="a tells 5 classes apart and binary 2"):
        compare_models(tmp_path, "a", "binary")
    with pytest.raises(
        ComparisonError, match="a was tested on 200 patches and fewer on 195, of which 195 are the same"
    ):
        compare_models(tmp_path, "a", "fewer")
    with pytest.raises(ComparisonError, match="of which 199 are the same with the same class"):
        compare_models(tmp_path, "a", "relabelled")
    with pytest.raises(
        ComparisonError, match="models/none: no finished model run; there are a, binary, fewer, relabelled"
    ):
        compare_models(tmp_path, "a", "none")
    with pytest.raises(ComparisonError, match="a twice: expected two models; there are a, binary, fewer, relabelled"):
        compare_models(tmp_path, "a", "a")
    (tmp_path / "models" / "a" / "manifest.json").unlink()
    with pytest.raises(ComparisonError, match="models/a: no finished model run"):
        compare_models(tmp_path, "fewer", "a")


@pytest.mark.filterwarnings("error")
def test_what_is_not_defined_is_shown_as_a_dash(tmp_path: Path) -> None:
    a = model(tmp_path, "a", 1.0, 2)
    for name in ("normal", "again"):
        write(tmp_path, name, a.assign(target=0))
    found = compare_models(tmp_path, "normal", "again")
    row = by_name(found)["ROC AUC, abnormal"]
    assert row.a is row.difference is row.low is row.p is None
    text = io.StringIO()
    show_comparison(found, Console(file=text, width=120))
    assert "200 test patches of 40 patients" in text.getvalue()
    assert "say nothing about medicine" in text.getvalue()
    lines = [line for line in text.getvalue().splitlines() if "ROC AUC, abnormal" in line]
    assert lines[0].count("-") == 4


def test_no_tensorflow_is_needed() -> None:
    script = "import sys, flows.comparison; assert not {'tensorflow', 'keras', 'prefect'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent.parent, check=True)
