"""The DICOM reader: every transfer syntax that can be read, and every way a file can be wrong."""

import pickle
import random
import struct
import traceback
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from mammo_etl import dicom, files
from mammo_etl.files import SourceFileError
from mammo_etl.records import Reason

SECRET = "Doe^Jane"


def dataset_of(pixels: NDArray[np.generic], **fields: object) -> Dataset:
    """A secondary capture of grey pixels, with personal data that no message may show."""
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.StudyInstanceUID = "1.2"
    dataset.Modality = "MG"
    dataset.PatientName = SECRET
    dataset.PatientBirthDate = "19500101"
    dataset.PatientID = "Mass-Training_P_00001_LEFT_CC"
    dataset.SeriesDescription = "full mammogram images"
    dataset.InstanceNumber = 3
    dataset.Laterality = "L"
    dataset.PatientOrientation = "CC"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    return dataset


def encoded(dataset: Dataset, syntax: str = ImplicitVRLittleEndian) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture
def pixels() -> NDArray[np.uint16]:
    return np.random.default_rng(1).integers(0, 65536, (37, 21), dtype=np.uint16)


def header_error(path: Path, content: bytes) -> SourceFileError:
    path.write_bytes(content)
    with pytest.raises(SourceFileError) as raised:
        dicom.read_header(str(path))
    # Nothing of the header in the message, nor in a chained error that a log would print.
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return raised.value


def test_header_fields(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(dataset_of(pixels)))
    header = dicom.read_header(str(path))
    assert header == dicom.DicomHeader(
        sop_instance_uid="1.2.3.4",
        series_instance_uid="1.2.3",
        study_instance_uid="1.2",
        patient_id="Mass-Training_P_00001_LEFT_CC",
        series_description="full mammogram images",
        instance_number=3,
        laterality="L",
        patient_orientation="CC",
        rows=37,
        columns=21,
        bits_allocated=16,
        bits_stored=16,
        high_bit=15,
        photometric_interpretation="MONOCHROME2",
        transfer_syntax_uid=ImplicitVRLittleEndian,
        number_of_frames=1,
    )
    # Plain texts and numbers: what travels between processes holds nothing else of the file.
    assert SECRET.encode() not in pickle.dumps(header)
    assert {type(getattr(header, name)) for name in header.__slots__} == {str, int, type(None)}


def test_header_in_zip(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/a.dcm", encoded(dataset_of(pixels)))
    assert dicom.read_header(f"zip://x/a.dcm::{tmp_path / 'a.zip'}").rows == 37


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
)
def test_pixels_of_every_syntax(tmp_path: Path, pixels: NDArray[np.uint16], syntax: str) -> None:
    dataset = dataset_of(pixels)
    if syntax == RLELossless:
        dataset.file_meta = FileMetaDataset()
        dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(">u2").tobytes()
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(dataset, syntax))
    assert dicom.read_header(str(path)).transfer_syntax_uid == syntax
    decoded = dicom.decode(path.read_bytes())
    grey, bits = decoded.pixels, decoded.bits
    np.testing.assert_array_equal(grey, pixels)
    assert (str(grey.dtype), bits) == (np.dtype(np.uint16).name, 16)


