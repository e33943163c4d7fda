"""From a study to a case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_vmat.case import Case
from monai_vmat.dicom.contours import rasterise
from monai_vmat.dicom.ct import read_ct
from monai_vmat.dicom.dose import read_dose
from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.identity import Identity, identifiers
from monai_vmat.dicom.names import NameMatch, match_names, required_structures
from monai_vmat.dicom.plan import Plan, read_plan
from monai_vmat.dicom.plan_dose import dose_on_case, require_whole_plan
from monai_vmat.dicom.resample import resample_image
from monai_vmat.dicom.structure_set import closed_contours, read_structure_set
from monai_vmat.dicom.study import Study
from monai_vmat.errors import InputError
from monai_vmat.masks import BODY, body_from_ct
from monai_vmat.protocol import Protocol

_BODY_MARGIN_MM = 10.0
_BODY_STRIDE = 4  # the body's extent is wanted to a centimetre; of every voxel it would take seconds
_MAX_VOXELS = 2**28  # 1 GiB a float32 volume; a structure needs that much as well while it is drawn


@dataclass(frozen=True)
class Conversion:
    """How cases are made.

    Args:
        protocol: names, prescriptions and constraints.
        mapping: the user's own structure names by ROI name, see :func:`monai_vmat.dicom.names.read_mapping`.
        spacing_mm: voxel size of the case; the CT's when None.
        margin_mm: how far around the targets the case reaches, within the CT; when None it reaches around the body.
        require_dose: whether a study without dose is refused, or a case that awaits its prediction.
        keep_identifiers: write the patient's name, id, birth date and UIDs into the case's metadata.
    """

    protocol: Protocol
    mapping: Mapping[str, str | None] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    margin_mm: float | None = None
    require_dose: bool = True
    keep_identifiers: bool = False


def match_study(study: Study, conversion: Conversion) -> NameMatch:
    """What the names of a study's structure set mean; only its RTSTRUCT is read.

    Raises:
        InputError: the study's own problem, or the structure set's.
    """
    return match_names(read_structure_set(study), conversion.protocol, conversion.mapping)


def require_usable(study: Study, match: NameMatch, conversion: Conversion) -> None:
    """Check what can be known before CT and dose are read.

    Raises:
        InputError: for ambiguous names, required structures that are absent, or a missing dose.
    """
    assert study.structures is not None  # or there would be no names
    match.require_complete(conversion.protocol, study.names(study.structures))
    if conversion.require_dose and not study.doses:
        raise InputError(study.label, "no RTDOSE belongs to it", "Export the plan's dose, or convert with --without-dose")


def study_to_case(
    study: Study, conversion: Conversion, identity: Identity, stated: Mapping[str, float] | None = None
) -> tuple[Case, list[str]]:
    """Read a study.

    Args:
        study: one of :func:`monai_vmat.dicom.study.find_studies`.
        conversion: how.
        identity: names for the case and the patient.
        stated: the plan's own objectives by constraint name; the protocol's defaults hold for the others.

    Returns:
        the case, and remarks: what was decided or left out that a user may want to know.

    Raises:
        InputError: for whatever makes the study unusable, naming file and field.
    """
    protocol = conversion.protocol
    match = match_study(study, conversion)
    assert study.structures is not None  # or there would be no names
    where = study.names(study.structures)
    require_usable(study, match, conversion)
    plan = read_plan(study)
    prescription_gy, prescribed_by = _prescribe(match, plan, protocol)
    remarks = [f"ROI '{name}' for {structure} has no contours: left out" for structure, name in match.undrawn.items()]

    ct_hu, affine = read_ct(study)
    ct_grid = Grid.from_affine(affine, ct_hu.shape)
    contours = {}
    for structure, roi in match.found.items():
        contours[structure], passed_over = closed_contours(roi, where)
        remarks += [passed_over] if passed_over else []
        _require_inside(contours[structure], ct_grid, f"{where}: '{roi.name}'")
    grid = _case_grid(ct_hu, ct_grid, contours, conversion)
    structures = {}
    for structure, closed in contours.items():
        mask = rasterise(closed, grid, ct_grid.spacing_mm[2])
        if mask.any():
            structures[structure] = mask
        elif structure in required_structures(protocol):
            raise InputError(where, f"required structure '{structure}' fills no voxel", "Choose a smaller --spacing-mm")
        else:
            remarks.append(f"{structure} fills no voxel of the case: left out")
    prescription_gy = {name: dose for name, dose in prescription_gy.items() if name in structures}

    metadata: dict[str, Any] = {
        "source": "DICOM-RT",
        "fractions": plan.fractions or protocol.fractions,
        "fractions_from": "plan" if plan.fractions else "protocol",
        "prescription_from": {name: prescribed_by[name] for name in prescription_gy},
    }
    dose = None
    if study.doses:
        native_gy, dose_grid = read_dose(study, plan.beams)
        dose = dose_on_case(native_gy, dose_grid, grid)
        require_whole_plan(dose, dose_grid, grid, structures, prescription_gy, study.names(study.doses[0]))
        metadata["dose_from"] = "plan" if len(study.doses) == 1 else f"{len(study.doses)} files"
    if conversion.keep_identifiers:
        metadata["identifiers"] = identifiers(study)
    shown = ", ".join(f"{name} {dose_gy:g} Gy ({prescribed_by[name]})" for name, dose_gy in prescription_gy.items())
    remarks.append(f"{shown} in {metadata['fractions']} fractions ({metadata['fractions_from']})")
    case = Case(
        case_id=identity.case_id,
        patient=identity.patient,
        protocol=protocol.name,
        ct_hu=ct_hu_on(grid, ct_hu, ct_grid),
        affine=grid.affine,
        structures=structures,
        prescription_gy=prescription_gy,
        constraints=protocol.encode_constraints(prescription_gy, stated),
        dose_gy=dose,
        metadata=metadata,
        source=study.label,
    )
    return case, remarks


def ct_hu_on(grid: Grid, ct_hu: np.ndarray, ct_grid: Grid) -> np.ndarray:
    """The CT on another grid within its own: int16 HU. Where voxels coincide they are copied."""
    start = (np.asarray(grid.origin_mm) - ct_grid.origin_mm) / ct_grid.spacing_mm
    if grid.spacing_mm == ct_grid.spacing_mm and np.allclose(start, np.rint(start), atol=1e-6):
        x, y, z = (slice(s, s + n) for s, n in zip(np.rint(start).astype(int), grid.shape, strict=True))
        return np.ascontiguousarray(ct_hu[x, y, z])
    return np.rint(resample_image(ct_hu, ct_grid, grid)).astype(np.int16)


def _prescribe(match: NameMatch, plan: Plan, protocol: Protocol) -> tuple[dict[str, float], dict[str, str]]:
    """Prescription of each target that is there, and who says so."""
    dose: dict[str, float] = {}
    said_by: dict[str, str] = {}
    for target in protocol.targets:
        if target.name not in match.found:
            continue
        own = plan.prescription_gy.get(match.found[target.name].number)
        if own is not None:
            dose[target.name], said_by[target.name] = own, "plan"
        elif target.name == protocol.primary and plan.site_gy is not None and not plan.prescription_gy:
            dose[target.name], said_by[target.name] = plan.site_gy, "plan's highest"
        else:
            assert target.prescription_gy is not None  # checked when the protocol was read
            dose[target.name], said_by[target.name] = target.prescription_gy, "protocol"
    return dose, said_by


def _require_inside(contours: Sequence[np.ndarray], grid: Grid, where: str) -> None:
    points = np.concatenate(contours)
    for axis, name in enumerate("XYZ"):
        low, high = grid.edges_mm(axis)
        found = points[:, axis].min(), points[:, axis].max()
        slack = grid.spacing_mm[axis] / 4  # a contour on a slice that is missing at an end lies half a slice beyond
        if found[0] < low - slack or found[1] > high + slack:
            problem = (
                f"contours from {found[0]:.1f} to {found[1]:.1f} mm along {name}, the CT reaches from {low:.1f} to {high:.1f}"
            )
            raise InputError(where, problem, "Export the CT that it was drawn on, whole")


def _case_grid(ct_hu: np.ndarray, ct_grid: Grid, contours: Mapping[str, Sequence[np.ndarray]], conversion: Conversion) -> Grid:
    """The part of the CT that becomes the case, at its voxel size."""
    spacing = conversion.spacing_mm or ct_grid.spacing_mm
    if conversion.margin_mm is None:
        low, high = _body_mm(ct_hu, ct_grid, contours)
        margin = _BODY_MARGIN_MM
    else:
        targets = [points for t in conversion.protocol.targets for points in contours.get(t.name, ())]
        if not targets:
            raise InputError("--margin-mm", "the study has no target", "Leave the option out")
        everything = np.concatenate(targets)
        low, high = everything.min(0), everything.max(0)
        margin = conversion.margin_mm
    origin, shape = [], []
    for axis in range(3):
        edges, step = ct_grid.edges_mm(axis), ct_grid.spacing_mm[axis]
        first = max(0, math.floor((low[axis] - margin - edges[0]) / step))
        last = min(ct_grid.shape[axis], math.ceil((high[axis] + margin - edges[0]) / step))
        # In whole voxels of the CT, so that without another spacing its values stay as they are.
        extent = (last - first) * step
        count = max(1, math.floor(extent / spacing[axis] + 1e-6))
        shape.append(count)
        origin.append(edges[0] + first * step + (extent - (count - 1) * spacing[axis]) / 2)
    if math.prod(shape) > _MAX_VOXELS:
        problem = f"{spacing} would make a case of {' x '.join(map(str, shape))} voxels"
        raise InputError("--spacing-mm", problem, "Choose larger voxels or a smaller --margin-mm")
    return Grid((origin[0], origin[1], origin[2]), spacing, (shape[0], shape[1], shape[2]))


def _body_mm(ct_hu: np.ndarray, ct_grid: Grid, contours: Mapping[str, Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest coordinates of the body with all structures: across the patient; along it those of the CT."""
    corners = [np.concatenate(several) for several in contours.values()]
    if BODY not in contours:
        body = body_from_ct(ct_hu[::_BODY_STRIDE, ::_BODY_STRIDE])
        index = np.argwhere(body.any(2)) * _BODY_STRIDE
        plane = np.asarray(ct_grid.origin_mm)[:2] + index * np.asarray(ct_grid.spacing_mm)[:2]
        corners.append(np.column_stack([plane, np.full(len(plane), ct_grid.origin_mm[2])]))
    everything = np.concatenate(corners)
    bottom, top = ct_grid.edges_mm(2)
    return np.append(everything.min(0)[:2], bottom), np.append(everything.max(0)[:2], top)
