"""What a build tells of itself."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from mammo_etl.reader import PublishedRun


class BuildSummary(BaseModel):
    """What a build came to."""

    run_id: str
    folder: Path
    report: Path
    new: bool
    """False if the very same run was there already."""
    counts: dict[str, int]
    rejects: dict[str, int]
    """Rejected files, films and findings by reason code."""
    timings: list[dict[str, Any]]
    """One row per stage; none if it was plain at once that nothing has changed."""
    warnings: list[str]

    @classmethod
    def of(cls, run: PublishedRun, new: bool, timings: list[dict[str, Any]]) -> Self:
        """Of a published run."""
        return cls(
            run_id=run.run_id,
            folder=run.folder,
            report=run.folder / "report.html",
            new=new,
            counts=run.manifest["counts"],
            rejects=run.manifest["rejects"],
            timings=timings,
            warnings=run.manifest["warnings"],
        )
