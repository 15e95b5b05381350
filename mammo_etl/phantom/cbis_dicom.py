"""DICOM files with the header of CBIS-DDSM's."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, SecondaryCaptureImageStorage

from mammo_etl.phantom.cbis_series import Series
from mammo_etl.phantom.plan import FilmPlan


def dicom_bytes(
    series: Series,
    number: int,
    film: FilmPlan,
    pixels: NDArray[np.uint16] | NDArray[np.uint8],
    header: Mapping[str, str],
) -> bytes:
    """The file of image `number` (from 0) of a series, 8 or 16 bits as its pixels; `header` is laid over what it says by keyword."""
    bits = pixels.dtype.itemsize * 8
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = series.instance_uid(number)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyDate = "20160720"
    dataset.StudyTime = "130000"
    dataset.AccessionNumber = ""
    dataset.Modality = "MG"
    dataset.ConversionType = "WSD"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = series.description
    dataset.PatientName = series.patient_folder
    dataset.PatientID = series.patient_folder
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.BodyPartExamined = "BREAST"
    dataset.StudyInstanceUID = series.study_uid
    dataset.SeriesInstanceUID = series.series_uid
    dataset.StudyID = "DDSM"
    dataset.SeriesNumber = "1"
    dataset.InstanceNumber = str(number + 1)
    # CBIS-DDSM gives the view here instead of an orientation.
    dataset.PatientOrientation = film.view.value
    dataset.Laterality = film.laterality.value[0]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    for keyword, value in header.items():
        setattr(dataset, keyword, value)
    content = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    # DICOM values have an even length (PS3.5, section 7.1).
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()
