"""Who the phantom patients are: sides, views, lesions and scanners, before any pixel is made.

Classes, normals, scanners and table parts are dealt out in fixed cycles by patient number, so that 16 patients already have
benign and malignant calcifications and masses and normal cases; everything else is drawn from a generator seeded by
(seed, patient number).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from mammo_etl.phantom.source_faults import Fault, deal
from mammo_etl.records import Abnormality, Laterality, Pathology, View


@dataclass(frozen=True)
class Lesion:
    """One lesion of a patient, the same in both views of a breast."""

    number: int
    """Abnormality id; counts from 1 for each kind within a side, sometimes skipping a number."""
    abnormality: Abnormality
    pathology_listed: str
    """MALIGNANT, BENIGN or BENIGN_WITHOUT_CALLBACK."""
    diameter_mm: float
    shape: str
    """Mass shape or calcification type, as the tables word it."""
    margins: str
    """Mass margins or calcification distribution, as the tables word it."""
    assessment: int
    """BI-RADS assessment, 0 to 5."""
    subtlety: int
    """1 (subtle) to 5 (obvious); scales the lesion's contrast."""

    @property
    def pathology(self) -> Pathology:
        """BENIGN_WITHOUT_CALLBACK counts as BENIGN."""
        return Pathology.MALIGNANT if self.pathology_listed == "MALIGNANT" else Pathology.BENIGN


@dataclass(frozen=True)
class FilmPlan:
    """One film to be made."""

    laterality: Laterality
    view: View
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class CbisPatient:
    """An abnormal patient of CBIS-DDSM."""

    patient_id: str
    """As `P_00005`."""
    density: int
    """ACR density 1 to 4."""
    parts: dict[Abnormality, str]
    """Training or Test, for each table that has the patient."""
    films: tuple[FilmPlan, ...]
    fault: Fault | None = None
    """What makes the patient unusual, if it was asked for."""


@dataclass(frozen=True)
class Scanner:
    """A film digitiser of DDSM."""

    name: str
    """DBA, HOWTEK or LUMISYS."""
    digitizer: str
    """As the `.ics` file words it."""
    institution: str
    """Letter with which the case's name begins: A (MGH), B and C (WFU), D (ISMD)."""
    bits: int
    resolution_um: str


@dataclass(frozen=True)
class DdsmPatient:
    """A case of DDSM: four films."""

    patient_id: str
    """As `A-1003`."""
    case: str
    """Case name, as `A-1003-1`."""
    folder: str
    """Case folder below the source's root, as `normals/normal_07/case1003`."""
    density: int
    """ACR density 1 to 4."""
    scanner: Scanner
    films: tuple[FilmPlan, ...]
    fault: Fault | None = None
    """What makes the case unusual, if it was asked for."""

    @property
    def normal(self) -> bool:
        """True if no film shows a lesion."""
        return not any(film.lesions for film in self.films)


_DBA = Scanner("DBA", "DBA M2100", "A", 16, "42")
_HOWTEK_MGH = Scanner("HOWTEK", "HOWTEK 43.5", "A", 12, "43.5")
_LUMISYS_B = Scanner("LUMISYS", "LUMISYS LASER", "B", 12, "50")
_LUMISYS_C = Scanner("LUMISYS", "LUMYSIS", "C", 12, "50")
_HOWTEK_ISMD = Scanner("HOWTEK", "HOWTEK 43.5", "D", 12, "43.5")

# As in DDSM, DBA has digitised most of the normal cases (62%) but few of the others (5%).
_NORMAL_SCANNERS = (_DBA, _HOWTEK_ISMD, _DBA, _LUMISYS_B, _DBA, _HOWTEK_MGH, _DBA, _LUMISYS_C)
_ABNORMAL_SCANNERS = (_HOWTEK_ISMD, _LUMISYS_B, _HOWTEK_MGH, _LUMISYS_C, _HOWTEK_ISMD, _DBA, _LUMISYS_B)

# Case numbers of DDSM tell the institution.
_FIRST_CASE = {"A": 1000, "B": 3000, "C": 0, "D": 4000}

