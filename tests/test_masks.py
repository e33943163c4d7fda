import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from monai_vmat.masks import BODY, DOSE_REGION, bit_names, body_from_ct, pack_masks, swap_pairs, unpack_mask, unpack_masks
from monai_vmat.protocol import MAX_STRUCTURES, load_protocol


def random_masks(protocol, shape=(5, 4, 3)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random(shape) < 0.5 for name in bit_names(protocol)}


@pytest.fixture(params=["prostate", "head_and_neck", "crowded"])
def protocol(request, tmp_path):
    if request.param != "crowded":
        return request.getfixturevalue(request.param)
    raw = json.loads((files("monai_vmat") / "protocols" / "prostate_sib.json").read_text())
    organ = raw["structures"][-1]
    raw["structures"] += [{**organ, "name": f"Organ{i}"} for i in range(MAX_STRUCTURES - len(raw["structures"]))]
    (tmp_path / "crowded.json").write_text(json.dumps(raw))
    return load_protocol(tmp_path / "crowded.json")


def test_bits_are_the_structures_then_body_and_dose_region(prostate):
    names = bit_names(prostate)
    assert (names[0], names[7], names[8:]) == ("PTV70", "Bowel", (BODY, DOSE_REGION))
    one = np.ones((1, 1, 1), bool)
    assert pack_masks({"PTV70": one, "Rectum": one, BODY: one}, prostate).item() == 1 + 8 + 256


def test_unpacking_undoes_packing(protocol):
    masks = random_masks(protocol)
    packed = pack_masks(masks, protocol)
    assert packed.dtype == (np.int16 if len(bit_names(protocol)) < 16 else np.int32)
    assert (packed >= 0).all()
    for name, mask in masks.items():
        np.testing.assert_array_equal(unpack_mask(packed, name, protocol), mask)
        np.testing.assert_array_equal(unpack_mask(torch.from_numpy(packed)[None], name, protocol)[0], mask)
    found = unpack_masks(packed, protocol)
    assert list(found) == list(masks)


def test_absent_structures_stay_empty(prostate):
    masks = random_masks(prostate)
    del masks["Rectum"]
    packed = pack_masks({**masks, "unknown": np.ones((5, 4, 3), bool)}, prostate)
    assert not unpack_mask(packed, "Rectum", prostate).any()
    assert list(unpack_masks(packed, prostate)) == list(masks)


def test_swapping_exchanges_pairs_alone(protocol):
    masks = random_masks(protocol)
    packed = torch.from_numpy(pack_masks(masks, protocol))
    swapped = swap_pairs(packed, protocol)
    partner = {a: b for pair in protocol.pairs for a, b in (pair, pair[::-1])}
    for name in masks:
        np.testing.assert_array_equal(unpack_mask(swapped, name, protocol), masks[partner.get(name, name)])
    assert swapped.dtype == packed.dtype
    assert torch.equal(swap_pairs(swapped, protocol), packed)


def test_body_is_the_largest_piece_with_its_cavities():
    x, y, z = np.ogrid[-12:13, -10:11, -8:9]
    ellipsoid = (x / 10) ** 2 + (y / 6) ** 2 + (z / 7.5) ** 2 <= 1
    cavity = (x / 4) ** 2 + (y / 3) ** 2 + (z / 4) ** 2 <= 1
    couch = np.broadcast_to((y == 9) & (np.abs(x) < 12), ellipsoid.shape)
    ct = np.full(ellipsoid.shape, -1000, np.int16)
    ct[ellipsoid] = 0
    ct[cavity] = -900
    ct[couch] = 200
    np.testing.assert_array_equal(body_from_ct(ct), ellipsoid)


def test_cavities_are_filled_slice_by_slice_and_what_is_open_to_the_air_stays_open():
    ct = np.full((7, 7, 5), -1000, np.int16)
    ct[:6, 1:6] = 0  # at the grid's edge on three sides
    ct[2, 2] = -900  # a tunnel from the lowest slice to the highest
    ct[2, 3:, 2] = -900  # open to the air in one slice
    ct[0, 3] = -900  # a groove along the edge
    expected = np.zeros(ct.shape, bool)
    expected[:6, 1:6] = True
    expected[2, 2:, 2] = expected[0, 3] = False
    np.testing.assert_array_equal(body_from_ct(ct), expected)


def test_body_starts_above_minus_400_hu():
    ct = np.full((3, 3, 3), -1000, np.int16)
    ct[1, 1, 1] = -400
    assert not body_from_ct(ct).any()
    ct[1, 1, 1] = -399
    assert np.argwhere(body_from_ct(ct)).tolist() == [[1, 1, 1]]


def test_body_of_a_patient_covers_all_structures(make_case, prostate):
    case = make_case(prostate)
    body = body_from_ct(case.ct_hu)
    assert all(body[mask].all() for mask in case.structures.values())
    assert not body[[0, -1]].any()
