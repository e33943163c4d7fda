"""The OpenKBP challenge's two scores, by its exact definitions (Babier et al. 2021, doi:10.1002/mp.14845). Lower is better.

Dose score: mean over patients of ``sum |error| over the whole volume / voxels of the possible dose mask``, in Gy.
DVH score: mean of ``|error|`` pooled over every (patient, structure, metric): D99, D95 and D1 of targets, D_0.1cc and mean of
organs, in Gy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from monai_vmat.metrics.dvh import dose_at_volume
from monai_vmat.protocol import Protocol


def dose_error(pred_gy: np.ndarray, dose_gy: np.ndarray, possible_dose_mask: np.ndarray) -> float:
    """One patient's dose error in Gy; arrays (X, Y, Z)."""
    return float(np.abs(pred_gy - dose_gy).sum(dtype=np.float64) / np.count_nonzero(possible_dose_mask))


def d_tenth_cc(dose_gy: np.ndarray, voxel_cc: float) -> float:
    """The challenge's D_0.1cc: percentile ``100 - 100 n / N`` of the N voxels, ``n = max(1, round(100 mm^3 / voxel))``."""
    n = max(1.0, np.round(0.1 / voxel_cc))
    return float(np.percentile(dose_gy, max(0.0, 100.0 - 100.0 * n / dose_gy.size)))


def dvh_metrics(dose_gy: np.ndarray, masks: Mapping[str, np.ndarray], voxel_cc: float, protocol: Protocol) -> dict[str, float]:
    """The challenge's metrics of one dose: ``{"PTV70 D99": Gy, ..., "Brainstem mean": Gy}``; absent structures are left out."""
    values: dict[str, float] = {}
    for structure in (*protocol.targets, *protocol.organs):
        mask = masks.get(structure.name)
        if mask is None or not mask.any():
            continue
        inside = dose_gy[mask]
        if structure.role == "target":
            values |= {f"{structure.name} D{x}": dose_at_volume(inside, x) for x in (99, 95, 1)}
        else:
            values[f"{structure.name} D0.1cc"] = d_tenth_cc(inside, voxel_cc)
            values[f"{structure.name} mean"] = float(inside.mean(dtype=np.float64))
    return values


def dose_score(errors_gy: Iterable[float]) -> float:
    """The mean of the patients' dose errors."""
    return float(np.mean(list(errors_gy)))


def dvh_score(patients: Iterable[Mapping[str, float]]) -> float:
    """The mean of all patients' absolute metric errors, pooled: a patient with more structures weighs more."""
    return float(np.mean([abs(error) for patient in patients for error in patient.values()]))
