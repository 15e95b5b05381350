"""Which patches an epoch visits, and how often.

A plan is groups of patches and how many of each an epoch draws, so every epoch is as long as the others. What is left out or repeated is drawn
anew for each.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["natural", "balanced", "over", "under"]
"""natural: every patch once. over, under: of every class as many as the most, or the least, frequent one has. balanced: of every class as
many, and as many in all as there are patches."""

NORMAL = 0
"""Class of normal patches, for five classes and for two."""


class SamplingError(Exception):
    """Patches that the plan asks for and that are not there, in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Some patches, and how many of them an epoch draws."""

    members: NDArray[np.int64]
    """Positions of the patches among those of the split."""
    drawn: int
    """Draws in an epoch: each member as often as the others, give or take one."""

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The members drawn for one epoch, (drawn,)."""
        repeats, rest = divmod(self.drawn, len(self.members))
        return np.concatenate([np.tile(self.members, repeats), rng.choice(self.members, rest, replace=False)])


@dataclass(frozen=True, slots=True, eq=False)
class SamplingPlan:
    """What an epoch visits."""

    groups: tuple[Group, ...]

    def __len__(self) -> int:
        """Patches in an epoch, repeated ones counted as often as they come."""
        return sum(group.drawn for group in self.groups)

    def epoch(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Positions in the order of that epoch, shuffled over all: the same for the same seed and epoch, whatever came before it."""
        rng = np.random.default_rng((seed, epoch))
        return rng.permutation(np.concatenate([group.draw(rng) for group in self.groups]))


def plan_epochs(
    targets: NDArray[np.int64], sampling: Sampling, hard: NDArray[np.bool_], hard_share: float | None = None
) -> SamplingPlan:
    """The plan for patches of these classes, (n,).

    `hard_share` is the share of hard ones, marked in `hard`, (n,), among the normal patches drawn; None takes them as they come. Raises
    SamplingError if it asks for hard normals, or others, and there are none.
    """
    classes, counts = np.unique(targets, return_counts=True)
    draws = {
        "natural": counts,
        "over": np.full_like(counts, counts.max()),
        "under": np.full_like(counts, counts.min()),
        # The last classes take what does not divide.
        "balanced": np.diff(np.arange(len(counts) + 1) * len(targets) // len(counts)),
    }[sampling]
    groups: list[Group] = []
    for target, drawn in zip(classes, draws, strict=True):
        members = np.flatnonzero(targets == target)
        if target == NORMAL and hard_share is not None:
            groups += _by_hardness(members, hard[members], int(drawn), hard_share)
        else:
            groups.append(Group(members, int(drawn)))
    return SamplingPlan(tuple(group for group in groups if group.drawn))


def _by_hardness(normals: NDArray[np.int64], hard: NDArray[np.bool_], drawn: int, share: float) -> list[Group]:
    of_hard = round(share * drawn)
    groups = [Group(normals[hard], of_hard), Group(normals[~hard], drawn - of_hard)]
    for group, name in zip(groups, ("hard", "other"), strict=True):
        if group.drawn and not len(group.members):
            raise SamplingError(
                f"training.hard_share={share:g} asks for {name} normal patches, and the run has none in its train split: "
                "build one with patches.hard_normals, or leave training.hard_share out"
            )
    return groups
