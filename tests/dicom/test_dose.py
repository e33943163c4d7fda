"""A study's dose in Gy where it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK

from monai_vmat.dicom.dose import read_dose
from monai_vmat.dicom.study import find_studies
from monai_vmat.errors import InputError


def read(folder, beams=frozenset()):
    return read_dose(find_studies(folder)[0], beams)


def test_scaled_and_placed(pelvis_files, pelvis):
    dose, grid = read(pelvis_files)
    assert dose.dtype == np.float32 and np.abs(dose - pelvis.dose_gy).max() < 1e-4
    assert np.allclose(grid.affine, pelvis.affine) and grid.shape == pelvis.ct_hu.shape


@pytest.mark.parametrize("orientation", ("HFS", "FFS", "HFP", "FFP"))
def test_frames_lie_where_an_independent_reader_puts_them(tmp_path, pelvis, prostate, write_dicom_set, orientation):
    layout = {"dose_offset_mm": (5.0, 2.0, 8.0), "dose_spacing_mm": (4.0, 5.0, 6.0)}
    write_dicom_set(pelvis, tmp_path, prostate, orientation=orientation, **layout)
    dose, grid = read(tmp_path)
    image = SimpleITK.ReadImage(str(tmp_path / "rd.dcm"))
    stored = SimpleITK.GetArrayFromImage(image).astype(float)
    scale = dose.max() / stored.max()  # which it does not apply
    for index in ((3, 4, 2), (7, 5, 3), (0, 0, 0)):
        point = [o + s * i for o, s, i in zip(grid.origin_mm, grid.spacing_mm, index, strict=True)]
        i, j, k = image.TransformPhysicalPointToIndex(point)
        assert stored[k, j, i] * scale == pytest.approx(dose[index], abs=1e-3)


def test_heights_may_be_given_as_such(export, edit):
    dose, grid = read(export)

    def absolute(d):
        d.GridFrameOffsetVector = [v + d.ImagePositionPatient[2] for v in d.GridFrameOffsetVector]

    edit(export / "rd.dcm", absolute)
    again, same = read(export)
    assert np.array_equal(dose, again) and np.allclose(grid.affine, same.affine)


@pytest.fixture
def by_beams(tmp_path, pelvis, prostate, write_dicom_set):
    return write_dicom_set(pelvis, tmp_path / "beams", prostate, beams=3, beam_doses=True)


def test_beams_add_up(by_beams, pelvis):
    dose, _ = read(by_beams, frozenset({1, 2, 3}))
    assert np.abs(dose - pelvis.dose_gy).max() < 1e-3


def test_every_beam_counts_once(by_beams, edit):
    (by_beams / "rd_2.dcm").rename(by_beams / "second.dcm")
    with pytest.raises(InputError, match="no plan dose, and beam 4 has no dose of its own"):
        read(by_beams, frozenset({1, 2, 3, 4}))

    def call_first(dataset):
        group = dataset.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence[0]
        group.ReferencedBeamSequence[0].ReferencedBeamNumber = 1

    edit(by_beams / "second.dcm", call_first)
    with pytest.raises(InputError, match="beam 1 has more than one dose"):
        read(by_beams)


def test_beams_on_different_grids(by_beams, edit):
    edit(by_beams / "rd_2.dcm", lambda d: setattr(d, "ImagePositionPatient", [v + 1 for v in d.ImagePositionPatient]))
    with pytest.raises(InputError, match="rd_2.dcm: is on another grid than rd_1.dcm"):
        read(by_beams)


def test_the_plans_dose_goes_before_those_of_beams(by_beams, pelvis, tmp_path, prostate, write_dicom_set):
    whole = write_dicom_set(replace(pelvis, dose_gy=pelvis.dose_gy * np.float32(0.5)), tmp_path / "whole", prostate)
    (whole / "rd.dcm").rename(by_beams / "rd.dcm")
    dose, _ = read(by_beams)
    assert np.abs(dose - pelvis.dose_gy / 2).max() < 1e-4
