"""Cases from NIfTI files: ``ct.nii.gz``, ``dose.nii.gz`` and one mask per structure in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from monai_vmat.bombs import require_plausible
from monai_vmat.case import Case
from monai_vmat.datalist import natural_order
from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.names import NameMatch, match_names
from monai_vmat.dicom.plan_dose import dose_on_case, require_whole_plan
from monai_vmat.dicom.structure_set import Roi
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.masks import BODY
from monai_vmat.protocol import Protocol

_MAX_VOXELS = 2**29
_FINEST_DOSE = 8  # dose voxels to each of the CT: half its spacing
_OBLIQUE = 1e-3
_ENDINGS = (".nii", ".gz")
_REMAKE = "Write it again or leave it out"


def find_nifti_folders(source: str | Path) -> list[Path]:
    """The folders that hold a ``ct.nii.gz`` (or ``ct.nii``), in natural order: ``source`` itself, or any in it."""
    folders = {path.parent for path in Path(source).rglob("ct.nii*") if path.suffix in _ENDINGS}
    return sorted(folders, key=lambda folder: natural_order(str(folder)))


def match_masks(folder: str | Path, protocol: Protocol, mapping: Mapping[str, str | None] | None = None) -> NameMatch:
    """What the names of a folder's masks mean, see :func:`read_nifti_case`; no volume is read.

    Raises:
        InputError: when there is no CT, or two files have one name.
    """
    files = _files(Path(folder))
    masks = [name for name in files if name not in ("ct", "dose")]
    rois = [Roi(k, name, external=name.lower() == BODY.lower(), contours=(files[name],)) for k, name in enumerate(masks)]
    return match_names(rois, protocol, mapping)


def require_usable(folder: str | Path, match: NameMatch, protocol: Protocol, require_dose: bool) -> None:
    """Check what can be known before volumes are read.

    Raises:
        InputError: for ambiguous names, required structures that are absent, or a missing dose.
    """
    match.require_complete(protocol, str(folder))
    if require_dose and "dose" not in _files(Path(folder)):
        raise InputError(folder, "has no dose.nii.gz", "Add the plan's dose; to predict one, give the folder to inference")


def read_nifti_case(
    folder: str | Path, protocol: Protocol, mapping: Mapping[str, str | None] | None = None, *, require_dose: bool = False
) -> Case:
    """Read the case in a folder.

    ``ct.nii.gz`` holds Hounsfield units; ``dose.nii.gz``, if there is one, Gy, on any grid; every other ``.nii.gz`` (or
    ``.nii``) file a mask on the CT's grid, above 0.5 inside, whose name without the ending is matched like that of a DICOM
    region of interest (``body`` is the patient's outline). ``plan.json``, if there is one, may state ``prescription_gy`` by
    target and ``constraints`` by name; the protocol's hold for what it does not state.

    Args:
        folder: its name is the case id.
        protocol: the protocol.
        mapping: the user's own structure names by file name, see :func:`monai_vmat.dicom.names.read_mapping`.
        require_dose: whether the dose must be there and be that of the whole plan, as training needs it.

    Raises:
        InputError: for damaged, oblique, huge or ill-fitting files, ambiguous or missing structures, or an unknown target;
            with ``require_dose`` also for a dose that is missing, leaves out part of a target or is nowhere near its
            prescription.
    """
    folder = Path(folder)
    files = _files(folder)
    match = match_masks(folder, protocol, mapping)
    require_usable(folder, match, protocol, require_dose)
    # All headers before the first volume: a mask that does not fit tells of a CT that claims gigabytes.
    ct_file, masks = _open(files["ct"]), {name: _open(files[roi.name]) for name, roi in match.found.items()}
    grid = ct_file.grid
    for file in masks.values():
        if not _same(file.grid, grid):
            raise InputError(file.path, f"is on another grid than the CT ({file.grid.shape}, {grid.shape})", "Resample it")
    ct = _read(ct_file)
    structures = {name: _read(file, packs_well=True) > 0.5 for name, file in masks.items()}
    prescription_gy, constraints = _read_plan(folder / "plan.json", protocol, structures)
    dose = None
    if "dose" in files:
        dose_file = _open(files["dose"])
        if math.prod(dose_file.grid.shape) > _FINEST_DOSE * math.prod(grid.shape):
            problem = f"{dose_file.grid.shape} voxels of dose were not expected on a CT of {grid.shape}"
            raise InputError(files["dose"], problem, "Resample it to the CT's grid")
        native_gy, dose_grid = _read(dose_file), dose_file.grid
        # On one grid nothing is resampled: what was calculated stays as it is.
        dose = native_gy if _same(dose_grid, grid) else dose_on_case(native_gy, dose_grid, grid)
    case = Case(
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
    if dose is not None and require_dose:
        require_whole_plan(dose, dose_grid, grid, structures, prescription_gy, str(files["dose"]))
    return case


def _files(folder: Path) -> dict[str, Path]:
    """The NIfTI files of a folder by their names without the ending."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.nii*")):
        if path.suffix not in _ENDINGS:
            continue
        name = path.name.removesuffix(".gz").removesuffix(".nii")
        if name in files:
            raise InputError(path, f"is there as {files[name].name}, too", "Leave one of them")
        files[name] = path
    if "ct" not in files:
        raise InputError(folder, "has no ct.nii.gz", "Name the folder of one case")
    return files


class _File(NamedTuple):
    """A file whose header has been read: ``turn`` makes indices grow towards left, posterior and superior, as on the grid."""

    path: Path
    image: Any
    turn: np.ndarray
    grid: Grid


def _open(path: Path) -> _File:
    try:
        image: Any = nib.load(path)
        shape, affine = image.shape, image.affine
    except Exception as error:  # damaged files fail in many ways
        raise InputError(path, f"cannot be read as NIfTI ({type(error).__name__})", _REMAKE) from error
    if len(shape) != 3 or not 0 < np.prod(shape, dtype=np.float64) <= _MAX_VOXELS:
        raise InputError(path, f"expected three dimensions and at most {_MAX_VOXELS:,} voxels, got {shape}", _REMAKE)
    if not np.isfinite(affine).all():
        raise InputError(path, "holds NaN or infinity", _REMAKE)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise InputError(path, f"voxel size {spacing.tolist()} mm", "Correct its affine")
    directions = np.sort(np.abs(affine[:3, :3] / spacing), axis=0)
    if directions[:2].max() > _OBLIQUE:
        raise InputError(path, "oblique: the patient's axes were expected", "Resample it along the patient's axes")
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    turned_shape = tuple(shape[axis] for axis in np.argsort(turn[:, 0]))
    return _File(path, image, turn, Grid.from_affine(affine @ inv_ornt_aff(turn, shape), turned_shape))


def _read(file: _File, packs_well: bool = False) -> np.ndarray:
    """The volume as float32 (X, Y, Z). What a mask takes packed tells nothing; its grid is known to be the CT's."""
    if not packs_well:
        require_plausible(file.path, math.prod(file.grid.shape) * file.image.get_data_dtype().itemsize)
    try:
        volume = np.asarray(file.image.dataobj, np.float32)
    except Exception as error:  # damaged files fail in many ways
        raise InputError(file.path, f"cannot be read as NIfTI ({type(error).__name__})", _REMAKE) from error
    if not np.isfinite(volume).all():
        raise InputError(file.path, "holds NaN or infinity", _REMAKE)
    return np.ascontiguousarray(apply_orientation(volume, file.turn))


def _same(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=1e-3)


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
