"""Format versions of what lies in a workspace, and what a reader says of one that it does not know.

`mammo_etl.schema.FORMAT_VERSION` is that of a dataset run, its receipts and the files beside it. What can be made again, as receipts, is made again
where its version is another; what cannot is refused in a sentence.
"""

from typing import Any

from mammo_etl.places import Place

MODEL_VERSION = 3
"""Of a model run's files, and of the meaning of its settings."""

METRICS_VERSION = 2
"""Of metrics.json and predictions.parquet; 1 had figures of patches alone."""

STUDY_VERSION = 2
"""Of a study's files, and of the meaning of its settings; 1 did not say of which version its trainings are."""

OLDEST_RUN = OLDEST_MODEL = OLDEST_METRICS = 1
"""The oldest that are still read; tests/data has a workspace of each version that tests read."""


class FormatError(Exception):
    """A file of a format that this mammo does not know, in one sentence."""


def check_format(path: Place, content: Any, newest: int, remedy: str, oldest: int | None = None) -> None:
    """Raises FormatError unless the content of a file says that it is of a version from `oldest` (`newest`, if None) to `newest`.

    `remedy` is what to do about one that is older, or does not say.
    """
    oldest = newest if oldest is None else oldest
    expected = f"expected {newest}" if oldest == newest else f"expected {oldest} to {newest}"
    found = version_of(content)
    if found is None:
        raise FormatError(f"{path}: no format version, {expected}; {remedy}")
    if found > newest:
        raise FormatError(f"{path}: format version {found}, {expected}: made by a newer mammo; upgrade this one")
    if found < oldest:
        raise FormatError(f"{path}: format version {found}, {expected}: made by an older mammo; {remedy}")


def version_of(content: Any) -> int | None:
    """What a JSON file says of its version; None if it is none of ours."""
    found = content.get("format_version") if isinstance(content, dict) else None
    return found if type(found) is int else None
