"""By hand, and the law at equality."""

import pytest
import torch

from monai_vmat.losses.mean_squared_error import MeanSquaredError


def test_by_hand():
    pred, dose = (torch.tensor(v).reshape(1, 1, 2, 2, 1) for v in ([1.0, 0.5, 0.0, 0.25], [0.0, 0.5, 0.5, 0.25]))
    assert float(MeanSquaredError()(pred, dose)) == pytest.approx((1.0 + 0.25) / 4)


def test_zero_at_equality_and_quadratic_in_scale():
    a, b = torch.rand(2, 1, 3, 3, 3), torch.rand(2, 1, 3, 3, 3)
    loss = MeanSquaredError()
    assert float(loss(a, a)) == 0.0
    assert float(loss(3 * a, 3 * b)) == pytest.approx(9 * float(loss(a, b)), rel=1e-5)
