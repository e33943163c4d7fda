"""Dose-volume metrics of one structure, exact for its voxels."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from monai_vmat.errors import InputError

_METRIC = re.compile(r"(?:D(?P<d>\d+(?:\.\d+)?)(?P<dcc>cc)?|V(?P<v>\d+(?:\.\d+)?)Gy|(?P<stat>Dmean|Dmax|Dmin))")

_STATISTICS: dict[str, Callable[[np.ndarray], np.floating]] = {"Dmean": np.mean, "Dmax": np.max, "Dmin": np.min}


def dose_at_volume(dose_gy: np.ndarray, percent: float) -> float:
    """D_x: the dose that the hottest ``percent`` % of the structure's voxels reach at least.

    Args:
        dose_gy: dose of the structure's voxels, any shape, at least one.
        percent: 0 to 100; D95 is ``percent=95``.

    Returns:
        the numpy linear percentile ``100 - percent``, in Gy.
    """
    return float(np.percentile(dose_gy, 100.0 - percent))


def dose_at_volume_cc(dose_gy: np.ndarray, volume_cc: float, voxel_cc: float) -> float:
    """D_x cc: the least dose in the structure's hottest ``volume_cc``, from sorted whole voxels.

    The hottest ``n = max(1, round(volume_cc / voxel_cc))`` voxels count; where the structure is smaller, its least dose.
    """
    n = min(max(1, round(volume_cc / voxel_cc)), dose_gy.size)
    return float(np.partition(dose_gy.ravel(), dose_gy.size - n)[dose_gy.size - n])


def volume_at_dose(dose_gy: np.ndarray, threshold_gy: float) -> float:
    """V_x: the part of the structure's voxels with at least ``threshold_gy``, in percent."""
    return 100.0 * float(np.count_nonzero(dose_gy >= threshold_gy)) / dose_gy.size


def dvh_metric(dose_gy: np.ndarray, metric: str, unit: str, voxel_cc: float) -> float:
    """A metric by its name: ``D95``, ``D0.1cc``, ``V50Gy``, ``Dmean``, ``Dmax``, ``Dmin``.

    Args:
        dose_gy: dose of the structure's voxels.
        metric: the name.
        unit: ``Gy`` for doses; ``%`` or ``cc`` for volumes.
        voxel_cc: volume of a voxel.

    Raises:
        InputError: for a name or unit that is not known.
    """
    match = _METRIC.fullmatch(metric)
    known = match is not None and unit in (("%", "cc") if match["v"] else ("Gy",))
    if match is None or not known or (match["d"] and not match["dcc"] and float(match["d"]) > 100):
        where, mend = f"metric '{metric}' in '{unit}'", "Use D95, D0.1cc, Dmean, Dmax, Dmin in Gy or V50Gy in % or cc"
        raise InputError(where, "unknown", mend)
    if match["stat"]:
        return float(_STATISTICS[match["stat"]](dose_gy))
    if match["v"]:
        percent = volume_at_dose(dose_gy, float(match["v"]))
        return percent if unit == "%" else percent / 100.0 * dose_gy.size * voxel_cc
    if match["dcc"]:
        return dose_at_volume_cc(dose_gy, float(match["d"]), voxel_cc)
    return dose_at_volume(dose_gy, float(match["d"]))
