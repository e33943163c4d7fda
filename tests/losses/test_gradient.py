"""The Sobel gradient against ramps and the classical kernel; the loss by hand and by law."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_vmat.losses.gradient import GradientLoss, sobel


def ramp(a, b, c, shape=(5, 6, 7)):
    x, y, z = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    return (a * x + b * y + c * z)[None, None]


def test_a_ramps_slope():
    for component, slope in zip(sobel(ramp(0.5, -2.0, 3.0)), (0.5, -2.0, 3.0), strict=True):
        assert component.shape == (1, 1, 3, 4, 5) and torch.allclose(component, torch.tensor(slope))


def test_the_classical_kernel_over_32():
    volume = np.random.default_rng(0).random((6, 7, 8))
    inside = (slice(1, -1),) * 3
    for axis, found in enumerate(sobel(torch.as_tensor(volume)[None, None])):
        assert np.allclose(found[0, 0], ndimage.sobel(volume, axis)[inside] / 32)


def test_by_hand_and_by_law():
    loss = GradientLoss()
    dose = torch.rand(2, 1, 5, 6, 7)
    assert float(loss(dose + ramp(0.3, 0.0, -0.6), dose)) == pytest.approx((0.3 + 0.6) / 3, rel=1e-5)
    assert float(loss(dose, dose)) == 0.0 and float(loss(dose + 0.5, dose)) == pytest.approx(0.0, abs=1e-6)
    other = torch.rand(2, 1, 5, 6, 7)
    assert float(loss(4 * other, 4 * dose)) == pytest.approx(4 * float(loss(other, dose)), rel=1e-5)
    assert torch.autograd.gradcheck(loss, (other.double().requires_grad_(), dose.double()))


def test_too_thin_a_volume():
    with pytest.raises(ValueError, match="3 voxels"):
        GradientLoss()(torch.rand(1, 1, 5, 2, 5), torch.rand(1, 1, 5, 2, 5))
