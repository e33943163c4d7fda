"""Predictions as files that other tools read."""

import nibabel
import numpy as np
import pytest

from monai_vmat.case import read_dose, read_dose_sd
from monai_vmat.handlers.save_prediction import SavePrediction


def test_npz_and_nifti_lie_where_the_case_does(tmp_path, prostate, make_case, evaluate_cases):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0))
    evaluate_cases(prostate, [case], 0.0, SavePrediction(tmp_path, protocol=prostate))
    image = nibabel.load(tmp_path / "case_1_pred.nii.gz")
    assert np.allclose(image.affine, case.affine) and image.get_fdata() == pytest.approx(case.dose_gy, abs=1e-3)
    assert image.header.get_zooms() == (2.0, 3.0, 4.0)
    assert (tmp_path / "case_1_pred.npz").exists() and read_dose_sd(tmp_path / "case_1_pred.npz") is None
    assert not (tmp_path / "case_1_pred_sd.nii.gz").exists()


def test_a_standard_deviation_is_written_beside_the_dose(tmp_path, prostate, make_case, evaluate_cases):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0))
    engine = evaluate_cases(prostate, [case], 0.0)
    (out,) = engine.state.output
    out["pred_sd"] = out["pred"] / 10
    SavePrediction(tmp_path, protocol=prostate)(engine)
    image = nibabel.load(tmp_path / "case_1_pred_sd.nii.gz")
    assert np.allclose(image.affine, case.affine) and image.get_fdata() == pytest.approx(case.dose_gy / 10, abs=1e-3)
    assert read_dose_sd(tmp_path / "case_1_pred.npz") == pytest.approx(case.dose_gy / 10, abs=0.0051)
    assert read_dose(tmp_path / "case_1_pred.npz")[0] == pytest.approx(case.dose_gy, abs=0.0051)
