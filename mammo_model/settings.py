"""Settings of a training, and the classes that they ask the network to tell apart."""

import hashlib
import json
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mammo_etl.records import Label

FORMAT_VERSION = 1
"""Version of a model run's files, and of the meaning of its settings."""


class TrainingSettings(BaseModel):
    """All that decides a model, besides the run that it is trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    binary: bool = False
    """Tell normal from abnormal tissue, instead of the five classes."""
    width: Annotated[int, Field(ge=1, le=256)] = 32
    """Filters of each convolution in the first block; doubled from block to block."""
    depth: Annotated[int, Field(ge=1, le=8)] = 4
    """Blocks of two convolutions, each block halving height and width."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout rate of the last block and of the dense layer; the blocks before rise to it from two fifths of it in even
    steps (0.2, 0.3, 0.4, 0.5 at a depth of 4)."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20
    """Passes over the training patches; the model of the pass with the least validation loss is kept."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Patches per step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Step size of Adam."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the first weights, the dropout and the order of the patches."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's outputs."""
        return ("Normal", "Abnormal") if self.binary else tuple(label.title for label in Label)

    def targets(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Class that the network should answer for each label 0 to 4 of the patch table."""
        return (labels > 0).astype(np.int64) if self.binary else labels.astype(np.int64)

    def digest(self) -> str:
        """SHA-256, hexadecimal, of the settings as canonical JSON (sorted keys, no spaces) with the format version."""
        content = {"format_version": FORMAT_VERSION, **self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
