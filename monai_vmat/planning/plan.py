"""Plans for a phantom: one linear model, an optimisation per set of objectives, and the gates that every plan must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from monai_vmat.metrics.dvh import dose_at_volume, volume_at_dose
from monai_vmat.planning.beam_model import DoseGrid, halve
from monai_vmat.planning.influence import field_of, influence, openable_bixels
from monai_vmat.planning.objectives import Objectives, PlanCost
from monai_vmat.planning.optimise import optimise
from monai_vmat.planning.phantom import Phantom

CONTROL_POINTS = 45  # of each arc, 8 degrees apart; doses are calculated at twice as many angles
PTV70_D95_GY = 68.0  # what plans are scaled to: 97 % of the prescription
_FIELD_MARGIN_MM = 8.0
_PLANNED = ("PTV70", "PTV56", "Rectum", "Bladder", "Femur_L", "Femur_R", "Body")
# share of voxels that take part in the optimisation, by the distance from PTV56
_NEAR_MM, _MIDDLE_MM = 16.0, 45.0
_MIDDLE_SHARE, _FAR_SHARE = 0.2, 0.08


@dataclass(frozen=True)
class Plan:
    """One optimised plan.

    Args:
        objectives: what was asked for.
        dose_gy: float32 (X, Y, Z) on the phantom's grid, over the whole course; 0 outside the body.
        monitor_units: of both arcs, per fraction.
        sectors: of the sliding windows it started from.
    """

    objectives: Objectives
    dose_gy: np.ndarray
    monitor_units: float
    sectors: int


@dataclass(frozen=True)
class Gate:
    """A limit that a plan must keep, and what it has."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def gates(dose_gy: np.ndarray, structures: Mapping[str, np.ndarray], ptv56_gy: float) -> list[Gate]:
    """What a clinic would ask of the plan; doses in Gy, volumes in %."""

    def dx(name: str, percent: float) -> float:
        return dose_at_volume(dose_gy[structures[name]], percent)

    def vx(name: str, level_gy: float) -> float:
        return volume_at_dose(dose_gy[structures[name]], level_gy)

    return [
        Gate("PTV70 D95", dx("PTV70", 95), 66.5, at_least=True),
        Gate("PTV70 D2", dx("PTV70", 2), 75.0),
        Gate("PTV56 D95", dx("PTV56", 95), 0.95 * ptv56_gy, at_least=True),
        Gate("Rectum V70", vx("Rectum", 70), 15.0),
        Gate("Rectum V50", vx("Rectum", 50), 35.0),
        Gate("Rectum mean", float(dose_gy[structures["Rectum"]].mean()), 38.0),
        Gate("Bladder V70", vx("Bladder", 70), 25.0),
        Gate("Femur max", max(float(dose_gy[structures[f]].max()) for f in ("Femur_L", "Femur_R")), 45.0),
    ]


class Planner:
    """What plans of one phantom share: grids, field, and the dose of every bixel.

    Args:
        phantom: the anatomy.
        seed: chooses the voxels that take part.
    """

    def __init__(self, phantom: Phantom, seed: int) -> None:
        masks, (spacing_mm, *_) = phantom.structures, phantom.spacing_mm
        self.phantom = phantom
        self.fine = DoseGrid.around(phantom.ct_hu, masks["Body"], masks["PTV56"], spacing_mm)
        coarse = self.fine.coarse
        self.masks = {name: halve(torch.from_numpy(self.fine.place(masks[name]))).numpy() >= 0.5 for name in _PLANNED}
        target = self.masks["PTV56"]
        distance = ndimage.distance_transform_edt(~target) * coarse.spacing_mm
        share = np.where(distance <= _NEAR_MM, 1.0, np.where(distance <= _MIDDLE_MM, _MIDDLE_SHARE, _FAR_SHARE))
        share[(self.masks["Rectum"] | self.masks["Bladder"]) & (distance <= _MIDDLE_MM)] = 1.0
        share[~self.masks["Body"]] = 0.0
        self.voxels = np.flatnonzero(np.random.default_rng(seed).random(share.shape) < share)
        self.weights = 1.0 / share.ravel()[self.voxels]
        field = field_of(coarse, target, _FIELD_MARGIN_MM)
        angles = np.arange(CONTROL_POINTS) / CONTROL_POINTS * 2 * np.pi
        openable = openable_bixels(coarse, field, angles, target)
        self.bixels = influence(coarse, field, angles, openable, self.voxels)

    def plan(self, objectives: Objectives, sectors: int) -> Plan:
        """Optimise, calculate, and scale to the same PTV70 D95."""
        cost = PlanCost(objectives, self.masks, self.fine.coarse.spacing_mm, self.voxels, self.weights)
        arcs, dose = optimise(self.bixels, self.fine, self.voxels, cost, sectors)
        body, target = self.phantom.structures["Body"], self.phantom.structures["PTV70"]
        dose = np.where(body, self.fine.take(dose, body.shape), 0.0).astype(np.float32)
        scale = PTV70_D95_GY / dose_at_volume(dose[target], 95)
        return Plan(objectives, np.float32(scale) * dose, scale * float(arcs.monitor_units.sum()), sectors)
