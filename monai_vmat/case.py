"""One patient's plan on one grid, and the files it comes from.

Two dialects of ``.npz`` are read, never unpickling anything:

* native, which :func:`write_case` writes: CT as int16 HU, dose as uint16 steps, structures as bits, affine, JSON metadata;
* v2.x, which users already have: arrays in (Y, X, Z) order, CT and dose scaled, signed distances / 50 mm.

Axis order and scaling are dealt with here, once. From here on arrays are (X, Y, Z) with indices growing towards the
patient's left, posterior and superior, and ``affine`` maps indices to RAS millimetres as nibabel and MONAI expect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_vmat.errors import InputError
from monai_vmat.npz import NpzArchive, write_npz
from monai_vmat.protocol import Protocol

FORMAT_VERSION = 1
DOSE_STEP_GY = 0.01
SDF_CLIP_MM = 50.0
V2_SPACING_MM = (1.0, 1.0, 2.0)

_MAX_DOSE_GY = 200.0
_MAX_SPACING_MM = 50.0
_OWN_METADATA = ("format_version", "case_id", "patient", "protocol")
# A case id is part of file names.
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REMAKE = "Make the file again from its source"


@dataclass(frozen=True)
class Case:
    """One plan on one grid; checked when made.

    Args:
        case_id: letters, digits, ``.``, ``_`` and ``-``.
        protocol: name of the protocol.
        ct_hu: int16 (X, Y, Z), Hounsfield units; indices grow towards left, posterior, superior.
        affine: float64 (4, 4), voxel indices to RAS mm.
        structures: bool (X, Y, Z) by name; absent structures are left out.
        prescription_gy: prescribed dose by target name.
        constraints: float32 vector as the protocol's ``encode_constraints`` gives it.
        dose_gy: float32 (X, Y, Z) delivered dose, or None for a case that awaits its prediction.
        patient: whose anatomy it is: plans of one patient never fall into different splits. The case id by default.
        signed_distances: stored signed distances by name as fractions of 50 mm, negative inside (v2.x files only).
        metadata: further plain facts (JSON).
        source: where it was read from, for messages.

    Raises:
        InputError: naming field, what was expected and what came.
    """

    case_id: str
    protocol: str
    ct_hu: np.ndarray
    affine: np.ndarray
    structures: Mapping[str, np.ndarray]
    prescription_gy: Mapping[str, float]
    constraints: np.ndarray
    dose_gy: np.ndarray | None = None
    patient: str = ""
    signed_distances: Mapping[str, np.ndarray] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not self.patient:
            object.__setattr__(self, "patient", self.case_id)
        _validate(self)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_cc(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0


def lps_affine(spacing_mm: Sequence[float], origin_lps_mm: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """The affine (to RAS) of a grid whose indices grow towards left, posterior and superior, as a case's do.

    Args:
        spacing_mm: voxel size along X, Y, Z.
        origin_lps_mm: centre of voxel (0, 0, 0) in DICOM patient coordinates.
    """
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]).astype(np.float64)
    affine[:3, 3] = np.asarray(origin_lps_mm, np.float64) * (-1, -1, 1)
    return affine


def read_case(path: str | Path, protocol: Protocol, spacing_mm: Sequence[float] | None = None) -> Case:
    """Read a case file of either dialect.

    Args:
        path: an ``.npz`` file.
        protocol: the protocol that the case must belong to.
        spacing_mm: voxel size of a v2.x file (X, Y, Z), which has none of its own; 1 x 1 x 2 mm when not given.

    Raises:
        InputError: naming file, field, what was expected and the mend.
    """
    with NpzArchive(path) as archive:
        if "structure_names" in archive:
            return _read_native(archive, protocol)
        if "masks_sdf" in archive:
            return _read_v2(archive, protocol, V2_SPACING_MM if spacing_mm is None else spacing_mm)
        raise InputError(
            archive.path,
            "is neither a native case (array 'structure_names') nor a v2.x one ('masks_sdf'); "
            f"found: {', '.join(archive.names) or 'no arrays'}",
            "Convert the data with one of data_scripts/",
        )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Metadata of a native file without reading its volumes; empty for a v2.x file, whose metadata is pickled."""
    with NpzArchive(path) as archive:
        return _json_metadata(archive) if "structure_names" in archive else {}


