"""A small synthetic patient, and v2.x files of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_vmat.case import SDF_CLIP_MM, V2_SPACING_MM, Case, lps_affine
from monai_vmat.protocol import Protocol

# Centre and radii of each structure along X (to the left), Y (to the back), Z (to the head); the grid spans -1..1.
_PROSTATE = {
    "PTV70": ((0.0, 0.0, 0.0), (0.25, 0.25, 0.4)),
    "PTV56": ((0.0, 0.0, 0.1), (0.35, 0.33, 0.6)),
    "Prostate": ((0.0, 0.0, 0.0), (0.2, 0.2, 0.3)),
    "Rectum": ((0.0, 0.42, 0.0), (0.16, 0.18, 0.8)),
    "Bladder": ((0.0, -0.38, 0.35), (0.35, 0.3, 0.4)),
    "Femur_L": ((0.6, 0.0, -0.3), (0.17, 0.2, 0.5)),
    "Femur_R": ((-0.6, 0.0, -0.3), (0.17, 0.2, 0.5)),
    "Bowel": ((0.0, -0.3, 0.8), (0.4, 0.3, 0.2)),
}
_HEAD_AND_NECK = {
    "PTV70": ((0.15, 0.0, 0.0), (0.25, 0.25, 0.35)),
    "PTV63": ((0.1, 0.0, -0.1), (0.35, 0.3, 0.45)),
    "PTV56": ((0.0, 0.0, -0.1), (0.5, 0.35, 0.6)),
    "Brainstem": ((0.0, 0.3, 0.75), (0.16, 0.16, 0.2)),
    "SpinalCord": ((0.0, 0.5, -0.1), (0.12, 0.12, 0.8)),
    "RightParotid": ((-0.6, 0.1, 0.5), (0.16, 0.18, 0.3)),
    "LeftParotid": ((0.6, 0.1, 0.5), (0.16, 0.18, 0.3)),
    "Esophagus": ((0.0, 0.25, -0.75), (0.12, 0.12, 0.2)),
    "Larynx": ((0.0, -0.35, -0.5), (0.2, 0.18, 0.25)),
    "Mandible": ((0.0, -0.55, 0.3), (0.45, 0.15, 0.2)),
}
_FALL_OFF_MM = 15.0
_DOSE_REGION_MARGIN_MM = 20.0


def make_case(
    protocol: Protocol,
    shape: tuple[int, int, int] = (24, 20, 16),
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    seed: int = 0,
    with_dose: bool = True,
    case_id: str = "case_1",
    patient: str | None = None,
    absent: Collection[str] = (),
) -> Case:
    """A small synthetic patient. Another ``seed`` is another anatomy; ``absent`` is left out."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) + 0.5) * 2 / n - 1 for n in shape]
    body = _ellipsoid(axes, (0.0, 0.0, 0.0), (0.92, 0.88, np.inf))
    ct = np.where(body, rng.normal(30, 15, shape), -1000.0)
    shift = rng.uniform(-0.04, 0.04, 3)
    structures = {}
    places = _HEAD_AND_NECK if "Brainstem" in protocol.structure_names else _PROSTATE
    for name in protocol.structure_names:
        center, radii = places.get(name) or (tuple(rng.uniform(-0.5, 0.5, 3)), (0.2, 0.2, 0.3))
        mask = body & _ellipsoid(axes, center + shift, radii * rng.uniform(0.9, 1.1, 3))
        mask[tuple(int(np.argmin(np.abs(a - c))) for a, c in zip(axes, center, strict=True))] = True  # on the coarsest grid too
        if name.startswith(("Femur", "Mandible")):
            ct[mask] += 500
        if name not in absent:
            structures[name] = mask
    targets = [t for t in protocol.targets if t.name in structures]
    prescription_gy = {t.name: t.prescription_gy for t in targets}
    away_mm = {t.name: ndimage.distance_transform_edt(~structures[t.name], sampling=spacing) for t in targets}
    if protocol.dose_region:
        near = [away_mm[t.name] <= _DOSE_REGION_MARGIN_MM for t in targets]
        structures[protocol.dose_region] = body & np.any(near, axis=0)
    dose = None
    if with_dose:
        falling = [prescription_gy[t.name] * np.exp(-away_mm[t.name] / _FALL_OFF_MM) for t in targets]
        region = structures[protocol.dose_region] if protocol.dose_region else body
        dose = (np.max(falling, axis=0) * rng.normal(1.02, 0.005, shape) * region).astype(np.float32)
    return Case(
        case_id=case_id,
        protocol=protocol.name,
        ct_hu=np.rint(ct).astype(np.int16),
        affine=lps_affine(spacing),
        structures=structures,
        prescription_gy=prescription_gy,
        constraints=protocol.encode_constraints(prescription_gy),
        dose_gy=dose,
        patient=patient or "",
    )


def write_v2(
    path: Path, case: Case | None = None, *, protocol: Protocol, absent_value: float = 0.0, **arrays: np.ndarray | None
) -> Case:
    """Write a v2.x file and return the case that it describes.

    ``absent_value`` is the signed distance of absent structures, ``arrays`` replace (None: leave out) the file's own.
    """
    if case is None:
        case = make_case(protocol, spacing=V2_SPACING_MM)
    masks = [case.structures.get(name, np.zeros(case.ct_hu.shape, bool)) for name in protocol.structure_names]
    content = {
        "ct": _yxz(np.clip(case.ct_hu, -1000, 3000) / np.float32(4000) + np.float32(0.5)),
        "masks": np.stack([_yxz(m) for m in masks]).astype(np.uint8),
        "masks_sdf": np.stack([_yxz(_signed_distance(m, case.spacing_mm, absent_value)) for m in masks]),
        "constraints": case.constraints,
        "metadata": np.asarray({"case_id": case.case_id, "spacing": case.spacing_mm, "n": np.float64(1.0)}, dtype=object),
    }
    if case.dose_gy is not None:
        content["dose"] = _yxz(case.dose_gy / np.float32(protocol.rx_gy))
    np.savez_compressed(path, **{k: v for k, v in (content | arrays).items() if v is not None})
    return case


def _ellipsoid(axes, center, radii) -> np.ndarray:
    x, y, z = np.ix_(*[(a - c) / r for a, c, r in zip(axes, center, radii, strict=True)])
    return x**2 + y**2 + z**2 <= 1


def _signed_distance(mask: np.ndarray, spacing_mm, absent_value: float) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, absent_value, np.float32)
    outside, inside = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (~mask, mask))
    return np.clip((outside - inside) / SDF_CLIP_MM, -1, 1).astype(np.float32)


def _yxz(volume: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(volume.swapaxes(0, 1))