def test_without_preamble(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    for implicit in (True, False):
        stream = BytesIO()
        dataset_of(pixels).save_as(stream, implicit_vr=implicit, little_endian=True)
        content = stream.getvalue()
        assert content[128:132] != b"DICM"
        path = tmp_path / "a.dcm"
        path.write_bytes(content)
        assert dicom.read_header(str(path)).rows == 37
        np.testing.assert_array_equal(dicom.decode(content).pixels, pixels)


def test_masks_of_8_bits(pixels: NDArray[np.uint16]) -> None:
    mask = np.where(pixels > 30000, 255, 0).astype(np.uint8)
    decoded = dicom.decode(encoded(dataset_of(mask)))
    grey, bits = decoded.pixels, decoded.bits
    np.testing.assert_array_equal(grey, mask)
    assert (str(grey.dtype), bits) == (np.dtype(np.uint8).name, 8)


def test_monochrome1_is_inverted(pixels: NDArray[np.uint16]) -> None:
    grey = dicom.decode(encoded(dataset_of(pixels, PhotometricInterpretation="MONOCHROME1"))).pixels
    np.testing.assert_array_equal(grey, 65535 - pixels)
    twelve = pixels >> 4
    decoded = dicom.decode(
        encoded(dataset_of(twelve, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11))
    )
    grey, bits = decoded.pixels, decoded.bits
    np.testing.assert_array_equal(grey, 4095 - twelve)
    assert (str(grey.dtype), bits) == (np.dtype(np.uint16).name, 12)


def test_pixels_that_do_not_begin_at_the_lowest_bit_are_refused(pixels: NDArray[np.uint16]) -> None:
    with pytest.raises(SourceFileError) as raised:
        dicom.decode(encoded(dataset_of(pixels, BitsStored=12, HighBit=15)))
    assert raised.value.code is Reason.UNSUPPORTED_FORMAT
    assert "high bit 15 of 12" in raised.value.message


WINDOW = {"WindowCenter": 2048, "WindowWidth": 1024}


@pytest.mark.parametrize(
    ("tags", "black", "middle", "white"),
    [
        (WINDOW, 1535, 2047, 2560),
        # The first of several.
        (WINDOW | {"WindowCenter": [2048, 100], "WindowWidth": [1024, 7]}, 1535, 2047, 2560),
        (WINDOW | {"VOILUTFunction": "LINEAR_EXACT"}, 1536, 2048, 2561),
        # 2048 in units of which a pixel is a half.
        (WINDOW | {"RescaleSlope": "0.5", "RescaleIntercept": "1024"}, 1024, 2047, 3073),
    ],
)
def test_the_first_window_is_how_pixels_are_shown(
    pixels: NDArray[np.uint16], tags: dict[str, object], black: int, middle: int, white: int
) -> None:
    twelve = dataset_of(pixels >> 4, BitsStored=12, HighBit=11, **tags)
    decoded = dicom.decode(encoded(twelve))
    assert decoded.display is not None
    assert decoded.display.shape == (4096,)
    assert not decoded.display[: black + 1].any()
    assert int(decoded.display[middle]) == pytest.approx(32767, abs=70)
    assert (decoded.display[white:] == 65535).all()
    np.testing.assert_array_equal(decoded.pixels, pixels >> 4)
    # Inverted with the pixels: what was shown black is white.
    twelve.PhotometricInterpretation = "MONOCHROME1"
    inverted = dicom.decode(encoded(twelve))
    assert inverted.display is not None
    np.testing.assert_array_equal(inverted.display[inverted.pixels], 65535 - decoded.display[decoded.pixels])


def test_a_sigmoid_window(pixels: NDArray[np.uint16]) -> None:
    decoded = dicom.decode(
        encoded(dataset_of(pixels >> 4, BitsStored=12, HighBit=11, VOILUTFunction="SIGMOID", **WINDOW))
    )
    assert decoded.display is not None
    # PS3.3 C.11.2.1.3.1.
    expected = 65535 / (1 + np.exp(-4 * (np.arange(4096) - 2048) / 1024))
    assert np.abs(decoded.display - expected).max() <= 1


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"WindowCenter": 2048},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 2048, "WindowWidth": 1024, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 2048, "WindowWidth": 1024, "RescaleSlope": "0", "RescaleIntercept": "0"},
    ],
)
def test_a_window_that_cannot_be_used_is_none(pixels: NDArray[np.uint16], tags: dict[str, object]) -> None:
    assert dicom.decode(encoded(dataset_of(pixels, **tags))).display is None


def test_unused_high_bits_are_dropped(pixels: NDArray[np.uint16]) -> None:
    grey = dicom.decode(encoded(dataset_of(pixels, BitsStored=12, HighBit=11))).pixels
    np.testing.assert_array_equal(grey, pixels & 4095)


def test_header_needs_the_first_bytes_only(
    tmp_path: Path, pixels: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(dataset_of(np.zeros((2000, 1000), np.uint16))))
    asked: list[int | None] = []

    def spy(url: str, limit: int | None = None) -> bytes:
        asked.append(limit)
        return files.read_bytes(url, limit)

    monkeypatch.setattr(dicom, "read_bytes", spy)
    assert dicom.read_header(str(path)).rows == 2000
    assert asked == [64 * 1024]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_header_longer_than_the_first_bytes(tmp_path: Path, pixels: NDArray[np.uint16], syntax: str) -> None:
    item = Dataset()
    item.TextValue = "x" * 50_000
    dataset = dataset_of(pixels, ContentSequence=Sequence([item, item, item]))
    dataset.add_new(0x00091001, "UN", b"\0" * 200_000)
    path = tmp_path / "a.dcm"
    path.write_bytes(encoded(dataset, syntax))
    assert dicom.read_header(str(path)).rows == 37


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("missing", [1, 100, 37 * 21 * 2])
def test_truncated_pixels(tmp_path: Path, pixels: NDArray[np.uint16], syntax: str, missing: int) -> None:
    # A native file: known from its size alone.
    content = encoded(dataset_of(pixels), syntax)[:-missing]
    error = header_error(tmp_path / "a.dcm", content)
    assert error.code is Reason.TRUNCATED_FILE
    assert f"{37 * 21 * 2 - missing} of the {37 * 21 * 2} bytes" in error.message
    with pytest.raises(SourceFileError) as raised:
        dicom.decode(content)
    assert raised.value.code is Reason.TRUNCATED_FILE


