"""Gamma on three planes is the whole map's."""

import numpy as np
import pytest

from monai_vmat.metrics.gamma import gamma_map
from monai_vmat.reports.gamma_planes import gamma_on_planes

SPACING_MM, CENTER = (2.0, 3.0, 2.5), (5, 9, 3)


@pytest.fixture
def doses():
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (14, 12, 10)), indexing="ij")
    dose = (70 * np.exp(-2 * (x**2 + y**2 + z**2))).astype(np.float32)
    return dose, (dose + 12 * np.sin(4 * x)).clip(0).astype(np.float32)


def test_the_same_numbers_on_the_planes_and_none_elsewhere(doses):
    whole, found = gamma_map(*doses, SPACING_MM), gamma_on_planes(*doses, SPACING_MM, CENTER)
    on_planes = np.zeros(whole.shape, bool)
    on_planes[CENTER[0]], on_planes[:, CENTER[1]], on_planes[:, :, CENTER[2]] = True, True, True
    np.testing.assert_array_equal(found[on_planes], whole[on_planes])
    assert np.isnan(found[~on_planes]).all()
    shown = found[on_planes & ~np.isnan(whole)]
    assert shown.size > 100 and (shown < 1).any() and (shown > 1).any()


def test_no_dose_no_gamma(doses):
    assert gamma_on_planes(np.zeros_like(doses[0]), doses[1], SPACING_MM, CENTER) is None
