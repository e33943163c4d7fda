"""The dose of a study in Gy on its own grid: the plan's, or the sum of its beams."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.dicom.grid import Grid, lay_out
from monai_vmat.dicom.reading import EXPORT_AGAIN, numbers, read_dataset, read_pixels, sequence, text
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError


def read_dose(study: Study, beams: frozenset[int] = frozenset()) -> tuple[np.ndarray, Grid]:
    """Read the dose of a study that has one. A plan's dose is taken as it is, also where those of its beams are there.

    Args:
        study: with at least one dose.
        beams: numbers of the plan's beams, all of which must have their dose if it is to be a sum; not checked when empty.

    Returns:
        float32 (X, Y, Z) in Gy, indices growing towards left, posterior and superior; and its grid.

    Raises:
        InputError: when files are damaged, not physical dose in Gy, without scaling, oblique, or neither one plan's dose nor
            one dose for each beam on one grid.
    """
    datasets = {path: read_dataset(path, study.names(path)) for path in study.doses}
    kinds = {path: text(d, "DoseSummationType") or "missing" for path, d in datasets.items()}
    plans = [path for path, kind in kinds.items() if kind == "PLAN"]
    if len(plans) == 1:
        return _read_one(datasets[plans[0]], study.names(plans[0]))
    if plans:
        problem = f"{len(plans)} plan doses ({', '.join(map(study.names, plans))})"
        raise InputError(study.label, problem, "Leave the dose of the plan that is meant")
    others = [path for path, kind in kinds.items() if kind != "BEAM"]
    if others:
        problem = f"DoseSummationType: PLAN or BEAM was expected, got {kinds[others[0]]}"
        raise InputError(study.names(others[0]), problem, "Export the dose of the whole plan")
    _require_each_beam_once(study, datasets, beams)
    total, grid = _read_one(datasets[study.doses[0]], study.names(study.doses[0]))
    for path in study.doses[1:]:
        dose, other = _read_one(datasets[path], study.names(path))
        if other.shape != grid.shape or not np.allclose(
            (*other.origin_mm, *other.spacing_mm), (*grid.origin_mm, *grid.spacing_mm)
        ):
            problem = f"is on another grid than {study.names(study.doses[0])}"
            raise InputError(study.names(path), problem, "Export the beams' doses on one grid, or the plan's dose")
        total += dose
    return total, grid


def _require_each_beam_once(study: Study, datasets: dict[Path, Any], beams: frozenset[int]) -> None:
    mend = "Export the dose of the whole plan, or that of each beam once"
    numbered: Counter[str] = Counter()
    for path, dataset in datasets.items():
        groups = [
            g for p in sequence(dataset, "ReferencedRTPlanSequence") for g in sequence(p, "ReferencedFractionGroupSequence")
        ]
        named = [text(b, "ReferencedBeamNumber") for g in groups for b in sequence(g, "ReferencedBeamSequence")]
        if not named:
            raise InputError(study.names(path), "BEAM dose that does not say of which beam", mend)
        numbered.update(named)
    twice = sorted(number for number, count in numbered.items() if count > 1)
    if twice:
        raise InputError(study.label, f"beam {', '.join(twice)} has more than one dose", mend)
    missing = sorted(beams - {int(n) for n in numbered if n.isdecimal()})
    if missing:
        problem = f"no plan dose, and beam {', '.join(map(str, missing))} has no dose of its own"
        raise InputError(study.label, problem, mend)


def _read_one(dataset: Any, where: str) -> tuple[np.ndarray, Grid]:
    for field, expected in (("DoseUnits", ("GY",)), ("DoseType", ("PHYSICAL", "EFFECTIVE"))):
        if text(dataset, field) not in expected:
            problem = f"{field}: {' or '.join(expected)} was expected, got '{text(dataset, field)}'"
            raise InputError(where, problem, "Export the physical dose in Gy")
    (scaling,) = numbers(dataset, "DoseGridScaling", 1, where)
    if scaling <= 0:
        raise InputError(where, f"DoseGridScaling: a number above 0 was expected, got {scaling:g}", EXPORT_AGAIN)
    x, y, z = numbers(dataset, "ImagePositionPatient", 3, where)
    rows_mm, columns_mm = numbers(dataset, "PixelSpacing", 2, where)
    orientation = numbers(dataset, "ImageOrientationPatient", 6, where)
    dose = read_pixels(dataset, where).astype(np.float32)
    dose *= np.float32(scaling)
    heights = _heights_mm(dataset, len(dose), orientation, z, where)
    return lay_out(dose, orientation, (x, y, z), (rows_mm, columns_mm), heights, where)


def _heights_mm(dataset: Any, frames: int, orientation: tuple[float, ...], z: float, where: str) -> np.ndarray:
    """Where each frame lies towards superior: offsets count from the first frame along the cross product of row and column,
    unless they begin with its height, which makes them heights themselves (DICOM PS3.3 C.8.8.3.2)."""
    offsets = np.asarray(numbers(dataset, "GridFrameOffsetVector", frames, where))
    if offsets[0] == 0:
        return z + offsets * np.cross(orientation[:3], orientation[3:])[2]
    if abs(offsets[0] - z) > 0.01:
        problem = f"GridFrameOffsetVector: begins with {offsets[0]:g}, neither 0 nor the first frame's height {z:g}"
        raise InputError(where, problem, EXPORT_AGAIN)
    return offsets
