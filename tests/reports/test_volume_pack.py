"""What is packed into a page comes out as it went in, to the stated step."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest

from monai_vmat.reports.evaluation import CaseVolumes
from monai_vmat.reports.planes import CT_WINDOW_HU
from monai_vmat.reports.volume_pack import pack, pack_case


def unpack(packed: dict, shape: tuple[int, ...]) -> np.ndarray:
    """What the page's script does."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(shape[::-1]).transpose(2, 1, 0)
    return np.cumsum(np.cumsum(codes, axis=0, dtype=np.uint8), axis=1, dtype=np.uint8) if packed["delta"] else codes


def values(packed: dict, name: str) -> np.ndarray:
    volume = packed["volumes"][name]
    return volume["low"] + volume["step"] * unpack(volume, packed["shape"]).astype(np.float64)


@pytest.fixture
def volumes(head_and_neck, make_case) -> CaseVolumes:
    case = make_case(head_and_neck, spacing=(3.0, 2.0, 5.0))
    rng = np.random.default_rng(1)
    gamma = rng.uniform(0, 2, case.dose_gy.shape).astype(np.float32)
    gamma[case.dose_gy < 7] = np.nan
    gamma[12, 10, 7:9] = np.nextafter(np.float32(1), np.float32(0)), 1.0
    return CaseVolumes(
        case_id=case.case_id,
        spacing_mm=case.spacing_mm,
        ct_hu=case.ct_hu,
        masks={name: case.structures[name] for name in head_and_neck.structure_names},
        reference_gy=case.dose_gy,
        predicted_gy=np.maximum(0, case.dose_gy + rng.normal(0, 3, case.dose_gy.shape)).astype(np.float32),
        gamma=gamma,
        gamma_convention="",
    )


def box_of(packed: dict) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first, size in zip(packed["first"], packed["shape"], strict=True))


def test_doses_and_ct_come_back_to_half_a_step(volumes):
    packed = json.loads(json.dumps(pack_case(volumes, "PTV70")))
    box = box_of(packed)
    steps = {name: volume["step"] for name, volume in packed["volumes"].items()}
    reference, difference = values(packed, "reference"), values(packed, "difference")
    assert steps["reference"] == pytest.approx(volumes.reference_gy.max() / 255)
    assert np.abs(reference - volumes.reference_gy[box]).max() <= 0.5001 * steps["reference"]
    expected = (volumes.predicted_gy - volumes.reference_gy)[box]
    assert np.abs(difference - expected).max() <= 0.5001 * steps["difference"]
    assert steps["difference"] == pytest.approx(np.abs(expected).max() / 127)
    assert (difference[expected == 0] == 0).all()  # where the doses agree nothing is to be seen
    ct = np.clip(volumes.ct_hu[box], *CT_WINDOW_HU)
    assert np.abs(values(packed, "ct") - ct).max() <= 0.5001 * steps["ct"]
    assert packed["spacing"] == [3.0, 2.0, 5.0]


def test_gamma_keeps_pass_and_fail_and_what_was_not_evaluated(volumes):
    packed = pack_case(volumes, "PTV70")
    gamma, codes = volumes.gamma[box_of(packed)], unpack(packed["volumes"]["gamma"], packed["shape"])
    step = packed["volumes"]["gamma"]["step"]
    assert np.array_equal(codes == 0, np.isnan(gamma))
    known = codes > 0
    assert np.array_equal(codes[known] * step <= 1, gamma[known] < 1)
    assert ((codes[known] - 1) * step <= gamma[known] + 1e-6).all() and (gamma[known] < codes[known] * step + 1e-6).all()


def test_masks_come_back_exactly_also_beyond_eight(volumes):
    packed = pack_case(volumes, "PTV70")
    assert packed["structures"] == list(volumes.masks) and len(packed["structures"]) == 10 and len(packed["masks"]) == 2
    planes = [unpack(plane, packed["shape"]) for plane in packed["masks"]]
    for index, (name, mask) in enumerate(volumes.masks.items()):
        assert np.array_equal(planes[index // 8] >> (index % 8) & 1, mask[box_of(packed)]), name


def test_the_box_holds_all_dose_and_structures_and_little_more(volumes):
    empty = np.zeros_like(volumes.reference_gy)
    empty[8:11, 5:9, 6:8] = 60.0
    mask = np.zeros(empty.shape, bool)
    mask[9, 12, 7] = True
    small = CaseVolumes("c", (3.0, 2.0, 5.0), volumes.ct_hu, {"PTV70": mask}, empty, empty, volumes.gamma, "")
    packed = pack_case(small, "PTV70")
    assert packed["first"] == [5, 2, 3] and packed["shape"] == (9, 14, 8)  # a margin of three voxels
    assert packed["start"] == [4, 10, 4]  # the only voxel of PTV70
    assert pack_case(small, "PTV56")["start"] == [4, 6, 4]  # the middle
    assert packed["dose_top"] == 60.0 and packed["difference_limit"] == 1.0


@pytest.mark.parametrize("smooth", [True, False])
def test_packing_loses_nothing(smooth):
    x, y, z = np.indices((40, 30, 20))
    codes = (
        np.rint(127 + 127 * np.sin(x / 9) * np.cos(y / 7 + z / 5)) if smooth else (x * 7919 + y * 104729 + z * 31) ** 2 % 256
    )
    packed = pack(codes)
    assert packed["delta"] is smooth
    assert np.array_equal(unpack(packed, codes.shape), codes)
