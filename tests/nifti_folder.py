"""Writes a case as a folder of NIfTI files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from monai_vmat.case import Case


def write_nifti(path: Path, volume: np.ndarray, affine: np.ndarray, axes: str = "LPS") -> None:
    """Store a case's volume with its voxels in another order."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes)))
    stored = apply_orientation(volume, turn)
    nib.save(nib.Nifti1Image(stored, affine @ inv_ornt_aff(turn, volume.shape)), path)


def write_nifti_folder(case: Case, folder: Path, axes: str = "LPS") -> Path:
    """``ct.nii.gz``, ``dose.nii.gz`` (if the case has a dose) and a mask per structure, its name in small letters."""
    folder.mkdir(parents=True)
    write_nifti(folder / "ct.nii.gz", case.ct_hu, case.affine, axes)
    if case.dose_gy is not None:
        write_nifti(folder / "dose.nii.gz", case.dose_gy, case.affine, axes)
    for name, mask in case.structures.items():
        write_nifti(folder / f"{name.lower()}.nii.gz", mask.astype(np.uint8), case.affine, axes)
    return folder
