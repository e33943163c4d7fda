"""Patients of the public OpenKBP data set (Babier et al. 2021, doi:10.1002/mp.14845) as published: folders of CSV files.

A patient is ``.../provided-data/{train,validation,test}-pats/pt_N/`` with ``ct``, ``dose``, ``possible_dose_mask``, one
file per structure (all sparse: a header line ``,data``, then ``index,value`` or ``index,`` per voxel, the index into
128^3 voxels in C order) and ``voxel_dimensions`` (three numbers, no header). The axes run from anterior to posterior,
from the patient's right to left and from superior to inferior; CT values are HU + 1024, clipped to 0..4095.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np

from monai_vmat.case import Case, lps_affine
from monai_vmat.errors import InputError
from monai_vmat.files import read_text
from monai_vmat.protocol import Protocol

GRID = (128, 128, 128)
POSSIBLE_DOSE = "possible_dose_mask"
# The publisher's split, by the number in a patient's name.
OPENKBP_SPLITS = {"training": range(1, 201), "validation": range(201, 241), "test": range(241, 341)}

_CT_OFFSET_HU = 1024
_CT_MAX = 4095
_MAX_BYTES = 64 * math.prod(GRID)  # a voxel a line
_HEADER = ",data"
_MASK_ROW: list[tuple[str, type]] = [("index", np.int64)]
_VALUE_ROW: list[tuple[str, type]] = [("index", np.int64), ("value", np.float64)]
_MEND = "Download the patient again or leave it out"


def publisher_split(case_id: str) -> str:
    """``training``, ``validation`` or ``test``: where the publisher put the patient ``pt_N``.

    Raises:
        InputError: for a name that is not one of pt_1 ... pt_340.
    """
    number = re.fullmatch(r"pt_(\d+)", case_id, re.ASCII)
    for split, numbers in OPENKBP_SPLITS.items():
        if number and int(number[1]) in numbers:
            return split
    raise InputError(f"case '{case_id}'", "is no OpenKBP patient (pt_1 to pt_340)", "Split by fractions or ids instead")


def read_openkbp_patient(folder: str | Path, protocol: Protocol, *, require_dose: bool = True) -> Case:
    """Read one patient's folder of CSV files.

    Args:
        folder: ``.../pt_N``; its name becomes the case id.
        protocol: names the structures and their prescriptions. A structure whose file is missing or empty is absent.
        require_dose: whether a patient without ``dose.csv`` is incomplete, or a case that awaits its prediction.

    Returns:
        the case on its 128^3 grid, (X, Y, Z); the region that may receive dose is its structure ``possible_dose_mask``.

    Raises:
        InputError: for an incomplete patient or a malformed file, naming the file and the problem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "is not a folder; the CSV files of one OpenKBP patient were expected", "Check the path")
    required = {"ct", "voxel_dimensions", POSSIBLE_DOSE} | {s.name for s in protocol.structures if s.required}
    required |= {"dose"} if require_dose else set()
    missing = sorted(name for name in required if not (folder / f"{name}.csv").is_file())
    if missing:
        raise InputError(folder, f"incomplete: {', '.join(f'{name}.csv' for name in missing)} not found", _MEND)

    structures = {}
    for name in (*protocol.structure_names, POSSIBLE_DOSE):
        path = folder / f"{name}.csv"
        mask = _read_mask(path) if path.is_file() else np.zeros(GRID, bool)
        if mask.any():
            structures[name] = mask
        elif name in required:
            raise InputError(path, "incomplete: it holds no voxels", _MEND)
    prescription = {t.name: t.prescription_gy for t in protocol.targets if t.name in structures and t.prescription_gy}
    dose_path = folder / "dose.csv"
    return Case(
        case_id=folder.name,
        protocol=protocol.name,
        ct_hu=_read_ct_hu(folder / "ct.csv"),
        affine=lps_affine(_read_spacing_mm(folder / "voxel_dimensions.csv")),
        structures=structures,
        prescription_gy=prescription,
        constraints=protocol.encode_constraints(prescription),
        dose_gy=read_openkbp_dose(dose_path) if dose_path.is_file() else None,
        metadata={"dataset": "OpenKBP"},
        source=str(folder),
    )


def read_openkbp_dose(path: str | Path) -> np.ndarray:
    """A dose file, delivered or predicted (as the challenge's participants hand in, ``pt_N.csv``): Gy, float32 (X, Y, Z).

    Raises:
        InputError: when it is missing, malformed or empty.
    """
    return _read_values(Path(path)).astype(np.float32)


def _read_ct_hu(path: Path) -> np.ndarray:
    values = _read_values(path)
    if values.min() < 0 or values.max() > _CT_MAX:
        raise InputError(path, f"CT values from 0 to {_CT_MAX} were expected, got {values.min():g} to {values.max():g}", _MEND)
    return np.rint(values - _CT_OFFSET_HU).astype(np.int16)


def _read_mask(path: Path) -> np.ndarray:
    volume = np.zeros(GRID, bool)
    volume.reshape(-1)[_read_rows(path, _MASK_ROW)["index"]] = True
    return _to_case_axes(volume)


def _read_values(path: Path) -> np.ndarray:
    rows = _read_rows(path, _VALUE_ROW)
    if rows.size == 0:
        raise InputError(path, "incomplete: it holds no voxels", _MEND)
    if not np.isfinite(rows["value"]).all():
        raise InputError(path, "malformed: it holds NaN or infinity", _MEND)
    volume = np.zeros(GRID)
    volume.reshape(-1)[rows["index"]] = rows["value"]
    return _to_case_axes(volume)


def _read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Voxel size along X, Y, Z."""
    text = read_text(path, _MAX_BYTES)
    try:
        anterior_posterior, right_left, superior_inferior = (float(word) for word in text.split())
    except ValueError as error:
        raise InputError(path, f"malformed: three numbers were expected, got {text[:60]!r}", _MEND) from error
    spacing = (right_left, anterior_posterior, superior_inferior)
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise InputError(path, f"malformed: voxel sizes above 0 mm were expected, got {text[:60]!r}", _MEND)
    return spacing


def _read_rows(path: Path, row: list[tuple[str, type]]) -> np.ndarray:
    """The rows of a sparse file: distinct indices within the grid and, for a two-field ``row``, their values."""
    header, _, body = read_text(path, _MAX_BYTES).partition("\n")
    if header.strip() != _HEADER:
        raise InputError(path, f"malformed: the header line '{_HEADER}' was expected, got {header[:60]!r}", _MEND)
    if not body.strip():
        return np.zeros(0, row)
    try:
        columns = [0] if row is _MASK_ROW else None  # a mask's rows end in an empty field
        rows = np.loadtxt(io.StringIO(body), row, comments=None, delimiter=",", usecols=columns, ndmin=1)
    except ValueError as error:
        raise InputError(path, f"malformed: {str(error).rstrip('.')} (counted from 0, below the header)", _MEND) from error
    size = math.prod(GRID)
    low, high = rows["index"].min(), rows["index"].max()
    if low < 0 or high >= size:
        raise InputError(path, f"malformed: indices from 0 to {size - 1} were expected, got {low} to {high}", _MEND)
    if np.bincount(rows["index"]).max() > 1:
        raise InputError(path, f"malformed: index {np.bincount(rows['index']).argmax()} occurs more than once", _MEND)
    return rows


def _to_case_axes(volume: np.ndarray) -> np.ndarray:
    """(anterior-posterior, right-left, superior-inferior) to (X, Y, Z) with indices towards left, posterior, superior."""
    return np.ascontiguousarray(volume.transpose(1, 0, 2)[:, :, ::-1])
