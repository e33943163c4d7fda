"""Single fields and files. What a damaged export comes to is in test_bad_files.py."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from monai_vmat.dicom.reading import frame_shape, numbers, read_dataset, read_pixels, sequence, text
from monai_vmat.errors import InputError


def dataset(**fields) -> Dataset:
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item


def test_text_is_never_missing():
    item = dataset(PatientID=" 4711 ", NumberOfFrames=3, Modality=None)
    assert [text(item, k) for k in ("PatientID", "NumberOfFrames", "Modality", "PatientName")] == ["4711", "3", "", ""]


def test_numbers_are_as_many_as_asked_for_and_finite():
    item = dataset(PixelSpacing=[1.5, 2], SliceThickness="3.0", RescaleSlope="", ImagePositionPatient=[1, 2, "1e400"])
    assert numbers(item, "PixelSpacing", 2, "here") == (1.5, 2.0) and numbers(item, "SliceThickness", 1, "here") == (3.0,)
    for keyword, count, problem in (
        ("PixelSpacing", 3, r"PixelSpacing: 3 finite number\(s\) were expected, got \[1.5, 2.0\]"),
        ("PixelSpacing", 1, r"PixelSpacing: 1 number\(s\) were expected"),
        ("ImagePositionPatient", 3, r"ImagePositionPatient: 3 finite .* got \[1.0, 2.0, inf\]"),
        ("RescaleSlope", 1, "here: RescaleSlope is missing"),
        ("RescaleIntercept", 1, "here: RescaleIntercept is missing"),
    ):
        with pytest.raises(InputError, match=problem):
            numbers(item, keyword, count, "here")


def test_a_missing_or_empty_sequence_has_no_items():
    item = dataset(BeamSequence=[dataset(BeamNumber=1), dataset(BeamNumber=2)], FractionGroupSequence=[])
    assert [text(beam, "BeamNumber") for beam in sequence(item, "BeamSequence")] == ["1", "2"]
    assert sequence(item, "FractionGroupSequence") == sequence(item, "ROIContourSequence") == []


@pytest.mark.parametrize(
    ("fields", "files", "problem"),
    [
        ({"Rows": 2048, "Columns": 2048}, 512, None),  # exactly what is believed
        ({"Rows": 2048, "Columns": 2048}, 513, "2048 x 2048 x 513 is no size"),
        ({"Rows": 2048, "Columns": 2048, "NumberOfFrames": 513}, 1, "2048 x 2048 x 513 is no size"),
        ({"Rows": 0, "Columns": 4}, 1, "0 x 4 x 1 is no size"),
        ({"Rows": 4, "Columns": 4, "NumberOfFrames": 0}, 1, "4 x 4 x 0 is no size"),
        ({"Rows": 4, "Columns": 4, "SamplesPerPixel": 3}, 1, "SamplesPerPixel: 1 was expected, got 3"),
        ({"Rows": 4}, 1, "Columns is missing"),
    ],
)
def test_a_size_is_believed_only_when_it_fits(fields, files, problem):
    if problem is None:
        assert frame_shape(dataset(**fields), "here", files) == (1, 2048, 2048)
    else:
        with pytest.raises(InputError, match=f"here: .*{problem}"):
            frame_shape(dataset(**fields), "here", files)


@pytest.mark.parametrize("frames", (1, 2))
def test_pixels_come_as_frames(frames):
    stored = np.arange(frames * 6, dtype="<u2").reshape(frames, 2, 3)
    item = dataset(
        Rows=2, Columns=3, NumberOfFrames=frames, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=0, PixelData=stored.tobytes(),
    )  # fmt: skip
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert np.array_equal(read_pixels(item, "here"), stored)
    item.PixelData = item.PixelData[:-2]
    with pytest.raises(InputError, match=f"here: PixelData: {12 * frames} bytes were expected, got {12 * frames - 2}"):
        read_pixels(item, "here")


def test_other_files_are_no_datasets(tmp_path, pelvis_files):
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert read_dataset(tmp_path / "notes.txt", "notes") is None
    with pytest.raises(InputError, match="gone: cannot be read"):
        read_dataset(tmp_path / "gone", "gone")


def test_of_a_header_only_what_is_asked_for_is_read(pelvis_files):
    header = read_dataset(pelvis_files / "ct_001.dcm", "ct", ["Modality"])
    assert header.Modality == "CT" and "PixelData" not in header and "PatientName" not in header
    assert "PixelData" in read_dataset(pelvis_files / "ct_001.dcm", "ct")


def test_what_follows_the_pixels_is_not_read(tmp_path, pelvis_files):
    """An element that claims what a disk left there, of whatever tag."""
    whole = (pelvis_files / "ct_001.dcm").read_bytes()
    behind = struct.pack("<HH2s2xI", 0x0019, 0x1001, b"OB", 2**25) + bytes(2**25)
    (tmp_path / "ct.dcm").write_bytes(whole + behind)
    assert read_dataset(tmp_path / "ct.dcm", "ct") == read_dataset(pelvis_files / "ct_001.dcm", "ct")


def test_pixels_that_are_empty_are_missing(pelvis_files):
    dataset = read_dataset(pelvis_files / "ct_001.dcm", "ct")
    dataset.PixelData = None
    with pytest.raises(InputError, match="here: PixelData is missing"):
        read_pixels(dataset, "here")


@pytest.mark.parametrize("tags", [None, ["Modality"]])
def test_zeros_behind_the_data_are_no_elements(tmp_path, pelvis_files, tags):
    """A disk that was switched off leaves them: gigabytes, an element every eight bytes."""
    path = tmp_path / "ct.dcm"
    path.write_bytes((pelvis_files / "ct_001.dcm").read_bytes())
    whole = read_dataset(path, "ct", tags)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + 2**32)  # a hole: it takes no room on the disk
    began = time.perf_counter()
    assert read_dataset(path, "ct", tags) == whole
    assert time.perf_counter() - began < 5
