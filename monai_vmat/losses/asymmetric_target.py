"""Too little dose in a target is worse than too much."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_vmat.losses.structure_loss import StructureLoss
from monai_vmat.metrics.case_metrics import SMALL_STRUCTURE_VOXELS
from monai_vmat.protocol import Protocol


class AsymmetricTargetError(StructureLoss):
    """Mean over the targets' voxels of ``w (pred - dose)^2``, w = 3 where ``pred < dose`` and 1 elsewhere.

    A voxel in several targets counts once. Where all is underdosed it is 3 times the targets' mean squared error; without
    targets in the patch it is 0.

    Args:
        protocol: the targets.
        under_weight, over_weight: the weights w.
        min_voxels: targets with fewer voxels in the patch are skipped.

    Shapes: ``pred`` and ``dose`` (B, 1, X, Y, Z); ``structures`` likewise, bits. Returns a scalar.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        under_weight: float = 3.0,
        over_weight: float = 1.0,
        min_voxels: int = SMALL_STRUCTURE_VOXELS,
    ) -> None:
        super().__init__(protocol, min_voxels)
        self.under_weight = under_weight
        self.over_weight = over_weight

    def forward(self, pred: Tensor, dose: Tensor, structures: Tensor) -> Tensor:
        inside = torch.zeros_like(dose, dtype=torch.bool)
        for sample, _, mask in self.counted(structures, self.protocol.targets):
            inside[sample, 0] |= mask
        error = pred - dose
        weights = torch.where(error < 0, self.under_weight, self.over_weight) * inside
        return (weights * error.square()).sum() / inside.sum().clamp(min=1)
