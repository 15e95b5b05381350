"""Settings of a training, and the classes that they ask the network to tell apart."""

import hashlib
import json
from typing import Annotated, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mammo_etl.formats import MODEL_VERSION
from mammo_etl.records import Label
from mammo_model.sampling import Sampling

ArchitectureName = Literal[
    "vgg1", "vgg2", "vgg3", "vgg3-dropout", "vgg3-dropout-bn", "vgg3-dropout-bn-l2", "vgg4-dropout-bn", "resnet"
]
"""Names of networks; `mammo_model.architectures` says what each is."""

SEED_STEPS: tuple[ArchitectureName, ...] = get_args(ArchitectureName)[:7]
"""The seven that the seed work (2020) compares, in its order."""

Precision = Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"]


class TrainingSettings(BaseModel):
    """All that decides a model, besides the run that it is trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    binary: bool = False
    """Tell normal from abnormal tissue, instead of the five classes."""
    architecture: ArchitectureName = "vgg4-dropout-bn"
    """The network: one of the seed work's seven steps, by blocks and what was added (the last is its final one), or a residual one."""
    width: Annotated[int, Field(ge=1, le=256)] = 32
    """Filters of each convolution in the first block; doubled from block to block."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout rate of the last block and of the dense layer, in networks with dropout; the blocks before rise to it from two fifths of it in
    even steps (0.2, 0.3, 0.4, 0.5 in four blocks)."""
    epochs: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most passes over the training patches; the model of the pass with the highest macro F1 on the validation split is kept."""
    patience: Annotated[int, Field(ge=0)] = 10
    """Passes without a better model after which training ends; 0 lets it go on to the last."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Patches per step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Step size of Adam, at its highest."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Step size after warm-up: as it is, or falling to 0 along half a cosine, over all `epochs`."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of all steps in which the step size rises from 0."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's memory of gradients."""
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam's memory of their squares."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each kernel that a step takes away, in step sizes (as in AdamW)."""
    sampling: Sampling = "natural"
    """Patches of a pass: natural, each once; over or under, of every class as many as the most, or the least, frequent one has; balanced, of
    every class as many, and as many in all as there are."""
    hard_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of hard ones (the brightest tissue) among the normal patches of a pass; without it, as they come."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight of each class in the loss: the same, or in inverse proportion to its patches."""
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Focus of the loss on patches that the network gets wrong (Lin et al. 2017, who found 2 best); 0 is plain cross-entropy."""
    augmentation: bool = True
    """Train on patches that are changed at random by what the next four settings say; off, on patches as they are."""
    flips: bool = True
    """Mirror images and quarter turns, all eight equally often."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Largest rotation, degrees to either side."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest shift, in heights and widths of the patch."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest change of contrast, as a share."""
    precision: Precision = "auto"
    """Arithmetic of the layers (weights are float32 always): auto is mixed_float16 on a GPU, and float32 on a CPU."""
    xla: Literal["auto", "on", "off"] = "auto"
    """Compile the network by XLA: auto on a GPU and with JAX, not with TensorFlow on a CPU, where it is slower. With TensorFlow, Keras does so only
    without `rotation` and `shift`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the first weights, the dropout, the augmentation and the order of the patches."""

    @model_validator(mode="after")
    def _classes_are_evened_out_once(self) -> Self:
        if self.class_weights == "balanced" and self.sampling != "natural":
            raise ValueError(
                "class_weights=balanced is for sampling=natural: together they would even out the classes twice"
            )
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's outputs."""
        return ("Normal", "Abnormal") if self.binary else tuple(label.title for label in Label)

    def targets(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        """Class that the network should answer for each label 0 to 4 of the patch table."""
        return (labels > 0).astype(np.int64) if self.binary else labels.astype(np.int64)

    def digest(self) -> str:
        """SHA-256, hexadecimal, of the settings as canonical JSON (sorted keys, no spaces) with the format version."""
        content = {"format_version": MODEL_VERSION, **self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
