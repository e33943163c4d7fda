"""The cumulative DVH against counting."""

from __future__ import annotations

import numpy as np

from monai_vmat.metrics.dvh import volume_at_dose
from monai_vmat.metrics.dvh_curve import cumulative_dvh


def test_each_point_is_the_volume_at_that_dose() -> None:
    dose = np.random.default_rng(0).choice([0.0, 10.0, 20.0, 35.5, 70.0], size=(5, 6, 7)).astype(np.float32)
    levels = np.arange(0, 75, 0.5)
    curve = cumulative_dvh(dose, levels)
    assert curve.tolist() == [volume_at_dose(dose, level) for level in levels]
    assert curve[0] == 100.0
    assert (np.diff(curve) <= 0).all()


def test_four_voxels_by_hand() -> None:
    assert cumulative_dvh(np.array([10.0, 20.0, 20.0, 40.0]), [0, 10, 10.1, 20, 30, 40, 41]).tolist() == [
        100, 100, 75, 75, 25, 25, 0,
    ]  # fmt: skip