_CLASSES = (
    (Abnormality.MASS, Pathology.MALIGNANT),
    (Abnormality.CALCIFICATION, Pathology.MALIGNANT),
    (Abnormality.MASS, Pathology.BENIGN),
    (Abnormality.CALCIFICATION, Pathology.BENIGN),
)

# Commonest wordings per class in the CBIS-DDSM tables: (shape or type, margins or distribution).
_DESCRIPTORS: dict[tuple[Abnormality, str], tuple[tuple[str, str], ...]] = {
    (Abnormality.MASS, "MALIGNANT"): (
        ("IRREGULAR", "SPICULATED"),
        ("LOBULATED", "SPICULATED"),
        ("IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED"),
        ("IRREGULAR", "ILL_DEFINED-SPICULATED"),
    ),
    (Abnormality.MASS, "BENIGN"): (
        ("OVAL", "CIRCUMSCRIBED"),
        ("LOBULATED", "CIRCUMSCRIBED"),
        ("ROUND", "CIRCUMSCRIBED"),
        ("LOBULATED", "OBSCURED"),
    ),
    (Abnormality.MASS, "BENIGN_WITHOUT_CALLBACK"): (("LYMPH_NODE", "N/A"), ("OVAL", "CIRCUMSCRIBED")),
    (Abnormality.CALCIFICATION, "MALIGNANT"): (
        ("PLEOMORPHIC", "CLUSTERED"),
        ("FINE_LINEAR_BRANCHING", "LINEAR"),
        ("PLEOMORPHIC-FINE_LINEAR_BRANCHING", "SEGMENTAL"),
    ),
    (Abnormality.CALCIFICATION, "BENIGN"): (
        ("PUNCTATE", "CLUSTERED"),
        ("ROUND_AND_REGULAR", "CLUSTERED"),
        ("COARSE", "REGIONAL"),
    ),
    (Abnormality.CALCIFICATION, "BENIGN_WITHOUT_CALLBACK"): (
        ("LUCENT_CENTER", "N/A"),
        ("ROUND_AND_REGULAR-LUCENT_CENTER", "N/A"),
        ("COARSE", "N/A"),
    ),
}

_SUBTLETIES = (2, 3, 3, 4, 4, 5, 5)
_OTHER_PART = {"Training": "Test", "Test": "Training"}


CBIS_PLAN_FAULTS = (Fault.TWIN, Fault.BOTH_PARTS, Fault.SKIPPED_IDS)
"""One for each patient of CBIS-DDSM."""
SCANNER_FAULTS = {Fault.LUMYSIS: _LUMISYS_C, Fault.DBA_ZERO: _DBA}
"""One for each case of DDSM."""


def plan_patient(seed: int, index: int, faults: Collection[Fault] = ()) -> CbisPatient | DdsmPatient:
    """Patient number `index` (from 0): even ones are of CBIS-DDSM, odd ones of DDSM, one of four of these abnormal."""
    rng = np.random.default_rng([seed, index])
    number = index // 2
    if index % 2 == 0:
        return _cbis_patient(rng, number, next(deal(CBIS_PLAN_FAULTS, faults, number)))
    return _ddsm_patient(rng, number, next(deal(SCANNER_FAULTS, faults, number)))