def test_pixel_element_shorter_than_the_image(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    dataset = dataset_of(pixels)
    dataset.PixelData = dataset.PixelData[:-10]
    assert header_error(tmp_path / "a.dcm", encoded(dataset) + b"\0" * 100).code is Reason.TRUNCATED_FILE


def test_truncated_compressed_pixels(pixels: NDArray[np.uint16]) -> None:
    dataset = dataset_of(pixels)
    dataset.file_meta = FileMetaDataset()
    dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    content = encoded(dataset, RLELossless)
    for keep in (len(content) - 200, len(content) - 1000):
        with pytest.raises(SourceFileError) as raised:
            dicom.decode(content[:keep])
        assert raised.value.code is Reason.TRUNCATED_FILE


def test_cut_within_the_header(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    content = encoded(dataset_of(pixels))
    start_of_pixels = len(content) - pixels.nbytes
    for keep in range(140, start_of_pixels, 7):
        error = header_error(tmp_path / "a.dcm", content[:keep])
        assert error.code in (Reason.TRUNCATED_FILE, Reason.UNREADABLE_FILE, Reason.UNSUPPORTED_FORMAT)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"not a dicom file" * 100, b"\0" * 1000, b"\x89PNG\r\n\x1a\n" + b"\0" * 200]
)
def test_no_dicom(tmp_path: Path, content: bytes) -> None:
    assert header_error(tmp_path / "a.dcm", content).code is Reason.UNREADABLE_FILE


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError) as raised:
        dicom.read_header(str(tmp_path / "absent.dcm"))
    assert raised.value.code is Reason.UNREADABLE_FILE


@pytest.mark.parametrize(
    "fields",
    [
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"NumberOfFrames": 2},
        {"PixelRepresentation": 1},
        {"BitsAllocated": 32, "BitsStored": 32},
        {"BitsStored": 17},
        {"BitsAllocated": 1, "BitsStored": 1},
    ],
)
def test_not_a_grey_single_frame(tmp_path: Path, pixels: NDArray[np.uint16], fields: dict[str, object]) -> None:
    content = encoded(dataset_of(np.tile(pixels, (3, 1, 1)), **fields))
    error = header_error(tmp_path / "a.dcm", content)
    assert error.code is Reason.UNSUPPORTED_FORMAT
    with pytest.raises(SourceFileError) as raised:
        dicom.decode(content)
    assert raised.value.code is Reason.UNSUPPORTED_FORMAT


def test_unsupported_transfer_syntax(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    dataset = dataset_of(pixels)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + b"\0" * 100])
    error = header_error(tmp_path / "a.dcm", encoded(dataset, JPEGLosslessSV1))
    assert error.code is Reason.UNSUPPORTED_FORMAT
    assert "JPEG Lossless" in error.message
    unknown = encoded(dataset, JPEGLosslessSV1).replace(JPEGLosslessSV1.encode(), b"1.2.840.99999.1.2.4.70")
    assert header_error(tmp_path / "a.dcm", unknown).code is Reason.UNSUPPORTED_FORMAT


def test_dicom_without_an_image(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.PatientName = SECRET
    assert header_error(tmp_path / "a.dcm", encoded(dataset)).code is Reason.UNSUPPORTED_FORMAT


def test_field_of_the_wrong_kind(tmp_path: Path, pixels: NDArray[np.uint16]) -> None:
    content = encoded(dataset_of(pixels, NumberOfFrames=1))
    frames = content.find(struct.pack("<HH", 0x0028, 0x0008))
    broken = content[: frames + 8] + b"x?" + content[frames + 10 :]
    assert header_error(tmp_path / "a.dcm", broken).code is Reason.UNREADABLE_FILE


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless])
def test_damage_never_gives_a_traceback(tmp_path: Path, pixels: NDArray[np.uint16], syntax: str) -> None:
    dataset = dataset_of(pixels, ContentSequence=Sequence([dataset_of(pixels[:2, :2])]))
    if syntax == RLELossless:
        dataset.file_meta = FileMetaDataset()
        dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    content = encoded(dataset, syntax)
    chance = random.Random(syntax)
    path = tmp_path / "a.dcm"
    refused: list[SourceFileError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(chance.randint(1, 20)):
                place = chance.randrange(128, len(damaged) if chance.random() < 0.3 else 900)
                damaged[place] = chance.randrange(256)
            path.write_bytes(damaged)
            try:
                dicom.read_header(str(path))
            except SourceFileError as error:
                refused.append(error)
            try:
                dicom.decode(bytes(damaged))
            except SourceFileError as error:
                refused.append(error)
    assert len(refused) > 30
    assert not [error for error in refused if SECRET in "".join(traceback.format_exception(error))]
