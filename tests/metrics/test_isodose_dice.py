"""Overlap of isodose volumes: hand-computed values and laws."""

import numpy as np
import pytest

from monai_vmat.metrics.isodose_dice import LEVELS_PERCENT, isodose_dice


def test_by_hand():
    """At 50 % of 60 Gy: prediction has 2 voxels, reference 3, common 2; at 100 % only the reference has one."""
    pred, dose = np.array([10.0, 30.0, 45.0, 0.0]), np.array([30.0, 60.0, 31.0, 0.0])
    found = isodose_dice(pred, dose, 60.0, (50, 100, 110))
    assert found == {50: pytest.approx(4 / 5), 100: 0.0, 110: None}


def test_equal_doses_overlap_and_order_does_not_matter():
    random = np.random.default_rng(0)
    dose, other = (70 * random.random((8, 9, 10)).astype(np.float32) for _ in range(2))
    same = isodose_dice(dose, dose, 70.0)
    assert tuple(same) == LEVELS_PERCENT == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
    assert {v for level, v in same.items() if level < 100} == {1.0} and same[100] is None
    assert isodose_dice(dose, other, 70.0) == isodose_dice(other, dose, 70.0) != same
