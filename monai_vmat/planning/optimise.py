"""Two arcs for a set of objectives: free fluence first, windows that deliver it, then leaves and monitor units by gradient.

The dose while optimising is the linear model of :mod:`influence` plus what it lacks (a constant, measured with the full
engine on the fine grid after each round: head scatter, transmission beyond the target, one depth per pencil, narrow edges).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from monai_vmat.planning.arcs import CLOSED_MM, Arcs, sliding_windows
from monai_vmat.planning.beam_model import BEAMS_AT_ONCE, FRACTIONS, DoseGrid, arc, dose_engine, halve
from monai_vmat.planning.influence import Influence
from monai_vmat.planning.objectives import PlanCost

ARCS = 2
_ROUNDS = (140, 60)  # gradient steps before each full calculation
_FREE_STEPS = 70
_SMOOTH_FLUENCE = 60.0
_MOST_TRAVEL_MM = 20.0  # of a leaf between control points
"""A leaf goes 22.5 mm/s and the gantry turns 6 degrees/s at most: 8 degrees between control points take 1.3 s or more."""


def free_fluence(bixels: Influence, cost: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """(bixels,) monitor units that minimise ``cost`` when every bixel may be open for any time, smooth across the field."""
    dose_gy = FRACTIONS * bixels.dose_gy
    start = 70 / float(dose_gy.sum(0)[target].mean())
    root = torch.full((len(dose_gy),), math.sqrt(start), requires_grad=True)  # squared: never negative
    optimizer = torch.optim.Adam([root], lr=0.15 * math.sqrt(start))
    openable = bixels.openable
    across = openable[:, :, 1:] & openable[:, :, :-1]
    along = openable[:, 1:] & openable[:, :-1]
    for _ in range(_FREE_STEPS):
        optimizer.zero_grad()
        fluence = root**2
        image = torch.zeros(openable.shape).masked_scatter(openable, fluence / start)
        rough = image.diff(dim=2)[across].pow(2).mean() + 0.3 * image.diff(dim=1)[along].pow(2).mean()
        (cost(fluence @ dose_gy) + _SMOOTH_FLUENCE * rough).backward()
        optimizer.step()
    return (root**2).detach()


def refine(
    arcs: Arcs,
    bixels: Influence,
    cost: Callable[[Tensor, Tensor], Tensor],
    lacking_gy: Tensor,
    peak_gy: Tensor,
    steps: int,
    leaf_step_mm: float,
) -> Arcs:
    """Move leaves and change monitor units by gradient (Adam), within what a linac can do.

    Args:
        lacking_gy: (voxels,) what the linear model lacks.
        peak_gy: (voxels,) how much more the hottest part of each voxel has than its mean.
        leaf_step_mm: size of a first step.
    """
    dose_gy = FRACTIONS * bixels.dose_gy
    edges = bixels.column_edges_mm
    reach = (
        torch.where(bixels.openable, edges[:-1], math.inf).amin(2),
        torch.where(bixels.openable, edges[1:], -math.inf).amax(2),
    )
    least, most = (torch.where(r.isfinite(), r, 0.0) for r in reach)
    left, right = arcs.left_mm.clone().requires_grad_(), arcs.right_mm.clone().requires_grad_()
    log_units = arcs.monitor_units.log().requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [left, right], "lr": leaf_step_mm}, {"params": [log_units], "lr": 0.02 * leaf_step_mm}], betas=(0.85, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
    for _ in range(steps):
        optimizer.zero_grad()
        moving = Arcs(left, right, log_units.exp())
        travel = torch.cat([left.diff(dim=1), right.diff(dim=1)]).abs()
        penalty = torch.relu(travel - _MOST_TRAVEL_MM).pow(2).mean() + 2 * log_units.diff(dim=1).pow(2).mean()
        (cost(moving.fluence(bixels) @ dose_gy + lacking_gy, peak_gy) + penalty).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            left.copy_(left.clamp(least, most))
            right.copy_(right.clamp(least, most))
            middle, crossed = (left + right) / 2, right < left
            left[crossed] = middle[crossed]
            right[crossed] = middle[crossed]
            mean = float(log_units.mean())
            log_units.clamp_(mean - 1.5, mean + 1.0)
    return Arcs(left.detach(), right.detach(), log_units.detach().exp())


def full_dose(arcs: Arcs, bixels: Influence, grid: DoseGrid, *, between: bool) -> np.ndarray:
    """(H, D, W) Gy over the whole course on a fine grid, with the engine that gives each pencil its own depth.

    Arcs turn through the same gantry angles, so their fluence is added and each angle calculated once: those of the control
    points, or (``between``, twice the work) the two between each and its neighbours, where the gantry really is.
    """
    field = bixels.field
    finer = arcs.finer()
    opened = (finer.right_mm - finer.left_mm > CLOSED_MM) & bixels.openable.any(2).repeat_interleave(2, 0)
    parked = torch.full_like(finer.left_mm, field.width_mm)
    leaves = torch.stack([torch.where(opened, x, parked) for x in (finer.left_mm, finer.right_mm)], -1)
    edges = torch.from_numpy(field.row_edges_mm).float()
    jaws = torch.stack([torch.where(opened, edges[:-1], 0.0).amin(2), torch.where(opened, edges[1:], 0.0).amax(2)], -1)
    step = 2 * np.pi / len(bixels.angles)
    angles = (bixels.angles[:, None] + np.array([-step / 4, step / 4])).ravel()
    engine = dose_engine(grid, field, final=True)
    engine._initialize_layers(arc(field, angles, grid.isocentre_mm))
    maps = engine.fluence_map_layer(leaves, jaws).unflatten(0, (len(leaves), -1))
    maps = (maps * finer.monitor_units[..., None, None]).sum(0)
    if not between:
        angles, maps = bixels.angles, maps.unflatten(0, (-1, 2)).sum(1)
    beams = arc(field, angles, grid.isocentre_mm)
    beams = replace(beams, mus=torch.ones(len(angles)))
    with torch.no_grad():
        dose = engine.compute_dose(beams, grid.density[None], fluence_maps=maps, beam_chunk_size=BEAMS_AT_ONCE)
    return FRACTIONS * dose[0].numpy()


def optimise(bixels: Influence, grid: DoseGrid, voxels: np.ndarray, cost: PlanCost, sectors: int) -> tuple[Arcs, np.ndarray]:
    """A plan and its full dose.

    Args:
        bixels: the linear model in ``voxels`` of the coarse grid.
        grid: the fine grid.
        voxels: flat indices of the coarse grid.
        cost: of the dose in these voxels.
        sectors: of the sliding windows that the arcs start from.

    Returns:
        the arcs and the dose on the fine grid, (H, D, W) Gy.
    """
    where, target = torch.from_numpy(voxels), cost.masks["PTV70"]
    arcs = sliding_windows(free_fluence(bixels, cost, target), bixels, ARCS, sectors)
    model = FRACTIONS * (arcs.fluence(bixels) @ bixels.dose_gy)
    arcs = replace(arcs, monitor_units=arcs.monitor_units * 70.6 / float(model[target].median()))
    lacking, peak = torch.zeros(2, len(voxels))
    for round_, steps in enumerate(_ROUNDS):
        arcs = refine(arcs, bixels, cost, lacking, peak, steps, leaf_step_mm=0.5 if round_ else 1.5)
        dose = full_dose(arcs, bixels, grid, between=round_ == len(_ROUNDS) - 1)
        mean = halve(torch.from_numpy(dose)).flatten()[where]
        peak = torch.nn.functional.max_pool3d(torch.from_numpy(dose)[None], 2).flatten()[where] - mean
        lacking = mean - FRACTIONS * (arcs.fluence(bixels) @ bixels.dose_gy)
    return arcs, dose
