"""Who is train, validation and test."""

import hashlib

from mammo_etl.records import Split
from mammo_etl.settings import PlanSettings


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: the same for ever, on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(source: str, patient_id: str, settings: PlanSettings) -> Split:
    """Split of a patient, with all films of both breasts; new patients never move old ones."""
    place = unit_interval("split", settings.seed, source, patient_id)
    if place < settings.test:
        return Split.TEST
    if place < settings.test + settings.validation:
        return Split.VALIDATION
    return Split.TRAIN
