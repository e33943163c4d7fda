"""How well a dose fits its target: Paddick's conformity index and the homogeneity index."""

from __future__ import annotations

import numpy as np

from monai_vmat.metrics.dvh import dose_at_volume


def paddick_conformity(dose_gy: np.ndarray, target: np.ndarray, isodose_gy: float) -> float | None:
    """TV_PIV^2 / (TV x PIV): 1 where the isodose is the target, less for what it misses and for what it spills.

    Paddick 2000, doi:10.3171/jns.2000.93.supplement_3.0219.

    Args:
        dose_gy: (X, Y, Z).
        target: bool (X, Y, Z), not empty; TV is its volume.
        isodose_gy: PIV is the volume with at least this dose, TV_PIV its part in the target.

    Returns:
        0 to 1; None where nothing reaches the isodose.
    """
    reached = dose_gy >= isodose_gy
    volume, isodose_volume = np.count_nonzero(target), np.count_nonzero(reached)
    return np.count_nonzero(reached & target) ** 2 / (volume * isodose_volume) if isodose_volume else None


def homogeneity(dose_gy: np.ndarray) -> float | None:
    """(D2 - D98) / D50 of a target's voxels: 0 where the dose is uniform (ICRU report 83, doi:10.1093/jicru/ndq002).

    Returns:
        None where D50 is not above 0.
    """
    d2, d50, d98 = (dose_at_volume(dose_gy, percent) for percent in (2.0, 50.0, 98.0))
    return (d2 - d98) / d50 if d50 > 0 else None
