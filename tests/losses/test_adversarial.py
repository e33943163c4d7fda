"""The network's side of adversarial training."""

import pytest
import torch
from monai.networks.nets import PatchDiscriminator
from torch import nn

from monai_vmat.losses.adversarial import AdversarialLoss


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return [None, self.factor * x]


def test_by_hand():
    loss = AdversarialLoss(Scale())
    pred = torch.tensor([2.0, 0.0, 1.0]).reshape(1, 1, 3, 1, 1).requires_grad_()
    value = loss(pred)
    value.backward()
    assert float(value.detach()) == pytest.approx((0 + 1 + 0.25) / 3)
    assert pred.grad.flatten().tolist() == pytest.approx([0.0, -1 / 3, -0.5 / 3])
    assert loss.discriminator.factor.grad is None and loss.discriminator.factor.requires_grad


def test_with_monais_discriminator_in_float32():
    torch.manual_seed(0)
    loss = AdversarialLoss(PatchDiscriminator(spatial_dims=3, channels=4, in_channels=1, norm="INSTANCE"))
    pred = torch.rand(1, 1, 32, 32, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(pred)
    mixed.backward()
    whole = (loss.discriminator(pred)[-1] - 1).square().mean()
    assert pred.grad.any() and torch.equal(mixed, whole)
