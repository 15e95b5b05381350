"""What a finding's files turn out to be once their pixels are read: its region, and the evidence for it."""

import math
from dataclasses import dataclass, replace

from mammo_etl.crop_match import Match, match_crop
from mammo_etl.dicom import Pixels
from mammo_etl.files import SourceFileError
from mammo_etl.film import read_film
from mammo_etl.records import Finding, Reason, RoiKind, Verdict
from mammo_etl.roi import MaskFile, Region, mask_region, read_mask, region_of


@dataclass(frozen=True)
class CheckedRoi:
    """A finding after its ROI was read and, where it can be, proved."""

    finding: Finding
    """With what the pixels have shown: verdict, mask_values, match_score."""
    region: Region | None
    """None if the source gives no place, or the ROI cannot be used."""
    fault: SourceFileError | None
    """Why it cannot be used."""


def check_roi(finding: Finding, film: Pixels) -> CheckedRoi:
    """The ROI of a finding on its film, (rows, columns).

    A mask is proved by its finding's cut-out, which must be found on the film around the mask, and frame it: a mask of another size is of no use without
    this proof, one of the film's own size is refused if the proof fails.
    """
    rows, columns = film.shape
    file: MaskFile | None = None
    match: Match | None = None
    try:
        if finding.roi_kind is not RoiKind.MASK:
            return CheckedRoi(finding, region_of(finding, rows, columns), None)
        file = read_mask(finding.roi_path)
        region = mask_region(finding, file, rows, columns)
        ratios = (rows / file.mask.shape[0], columns / file.mask.shape[1])
        match = _match(finding, film, region, ratios)
        _demand_proof(match, region, film, rescaled=ratios != (1.0, 1.0))
    except SourceFileError as error:
        return CheckedRoi(_with_evidence(finding, file, match, quarantined=True), None, error)
    return CheckedRoi(_with_evidence(finding, file, match, quarantined=False), region, None)


def _match(finding: Finding, film: Pixels, region: Region, ratios: tuple[float, float]) -> Match | None:
    if not finding.crop_path:
        return None
    try:
        crop = read_film(finding.crop_path).pixels
    except SourceFileError:
        # A cut-out is no more than a proof; one that cannot be read proves nothing, which is what the score says.
        return None
    return match_crop(film, crop, region.box, _scales(*ratios))


def _scales(ratio_y: float, ratio_x: float) -> list[tuple[float, float]]:
    """By what factors (y, x) a cut-out may have to be enlarged to fit the film, the likely ones first.

    Where mask and film were digitised with two pitches, it may have been cut from either, or reduced as the mask was. Mask and film may
    have lost a few rows or columns besides, so that the mask's two ratios differ: the cut-out was reduced by one.
    """
    scales = [(1.0, 1.0), (ratio_y, ratio_x)]
    if ratio_y != ratio_x:
        scales += [(ratio, ratio) for ratio in (math.sqrt(ratio_y * ratio_x), ratio_y, ratio_x)]
    return list(dict.fromkeys(scales))


def _demand_proof(match: Match | None, region: Region, film: Pixels, *, rescaled: bool) -> None:
    """Raises SourceFileError if the cut-out's match, None if it could not be looked for, is not enough."""
    rows, columns = film.shape
    if match is not None and match.found:
        if match.frames(region.box, rows, columns):
            return
        box, place = region.box, match.place
        raise SourceFileError(
            Reason.WRONG_MASK,
            f"The cut-out shows {place.height} x {place.width} pixels from row {place.y}, column {place.x}, the ROI mask "
            f"{box.height} x {box.width} from row {box.y}, column {box.x}: expected a ROI that fills its cut-out.",
        )
    if rescaled:
        why = "there is no cut-out to prove its place" if match is None else f"its cut-out scores {match.score:.2f}"
        raise SourceFileError(
            Reason.MASK_UNPROVED,
            f"The ROI mask is of another size than its film, and {why}: expected a cut-out that is found beside it.",
        )
    if match is not None:
        raise SourceFileError(
            Reason.WRONG_MASK,
            f"The film does not show the finding's cut-out at its ROI mask (score {match.score:.2f}, 1 at best): "
            "mask or cut-out belongs to another film.",
        )
    box = region.box
    if box.height == rows and box.width == columns:
        raise SourceFileError(Reason.WRONG_MASK, "The ROI mask reaches all four edges of the film: no lesion does.")


def _with_evidence(finding: Finding, file: MaskFile | None, match: Match | None, *, quarantined: bool) -> Finding:
    checked = replace(
        finding, mask_values=file.values[:3] if file else (), match_score=None if match is None else match.score
    )
    return replace(checked, verdict=Verdict.QUARANTINED, roi_kind=RoiKind.NONE) if quarantined else checked
