"""Settings of a study: what is tuned, between which ends, and how it is looked for."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Tuned = Literal["learning_rate", "beta_1", "beta_2", "dropout", "weight_decay", "width", "batch_size"]
"""Settings of a training that can be tuned."""

TUNED: tuple[Tuned, ...] = get_args(Tuned)

LOGARITHMIC: frozenset[Tuned] = frozenset({"learning_rate", "weight_decay"})
"""Those that are drawn from the logarithms of their range: what counts is by which factor they change."""

Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TuningSettings(BaseModel):
    """A study: trainings under settings that a sampler chooses, judged on the validation split."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trials: Annotated[int, Field(ge=1, le=10000)] = 20
    """Trainings in all, those that were done before included."""
    parameters: Annotated[tuple[Tuned, ...], Field(min_length=1)] = TUNED
    """What is tuned; all else is as `training` says."""
    startup_trials: Annotated[int, Field(ge=1)] = 8
    """Trials at random before the sampler learns from what they came to, and whole ones before any is pruned."""
    pruning: Literal["median", "none"] = "median"
    """End a trial early whose best macro F1 so far is below the median of what the whole ones before it had at the same epoch."""
    warmup_epochs: Annotated[int, Field(ge=1)] = 3
    """Epochs that every trial is given before it may be pruned."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the sampler; each trial has its own stream. Weights and shuffling have that of `training`."""
    parallel: bool = False
    """Trials as tasks over the cluster, one for each worker, instead of one after another in this process; none is pruned then."""
    learning_rate: tuple[Rate, Rate] = (1e-4, 1e-2)
    """Least and largest, drawn by their logarithms."""
    beta_1: tuple[Share, Share] = (0.8, 0.98)
    """Least and largest."""
    beta_2: tuple[Share, Share] = (0.98, 0.9999)
    """Least and largest."""
    dropout: tuple[Share, Share] = (0.0, 0.6)
    """Least and largest; networks without dropout leave it out."""
    weight_decay: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]] = (1e-5, 1e-1)
    """Least and largest, drawn by their logarithms."""
    width: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1)] = (16, 32, 64)
    """Those to choose from."""
    batch_size: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1)] = (16, 32, 64)
    """Those to choose from."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("learning_rate", "beta_1", "beta_2", "dropout", "weight_decay"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is a range: expected its lower end first, not [{low:g}, {high:g}]")
        for name in ("width", "batch_size", "parameters"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: expected each once")
        return self
