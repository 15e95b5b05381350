"""Cut-out and ROI mask of a finding, as CBIS-DDSM has them, and what is wrong with them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mammo_etl.phantom.cbis_series import CROP, MASK
from mammo_etl.phantom.film import Film, PlacedLesion
from mammo_etl.phantom.source_faults import Fault
from mammo_etl.records import Abnormality, Box

# Of the findings whose files were looked into, all calcifications and 28% of the masses had crop and mask exchanged in the table.
_SWAPPED = {Abnormality.MASS: 0.28, Abnormality.CALCIFICATION: 0.9}
# In 7% of the rows of the mass tables crop and mask have a series each; in those of the calcifications next to none.
_APART = {Abnormality.MASS: 0.07, Abnormality.CALCIFICATION: 0.0}

_OTHER_PITCH = 43.5 / 50
"""Pixel pitches of two scanners, um: Mass-Test_P_00381_LEFT_MLO has a mask of 4686 x 3186 pixels for a film of 5386 x 3661."""


@dataclass(frozen=True)
class RoiFiles:
    """The two files of a finding."""

    crop: NDArray[np.uint16] | None
    """Cut-out of the film around the lesion; None if there is no such file."""
    mask: NDArray[np.uint8] | NDArray[np.uint16] | None
    apart: bool
    """They have a series each."""
    swapped: bool
    """The table has them exchanged."""
    description: str
    """Of the series, where they share one."""
    mask_header: Mapping[str, str] = field(default_factory=dict)
    """Fields of the mask's header that are not as usual, by keyword."""


def roi_files(film: Film, placed: PlacedLesion, rng: np.random.Generator) -> RoiFiles:
    """The files of a finding with the quirks of the collection, as often as it has them."""
    kind = placed.lesion.abnormality
    apart, swapped = rng.random() < _APART[kind], rng.random() < _SWAPPED[kind]
    return RoiFiles(
        crop=_crop(film.pixels, placed.roi.box),
        mask=placed.roi.on_film(*film.pixels.shape),
        apart=apart,
        swapped=swapped,
        description=MASK if apart or rng.random() < 0.5 else CROP,
    )


def _crop(pixels: NDArray[np.uint16], box: Box) -> NDArray[np.uint16]:
    """The ROI's box, grown by a tenth of its longer side on each side as far as the film goes."""
    margin = max(2, max(box.height, box.width) // 10)
    return pixels[max(0, box.y - margin) : box.bottom + margin, max(0, box.x - margin) : box.right + margin]


def _swap(files: RoiFiles) -> RoiFiles:
    return replace(files, swapped=True)


def _split(files: RoiFiles) -> RoiFiles:
    return replace(files, apart=True, swapped=False)


def _share(files: RoiFiles) -> RoiFiles:
    return replace(files, apart=False, swapped=False)


def _rescale_mask(files: RoiFiles) -> RoiFiles:
    assert files.mask is not None
    return replace(files, mask=_reduced_mask(files.mask, _OTHER_PITCH, _OTHER_PITCH))


def _rescale_both(files: RoiFiles) -> RoiFiles:
    assert files.crop is not None
    return replace(_rescale_mask(files), crop=_reduced(files.crop, _OTHER_PITCH, _OTHER_PITCH))


def _rescale_without_crop(files: RoiFiles) -> RoiFiles:
    return replace(_rescale_mask(files), crop=None)


def _stretch_mask(files: RoiFiles) -> RoiFiles:
    assert files.mask is not None
    return replace(files, mask=_reduced_mask(files.mask, _OTHER_PITCH, 1))


def _move_mask(files: RoiFiles) -> RoiFiles:
    """The lesion as far up or down as it goes, away from its place."""
    assert files.mask is not None
    _, y, _, height = cv2.boundingRect(np.asarray(files.mask, np.uint8))
    rows = files.mask.shape[0]
    down = rows - height - y if y + height / 2 < rows / 2 else -y
    return replace(files, mask=np.roll(files.mask, down, axis=0))


def _widen_mask(files: RoiFiles) -> RoiFiles:
    assert files.mask is not None
    return replace(files, mask=files.mask.astype(np.uint16) * 257)


def _lose_mask(files: RoiFiles) -> RoiFiles:
    return replace(files, mask=None)


def _blank_header(files: RoiFiles) -> RoiFiles:
    return replace(files, mask_header={"SeriesDescription": "", "Laterality": "", "PatientID": _OTHER_PATIENT_ID})


_OTHER_PATIENT_ID = "P_00562_LEFT_CC_2.dcm"
"""What stands in the header of one mask of the collection."""

ROI_FAULTS: dict[Fault, Callable[[RoiFiles], RoiFiles]] = {
    Fault.SWAPPED: _swap,
    Fault.SPLIT_SERIES: _split,
    Fault.SHARED_SERIES: _share,
    Fault.RESCALED: _rescale_mask,
    Fault.RESCALED_CROP: _rescale_both,
    Fault.RESCALED_NO_CROP: _rescale_without_crop,
    Fault.STRETCHED_MASK: _stretch_mask,
    Fault.WRONG_MASK: _move_mask,
    Fault.SIXTEEN_BIT_MASK: _widen_mask,
    Fault.BLANK_HEADER: _blank_header,
    Fault.MISSING_MASK: _lose_mask,
}
"""One for each finding, but for one finding in each round."""


def _reduced_mask(mask: NDArray[np.uint8] | NDArray[np.uint16], scale_y: float, scale_x: float) -> NDArray[np.uint8]:
    """A mask of 0 and 255 in fewer pixels, each set where at least half of it is."""
    return np.where(_reduced(mask, scale_y, scale_x) >= 128, np.uint8(255), np.uint8(0))


def _reduced(pixels: NDArray[np.uint8] | NDArray[np.uint16], scale_y: float, scale_x: float) -> NDArray[np.uint16]:
    rows, columns = pixels.shape
    size = (round(columns * scale_x), round(rows * scale_y))
    return np.asarray(cv2.resize(pixels.astype(np.uint16), size, interpolation=cv2.INTER_AREA), np.uint16)
