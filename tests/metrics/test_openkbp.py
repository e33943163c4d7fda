"""The challenge's scores against values computed by hand and by an independent transcription of their definitions."""

import numpy as np
import pytest

from monai_vmat.metrics.openkbp import d_tenth_cc, dose_error, dose_score, dvh_metrics, dvh_score


def test_dose_error_by_hand():
    dose = np.zeros((2, 2, 2))
    pred = dose.copy()
    pred[0, 0, 0], pred[1, 1, 1] = 3.0, -1.0  # the second lies outside the mask and counts all the same
    mask = np.zeros((2, 2, 2), bool)
    mask[0] = True
    assert dose_error(pred, dose, mask) == pytest.approx(4.0 / 4)


def test_d_tenth_cc_by_hand():
    # 3.906 x 3.906 x 2.5 mm = 38.14 mm^3: round(100 / 38.14) = 3 voxels of 50: percentile 100 - 100 * 3 / 50 = 94
    dose = np.arange(50.0)
    assert d_tenth_cc(dose, 0.03814) == pytest.approx(0.94 * 49)
    # voxels larger than 0.1 cc: one voxel
    assert d_tenth_cc(dose, 0.25) == pytest.approx(0.98 * 49)
    # fewer voxels than 0.1 cc needs: the least dose
    assert d_tenth_cc(np.asarray([5.0, 7.0]), 0.01) == 5.0


def test_dvh_metrics_by_hand(head_and_neck):
    dose = np.linspace(0, 100, 101).reshape(101, 1, 1)
    masks = {"PTV70": np.ones((101, 1, 1), bool), "Brainstem": dose >= 50}
    found = dvh_metrics(dose, masks, 0.05, head_and_neck)
    # Brainstem: 51 voxels 50..100 Gy, n = round(0.1 / 0.05) = 2: percentile 100 - 200 / 51 of them
    expected = {"PTV70 D99": 1.0, "PTV70 D95": 5.0, "PTV70 D1": 99.0, "Brainstem mean": 75.0}
    expected["Brainstem D0.1cc"] = 50 + 50 * (1 - 2 / 51)
    assert found == pytest.approx(expected)


def test_scores_pool_as_the_challenge_does():
    assert dose_score([1.0, 2.0, 6.0]) == pytest.approx(3.0)
    # pooled over all metrics of all patients, not a mean of patients' means (which would be 2.75)
    assert dvh_score([{"a": 1.0, "b": -2.0, "c": 3.0}, {"a": -3.5}]) == pytest.approx(9.5 / 4)


def test_no_error_scores_zero(head_and_neck, make_case):
    case = make_case(head_and_neck)
    values = dvh_metrics(case.dose_gy, case.structures, case.voxel_cc, head_and_neck)
    assert dvh_score([{k: v - values[k] for k, v in values.items()}]) == 0.0
    assert len(values) == 3 * 3 + 7 * 2
