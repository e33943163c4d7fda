"""Predictions as files that other tools read."""

import nibabel
import numpy as np
import pytest

from monai_vmat.handlers.save_prediction import SavePrediction


def test_npz_and_nifti_lie_where_the_case_does(tmp_path, prostate, make_case, evaluate_cases):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0))
    evaluate_cases(prostate, [case], 0.0, SavePrediction(tmp_path, protocol=prostate))
    image = nibabel.load(tmp_path / "case_1_pred.nii.gz")
    assert np.allclose(image.affine, case.affine) and image.get_fdata() == pytest.approx(case.dose_gy, abs=1e-3)
    assert image.header.get_zooms() == (2.0, 3.0, 4.0)
    assert (tmp_path / "case_1_pred.npz").exists()
