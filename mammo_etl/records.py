"""The nouns of the system, one frozen dataclass each.

Every field's description is part of its annotation: `mammo_etl.schema` turns these classes into Arrow schemas, so that the
words below are also what a reader finds in the metadata of the Parquet files. Pixel positions are `y` (row) and `x` (column) of
the original scan as stored, with the origin at its top-left corner.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated

from typing_extensions import Doc


class Laterality(StrEnum):
    """Side of the breast."""

    LEFT = "LEFT"
    RIGHT = "RIGHT"


class View(StrEnum):
    """Projection: cranio-caudal or medio-lateral oblique."""

    CC = "CC"
    MLO = "MLO"


class Abnormality(StrEnum):
    """What kind of lesion a finding is; architectural distortion and asymmetry count as masses."""

    MASS = "mass"
    CALCIFICATION = "calcification"


class Pathology(StrEnum):
    """Verdict on a finding; BENIGN_WITHOUT_CALLBACK counts as BENIGN."""

    BENIGN = "BENIGN"
    MALIGNANT = "MALIGNANT"


class Label(IntEnum):
    """The five classes, with the numbers that the patch store and the models use."""

    NORMAL = 0
    BENIGN_CALCIFICATION = 1
    BENIGN_MASS = 2
    MALIGNANT_CALCIFICATION = 3
    MALIGNANT_MASS = 4

    @property
    def title(self) -> str:
        """The name for people and tables, as `Benign Calcification`."""
        return self.name.replace("_", " ").title()


def label_of(abnormality: Abnormality, pathology: Pathology) -> Label:
    """Class of a finding."""
    return Label[f"{pathology.value}_{abnormality.value.upper()}"]


class RoiKind(StrEnum):
    """How a finding's region of interest is given."""

    MASK = "mask"
    OUTLINE = "outline"
    CIRCLE = "circle"
    NONE = "none"


class Verdict(StrEnum):
    """What the files of a finding turned out to be, against what the tables say."""

    AS_LISTED = "as-listed"
    SPLIT_SERIES = "split-series"
    SWAPPED = "swapped"
    RESCALED = "rescaled"
    QUARANTINED = "quarantined"


VERDICTS: dict[Verdict, str] = {
    Verdict.AS_LISTED: "The files are what the tables call them.",
    Verdict.SPLIT_SERIES: "They are, and mask and cut-out lie in two series, where most findings have one for both.",
    Verdict.SWAPPED: "What the tables call the mask is the cut-out, and the other way round.",
    Verdict.RESCALED: "The mask is of another size than its film, in one ratio of rows and columns, and was enlarged or reduced.",
    Verdict.QUARANTINED: "There is no region of interest that can be used, be it that the source itself gives none; a row of rejects says why.",
}


class RoiFlag(StrEnum):
    """What was odd about a ROI, and could be used all the same."""

    CLIPPED = "clipped"
    OPEN = "open"
    BROKEN_OUTLINE = "broken-outline"
    MISCOUNTED = "miscounted"


ROI_FLAGS: dict[RoiFlag, str] = {
    RoiFlag.CLIPPED: "It reaches over the film's edge, and was cut off there.",
    RoiFlag.OPEN: "The outline does not close, and was closed.",
    RoiFlag.BROKEN_OUTLINE: "One of several outlines could not be followed; the others were used.",
    RoiFlag.MISCOUNTED: "The file holds another number of outlines than it states.",
}


