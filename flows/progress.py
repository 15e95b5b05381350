"""Progress of the stages of a flow: bars in a terminal, artifacts in the Prefect UI, and the timings of the run."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flows.metrics import count_items, count_stage

_ARTIFACT_SECONDS = 2.0
"""Least time between two updates of a progress artifact: each is a call to the Prefect server."""

_log = logging.getLogger(__name__)


@dataclass
class Stage:
    """One stage under way."""

    name: str
    unit: str
    total: int | None
    bar: Progress
    bar_id: TaskID
    artifact: UUID | None
    done: int = 0
    skipped: int = 0
    rejected: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    shown: float = 0.0

    def expect(self, total: int) -> None:
        """Says how many items there are."""
        self.total = total
        self.bar.update(self.bar_id, total=total)

    def note(self, text: str) -> None:
        """Prints a line above the bar, and logs it."""
        _log.info("%s: %s", self.name, text)
        self.bar.console.print(text, highlight=False)

    def advance(self, items: int = 1, *, skipped: int = 0, rejected: int = 0, failed: int = 0) -> None:
        """Counts items that have ended: `skipped` of them because their receipts hold, `rejected` with a reason, `failed` by the infrastructure."""
        self.done += items
        self.skipped += skipped
        self.rejected += rejected
        self.failed += failed
        count_items(self.name, self.unit, items, skipped=skipped, rejected=rejected, failed=failed)
        elapsed = time.monotonic() - self.started
        self.bar.update(self.bar_id, completed=self.done, rate=f"{self.done / max(elapsed, 1e-6):.1f} {self.unit}/s")
        if self.artifact is not None and self.total and time.monotonic() - self.shown > _ARTIFACT_SECONDS:
            self.shown = time.monotonic()
            _update_artifact(self.artifact, min(100.0, 100.0 * self.done / self.total))


# Prefect is imported where it is used: that takes seconds, which `mammo inspect` need not spend.
def _in_flow() -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def _update_artifact(artifact: UUID, percent: float) -> None:
    from prefect.artifacts import update_progress_artifact

    update_progress_artifact(artifact, percent)


def _new_artifact(name: str, unit: str) -> UUID:
    from prefect.artifacts import create_progress_artifact

    artifact = create_progress_artifact(0.0, key=name, description=f"{name}: {unit}")
    assert isinstance(artifact, UUID)  # a coroutine only in asynchronous flows
    return artifact


class Stages:
    """The stages of one flow run, one after another."""

    def __init__(self) -> None:
        self.timings: list[dict[str, Any]] = []
        """One row per finished stage: stage, seconds, items, unit, and how many of these were skipped, rejected, failed."""

    @contextmanager
    def stage(self, name: str, unit: str, total: int | None = None) -> Iterator[Stage]:
        """A stage that shows its progress and, when it ends well, leaves its timing."""
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        artifact = _new_artifact(name, unit) if _in_flow() else None
        with Progress(*columns, console=Console(stderr=True)) as bar:
            stage = Stage(name, unit, total, bar, bar.add_task(name, total=total, rate=""), artifact)
            yield stage
            bar.update(stage.bar_id, total=stage.done, completed=stage.done)
        if artifact is not None:
            _update_artifact(artifact, 100.0)
        seconds = time.monotonic() - stage.started
        count_stage(name, seconds)
        _log.info(
            "%s: %d %s in %.1f seconds, of which %d skipped, %d rejected, %d failed",
            *(name, stage.done, unit, seconds, stage.skipped, stage.rejected, stage.failed),
        )
        self.timings.append(
            {
                "stage": name,
                "seconds": round(seconds, 3),
                "items": stage.done,
                "unit": unit,
                "skipped": stage.skipped,
                "rejected": stage.rejected,
                "failed": stage.failed,
            }
        )
