"""What a study came to, for commands and for Prefect."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from mammo_etl.places import shown
from mammo_model.studies import Study, ranked, training_command

SHOWN = 5
"""Best trials that are shown."""


class TuneSummary(BaseModel):
    """What a study came to."""

    study_id: str
    run_id: str
    folder: Path | str
    """A local path, or an URL of an object store."""
    report: Path | str
    new: bool
    """False if the study had as many trials already."""
    phantom: bool
    """The trials learned from phantoms only."""
    best: dict[str, Any]
    """number, value (macro F1 on the validation split), params, and all settings."""
    trials: list[dict[str, Any]]
    """number, state (complete or pruned), value, params, epochs, seconds and val_macro_f1 by epoch, in the order in which they began."""
    command: str
    """Trains a model under the best settings."""
    timings: list[dict[str, Any]]

    @classmethod
    def of(cls, study: Study, result: dict[str, Any], new: bool, timings: list[dict[str, Any]]) -> Self:
        """From the content of study.json."""
        return cls(
            **{name: result[name] for name in ("study_id", "run_id", "phantom", "best", "trials")},
            folder=shown(study.folder),
            report=shown(study.page_path),
            new=new,
            command=training_command(result, str(study.workspace)),
            timings=timings,
        )

    def as_markdown(self) -> str:
        """Best trials and the command, as Markdown."""
        names = list(self.best["params"])
        lines = [
            f"# Study `{self.study_id}`",
            f"{len(self.trials)} trials on `{self.run_id}`; macro F1 on the validation split.",
            "",
            f"| trial | macro F1 | {' | '.join(names)} |",
            "|---:" * (2 + len(names)) + "|",
        ]
        for trial in ranked(self.trials)[:SHOWN]:
            values = " | ".join(f"{trial['params'][name]:.4g}" for name in names)
            lines.append(f"| {trial['number']} | {trial['value']:.3f} | {values} |")
        lines += ["", f"`{self.command}`", "", f"Report: `{self.report}`"]
        if self.phantom:
            lines.insert(
                2, "**Phantoms: these figures prove that the plumbing works; they say nothing about medicine.**"
            )
        return "\n".join(lines)
