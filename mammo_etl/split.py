"""Who is train, validation and test."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mammo_etl.records import Scan, Split
from mammo_etl.settings import PlanSettings


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: the same for ever, on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(source: str, patient_id: str, settings: PlanSettings) -> Split:
    """Split of a patient by the stable hash, with all films of both breasts; new patients never move old ones."""
    return _split_at(unit_interval("split", settings.seed, source, patient_id), settings.validation, settings.test)


def split_patches(patches: pd.DataFrame, scans: Sequence[Scan], settings: PlanSettings) -> "pd.Series[str]":
    """The split (train, validation, test) of every patch by `settings.split`, with the index of `patches`.

    `patches` has the columns source, patient_id and patch_id; `scans` are all films of the run, with or without a patch. By `official`, a
    patient goes where the tables put any film of theirs, be it there or not, and to `settings.in_both_parts` if they put some in either part; validation is
    taken from the training part, and patients without an official part go by the hash. By `patch`, each patch goes by a hash of its own,
    whatever its patient: for comparison with published figures that were had so.
    """
    if settings.split == "patch":
        shares = settings.validation, settings.test
        places = (unit_interval("split", settings.seed, patch_id) for patch_id in patches["patch_id"].tolist())
        return pd.Series([_split_at(place, *shares).value for place in places], patches.index, dtype=str)
    parts = _official_parts(scans) if settings.split == "official" else {}
    of_patient = patches.groupby(["source", "patient_id"], sort=False)
    patients = patches[["source", "patient_id"]].drop_duplicates()
    splits = [
        _split_of_patient(source, patient, parts.get((source, patient), set()), settings).value
        for source, patient in zip(patients["source"], patients["patient_id"], strict=True)
    ]
    return pd.Series(np.array(splits)[of_patient.ngroup()], patches.index, dtype=str)


def _official_parts(scans: Sequence[Scan]) -> dict[tuple[str, str], set[str]]:
    """Patients (source, patient_id) who have an official part, and these parts, films that are missing included."""
    parts: dict[tuple[str, str], set[str]] = {}
    for scan in scans:
        if there := {scan.official_split, *scan.official_parts} - {""}:
            parts.setdefault((scan.source, scan.patient_id), set()).update(there)
    return parts


def _split_of_patient(source: str, patient_id: str, parts: set[str], settings: PlanSettings) -> Split:
    if not parts:
        return split_of(source, patient_id, settings)
    part = settings.in_both_parts if len(parts) > 1 else next(iter(parts))
    if part == "test":
        return Split.TEST
    return _split_at(unit_interval("split", settings.seed, source, patient_id), settings.validation, test=0)


def _split_at(place: float, validation: float, test: float) -> Split:
    """Split of a place in [0, 1): the test lies first, then validation."""
    if place < test:
        return Split.TEST
    if place < test + validation:
        return Split.VALIDATION
    return Split.TRAIN