def write_case(case: Case, path: str | Path, *, smallest: bool = False) -> None:
    """Write ``case`` as a native file, whole or not at all. The dose is rounded to 0.01 Gy (error at most 0.005 Gy).

    ``smallest`` is for data that are kept in a repository: see :func:`monai_vmat.npz.write_npz`.
    """
    names = list(case.structures)
    arrays: dict[str, np.ndarray] = {
        "ct": case.ct_hu,
        "affine": case.affine.astype(np.float64),
        "structure_names": np.asarray(names, dtype=np.str_) if names else np.zeros(0, "U1"),
        "structures": np.packbits(np.stack([case.structures[n] for n in names]).reshape(len(names), -1), axis=1)
        if names
        else np.zeros((0, 0), np.uint8),
        "prescription_gy": np.asarray([case.prescription_gy.get(n, 0.0) for n in names], np.float64),
        "constraints": case.constraints.astype(np.float32),
        "metadata": np.asarray(
            json.dumps(
                {
                    "format_version": FORMAT_VERSION,
                    "case_id": case.case_id,
                    "patient": case.patient,
                    "protocol": case.protocol,
                    **{k: v for k, v in case.metadata.items() if k not in _OWN_METADATA},
                },
                allow_nan=False,
            )
        ),
    }
    if case.dose_gy is not None:
        arrays |= encode_dose(case.dose_gy)
    write_npz(path, arrays, smallest=smallest)


def encode_dose(dose_gy: np.ndarray) -> dict[str, np.ndarray]:
    """The ``dose`` and ``dose_scale_gy`` arrays of a native file; negative doses become zero.

    Raises:
        InputError: for NaN, infinity or more than 655.35 Gy.
    """
    steps = np.rint(np.clip(dose_gy, 0.0, None) / DOSE_STEP_GY)
    largest = float(steps.max(initial=0.0))
    if not largest <= np.iinfo(np.uint16).max:  # NaN fails every comparison
        raise InputError("array 'dose'", f"expected finite Gy up to 655.35, got {largest * DOSE_STEP_GY:g}", "Check the dose")
    return {"dose": steps.astype(np.uint16), "dose_scale_gy": np.asarray(DOSE_STEP_GY, np.float64)}


def write_dose(
    path: str | Path, dose_gy: np.ndarray, affine: np.ndarray, metadata: Mapping[str, Any], sd_gy: np.ndarray | None = None
) -> None:
    """Write a dose alone (a prediction) on a case's grid: ``dose``, ``dose_scale_gy``, ``affine`` and ``metadata`` (JSON).

    Its standard deviation in each voxel, where there is one, is ``dose_sd``, in the same steps.
    """
    arrays = {**encode_dose(dose_gy), "affine": affine, "metadata": np.asarray(json.dumps(dict(metadata)))}
    if sd_gy is not None:
        arrays["dose_sd"] = encode_dose(sd_gy)["dose"]
    write_npz(path, arrays)


def decode_dose(archive: NpzArchive, name: str = "dose") -> np.ndarray:
    """The dose of a native file, or of a prediction of this program, in Gy: float32 (X, Y, Z)."""
    steps = _numbers(archive, name, "uf", 3)
    scale = float(_numbers(archive, "dose_scale_gy", "f", 0))
    if not 0 < scale <= 1:
        raise InputError(archive.path, f"array 'dose_scale_gy': expected a step in Gy between 0 and 1, got {scale}", _REMAKE)
    return steps.astype(np.float32) * np.float32(scale)


