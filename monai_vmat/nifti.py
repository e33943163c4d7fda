"""Cases from NIfTI files: ``ct.nii.gz``, ``dose.nii.gz`` and one mask per structure in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from monai_vmat.case import Case
from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.names import match_names
from monai_vmat.dicom.resample import beyond, resample_dose
from monai_vmat.dicom.structure_set import Roi
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.masks import BODY
from monai_vmat.protocol import Protocol

_MAX_VOXELS = 2**29
_OBLIQUE = 1e-3
_REMAKE = "Write it again or leave it out"


def read_nifti_case(folder: str | Path, protocol: Protocol, mapping: Mapping[str, str | None] | None = None) -> Case:
    """Read the case in a folder.

    ``ct.nii.gz`` holds Hounsfield units; ``dose.nii.gz``, if there is one, Gy, on any grid; every other ``.nii.gz`` (or
    ``.nii``) file a mask on the CT's grid, above 0.5 inside, whose name without the ending is matched like that of a DICOM
    region of interest (``body`` is the patient's outline). ``plan.json``, if there is one, may state ``prescription_gy`` by
    target and ``constraints`` by name; the protocol's hold for what it does not state.

    Args:
        folder: its name is the case id.
        protocol: the protocol.
        mapping: the user's own structure names by file name, see :func:`monai_vmat.dicom.names.read_mapping`.

    Raises:
        InputError: for damaged, oblique, huge or ill-fitting files, ambiguous or missing structures, or an unknown target.
    """
    folder = Path(folder)
    files = {path.name.removesuffix(".gz").removesuffix(".nii"): path for path in sorted(folder.glob("*.nii*"))}
    if "ct" not in files:
        raise InputError(folder, "has no ct.nii.gz", "Name the folder of one case")
    ct, grid = _read(files.pop("ct"))
    dose = _dose_on(grid, files.pop("dose")) if "dose" in files else None
    rois = [Roi(k, name, external=name.lower() == BODY.lower(), contours=(files[name],)) for k, name in enumerate(files)]
    match = match_names(rois, protocol, mapping)
    match.require_complete(protocol, str(folder))
    structures = {}
    for name, roi in match.found.items():
        volume, own = _read(files[roi.name])
        if own.shape != grid.shape or not np.allclose(own.affine, grid.affine, atol=1e-3):
            raise InputError(files[roi.name], f"is on another grid than the CT ({own.shape}, {grid.shape})", "Resample it")
        structures[name] = volume > 0.5
    prescription_gy, constraints = _read_plan(folder / "plan.json", protocol, structures)
    return Case(
        case_id=folder.name,
        protocol=protocol.name,
        ct_hu=np.rint(np.clip(ct, -1024, 32767)).astype(np.int16),
        affine=grid.affine,
        structures=structures,
        prescription_gy=prescription_gy,
        constraints=constraints,
        dose_gy=dose,
        metadata={"source": "NIfTI"},
        source=str(folder),
    )


def _read(path: Path) -> tuple[np.ndarray, Grid]:
    """A volume as float32 (X, Y, Z), indices growing towards left, posterior and superior, and its grid."""
    try:
        image: Any = nib.load(path)
        shape, affine = image.shape, image.affine
        if len(shape) != 3 or not 0 < np.prod(shape, dtype=np.float64) <= _MAX_VOXELS:
            raise InputError(path, f"expected a volume of three dimensions, got {shape}", _REMAKE)
        volume = np.asarray(image.dataobj, np.float32)
    except InputError:
        raise
    except Exception as error:  # damaged files fail in many ways
        raise InputError(path, f"cannot be read as NIfTI ({type(error).__name__})", _REMAKE) from error
    if not np.isfinite(affine).all() or not np.isfinite(volume).all():
        raise InputError(path, "holds NaN or infinity", _REMAKE)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise InputError(path, f"voxel size {spacing.tolist()} mm", "Correct its affine")
    directions = np.sort(np.abs(affine[:3, :3] / spacing), axis=0)
    if directions[:2].max() > _OBLIQUE:
        raise InputError(path, "oblique: the patient's axes were expected", "Resample it along the patient's axes")
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    turned = affine @ inv_ornt_aff(turn, shape)
    volume = np.ascontiguousarray(apply_orientation(volume, turn))
    return volume, Grid.from_affine(turned, volume.shape)


def _dose_on(grid: Grid, path: Path) -> np.ndarray:
    """The dose in Gy on another grid, 0 where it was not calculated."""
    dose, own = _read(path)
    if own.shape == grid.shape and np.allclose(own.affine, grid.affine, atol=1e-3):
        return dose
    resampled = resample_dose(dose, own, grid)
    for axis, outside in enumerate(beyond(own, grid)):
        np.moveaxis(resampled, axis, 0)[outside] = 0.0
    return resampled


def _read_plan(path: Path, protocol: Protocol, structures: Mapping[str, np.ndarray]) -> tuple[dict[str, float], np.ndarray]:
    """Prescriptions of the targets that are there, and the constraint vector."""
    stated = read_json(path) if path.exists() else {}
    if not isinstance(stated, dict) or set(stated) - {"prescription_gy", "constraints"}:
        raise InputError(path, "an object with prescription_gy and constraints was expected", "Correct it")
    own = stated.get("prescription_gy", {})
    targets = {t.name: t.prescription_gy for t in protocol.targets if t.name in structures and t.prescription_gy}
    if not isinstance(own, dict) or set(own) - set(targets):
        raise InputError(path, f"prescription_gy: targets among {', '.join(targets)} were expected", "Correct it")
    if not all(isinstance(dose, (int, float)) for dose in own.values()):
        raise InputError(path, f"prescription_gy: numbers were expected, got {own}", "Correct it")
    prescription_gy = targets | own
    return prescription_gy, protocol.encode_constraints(prescription_gy, stated.get("constraints"))
