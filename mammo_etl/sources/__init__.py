"""Data sets that mammo reads.

A source is one module here that has the functions of `Source`; its kind is the module's name with dashes (`cbis-ddsm` is `cbis_ddsm.py`).
Nothing else has to be told of a new one.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from mammo_etl.records import Finding, Rejection, Scan


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a source holds: its films, their findings, and what had to be left out."""

    scans: tuple[Scan, ...]
    findings: tuple[Finding, ...]
    rejects: tuple[Rejection, ...]


class Source(Protocol):
    """What a source's module must offer."""

    def wants(self, url: str) -> bool:
        """Whether the header of this file is to be read; decided by name alone."""
        ...

    def read_header(self, url: str) -> Any:
        """What `assemble` must know of one file: small, picklable; runs on a worker.

        Raises SourceFileError for a file that cannot be used.
        """
        ...

    def assemble(self, files: Sequence[str], headers: Mapping[str, Any], rejects: Sequence[Rejection]) -> Inventory:
        """Joins headers (by file) and tables into scans and findings.

        `files` is every file of the source, `rejects` what listing and header reading left out (to be passed on in the result, and so that
        a file already rejected is not reported as missing too). The result does not depend on the order of `files`.
        """
        ...


def kinds() -> list[str]:
    """The kinds of source there are, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def check_kind(kind: str) -> None:
    """Raises ValueError, naming the kinds there are, for any other; imports none of them."""
    if kind not in kinds():
        raise ValueError(f"unknown source {kind!r}: expected one of {', '.join(kinds())}")


def source_of(kind: str) -> Source:
    """The source of a kind; raises ValueError as `check_kind` does."""
    check_kind(kind)
    return cast("Source", importlib.import_module(f"mammo_etl.sources.{kind.replace('-', '_')}"))
