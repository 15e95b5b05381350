"""A published run by other labels or splits: what experiments change of a run, whose folder never changes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammo_etl.reader import PublishedRun
from mammo_etl.records import Split


@dataclass(frozen=True)
class ChangedRun(PublishedRun):
    """A published run with another patch table: the same pixels."""

    table: pd.DataFrame
    """What `patches` gives."""

    def patches(self) -> pd.DataFrame:
        """The changed patch table, sorted by row."""
        return self.table


def changed(run: PublishedRun, name: str, **columns: Any) -> ChangedRun:
    """The run with other columns in its patch table; `name` tells its models from those of the run itself."""
    return ChangedRun(f"{run.run_id}-{name}", run.folder, run.manifest, run.patches().assign(**columns))


def permuted_labels(patches: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Labels of the patches, (n,): dealt out anew among those of the train and validation splits, as they are in the test split."""
    labels = patches["label"].to_numpy(np.int64).copy()
    seen = np.flatnonzero(patches["split"] != Split.TEST)
    labels[seen] = labels[np.random.default_rng(seed).permutation(seen)]
    return labels
