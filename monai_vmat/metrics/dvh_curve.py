"""The cumulative dose-volume histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cumulative_dvh(dose_gy: np.ndarray, levels_gy: Sequence[float] | np.ndarray) -> np.ndarray:
    """V(d): the part of a structure's voxels with at least each dose, in percent; exact, no bins.

    Args:
        dose_gy: dose of the structure's voxels, any shape, at least one.
        levels_gy: (N,) doses at which the curve is read, in any order.

    Returns:
        float64 (N,), 100 at a dose of zero where no dose is negative, never rising with dose.
    """
    ordered = np.sort(dose_gy, axis=None)
    below = np.searchsorted(ordered, np.asarray(levels_gy, ordered.dtype), side="left")
    return 100.0 * (ordered.size - below) / ordered.size
