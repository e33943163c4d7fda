"""A plan's dose on the grid of its case, and whether it can be the dose of that plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.resample import resample_dose
from monai_vmat.errors import InputError

_PLAUSIBLE = (0.8, 1.25)


def dose_on_case(dose_gy: np.ndarray, dose_grid: Grid, grid: Grid) -> np.ndarray:
    """Resample a dose.

    Args:
        dose_gy: (X, Y, Z) on ``dose_grid``.
        dose_grid: where it was calculated.
        grid: the case's.

    Returns:
        float32 (X, Y, Z) in Gy on ``grid``; 0 where it was not calculated.
    """
    dose = resample_dose(dose_gy, dose_grid, grid)
    for axis in range(3):
        np.moveaxis(dose, axis, 0)[_beyond(dose_grid, grid, axis)] = 0.0
    return dose


def require_whole_plan(
    dose_gy: np.ndarray,
    dose_grid: Grid,
    grid: Grid,
    structures: Mapping[str, np.ndarray],
    prescription_gy: Mapping[str, float],
    where: str,
) -> None:
    """Check that a dose on the case's grid is that of the whole plan, for all of its targets.

    Args:
        dose_gy: (X, Y, Z) on ``grid``.
        dose_grid: where it was calculated.
        grid: the case's.
        structures: bool (X, Y, Z) by name.
        prescription_gy: by target, all of them among the structures.
        where: what messages call the dose.

    Raises:
        InputError: when the dose grid leaves out part of a target, or the mean in the target of the highest prescription is
            nowhere near it.
    """
    for axis in range(3):
        outside = _beyond(dose_grid, grid, axis)
        low, high = dose_grid.edges_mm(axis)
        for name in prescription_gy:
            if np.moveaxis(structures[name], axis, 0)[outside].any():
                problem = (
                    f"the dose grid leaves out part of {name}: it reaches from {low:.1f} to {high:.1f} mm along {'XYZ'[axis]}"
                )
                raise InputError(where, problem, "Calculate the dose on a larger grid")
    for name in sorted(prescription_gy, key=lambda n: prescription_gy[n])[-1:]:  # others have hotter targets inside them
        mean, expected = float(dose_gy[structures[name]].mean()), prescription_gy[name]
        if not _PLAUSIBLE[0] <= mean / expected <= _PLAUSIBLE[1]:
            problem = f"mean dose of {name}: about {expected:g} Gy were expected, got {mean:.2f}"
            raise InputError(where, problem, "Export the dose of the whole plan (all fractions, in Gy)")


def _beyond(source: Grid, target: Grid, axis: int) -> np.ndarray:
    """Which of the target's voxels along an axis have their centre beyond the source's edges, where nothing is known."""
    low, high = source.edges_mm(axis)
    centres = target.centres_mm(axis)
    return (centres < low) | (centres > high)
