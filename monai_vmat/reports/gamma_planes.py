"""The gamma map where a picture shows it, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_vmat.metrics.gamma import gamma_map


def gamma_on_planes(
    dose_gy: np.ndarray, pred_gy: np.ndarray, spacing_mm: Sequence[float], center: Sequence[int]
) -> np.ndarray | None:
    """Gamma, 3 %/3 mm of the reference's maximum, on the axial, coronal and sagittal plane through a voxel.

    The numbers are those of the whole map (:mod:`monai_vmat.metrics.gamma`), for a fraction of its cost.

    Args:
        dose_gy, pred_gy: (X, Y, Z), reference and evaluation.
        spacing_mm: voxel size.
        center: the voxel.

    Returns:
        float32 (X, Y, Z), NaN off the planes and below the cutoff; None where the reference has no dose.
    """
    if not dose_gy.max() > 0:
        return None
    on_planes = np.zeros_like(dose_gy)
    for axis, index in enumerate(center):
        plane = (slice(None),) * axis + (index,)
        on_planes[plane] = dose_gy[plane]
    # Without dose the reference is below the cutoff, and nothing is searched there. The evaluation stays whole.
    return gamma_map(on_planes, pred_gy, spacing_mm, normalisation_gy=float(dose_gy.max()))
