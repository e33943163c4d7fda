"""The absolute dose error where dose can be: OpenKBP's dose score as a loss."""

from __future__ import annotations

from torch import Tensor, nn


class RegionAbsoluteError(nn.Module):
    """``sum |pred - dose| inside the region / voxels of the region``, over the whole batch.

    Shapes: ``pred`` and ``dose`` (B, 1, X, Y, Z), fractions of the prescription; ``region`` likewise, bool. Returns a
    scalar; 0 where the region is empty. With the region of OpenKBP it is the challenge's dose score (Babier et al. 2021,
    doi:10.1002/mp.14845) in units of the prescription.
    """

    def forward(self, pred: Tensor, dose: Tensor, region: Tensor) -> Tensor:
        return ((pred - dose).abs() * region).sum() / region.sum().clamp(min=1)
