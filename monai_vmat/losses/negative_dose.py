"""Dose is never negative, and the network should know."""

from __future__ import annotations

from torch import Tensor, nn


class NegativeDose(nn.Module):
    """Mean of ``relu(-pred)`` over all voxels: what the prediction lies below zero.

    Shapes: ``pred`` (B, 1, X, Y, Z), fractions of the prescription. Returns a scalar.
    """

    def forward(self, pred: Tensor) -> Tensor:
        return (-pred).relu().mean()
