"""Conformity and homogeneity: hand-computed values and laws."""

import numpy as np
import pytest

from monai_vmat.metrics.conformity import homogeneity, paddick_conformity


def test_conformity_by_hand():
    """Target of 8 voxels; the isodose holds 6 of them and 4 others: 6^2 / (8 x 10)."""
    target, dose = np.zeros((10, 2, 1), bool), np.zeros((10, 2, 1), np.float32)
    target[:4] = True
    dose[1:6] = 66.5
    assert paddick_conformity(dose, target, 66.5) == pytest.approx(36 / 80)
    assert paddick_conformity(dose, target, 66.6) is None


def test_conformity_is_one_only_where_isodose_and_target_agree():
    target = np.random.default_rng(0).random((6, 7, 8)) > 0.7
    assert paddick_conformity(np.where(target, 70.0, 60.0), target, 66.5) == 1.0
    assert paddick_conformity(np.full(target.shape, 70.0), target, 66.5) == pytest.approx(target.mean())  # all is spilled on
    assert paddick_conformity(np.where(target, 60.0, 70.0), target, 66.5) == 0.0


def test_homogeneity_by_hand():
    """Doses of 0, 1, ... 100 Gy: D2 = 98, D50 = 50, D98 = 2."""
    assert homogeneity(np.arange(101.0)) == pytest.approx(96 / 50)
    assert homogeneity(np.full((3, 4), 70.0)) == 0.0
    assert homogeneity(np.zeros(5)) is None


def test_homogeneity_does_not_depend_on_the_unit():
    dose = np.random.default_rng(1).normal(70, 2, 500)
    assert homogeneity(dose * 100) == pytest.approx(homogeneity(dose))
