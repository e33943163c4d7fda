"""A mirrored patient has its left organs on the left."""

from dataclasses import replace

import numpy as np
import torch

from monai_vmat.case import write_case
from monai_vmat.masks import unpack_mask
from monai_vmat.transforms.compose_image import ComposeImaged
from monai_vmat.transforms.flip_left_right import RandFlipLeftRightd, mirror_constraints, mirror_image
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.transforms.signed_distance import SignedDistanced

KEYS = ["image", "label", "structures"]


def load(case, protocol, folder):
    write_case(case, folder / "a.npz")
    item = {"case": str(folder / "a.npz")}
    for transform in (LoadCased, SignedDistanced, ComposeImaged):
        item = transform(protocol=protocol)(item)
    return item | {key: item[key].as_tensor() for key in KEYS}


def test_flip_equals_loading_a_mirrored_patient(tmp_path, head_and_neck, make_case):
    """The law: augmenting the patient is the same as having the mirrored patient in the first place."""
    case = make_case(head_and_neck)
    limits = {"LeftParotid_Dmean": 20.0, "RightParotid_Dmean": 30.0}
    swapped = dict(zip(limits, reversed(limits.values()), strict=True))
    case = replace(case, constraints=head_and_neck.encode_constraints(case.prescription_gy, limits))
    opposite = {"LeftParotid": "RightParotid", "RightParotid": "LeftParotid"}
    mirrored = type(case)(
        **{
            **vars(case),
            "ct_hu": case.ct_hu[::-1].copy(),
            "dose_gy": case.dose_gy[::-1].copy(),
            "constraints": head_and_neck.encode_constraints(case.prescription_gy, swapped),
            "structures": {opposite.get(n, n): m[::-1].copy() for n, m in case.structures.items()},
        }
    )
    flipped = RandFlipLeftRightd(KEYS, protocol=head_and_neck, prob=1.0)(load(case, head_and_neck, tmp_path))
    expected = load(mirrored, head_and_neck, tmp_path)
    for key in ("label", "structures", "constraints"):
        assert torch.equal(flipped[key], expected[key]), key
    beams = len(head_and_neck.channel_names) - 2  # sums of the other order: a step of float16 at most
    assert torch.equal(flipped["image"][:beams], expected["image"][:beams])
    assert expected["image"][beams:].max() > 0.5
    assert torch.allclose(flipped["image"][beams:], expected["image"][beams:], rtol=1e-3, atol=1e-5)


def test_the_left_parotid_stays_on_the_patients_left(tmp_path, head_and_neck, make_case):
    item = load(make_case(head_and_neck), head_and_neck, tmp_path)
    flipped = RandFlipLeftRightd(KEYS, protocol=head_and_neck, prob=1.0)(item)
    for data in (item, flipped):
        bits = data["structures"].numpy()[0]
        left, right = (
            np.argwhere(unpack_mask(bits, f"{side}Parotid", head_and_neck))[:, 0].mean() for side in ("Left", "Right")
        )
        assert left > right  # X indices grow towards the patient's left


def test_front_and_head_stay_where_they_are(head_and_neck):
    image = torch.rand(head_and_neck.in_channels, 6, 5, 4)
    ct = mirror_image(image, head_and_neck)[0]
    assert torch.equal(ct, image[0].flip(0)) and not torch.equal(ct, image[0].flip(1))


def test_twice_is_nothing(head_and_neck):
    image = torch.rand(head_and_neck.in_channels, 4, 4, 4)
    assert torch.equal(mirror_image(mirror_image(image, head_and_neck), head_and_neck), image)


def test_a_constraint_without_partner_stays(prostate):
    vectors = torch.rand(2, prostate.constraint_dim)  # its one limit for femurs holds for both
    assert torch.equal(mirror_constraints(vectors, prostate), vectors)


def test_probability(tmp_path, prostate):
    flip = RandFlipLeftRightd(["label"], protocol=prostate, prob=0.5).set_random_state(seed=1)
    label = torch.arange(4.0).reshape(1, 4, 1, 1)
    flipped = sum(not torch.equal(flip({"label": label})["label"], label) for _ in range(400))
    assert 160 < flipped < 240
