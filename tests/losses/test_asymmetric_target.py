"""Underdose counts three times, and only in targets."""

import pytest
import torch

from monai_vmat.losses.asymmetric_target import AsymmetricTargetError
from monai_vmat.losses.mean_squared_error import MeanSquaredError

SHAPE = (10, 5, 4)


def test_by_hand(prostate, pack):
    """40 voxels 0.1 too low, 20 of them in both targets, 20 voxels 0.2 too high; what lies outside does not count."""
    structures = pack(prostate, SHAPE, {"PTV70": slice(0, 2), "PTV56": slice(1, 3), "Rectum": slice(5, 10)})
    dose, pred = torch.ones(1, 1, *SHAPE), torch.full((1, 1, *SHAPE), 7.0)
    pred[:, :, 0:2], pred[:, :, 2] = 0.9, 1.2
    loss = AsymmetricTargetError(prostate, min_voxels=10)
    assert float(loss(pred, dose, structures)) == pytest.approx((40 * 3 * 0.01 + 20 * 0.04) / 60, rel=1e-5)


@pytest.mark.parametrize("name", ["prostate", "head_and_neck"])
def test_laws(name, request, pack):
    protocol = request.getfixturevalue(name)
    torch.manual_seed(0)
    dose, less = torch.rand(2, 1, *SHAPE), torch.rand(2, 1, *SHAPE)
    whole = pack(protocol, SHAPE, {protocol.primary: slice(None)}).repeat(2, 1, 1, 1, 1)
    loss = AsymmetricTargetError(protocol)
    mse = float(MeanSquaredError()(dose - less, dose))
    assert float(loss(dose - less, dose, whole)) == pytest.approx(3 * mse, rel=1e-5)
    assert float(loss(dose + less, dose, whole)) == pytest.approx(mse, rel=1e-5)
    assert float(loss(dose, dose, whole)) == 0.0
    assert float(loss(2 * (dose - less), 2 * dose, whole)) == pytest.approx(12 * mse, rel=1e-5)


def test_absent_and_small_targets_add_nothing(prostate, pack):
    pred = torch.zeros(1, 1, *SHAPE, requires_grad=True)
    loss = AsymmetricTargetError(prostate)
    for masks, counts in (({"Rectum": slice(None)}, (0, 0)), ({"PTV70": slice(0, 4)}, (1, 1))):
        value = loss(pred, torch.ones(1, 1, *SHAPE), pack(prostate, SHAPE, masks))
        value.backward()
        assert float(value.detach()) == 0.0 and not pred.grad.any()
        assert loss.counts == dict(zip(("structures", "skipped"), counts, strict=True))
