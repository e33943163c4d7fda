"""The CT of a study as one volume in Hounsfield units."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_vmat.dicom.grid import lay_out, patient_axes
from monai_vmat.dicom.reading import EXPORT_AGAIN, frame_shape, numbers, read_dataset, read_pixels
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError

_AIR_HU = -1024  # scanners fill what lies outside their field of view with anything below
_SHIFT_TOLERANCE_MM = 0.05


def read_ct(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Read the slices of a study, whatever the patient's position on the table.

    Returns:
        int16 (X, Y, Z) in HU, at least -1024; indices grow towards left, posterior and superior;
        and its affine: float64 (4, 4), indices to RAS mm.

    Raises:
        InputError: the study's own problem, if it has one; slices that are damaged, doubled, missing, oblique, or differ in
            size, spacing or direction; unusable pixels.
    """
    if study.problem:
        raise study.problem
    first = None
    volume = np.empty(0, np.int16)
    heights = np.empty(len(study.ct))
    for k, path in enumerate(study.ct):
        where = study.names(path)
        dataset = read_dataset(path, where)
        geometry = _geometry(dataset, where, len(study.ct))
        if first is None:
            first = geometry
            rows, columns = map(int, first["Rows, Columns"])
            volume = np.empty((len(study.ct), rows, columns), np.int16)
        for field, values in geometry.items():
            tolerance = _SHIFT_TOLERANCE_MM if field == "ImagePositionPatient across the slice" else 1e-4
            if not np.allclose(values, first[field], rtol=0, atol=tolerance):
                problem = f"{field}: {list(values)}, but {list(first[field])} in the slice {study.names(study.ct[0])}"
                raise InputError(where, problem, "Export the series again; one size, spacing and direction is needed")
        heights[k] = numbers(dataset, "ImagePositionPatient", 3, where)[2]
        volume[k] = _read_hu(dataset, where)
    assert first is not None  # a study without slices has a problem
    x, y = first["ImagePositionPatient across the slice"]
    spacing = first["PixelSpacing"]
    hu, grid = lay_out(
        volume, first["ImageOrientationPatient"], (x, y, heights[0]), (spacing[0], spacing[1]), heights, f"{study.label}: CT"
    )
    return hu, grid.affine


def _geometry(dataset: Any, where: str, slices: int) -> dict[str, tuple[float, ...]]:
    """What all slices must agree about."""
    frames, rows, columns = frame_shape(dataset, where, slices)
    if frames != 1:
        raise InputError(where, f"NumberOfFrames: 1 was expected of a CT slice, got {frames}", "Export the CT as single slices")
    orientation = numbers(dataset, "ImageOrientationPatient", 6, where)
    patient_axes(orientation, where)  # before positions are compared: those of oblique slices differ, which would mislead
    return {
        "Rows, Columns": (rows, columns),
        "PixelSpacing": numbers(dataset, "PixelSpacing", 2, where),
        "ImageOrientationPatient": orientation,
        "ImagePositionPatient across the slice": numbers(dataset, "ImagePositionPatient", 3, where)[:2],
    }


def _read_hu(dataset: Any, where: str) -> np.ndarray:
    """int16 (rows, columns)."""
    (slope,), (intercept,) = (numbers(dataset, k, 1, where) for k in ("RescaleSlope", "RescaleIntercept"))
    if slope <= 0:
        raise InputError(where, f"RescaleSlope: a number above 0 was expected, got {slope:g}", EXPORT_AGAIN)
    hu = np.rint(read_pixels(dataset, where)[0] * np.float32(slope) + np.float32(intercept))
    return np.clip(hu, _AIR_HU, np.iinfo(np.int16).max).astype(np.int16)
