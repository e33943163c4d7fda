"""How far the DVH metrics of a structure are off: OpenKBP's DVH score as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_vmat.losses.soft_dvh import soft_dose_at_volume
from monai_vmat.losses.structure_loss import StructureLoss
from monai_vmat.metrics.case_metrics import SMALL_STRUCTURE_VOXELS
from monai_vmat.protocol import Protocol

TARGET_PERCENTS: tuple[float, ...] = (99.0, 95.0, 1.0)
HOTTEST_CC = 0.1


class DVHError(StructureLoss):
    """``mean |metric(pred) - metric(dose)|`` over D99, D95 and D1 of targets, D_0.1cc and mean dose of organs.

    Too much counts as much as too little: the prediction is to have the delivered plan's DVH, where
    :class:`~monai_vmat.losses.dvh.DVHLoss` asks for the goals. With a band of ranks so narrow that it is one voxel wide it is
    OpenKBP's DVH score of the batch (Babier et al. 2021, doi:10.1002/mp.14845) in units of the prescription; a wider one hands
    gradients to many voxels (see :func:`~monai_vmat.losses.soft_dvh.soft_dose_at_volume`). That a DVH loss beside the absolute
    error improves that score and leaves the dose score as it is: Jhanwar et al. 2022, doi:10.1088/1361-6560/ac8d45.

    **On patches** a structure is what lies of it in the patch; train on whole patients (``folded.json``, ``full_volume.json``)
    for the DVH of whole structures.

    Args:
        protocol: targets and organs.
        band: half-width of the band of ranks, a share of the structure's voxels.
        min_voxels: structures with fewer voxels in the patch are skipped.

    Shapes:
        ``pred`` and ``dose`` (B, 1, X, Y, Z), fractions of the prescription; ``structures`` likewise, bits (see
        :mod:`monai_vmat.masks`); ``spacing_mm`` (B, 3). Returns a scalar, 0 where no structure counts.
    """

    def __init__(self, protocol: Protocol, *, band: float = 0.015, min_voxels: int = SMALL_STRUCTURE_VOXELS) -> None:
        super().__init__(protocol, min_voxels)
        self.band = band
        self.wanted = (*protocol.targets, *protocol.organs)

    def forward(self, pred: Tensor, dose: Tensor, structures: Tensor, spacing_mm: Tensor) -> Tensor:
        pred = pred.to(dose.dtype)
        voxel_cc = (spacing_mm.double().prod(1) / 1000.0).tolist()
        errors = [0.0 * pred.sum().view(1)]  # a patch without structures: 0, and still something to go backward from
        for sample, structure, mask in self.counted(structures, self.wanted):
            index = mask.flatten().nonzero().squeeze(1)
            both = [d[sample].flatten().index_select(0, index) for d in (pred, dose)]
            if structure.role == "target":
                percents = TARGET_PERCENTS
            else:
                hottest = max(1.0, round(HOTTEST_CC / voxel_cc[sample]))
                percents = (min(100.0, 100.0 * hottest / len(index)),)
            ours, theirs = (torch.stack([soft_dose_at_volume(d, p, self.band) for p in percents]) for d in both)
            errors.append((ours - theirs).abs())
            if structure.role != "target":
                errors.append((both[0].mean() - both[1].mean()).abs().view(1))
        counted = torch.cat(errors)
        return counted.sum() / max(1, len(counted) - 1)
