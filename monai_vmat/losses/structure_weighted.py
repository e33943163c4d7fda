"""The squared error, weighted by what a voxel belongs to."""

from __future__ import annotations

from torch import Tensor

from monai_vmat.losses.structure_loss import StructureLoss
from monai_vmat.metrics.case_metrics import SMALL_STRUCTURE_VOXELS
from monai_vmat.protocol import Protocol


class StructureWeightedError(StructureLoss):
    """``mean(w (pred - dose)^2)`` with w = 2.0 in targets, 1.5 within 5 mm of an organ's boundary, 0.5 elsewhere.

    Both sides of a boundary count; a target's weight goes before an organ's. With all weights 1 it is the mean squared error.
    ``boundary_mm=50``, where signed distances are clipped, gives every voxel outside the targets 1.5 as soon as the patch has
    an organ: by a slip in scaling that is what the published ``structure_weighted`` run did.

    Args:
        protocol: targets and organs.
        target_weight, boundary_weight, background_weight: the weights w.
        boundary_mm: half-width of an organ's boundary zone.
        min_voxels: structures with fewer voxels in the patch are skipped.

    Shapes:
        ``pred`` and ``dose`` (B, 1, X, Y, Z); ``structures`` likewise, bits; ``signed_distance_mm`` (B, S, X, Y, Z), in the
        order of the protocol's structures, in mm. Returns a scalar.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        target_weight: float = 2.0,
        boundary_weight: float = 1.5,
        background_weight: float = 0.5,
        boundary_mm: float = 5.0,
        min_voxels: int = SMALL_STRUCTURE_VOXELS,
    ) -> None:
        super().__init__(protocol, min_voxels)
        self.target_weight = target_weight
        self.boundary_weight = boundary_weight
        self.background_weight = background_weight
        self.boundary_mm = boundary_mm
        # Targets last: theirs is the weight that stays.
        self.wanted = (*protocol.organs, *protocol.targets)

    def forward(self, pred: Tensor, dose: Tensor, structures: Tensor, signed_distance_mm: Tensor) -> Tensor:
        return (self.weights(dose, structures, signed_distance_mm) * (pred - dose).square()).mean()

    def weights(self, dose: Tensor, structures: Tensor, signed_distance_mm: Tensor) -> Tensor:
        """The map of weights, shaped as ``dose``."""
        weights = dose.new_full(dose.shape, self.background_weight)
        for sample, structure, mask in self.counted(structures, self.wanted):
            if structure.role == "target":
                weights[sample, 0].masked_fill_(mask, self.target_weight)
            else:
                channel = self.protocol.structure_names.index(structure.name)
                near = signed_distance_mm[sample, channel].abs() <= self.boundary_mm
                weights[sample, 0].masked_fill_(near, self.boundary_weight)
        return weights
