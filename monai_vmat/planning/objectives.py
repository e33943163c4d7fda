"""What a plan should be like: objectives that lean to one organ or the other, the cost they make, and the plan's gates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

PTV70_GY = 70.0


@dataclass(frozen=True)
class Objectives:
    """What the planner asks for.

    Args:
        name: how people call it, for example ``rectum-first``.
        lean: from 0, all for the bladder, to 1, all for the rectum.
        ptv56_gy: prescription of the low-dose target, 56 or 50.4 Gy.
    """

    name: str
    lean: float
    ptv56_gy: float = 56.0

    @property
    def stated(self) -> dict[str, float]:
        """The objectives as the protocol's constraints, which go into the case's constraint vector."""

        def lean(bladder_first: float, rectum_first: float) -> float:
            return round(bladder_first + (rectum_first - bladder_first) * self.lean, 4)

        targets = (
            {} if self.ptv56_gy == 56.0 else {"PTV56_prescription": 0.0, f"PTV{self.ptv56_gy:g}_prescription": self.ptv56_gy}
        )
        return targets | {
            "Rectum_V50Gy": lean(0.35, 0.12),
            "Rectum_V60Gy": lean(0.25, 0.07),
            "Rectum_V70Gy": lean(0.15, 0.03),
            "Rectum_Dmax": lean(75.0, 71.5),
            "Bladder_V65Gy": lean(0.08, 0.40),
            "Bladder_V70Gy": lean(0.05, 0.25),
            "Bladder_V75Gy": lean(0.02, 0.15),
        }


class PlanCost:
    """The cost of a dose, to be minimised: quadratic in Gy beyond what is allowed, per structure.

    Targets are held tightly; the dose outside may fall off with the distance from the targets; rectum and bladder are pressed
    towards their stated volumes and beyond, by weights that follow ``lean``.

    Args:
        objectives: what is asked for.
        masks: (H, D, W) bool by structure name, on the planning grid.
        spacing_mm: voxel size.
        voxels: flat indices of the voxels whose dose will be given.
        weights: how many voxels each of them stands for.
    """

    def __init__(
        self, objectives: Objectives, masks: dict[str, np.ndarray], spacing_mm: float, voxels: np.ndarray, weights: np.ndarray
    ) -> None:
        self.objectives = objectives
        self.masks = {name: torch.from_numpy(mask.ravel()[voxels]) for name, mask in masks.items()}
        distance70, distance56 = (
            ndimage.distance_transform_edt(~masks[name]).ravel()[voxels] * spacing_mm for name in ("PTV70", "PTV56")
        )
        low = objectives.ptv56_gy
        self.low_only = self.masks["PTV56"] & ~self.masks["PTV70"]
        self.low_far = self.masks["PTV56"] & torch.from_numpy(distance70 > 6)
        allowed = np.maximum(
            PTV70_GY * np.interp(distance70, _FALL_OFF_MM, _FALL_OFF_70),
            low * np.interp(distance56, _FALL_OFF_MM, _FALL_OFF_56),
        )
        self.behind = torch.from_numpy(PTV70_GY * np.interp(distance70, _BEHIND_MM, _BEHIND)).float()[self.masks["Rectum"]]
        self.allowed = torch.from_numpy(allowed).float()
        outside = torch.from_numpy(weights) * ~self.masks["PTV56"]
        self.outside = (outside / outside.sum()).float()

    def __call__(self, dose_gy: Tensor, peak_gy: Tensor | float = 0.0) -> Tensor:
        """The cost, a scalar.

        Args:
            dose_gy: (voxels,) mean dose of each voxel over the whole course.
            peak_gy: (voxels,) how much more the hottest part of each has.
        """
        objectives, low = self.objectives, self.objectives.ptv56_gy
        boost, hottest = dose_gy[self.masks["PTV70"]], (dose_gy + peak_gy)[self.masks["PTV70"]]
        low_only = dose_gy[self.low_only]
        cost = 60 * _beyond(70.7 - boost) + 30 * _beyond(hottest - 72.5) + 4 * torch.relu(67.5 - boost).pow(3).mean()
        cost = cost + 35 * _beyond(low + 1.2 - low_only) + 8 * _beyond(dose_gy[self.low_far] - (low + 4))
        cost = cost + 12 * (self.outside * torch.relu(dose_gy - self.allowed) ** 2).sum() + 0.1 * (self.outside * dose_gy).sum()
        rectum, bladder = 8.0 ** (2 * objectives.lean - 1), 8.0 ** (1 - 2 * objectives.lean)
        stated = objectives.stated
        cost = cost + (1 + rectum) * _beyond(dose_gy[self.masks["Rectum"]] - self.behind)
        cost = cost + self._organ(
            dose_gy[self.masks["Rectum"]], rectum, 70.5, {50: stated["Rectum_V50Gy"], 60: stated["Rectum_V60Gy"]}
        )
        cost = cost + self._organ(dose_gy[self.masks["Bladder"]], bladder, 71.5, {65: stated["Bladder_V65Gy"]})
        for name in ("Femur_L", "Femur_R"):
            if self.masks[name].any():
                cost = cost + 0.5 * _beyond(dose_gy[self.masks[name]] - 30)
        return cost

    @staticmethod
    def _organ(dose_gy: Tensor, weight: float, most_gy: float, volumes: dict[int, float]) -> Tensor:
        cost = _beyond(dose_gy - most_gy) + weight * (
            0.3 * _beyond(dose_gy - 35) + 0.03 * _beyond(dose_gy - 20) + 0.4 * dose_gy.mean()
        )
        ordered = dose_gy.sort(descending=True).values
        for level_gy, share in volumes.items():
            cost = cost + 2 * torch.relu(ordered[round(share * len(ordered)) :] - level_gy).pow(2).sum() / len(ordered)
        return cost


# how far the dose should have fallen at a distance from the target, as shares of its prescription: anywhere, in the rectum
_FALL_OFF_MM = (0, 6, 9, 12, 15, 20, 30, 50, 400)
_FALL_OFF_70 = (1.0, 0.84, 0.68, 0.55, 0.47, 0.41, 0.34, 0.28, 0.22)
_FALL_OFF_56 = (1.03, 0.86, 0.72, 0.60, 0.52, 0.45, 0.38, 0.30, 0.25)
_BEHIND_MM = (0, 4, 8, 11, 14, 20, 400)
_BEHIND = (1.0, 0.86, 0.62, 0.48, 0.40, 0.32, 0.20)


def _beyond(excess_gy: Tensor) -> Tensor:
    return torch.relu(excess_gy).pow(2).mean() if len(excess_gy) else excess_gy.sum()