def _cbis_patient(rng: np.random.Generator, number: int, fault: Fault | None) -> CbisPatient:
    abnormality, pathology = _CLASSES[number % 4]
    listed = _listed(pathology, number // 4)
    part = "Test" if number % 5 == 4 else "Training"
    # CBIS-DDSM has 79 of 1,566 patients in both its mass and its calcification tables, 31 of them in both official parts.
    twin = number % 20 == 7 or fault in (Fault.TWIN, Fault.BOTH_PARTS)
    kinds = (Abnormality.CALCIFICATION, Abnormality.MASS) if twin else (abnormality,)
    parts = dict.fromkeys(kinds, part)
    if twin and (number % 40 == 27 or fault is Fault.BOTH_PARTS):
        parts[Abnormality.MASS] = _OTHER_PART[part]
    first = 2 if fault is Fault.SKIPPED_IDS else 1
    first_side = rng.permutation(np.array(list(Laterality)))[0]
    extent = number % 7
    sides = [Laterality(first_side)]
    if extent == 3:
        sides = list(Laterality)
    views = [View.CC, View.MLO]
    if extent == 5 and not twin:
        views = [View(rng.permutation(np.array(list(View)))[0])]
    films = []
    for side in sides:
        lesions = [_lesion(rng, kind, listed, first, large=number % 6 == 2) for kind in kinds]
        if number % 7 == 1:
            lesions.append(_lesion(rng, abnormality, listed, first - 1 + int(rng.choice([2, 3])), large=False))
            # A lesion seen in one of the two views only.
            films += [FilmPlan(side, View.CC, tuple(lesions)), FilmPlan(side, View.MLO, tuple(lesions[:-1]))]
        else:
            films += [FilmPlan(side, view, tuple(lesions)) for view in views]
    return CbisPatient(f"P_{3 * number + 5:05d}", int(rng.integers(1, 5)), parts, tuple(films), fault)


def _ddsm_patient(rng: np.random.Generator, number: int, fault: Fault | None) -> DdsmPatient:
    normal = number % 4 != 1
    among_its_kind = number - number // 4 - (number % 4 > 1) if normal else number // 4
    scanners = _NORMAL_SCANNERS if normal else _ABNORMAL_SCANNERS
    scanner = SCANNER_FAULTS[fault] if fault else scanners[among_its_kind % len(scanners)]
    letter = scanner.institution
    lesions: tuple[Lesion, ...] = ()
    if normal:
        volume = "normal"
    else:
        abnormality, pathology = _CLASSES[among_its_kind % 4]
        listed = _listed(pathology, among_its_kind // 4)
        lesions = (_lesion(rng, abnormality, listed, 1, large=among_its_kind % 3 == 0),)
        volume = {"MALIGNANT": "cancer", "BENIGN": "benign"}.get(listed, "benign_without_callback")
    affected = list(Laterality)[int(rng.integers(2))]
    films = tuple(FilmPlan(side, view, lesions if side is affected else ()) for side in Laterality for view in View)
    case = f"{_FIRST_CASE[letter] + number + 1:04d}"
    # Case numbers of two institutions may meet, but never in one volume.
    folder = f"{volume}s/{volume}_{'ABCD'.index(letter) + 1:02d}/case{case}"
    density = int(rng.integers(1, 5))
    return DdsmPatient(f"{letter}-{case}", f"{letter}-{case}-1", folder, density, scanner, films, fault)


def _listed(pathology: Pathology, turn: int) -> str:
    if pathology is Pathology.BENIGN and turn % 3 == 1:
        return "BENIGN_WITHOUT_CALLBACK"
    return pathology.value


def _lesion(rng: np.random.Generator, abnormality: Abnormality, listed: str, number: int, *, large: bool) -> Lesion:
    shape, margins = _DESCRIPTORS[abnormality, listed][int(rng.integers(len(_DESCRIPTORS[abnormality, listed])))]
    # 256 px of 50 um are 12.8 mm: a large lesion is wider than a patch of the usual size.
    low, high = (16.0, 30.0) if large else (5.0, 14.0)
    assessment = {"MALIGNANT": (4, 5), "BENIGN": (3, 4), "BENIGN_WITHOUT_CALLBACK": (2, 2)}[listed]
    lesion = Lesion(
        number=number,
        abnormality=abnormality,
        pathology_listed=listed,
        diameter_mm=float(rng.uniform(low, high)),
        shape=shape,
        margins=margins,
        assessment=int(rng.choice(assessment)),
        subtlety=int(rng.choice(_SUBTLETIES)),
    )
    if abnormality is Abnormality.CALCIFICATION:
        # Tables give clusters a loose outline; below 7 mm the specks would run together.
        return replace(lesion, diameter_mm=max(7.0, lesion.diameter_mm))
    return lesion
