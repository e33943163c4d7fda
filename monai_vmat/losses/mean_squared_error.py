"""The squared dose error, the base of every experiment."""

from __future__ import annotations

from torch import Tensor, nn


class MeanSquaredError(nn.Module):
    """Mean of ``(pred - dose)^2`` over all voxels.

    Shapes: ``pred`` and ``dose`` (B, 1, X, Y, Z), fractions of the prescription. Returns a scalar.
    """

    def forward(self, pred: Tensor, dose: Tensor) -> Tensor:
        return (pred - dose).square().mean()
