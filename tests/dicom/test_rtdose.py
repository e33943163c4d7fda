"""Written doses, read back by the standard's formula and by an independent reader."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from monai_vmat.case import lps_affine
from monai_vmat.dicom.rtdose import write_rtdose
from monai_vmat.dicom.study import Study, find_studies
from monai_vmat.errors import InputError

SPACING = (2.5, 2.0, 3.0)
ORIGIN = (-31.25, 12.5, -104.3)


@pytest.fixture
def make_study(tmp_path, prostate, make_case, write_dicom_set):
    def make(orientation: str = "HFS") -> Study:
        (study,) = find_studies(write_dicom_set(make_case(prostate), tmp_path / "export", prostate, orientation=orientation))
        return study

    return make


@pytest.fixture
def dose() -> np.ndarray:
    return (73.2 * np.random.default_rng(0).random((7, 6, 5))).astype(np.float32)


def voxel_positions(shape: tuple[int, ...]) -> np.ndarray:
    """(X, Y, Z, 3) in patient coordinates."""
    return np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * SPACING + ORIGIN


def read_by_the_standard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Doses (N,) and positions (N, 3): PS3.3 C.7.6.2.1.1 and C.8.8.3.2."""
    found = pydicom.dcmread(path)
    across, along = (np.asarray(found.ImageOrientationPatient[k : k + 3], float) for k in (0, 3))
    frame, row, column = np.meshgrid(*[np.arange(n) for n in found.pixel_array.shape], indexing="ij")
    offsets = np.asarray(found.GridFrameOffsetVector, float)
    position = (
        np.asarray(found.ImagePositionPatient, float)
        + across * found.PixelSpacing[1] * column[..., None]
        + along * found.PixelSpacing[0] * row[..., None]
        + np.cross(across, along) * offsets[frame][..., None]
    )
    return (found.pixel_array * float(found.DoseGridScaling)).ravel(), position.reshape(-1, 3)


def identity(path: Path) -> tuple[str, str]:
    found = pydicom.dcmread(path)
    return found.SOPClassUID, found.SOPInstanceUID


def referred(sequence: pydicom.Sequence) -> tuple[str, str]:
    (item,) = sequence
    return item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID


def by_position(doses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Doses in one order that depends on where they are."""
    return doses[np.lexsort(np.round(positions, 3).T)]


@pytest.mark.parametrize("orientation", ["HFS", "FFS", "HFP", "FFP", "HFDL", "FFDR"])
def test_every_voxel_is_where_it_belongs(tmp_path, make_study, dose, orientation):
    write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), make_study(orientation))
    doses, positions = read_by_the_standard(tmp_path / "dose.dcm")
    expected = voxel_positions(dose.shape).reshape(-1, 3)
    np.testing.assert_allclose(by_position(positions, positions), by_position(expected, expected), atol=1e-6)
    step = float(pydicom.dcmread(tmp_path / "dose.dcm").DoseGridScaling)
    assert step < 2e-8
    np.testing.assert_allclose(by_position(doses, positions), by_position(dose.ravel(), expected), rtol=0, atol=step / 2)


@pytest.mark.parametrize("orientation", ["HFS", "HFP", "FFS", "FFP"])
def test_an_independent_reader_agrees(tmp_path, make_study, dose, orientation):
    write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), make_study(orientation))
    image = SimpleITK.ReadImage(str(tmp_path / "dose.dcm"))
    scale = float(pydicom.dcmread(tmp_path / "dose.dcm", stop_before_pixels=True).DoseGridScaling)
    for index in [(0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (3, 2, 1)]:
        voxel = image.TransformPhysicalPointToIndex((voxel_positions(dose.shape)[index]).tolist())
        assert image[voxel] * scale == pytest.approx(dose[index], abs=1e-4)  # it may hold pixels as float32
    assert sorted(image.GetSize()) == sorted(dose.shape)


def test_whose_it_is_and_what_it_refers_to(tmp_path, make_study, dose):
    study = make_study()
    write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), study)
    found, ct = pydicom.dcmread(tmp_path / "dose.dcm"), pydicom.dcmread(study.ct[0])
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientBirthDate"):
        assert found[keyword].value == ct[keyword].value
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID != ct.SOPInstanceUID
    assert referred(found.ReferencedRTPlanSequence) == identity(study.plan)
    assert (found.Modality, found.DoseUnits, found.DoseType, found.BitsAllocated) == ("RTDOSE", "GY", "PHYSICAL", 32)
    for text in (found.DoseComment, found.SeriesDescription):
        assert "predicted" in text.lower() and "research only" in text and len(text) <= 64
    for plan, structures in ((None, study.structures), (None, None)):
        write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), replace(study, plan=plan, structures=structures))
        found = pydicom.dcmread(tmp_path / "dose.dcm")
        assert "ReferencedRTPlanSequence" not in found and ("ReferencedStructureSetSequence" in found) == bool(structures)
        assert not structures or referred(found.ReferencedStructureSetSequence) == identity(structures)


@pytest.mark.parametrize("hottest", [0.0, 1e-3, 0.1 + 0.2, 70.0, 1 / 3, 655.35])
def test_the_hottest_voxel_does_not_overflow(tmp_path, make_study, hottest):
    dose = np.linspace(0, hottest, 60).reshape(3, 4, 5)
    write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING), make_study())
    found = pydicom.dcmread(tmp_path / "dose.dcm")
    assert len(str(found["DoseGridScaling"].value)) <= 16  # what a decimal string may have
    assert float(found.DoseGridScaling) > 0
    assert (found.pixel_array * float(found.DoseGridScaling)).max() == pytest.approx(hottest, abs=1e-6)


def test_a_validator_finds_no_error(tmp_path, make_study, dose):
    validator = shutil.which("dciodvfy")
    if not validator:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), make_study())
    # It stops at 32-bit pixels (an assertion of its own), so it is shown the same file with 16 bits.
    copy = pydicom.dcmread(tmp_path / "dose.dcm")
    copy.PixelData = copy.pixel_array.astype("<u2").tobytes()
    copy.BitsAllocated = copy.BitsStored = 16
    copy.HighBit = 15
    copy.save_as(tmp_path / "dose.dcm")
    done = subprocess.run([validator, str(tmp_path / "dose.dcm")], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert errors == [] and "RTDose" in done.stderr


def test_bad_doses_and_headers(tmp_path, make_study, dose):
    path, affine = tmp_path / "dose.dcm", lps_affine(SPACING)
    for bad in (np.nan, np.inf, -0.1):
        wrong = dose.copy()
        wrong[0, 0, 0] = bad
        with pytest.raises(InputError, match="expected finite doses"):
            write_rtdose(path, wrong, affine, make_study())
    study = make_study()
    ct = pydicom.dcmread(study.ct[0])
    ct.FrameOfReferenceUID = ""
    ct.save_as(study.ct[0])
    with pytest.raises(InputError, match="frame of reference"):
        write_rtdose(path, dose, affine, study)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["ct", "plan"])
def test_files_that_have_gone_or_changed_since(tmp_path, make_study, dose, kind):
    study = make_study()
    path = study.ct[0] if kind == "ct" else study.plan
    path.write_bytes(b"no DICOM")
    with pytest.raises(InputError, match="is no DICOM file any more"):
        write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), study)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read .No such file"):
        write_rtdose(tmp_path / "dose.dcm", dose, lps_affine(SPACING, ORIGIN), study)
    assert not (tmp_path / "dose.dcm").exists()
