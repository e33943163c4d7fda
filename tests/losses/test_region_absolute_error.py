"""The loss is OpenKBP's dose error, in units of the prescription."""

import numpy as np
import pytest
import torch

from monai_vmat.losses.region_absolute_error import RegionAbsoluteError
from monai_vmat.metrics.openkbp import dose_error


def test_by_hand():
    pred, dose = (torch.tensor(v).reshape(1, 1, 2, 2, 1) for v in ([1.0, 0.5, 0.0, 9.0], [0.0, 0.5, 0.5, 0.0]))
    region = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2, 1)
    assert float(RegionAbsoluteError()(pred, dose, region)) == pytest.approx(1.5 / 3)


def test_equals_the_dose_error_of_a_finished_dose():
    rng = np.random.default_rng(0)
    region = rng.random((5, 6, 7)) > 0.4
    pred, dose = rng.random((5, 6, 7)) * region, rng.random((5, 6, 7)) * region
    loss = RegionAbsoluteError()(*(torch.as_tensor(a)[None, None] for a in (pred, dose, region)))
    assert 70 * float(loss) == pytest.approx(dose_error(70 * pred, 70 * dose, region))


def test_an_empty_region_costs_nothing():
    zeros = torch.zeros(1, 1, 2, 2, 2)
    assert float(RegionAbsoluteError()(zeros + 1, zeros, zeros.bool())) == 0.0
