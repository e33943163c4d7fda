"""How many voxels fail gamma, made smooth: the pass rate a clinic looks at as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_vmat.losses.structure_loss import StructureLoss
from monai_vmat.metrics.case_metrics import SMALL_STRUCTURE_VOXELS, TARGET_RIM_MM
from monai_vmat.protocol import Protocol


class SoftGamma(StructureLoss):
    """``mean chi^2 / (1 + chi^2)`` over the voxels that gamma counts, and over each target with 5 mm around it.

    ``chi = (pred - dose) / sqrt(dose_criterion^2 + distance_mm^2 |grad dose|^2)`` is gamma where the dose is linear within the
    distance (Bakai, Alber and Nuesslin 2003, doi:10.1088/0031-9155/48/21/006): strict where the dose is flat, lenient at edges.
    The bounded ratio (Geman and McClure 1987) is 0 for a perfect voxel, 0.5 at the border between pass and fail, and hands
    hardly a gradient to voxels far beyond it: like a pass rate, it gives up what cannot be won, the noise of single plans, for
    what can. A squared or absolute error would pull the prediction towards those voxels instead.

    The value is the average of the regions' means: the voxels whose reference reaches ``cutoff``, and every target's voxels
    with those within 5 mm, so that a small target counts as much as the body. For gamma itself, exact and slower, see
    :mod:`monai_vmat.metrics.gamma`; there the percentage is of the reference's maximum, here of the prescription, which a
    patch knows.

    Args:
        protocol: targets.
        dose_criterion: a fraction of the prescription.
        distance_mm: the distance criterion.
        cutoff: fraction of the prescription from which on voxels count.
        min_voxels: targets with fewer voxels in the patch are skipped.

    Shapes:
        ``pred`` and ``dose`` (B, 1, X, Y, Z), fractions of the prescription, at least 2 voxels along every axis;
        ``structures`` likewise, bits (see :mod:`monai_vmat.masks`); ``signed_distance_mm`` (B, S, X, Y, Z), in the order of the
        protocol's structures, in mm; ``spacing_mm`` (B, 3). Returns a scalar in [0, 1), 0 where nothing counts.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        dose_criterion: float = 0.03,
        distance_mm: float = 3.0,
        cutoff: float = 0.1,
        min_voxels: int = SMALL_STRUCTURE_VOXELS,
    ) -> None:
        super().__init__(protocol, min_voxels)
        self.dose_criterion = dose_criterion
        self.distance_mm = distance_mm
        self.cutoff = cutoff

    def forward(self, pred: Tensor, dose: Tensor, structures: Tensor, signed_distance_mm: Tensor, spacing_mm: Tensor) -> Tensor:
        square = ((pred - dose) / self.tolerance(dose, spacing_mm)).square()
        failed = square / (1 + square)
        high = dose >= self.cutoff
        means = [failed[high].mean()] if high.any() else [0.0 * pred.sum()]
        for sample, structure, _ in self.counted(structures, self.protocol.targets):
            channel = self.protocol.structure_names.index(structure.name)
            near = (signed_distance_mm[sample, channel] <= TARGET_RIM_MM) & high[sample, 0]
            if near.any():
                means.append(failed[sample, 0][near].mean())
        return torch.stack(means).mean()

    def tolerance(self, dose: Tensor, spacing_mm: Tensor) -> Tensor:
        """The dose difference at which chi is 1, shaped as ``dose``, from central differences (one-sided at the border)."""
        step = spacing_mm.to(dose).view(-1, 3, 1, 1, 1, 1)
        slopes = torch.gradient(dose.detach(), dim=(-3, -2, -1))
        steep = torch.stack([(slope / step[:, axis]).square() for axis, slope in enumerate(slopes)]).sum(0)
        return (self.dose_criterion**2 + self.distance_mm**2 * steep).sqrt()