def read_dose(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read what :func:`write_dose` wrote.

    Returns:
        dose, float32 (X, Y, Z) in Gy, and the affine of its grid, float64 (4, 4).

    Raises:
        InputError: when the file is missing, damaged or no dose.
    """
    with NpzArchive(path) as archive:
        return decode_dose(archive), _numbers(archive, "affine", "f", 2).astype(np.float64)


def read_dose_sd(path: str | Path) -> np.ndarray | None:
    """The standard deviation that :func:`write_dose` wrote beside a dose, float32 (X, Y, Z) in Gy; None where it wrote none.

    Raises:
        InputError: when the file is missing or damaged.
    """
    with NpzArchive(path) as archive:
        return decode_dose(archive, "dose_sd") if "dose_sd" in archive else None


def _validate(case: Case) -> None:
    where = case.source or f"case {case.case_id!r}"

    def require(condition: bool, problem: str, mend: str = _REMAKE) -> None:
        if not condition:
            raise InputError(where, problem, mend)

    for label, name in (("case id", case.case_id), ("patient", case.patient)):
        require(
            bool(CASE_ID.fullmatch(name)),
            f"{label} {name!r}: expected up to 128 letters, digits, '.', '_' or '-', starting with a letter or digit",
            "Rename the case",
        )
    shape = case.ct_hu.shape
    require(len(shape) == 3 and min(shape) > 0, f"array 'ct': expected three dimensions, got shape {shape}")
    require(case.ct_hu.dtype == np.int16, f"array 'ct': expected int16 HU, got {case.ct_hu.dtype}")

    affine = case.affine
    require(affine.shape == (4, 4) and bool(np.isfinite(affine).all()), "array 'affine': expected 4 x 4 finite numbers")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    require(
        bool((spacing > 0).all() and (spacing <= _MAX_SPACING_MM).all()),
        f"voxel spacing {spacing.tolist()} mm: expected three numbers above 0 and at most {_MAX_SPACING_MM:g}",
        "Correct the spacing",
    )
    require(
        bool(np.allclose(affine[:3, :3], np.diag([-1, -1, 1]) * spacing, atol=1e-4) and np.allclose(affine[3], (0, 0, 0, 1))),
        "array 'affine': expected axes towards the patient's left, posterior and superior (negative, negative, positive "
        f"diagonal), got {np.round(affine[:3, :3], 4).tolist()}",
        "Reorient the case",
    )
    for name, mask in case.structures.items():
        require(
            mask.shape == shape and mask.dtype == bool,
            f"structure '{name}': expected bool on the CT's grid {shape}, got {mask.dtype} {mask.shape}",
            "Draw or resample the structure on the CT's grid",
        )
        require(bool(mask.any()), f"structure '{name}' is empty", "Leave absent structures out")
    for name, distances in (case.signed_distances or {}).items():
        require(distances.shape == shape, f"signed distance of '{name}': expected the CT's grid {shape}, got {distances.shape}")
        require(bool(np.isfinite(distances).all()), f"signed distance of '{name}' holds NaN or infinity")
    if case.dose_gy is not None:
        dose = case.dose_gy
        require(
            dose.shape == shape,
            f"array 'dose': expected the CT's grid {shape}, got {dose.shape}",
            "Resample the dose onto the CT's grid",
        )
        require(bool(np.isfinite(dose).all()), "array 'dose' holds NaN or infinity")
        low, high = float(dose.min()), float(dose.max())
        require(low >= -0.05, f"array 'dose': expected Gy >= 0, got {low:.3f}")
        require(high <= _MAX_DOSE_GY, f"array 'dose': expected Gy, got a maximum of {high:.1f} (cGy?)", "Convert to Gy")
    for name, dose_gy in case.prescription_gy.items():
        require(name in case.structures, f"prescription of '{name}': the case has no such structure", "Leave it out or draw it")
        require(
            bool(np.isfinite(dose_gy)) and 0 < dose_gy <= _MAX_DOSE_GY,
            f"prescription of '{name}': expected Gy above 0 and at most {_MAX_DOSE_GY:g}, got {dose_gy}",
        )
    require(
        case.constraints.ndim == 1 and bool(np.isfinite(case.constraints).all()),
        f"array 'constraints': expected finite numbers in one row, got shape {case.constraints.shape}",
    )


def _check_against(case: Case, protocol: Protocol) -> Case:
    where = case.source
    if case.protocol != protocol.name:
        raise InputError(
            where, f"belongs to protocol '{case.protocol}', '{protocol.name}' was expected", "Use the matching --protocol_name"
        )
    if case.constraints.shape != (protocol.constraint_dim,):
        raise InputError(
            where, f"array 'constraints': expected {protocol.constraint_dim} numbers, got {case.constraints.shape}", _REMAKE
        )
    missing = [s.name for s in protocol.structures if s.required and s.name not in case.structures]
    if missing:
        raise InputError(where, f"required structures are absent: {', '.join(missing)}", "Add them or leave the case out")
    return case


def _json_metadata(archive: NpzArchive) -> dict[str, Any]:
    text = archive.read("metadata")
    try:
        metadata = json.loads(str(text[()])) if text.dtype.kind == "U" and text.shape == () else None
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise InputError(archive.path, "array 'metadata': expected JSON text of an object", _REMAKE)
    version = metadata.pop("format_version", None)
    if version != FORMAT_VERSION:
        problem = f"format version {version!r}, this program reads {FORMAT_VERSION}"
        raise InputError(archive.path, problem, "Update monai_vmat or " + _REMAKE.lower())
    for key in ("case_id", "patient", "protocol"):
        if not isinstance(metadata.get(key), str):
            raise InputError(archive.path, f"metadata '{key}': expected text, got {metadata.get(key)!r}", _REMAKE)
    return metadata


def _numbers(archive: NpzArchive, name: str, kinds: str, dims: int) -> np.ndarray:
    array = archive.read(name)
    if array.dtype.kind not in kinds or array.ndim != dims:
        what = "text" if kinds == "U" else "numbers"
        problem = f"array '{name}': expected {dims}-dimensional {what}, got {array.dtype} of shape {array.shape}"
        raise InputError(archive.path, problem, _REMAKE)
    return array


def _require_range(archive: NpzArchive, name: str, array: np.ndarray, low: float, high: float, meaning: str) -> None:
    found = (float(array.min()), float(array.max())) if array.size else (low, high)
    if not low - 1e-3 <= found[0] <= found[1] <= high + 1e-3:  # NaN fails every comparison
        raise InputError(
            archive.path, f"array '{name}': expected {meaning}, in {low:g}..{high:g}, got {found[0]:g}..{found[1]:g}", _REMAKE
        )


def _read_native(archive: NpzArchive, protocol: Protocol) -> Case:
    metadata = _json_metadata(archive)
    ct = _numbers(archive, "ct", "i", 3)
    names = [str(n) for n in _numbers(archive, "structure_names", "U", 1)]
    bits = _numbers(archive, "structures", "u", 2)
    if len(set(names)) != len(names) or bits.shape != (len(names), -(-ct.size // 8) if names else 0) or bits.dtype != np.uint8:
        raise InputError(
            archive.path,
            f"array 'structures': expected {len(names)} distinct structures on the CT's grid {ct.shape}, "
            f"got {bits.shape} bytes for {names}",
            "Draw or resample the structures on the CT's grid",
        )
    masks = {n: np.unpackbits(b, count=ct.size).astype(bool).reshape(ct.shape) for n, b in zip(names, bits, strict=True)}
    prescription = _numbers(archive, "prescription_gy", "f", 1)
    if prescription.shape != (len(names),):
        problem = f"array 'prescription_gy': expected {len(names)} numbers, got {prescription.shape}"
        raise InputError(archive.path, problem, _REMAKE)
    dose = None
    if "dose" in archive:
        dose = decode_dose(archive)
    return _check_against(
        Case(
            case_id=metadata.pop("case_id"),
            patient=metadata.pop("patient"),
            protocol=metadata.pop("protocol"),
            ct_hu=ct,
            affine=_numbers(archive, "affine", "f", 2).astype(np.float64),
            structures=masks,
            prescription_gy={n: float(p) for n, p in zip(names, prescription, strict=True) if p != 0},
            constraints=_numbers(archive, "constraints", "f", 1).astype(np.float32),
            dose_gy=dose,
            metadata=metadata,
            source=str(archive.path),
        ),
        protocol,
    )


def _read_v2(archive: NpzArchive, protocol: Protocol, spacing_mm: Sequence[float]) -> Case:
    try:
        spacing = np.asarray(spacing_mm, np.float64)
    except (TypeError, ValueError):
        spacing = np.zeros(3)
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        problem = f"voxel spacing: expected three numbers above 0 in mm, got {spacing_mm!r}"
        raise InputError(archive.path, problem, "Correct the spacing")
    ct = _numbers(archive, "ct", "f", 3).astype(np.float32, copy=False)
    sdf = _numbers(archive, "masks_sdf", "f", 4).astype(np.float32, copy=False)
    names = protocol.structure_names
    if sdf.shape != (len(names), *ct.shape):
        raise InputError(
            archive.path,
            f"array 'masks_sdf': expected {len(names)} channels on the CT's grid {ct.shape} for protocol {protocol.name}, "
            f"got {sdf.shape}",
            "Use the matching --protocol_name",
        )
    _require_range(archive, "ct", ct, 0.0, 1.5, "clip(HU, -1000, 3000) / 4000 + 0.5")
    _require_range(archive, "masks_sdf", sdf, -1.0, 1.0, "signed distances / 50 mm")
    if "masks" in archive:
        masks = _numbers(archive, "masks", "ub", 4)
        if masks.shape != sdf.shape:
            raise InputError(archive.path, f"array 'masks': expected {sdf.shape}, got {masks.shape}", "Resample the structures")
        inside = {n: np.greater(mask.swapaxes(0, 1), 0, order="C") for n, mask in zip(names, masks, strict=True)}
    else:
        inside = {n: np.less(distances.swapaxes(0, 1), 0, order="C") for n, distances in zip(names, sdf, strict=True)}
    constraints = _numbers(archive, "constraints", "f", 1).astype(np.float32)
    dose = None
    if "dose" in archive:
        dose = _xyz(_numbers(archive, "dose", "f", 3).astype(np.float32, copy=False)) * np.float32(protocol.rx_gy)
    structures = {name: mask for name, mask in inside.items() if mask.any()}
    stated = {
        c.structure: round(float(v) * c.scale, 3)
        for c, v in zip(protocol.constraints, constraints, strict=False)
        if c.metric == "prescription" and v > 0
    }
    return _check_against(
        Case(
            case_id=archive.path.stem,
            protocol=protocol.name,
            ct_hu=np.rint(np.clip((_xyz(ct) - 0.5) * 4000.0, -1024, 3071)).astype(np.int16),
            affine=lps_affine(spacing.tolist()),
            structures=structures,
            prescription_gy={
                s.name: stated.get(s.name, s.prescription_gy or 0.0) for s in protocol.targets if s.name in structures
            },
            constraints=constraints,
            dose_gy=dose,
            # large: views, not copies
            signed_distances={n: d.swapaxes(0, 1) for n, d in zip(names, sdf, strict=True) if n in structures},
            metadata={"dialect": "v2"},
            source=str(archive.path),
        ),
        protocol,
    )


def _xyz(volume: np.ndarray) -> np.ndarray:
    """(Y, X, Z) of a v2.x file to (X, Y, Z)."""
    return np.ascontiguousarray(volume.swapaxes(0, 1))
