"""Only what lies below zero counts."""

import pytest
import torch

from monai_vmat.losses.negative_dose import NegativeDose


def test_by_hand():
    pred = torch.tensor([-0.4, 0.3, -0.2, 5.0], requires_grad=True)
    loss = NegativeDose()(pred.reshape(1, 1, 2, 2, 1))
    assert float(loss.detach()) == pytest.approx(0.15)
    loss.backward()
    assert pred.grad.tolist() == pytest.approx([-0.25, 0.0, -0.25, 0.0])
