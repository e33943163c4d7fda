"""A case as large as earlier users' files, 300 x 300 x 160 voxels of 1 x 1 x 2 mm, made of a case of the embedded cohort."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_vmat.case import Case, lps_affine, read_case
from monai_vmat.datalist import read_datalist
from monai_vmat.protocol import Protocol
from monai_vmat.transforms.load_case import scale_ct
from monai_vmat.transforms.signed_distance import signed_distance

SHAPE, SPACING_MM = (300, 300, 160), (1.0, 1.0, 2.0)
COHORT = Path(__file__).resolve().parents[1] / "data" / "cohort"


def large_cases(protocol: Protocol, count: int) -> list[Case]:
    """The first ``count`` test cases of the cohort, resampled about the middle of their targets."""
    return [enlarge(read_case(item["case"], protocol)) for item in read_datalist(COHORT / "datalist.json", "test")[:count]]


def enlarge(case: Case) -> Case:
    """CT and dose by linear, masks by nearest interpolation; air and no dose beyond the case's grid."""
    old, new = np.array(case.spacing_mm), np.array(SPACING_MM)
    target = np.any([mask for name, mask in case.structures.items() if name.startswith("PTV")], 0)
    middle = np.argwhere(target).mean(0)
    offset = middle - (np.array(SHAPE) - 1) / 2 * new / old

    def resample(volume: np.ndarray, order: int, outside: float) -> np.ndarray:
        return ndimage.affine_transform(volume, new / old, offset, SHAPE, order=order, cval=outside)

    assert case.dose_gy is not None  # the cohort's cases are training cases
    return replace(
        case,
        ct_hu=np.rint(resample(case.ct_hu.astype(np.float32), 1, -1000)).astype(np.int16),
        dose_gy=resample(case.dose_gy, 1, 0),
        affine=lps_affine(SPACING_MM),
        structures={name: resample(mask.astype(np.uint8), 0, 0).astype(bool) for name, mask in case.structures.items()},
    )


def write_v2(case: Case, protocol: Protocol, path: Path, compressed: bool) -> None:
    """The case as a v2.x file: float32 arrays (Y, X, Z), one distance channel a structure."""

    def yxz(volume: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(volume.transpose(1, 0, 2))

    absent = np.zeros(SHAPE, bool)
    masks = [case.structures.get(name, absent) for name in protocol.structure_names]
    content = {
        "ct": yxz(scale_ct(case.ct_hu)),
        "dose": yxz(case.dose_gy / np.float32(protocol.rx_gy)),
        "masks_sdf": np.stack([yxz(signed_distance(mask, SPACING_MM)) for mask in masks]),
        "masks": np.stack([yxz(mask) for mask in masks]).astype(np.uint8),
        "constraints": case.constraints,
    }
    (np.savez_compressed if compressed else np.savez)(path, **content)
