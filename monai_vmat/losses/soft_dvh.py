"""DVH points through which gradients flow, as near to the exact ones as a voxel allows."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def soft_dose_at_volume(dose: Tensor, percent: float, band: float = 0.015) -> Tensor:
    """D_x: the dose that the hottest ``percent`` % of the voxels reach at least, with a gradient for many voxels.

    A weighted mean of the sorted doses around the rank of the exact percentile::

        D = sum_i w_i d_(i) / sum_i w_i,   w_i = max(0, 1 - |i - c| / h),   c = (n - 1) (1 - percent / 100)

    with ``h = max(1, band (n - 1))``, less near the ends of the ranking so that the band stays centred. With ``h = 1`` it is
    numpy's linear percentile; any ``h`` follows a shift or a scaling of all doses exactly, and its gradients sum to 1.
    Smoothing in rank, unlike smoothing in dose, needs no bins and no temperature, and is exact for a uniform dose.
    (Smoothed order statistics: Harrell and Davis 1982, doi:10.1093/biomet/69.3.635.)

    Args:
        dose: doses of the structure's voxels, any shape, at least one; any unit.
        percent: 0 to 100; D95 is ``percent=95``.
        band: half-width of the band, a share of the voxels.

    Returns:
        a scalar in the unit of ``dose``.
    """
    n = dose.numel()
    share = 1.0 - percent / 100.0
    centre = (n - 1) * share
    half = max(1.0, min(band, share, 1.0 - share) * (n - 1))
    first, last = max(0, math.ceil(centre - half)), min(n - 1, math.floor(centre + half))
    coldest = torch.topk(dose.flatten(), last + 1, largest=False, sorted=True).values[first:]
    ranks = torch.arange(first, last + 1, dtype=dose.dtype, device=dose.device)
    weights = 1.0 - (ranks - centre).abs() / half
    return (weights * coldest).sum() / weights.sum()


def soft_volume_at_dose(dose: Tensor, threshold: float, reach: tuple[Tensor | float, Tensor | float]) -> Tensor:
    """V_x: the share of the voxels with at least ``threshold``, its step replaced by a ramp::

        V = mean(clamp(1/2 + (d - threshold) / (2 t), 0, 1))

    with one t below the threshold and one above it. See :func:`ramp_reach` for how far to reach.

    Args:
        dose: doses of the structure's voxels, any shape, at least one.
        threshold: in the unit of ``dose``.
        reach: t below and t above, in the unit of ``dose``, greater than 0.

    Returns:
        a scalar, 0 to 1.
    """
    distance, (below, above) = dose - threshold, reach
    return (0.5 + distance / (2.0 * torch.where(distance < 0, below, above))).clamp(0.0, 1.0).mean()


@torch.no_grad()
def ramp_reach(dose: Tensor, threshold: float, least: float, most: float, band: float = 0.02) -> tuple[Tensor, Tensor]:
    """How far a ramp should reach below and above a threshold: to the share ``band`` of the voxels nearest on that side.

    No voxel on the ramp is wrong by more than a half, those above by too little and those below by too much: so the soft
    volume is within ``band / 2`` of the exact one, whatever the distribution, as long as fewer voxels than ``band`` lie within
    ``least`` of the threshold on either side. No fixed width can promise that: 1 Gy is too wide where a DVH is steep and finds
    no voxels where it is flat. As each side has voxels of its own on the ramp, those above still feel a gradient when many
    have just moved below. The reach is a constant for the backward pass.

    Args:
        dose: doses of the structure's voxels, any shape, at least one.
        threshold, least, most: threshold, and limits of the reach, in the unit of ``dose``; ``least`` bounds the gradient.
        band: share of the voxels.
    """
    distance = dose.flatten() - threshold
    rank = max(1, int(band * distance.numel()))
    below = torch.where(distance < 0, -distance, torch.inf).kthvalue(rank).values
    above = torch.where(distance < 0, torch.inf, distance).kthvalue(rank).values
    return below.clamp(least, most), above.clamp(least, most)
