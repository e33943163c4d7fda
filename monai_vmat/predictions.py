"""Predicted doses that were written as files, by this program or another, on the grid of their case.

Three kinds are read, none unpickled:

* ``<case_id>_pred.npz`` of this program: uint16 ``dose`` times ``dose_scale_gy``, (X, Y, Z), the case's ``affine``;
* ``<case_id>_pred.npz`` of others: floating-point ``dose``, of whose unit and axes the file says nothing. The unit has to be
  given. The axes are told by the shape where the grid's X and Y differ; where they are equal, they have to be given, too;
* ``<case_id>.csv`` of the OpenKBP challenge: Gy, see :mod:`monai_vmat.openkbp`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_vmat.case import Case, decode_dose
from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive
from monai_vmat.openkbp import read_openkbp_dose

DOSE_UNITS = ("gy", "fraction")
AXES = ("xyz", "yxz")
_MAX_DOSE_GY = 200.0
_NPZ, _CSV = "_pred.npz", ".csv"


def predicted_case(path: Path) -> str | None:
    """The id of the case that a file's name says it predicts; None for files that are no predictions."""
    suffix = next((s for s in (_NPZ, _CSV) if path.name.endswith(s)), None)
    return path.name.removesuffix(suffix) if suffix else None


def find_prediction(folder: Path, case_id: str) -> Path:
    """The one file of a case's predicted dose.

    Raises:
        InputError: when there is none, or there are two.
    """
    found = [path for suffix in (_NPZ, _CSV) if (path := folder / f"{case_id}{suffix}").is_file()]
    if not found:
        raise InputError(folder, f"has no prediction {case_id}{_NPZ} or {case_id}{_CSV}", "Add it, or take the case out")
    if len(found) > 1:
        raise InputError(folder, f"has two predictions, {found[0].name} and {found[1].name}", "Keep one of them")
    return found[0]


def read_prediction(
    path: Path, case: Case, rx_gy: float, *, dose_unit: str | None = None, axes: str | None = None
) -> tuple[np.ndarray, str]:
    """Read a predicted dose.

    Args:
        path: the file.
        case: on whose grid it is.
        rx_gy: primary prescription, of which doses may be fractions.
        dose_unit: ``gy`` or ``fraction``; only for other programs' ``.npz`` files, which do not say.
        axes: ``xyz`` or ``yxz`` (as in v2.x files); likewise.

    Returns:
        the dose in Gy, float32 (X, Y, Z) without negative values, and how the file was read, in words.

    Raises:
        InputError: for a file that is damaged, lies on another grid, holds no possible dose, or is not told apart.
    """
    if path.name.endswith(_CSV):
        dose_gy, words = read_openkbp_dose(path), "OpenKBP CSV, Gy"
        if dose_gy.shape != case.ct_hu.shape:
            raise InputError(path, f"is on a grid of {dose_gy.shape}, the case on {case.ct_hu.shape}", "Evaluate OpenKBP cases")
    else:
        with NpzArchive(path) as archive:
            if "dose_scale_gy" in archive:
                dose_gy, words = _own(archive, case), "monai_vmat, Gy, (X, Y, Z)"
            else:
                dose_gy, words = _foreign(archive, case, rx_gy, dose_unit, axes)
    if not np.isfinite(dose_gy).all() or dose_gy.max() > _MAX_DOSE_GY:
        most = "NaN or infinity" if not np.isfinite(dose_gy).all() else f"{dose_gy.max():.6g} Gy"
        problem = f"'dose': finite doses of at most {_MAX_DOSE_GY:g} Gy were expected, got {most}"
        raise InputError(path, problem, "Check the prediction and its unit (--dose-unit)")
    return np.clip(dose_gy, 0.0, None).astype(np.float32, copy=False), words


def _own(archive: NpzArchive, case: Case) -> np.ndarray:
    dose_gy, affine = decode_dose(archive), archive.read("affine")
    if dose_gy.shape != case.ct_hu.shape or affine.shape != (4, 4) or not np.allclose(affine, case.affine, atol=1e-3):
        problem = f"'dose' of shape {dose_gy.shape} lies on another grid than its case ({case.ct_hu.shape}, or another affine)"
        raise InputError(archive.path, problem, "Predict the case again, or name the folder of the cases it was predicted for")
    return dose_gy


def _foreign(archive: NpzArchive, case: Case, rx_gy: float, dose_unit: str | None, axes: str | None) -> tuple[np.ndarray, str]:
    dose = archive.read("dose")
    if dose.dtype.kind != "f" or dose.ndim != 3:
        problem = f"'dose': floating-point numbers in three dimensions were expected, got {dose.dtype} of shape {dose.shape}"
        raise InputError(archive.path, problem, "Save it as float32 of the case's grid")
    axes = _axes(archive.path, dose.shape, case.ct_hu.shape, axes)
    if dose_unit is None:
        problem = f"'dose' has no unit (no dose_scale_gy); it reaches {dose.max(initial=0.0):.4g}"
        raise InputError(archive.path, problem, "Say --dose-unit gy, or --dose-unit fraction (of the primary prescription)")
    dose_gy = dose * np.float32(rx_gy if dose_unit == "fraction" else 1.0)
    if dose_unit == "gy" and case.dose_gy is not None:
        reference, highest = float(case.dose_gy.max()), float(dose.max(initial=0.0))
        if highest < reference / 20 and reference / 2 < highest * rx_gy < reference * 2:
            problem = (
                f"'dose' reaches {highest:.4g}: as Gy that is far below the reference's {reference:.4g}, as a fraction it fits"
            )
            raise InputError(archive.path, problem, "Say --dose-unit fraction")
    words = f"{dose.dtype}, {'Gy' if dose_unit == 'gy' else f'fraction of {rx_gy:g} Gy'}, ({', '.join(axes.upper())})"
    return np.ascontiguousarray(dose_gy.swapaxes(0, 1)) if axes == "yxz" else dose_gy, words


def _axes(path: Path, shape: tuple[int, ...], grid: tuple[int, ...], wanted: str | None) -> str:
    x, y, z = grid
    fitting = [name for name, expected in (("xyz", (x, y, z)), ("yxz", (y, x, z))) if shape == expected]
    if not fitting or (wanted is not None and wanted not in fitting):
        asked = f"--axes {wanted}" if fitting else "any order of X and Y"
        problem = f"'dose': shape {shape} does not fit the case's grid X {x}, Y {y}, Z {z} with {asked}"
        raise InputError(path, problem, "Correct --axes" if fitting else "Resample the prediction onto the case's grid")
    if wanted is None and len(fitting) > 1:
        problem = f"'dose': shape {shape} does not tell (X, Y, Z) from (Y, X, Z)"
        raise InputError(path, problem, "Say --axes xyz, or --axes yxz (the order of v2.x files)")
    return wanted or fitting[0]
