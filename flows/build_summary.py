"""What a build tells of itself."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from mammo_etl.places import shown
from mammo_etl.reader import PublishedRun


class BuildSummary(BaseModel):
    """What a build came to."""

    run_id: str
    folder: Path | str
    """A local path, or an URL of an object store."""
    report: Path | str
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
            folder=shown(run.folder),
            report=shown(run.folder / "report.html"),
            new=new,
            counts=run.manifest["counts"],
            rejects=run.manifest["rejects"],
            timings=timings,
            warnings=run.manifest["warnings"],
        )