class Split(StrEnum):
    """Part of the data a patient belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Reason(StrEnum):
    """Why a file, film or finding was left out; `REASONS` explains each."""

    UNREADABLE_FOLDER = "unreadable-folder"
    UNREADABLE_FILE = "unreadable-file"
    TRUNCATED_FILE = "truncated-file"
    UNSUPPORTED_FORMAT = "unsupported-format"
    EMPTY_SOURCE = "empty-source"
    BAD_TABLE = "bad-table"
    BAD_TABLE_ROW = "bad-table-row"
    NOT_IN_TABLES = "not-in-tables"
    MISSING_FILES = "missing-files"
    MISSING_MASK = "missing-mask"
    MASK_SIZE = "mask-size"
    MASK_UNPROVED = "mask-unproved"
    WRONG_MASK = "wrong-mask"
    EMPTY_MASK = "empty-mask"
    NOT_LOCATED = "not-located"
    ROI_OUTSIDE = "roi-outside"
    UNKNOWN_PATHOLOGY = "unknown-pathology"
    DUPLICATE_IMAGE = "duplicate-image"
    FILM_SIZE = "film-size"
    TOO_SMALL = "too-small"
    NO_BREAST = "no-breast"
    MIXED_SOURCES = "mixed-sources"
    WORKER_DIED = "worker-died"
    TOO_SLOW = "too-slow"
    UNREACHABLE = "unreachable"


REASONS: dict[Reason, str] = {
    Reason.UNREADABLE_FOLDER: "A folder could not be listed.",
    Reason.UNREADABLE_FILE: "A file could not be read or decoded.",
    Reason.TRUNCATED_FILE: "A file ends before its pixels do.",
    Reason.UNSUPPORTED_FORMAT: "A file is of a format or transfer syntax that is not supported.",
    Reason.EMPTY_SOURCE: "A source holds none of the files that its kind consists of.",
    Reason.BAD_TABLE: "A table of a source lacks columns or cannot be parsed.",
    Reason.BAD_TABLE_ROW: "A row of a source's table holds values that are not understood.",
    Reason.NOT_IN_TABLES: "A film, or the outlines of one, that no table names: nothing is known about it.",
    Reason.MISSING_FILES: "A table names a film whose file is not there (as in a partial download).",
    Reason.MISSING_MASK: "A finding without a readable ROI mask.",
    Reason.MASK_SIZE: "A ROI mask whose size differs from its film's, not in one ratio of rows and columns.",
    Reason.MASK_UNPROVED: "A ROI mask of another size than its film, and no cut-out found that proves its place.",
    Reason.WRONG_MASK: "A ROI mask that the finding's cut-out contradicts: one of the two belongs to another film or finding.",
    Reason.EMPTY_MASK: "A ROI mask or outline that covers no pixel.",
    Reason.NOT_LOCATED: "A finding for which the source gives no place.",
    Reason.ROI_OUTSIDE: "A ROI that lies outside its film.",
    Reason.UNKNOWN_PATHOLOGY: "A finding whose pathology is neither benign nor malignant.",
    Reason.DUPLICATE_IMAGE: "A second file for a film that is there already.",
    Reason.FILM_SIZE: "A film whose pixels do not have the size that its source states.",
    Reason.TOO_SMALL: "A film smaller than a patch.",
    Reason.NO_BREAST: "A film in which no breast was found.",
    Reason.MIXED_SOURCES: "An abnormal DDSM case left out because CBIS-DDSM may hold the same patient.",
    Reason.WORKER_DIED: "Work on this item killed its worker repeatedly (out of memory, usually).",
    Reason.TOO_SLOW: "Work on this item ran longer than cluster.item_seconds allows.",
    Reason.UNREACHABLE: "A file system or object store failed at each of several tries; the next build tries again.",
}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on the original scan, in pixels; `y`, `x` is its top-left pixel."""

    y: int
    x: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """First column right of the box."""
        return self.x + self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One digitised film: who, which side and view, and where its pixels are."""

    image_id: Annotated[str, Doc("Unique name: source, patient, side, view (and mass or calc for CBIS-DDSM).")]
    source: Annotated[str, Doc("Data set: cbis-ddsm, ddsm, mini-mias.")]
    patient_id: Annotated[str, Doc("Patient, unique within the source.")]
    laterality: Annotated[Laterality, Doc("Side of the breast: LEFT or RIGHT.")]
    view: Annotated[View, Doc("Projection: CC or MLO.")]
    normal: Annotated[bool, Doc("True if the film comes from a normal case: normal patches may be cut from it.")]
    path: Annotated[str, Doc("Where the pixels are: a path or an fsspec URL.")]
    rows: Annotated[int, Doc("Height of the film, pixels.")]
    columns: Annotated[int, Doc("Width of the film, pixels.")]
    bits: Annotated[int, Doc("Bits that a stored pixel uses.")]
    scanner: Annotated[
        str, Doc("Digitiser as its source names it, upper case (DBA, HOWTEK, LUMISYS); empty if unknown.")
    ] = ""
    institution: Annotated[str, Doc("Institution that digitised the film (MGH, WFU, ISMD); empty if unknown.")] = ""
    pixel_um: Annotated[float | None, Doc("Pixel pitch in micrometres, if the source states it.")] = None
    density: Annotated[int | None, Doc("Breast density, ACR 1 to 4, if the source states it.")] = None
    official_split: Annotated[str, Doc("Split of the source's own tables: train or test; empty if it has none.")] = ""
    official_parts: Annotated[
        tuple[str, ...],
        Doc("Parts in which the source's tables list the patient, whether those films are there or not."),
    ] = ()
    sop_instance_uid: Annotated[str, Doc("DICOM SOP instance UID; empty for other formats.")] = ""
    image_sha256: Annotated[str, Doc("SHA-256 of the cleaned film (PNG); empty before it was cleaned.")] = ""
    image_box: Annotated[
        tuple[int, ...],
        Doc("What the cleaned film shows of the film: y, x, height, width, pixels; empty before it was cleaned."),
    ] = ()
    mask_area_share: Annotated[
        float | None, Doc("Share of the film that its breast mask covers; null before it was cleaned.")
    ] = None
    mask_solidity: Annotated[
        float | None, Doc("Area of the breast mask over that of its convex hull; low for a ragged one.")
    ] = None
    mask_border_contact: Annotated[float | None, Doc("Share of the film's border that touches the breast mask.")] = None
    mask_contrast: Annotated[
        float | None,
        Doc(
            "Share of its grey by which the film beside the mask is darker than the mask's rim, 1 at best; low where it cuts through tissue."
        ),
    ] = None
    mask_agreement: Annotated[
        float | None, Doc("Overlap (intersection over union) of the masks by the two methods, skin and otsu.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One lesion in one film, with its region of interest (ROI)."""

    finding_id: Annotated[str, Doc("Unique name: image_id and the source's abnormality number.")]
    image_id: Annotated[str, Doc("Film that shows it; see scans.")]
    source: Annotated[str, Doc("Data set: cbis-ddsm, ddsm, mini-mias.")]
    patient_id: Annotated[str, Doc("Patient, unique within the source.")]
    abnormality: Annotated[Abnormality, Doc("mass or calcification.")]
    pathology: Annotated[Pathology, Doc("BENIGN or MALIGNANT (BENIGN_WITHOUT_CALLBACK counts as BENIGN).")]
    pathology_listed: Annotated[str, Doc("Pathology in the source's own words.")]
    label: Annotated[Label, Doc("Class 1 to 4: see label_name of patches.")]
    roi_kind: Annotated[RoiKind, Doc("How the ROI is given: mask, outline, circle, or none (not located).")]
    roi_path: Annotated[str, Doc("Mask file, a path or an fsspec URL; empty for other kinds.")] = ""
    roi_outlines: Annotated[
        tuple[str, ...],
        Doc("Freeman chains 'x y codes': start column, start row, digits 0=N, 1=NE ... 7=NW; empty for other kinds."),
    ] = ()
    roi_y: Annotated[float | None, Doc("Row of the circle's centre, pixels from the top edge.")] = None
    roi_x: Annotated[float | None, Doc("Column of the circle's centre, pixels from the left edge.")] = None
    roi_radius: Annotated[float | None, Doc("Radius of the circle, pixels.")] = None
    crop_path: Annotated[str, Doc("Supplied cut-out of the lesion, where the source has one; else empty.")] = ""
    verdict: Annotated[
        Verdict,
        Doc(
            "Files against tables: as-listed; split-series (mask and cut-out in two series); swapped (mask and cut-out exchanged); "
            "rescaled (mask of another size, brought to its film's); quarantined (no ROI that can be used, or none given: see rejects)."
        ),
    ] = Verdict.AS_LISTED
    mask_listed_as: Annotated[
        str, Doc("What the tables call the mask file: mask or crop; empty without a mask file.")
    ] = ""
    mask_bits: Annotated[int | None, Doc("Bits allocated to a pixel of the mask file.")] = None
    mask_values: Annotated[
        tuple[int, ...], Doc("Pixel values of the mask file, at most 3 of them; empty before it was read.")
    ] = ()
    mask_rows: Annotated[int | None, Doc("Rows of the mask file, pixels.")] = None
    mask_columns: Annotated[int | None, Doc("Columns of the mask file, pixels.")] = None
    mask_ratio_y: Annotated[float | None, Doc("Rows of the film over rows of the mask file.")] = None
    mask_ratio_x: Annotated[float | None, Doc("Columns of the film over columns of the mask file.")] = None
    match_score: Annotated[
        float | None,
        Doc(
            "How well the cut-out was found on the film beside the mask: correlation, 1 at best; null without a mask and a cut-out that can be looked for."
        ),
    ] = None
    roi_flags: Annotated[
        tuple[RoiFlag, ...],
        Doc(
            "What was odd about the ROI and mended: clipped (reached over the film's edge), open (outline not closed), broken-outline "
            "(one of several could not be followed), miscounted (another number of outlines than stated)."
        ),
    ] = ()
    assessment: Annotated[int | None, Doc("BI-RADS assessment 0 to 5, if stated.")] = None
    subtlety: Annotated[int | None, Doc("Subtlety 1 (subtle) to 5 (obvious), if stated; 0 occurs.")] = None
    descriptors: Annotated[
        str, Doc("Shape and margins, or calcification type and distribution, as the source words them.")
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Something that was left out, and why."""

    stage: Annotated[str, Doc("Step that rejected it: inventory, convert, score.")]
    code: Annotated[Reason, Doc("Reason code; explained in this file's metadata under `reasons`.")]
    message: Annotated[str, Doc("One sentence: what was expected, what was found.")]
    source: Annotated[str, Doc("Data set.")] = ""
    path: Annotated[str, Doc("File or folder concerned; empty if none.")] = ""
    image_id: Annotated[
        str, Doc("Film concerned; empty if unknown, or if it is there all the same by another file.")
    ] = ""
    finding_id: Annotated[
        str, Doc("Finding concerned; empty if it is the whole film, or if the finding is usable all the same.")
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A place in a film where a patch may be cut."""

    image_id: Annotated[str, Doc("Film.")]
    finding_id: Annotated[
        str, Doc("Finding that the patch shows most of, and has its label from; empty for normal tissue.")
    ]
    finding_ids: Annotated[
        tuple[str, ...],
        Doc(
            "All findings with ROI pixels in the patch: finding_id, then the others by the share of their ROI that it holds."
        ),
    ]
    label: Annotated[int, Doc("Class 0 to 4.")]
    origin: Annotated[
        str,
        Doc(
            "How the place was chosen: centre, around, grid, apart (from other findings); normal, background, hard (the brightest)."
        ),
    ]
    y: Annotated[int, Doc("Top row of the patch.")]
    x: Annotated[int, Doc("Left column of the patch.")]
    size: Annotated[int, Doc("Height and width of the patch, pixels.")]
    roi_fraction: Annotated[
        float, Doc("Share of the finding's ROI that lies in the patch, 0 to 1; 0 for normal tissue.")
    ]
    roi_coverage: Annotated[float, Doc("Share of the patch that is ROI of that finding, 0 to 1.")]
    breast_fraction: Annotated[float, Doc("Share of the patch that is breast, 0 to 1.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One row of `patches.parquet`: the only truth about a patch in `patches.zarr`."""

    row: Annotated[int, Doc("Index in patches.zarr.")]
    patch_id: Annotated[str, Doc("Unique name: image_id, y, x, size.")]
    run_id: Annotated[str, Doc("Run that this table belongs to.")]
    source: Annotated[str, Doc("Data set.")]
    image_id: Annotated[str, Doc("Film; see scans.")]
    patient_id: Annotated[str, Doc("Patient, unique within the source.")]
    laterality: Annotated[str, Doc("LEFT or RIGHT.")]
    view: Annotated[str, Doc("CC or MLO.")]
    split: Annotated[str, Doc("train, validation or test; a patient is in one only, unless plan.split is patch.")]
    label: Annotated[
        int,
        Doc("0 Normal, 1 Benign Calcification, 2 Benign Mass, 3 Malignant Calcification, 4 Malignant Mass."),
    ]
    label_name: Annotated[str, Doc("The label in words.")]
    finding_id: Annotated[
        str, Doc("Finding that the patch shows most of, and has its label from; empty for normal tissue.")
    ]
    finding_ids: Annotated[
        tuple[str, ...],
        Doc(
            "All findings with ROI pixels in the patch: finding_id, then the others by the share of their ROI that it holds."
        ),
    ]
    origin: Annotated[
        str,
        Doc(
            "How the place was chosen: centre, around, grid, apart (from other findings); normal, background, hard (the brightest)."
        ),
    ]
    y: Annotated[int, Doc("Top row of the patch on the original scan, pixels.")]
    x: Annotated[int, Doc("Left column of the patch on the original scan, pixels.")]
    size: Annotated[int, Doc("Height and width of the patch, pixels.")]
    roi_fraction: Annotated[
        float, Doc("Share of the finding's ROI that lies in the patch, 0 to 1; 0 for normal tissue.")
    ]
    roi_coverage: Annotated[float, Doc("Share of the patch that is ROI of that finding, 0 to 1.")]
    breast_fraction: Annotated[float, Doc("Share of the patch that is breast, 0 to 1.")]
    mean: Annotated[float, Doc("Mean of the stored pixels, 0 to 255, or 0 to 65535 where they have 16 bits.")]
    std: Annotated[float, Doc("Standard deviation of the stored pixels.")]
    scanner: Annotated[str, Doc("Digitiser of the film; empty if unknown.")]
