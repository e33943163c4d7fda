"""The input image holds what the protocol says, in its order."""

import numpy as np
import torch

from monai_vmat.case import write_case
from monai_vmat.transforms.compose_image import ComposeImaged
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.transforms.signed_distance import SignedDistanced


def composed(case, protocol, folder):
    write_case(case, folder / "a.npz")
    item = SignedDistanced(protocol=protocol)(LoadCased(protocol=protocol)({"case": str(folder / "a.npz")}))
    kept = item["ct"].clone(), item["signed_distances"].clone()
    return ComposeImaged(protocol=protocol)(item), *kept


def test_prostate_is_ct_and_distances(tmp_path, prostate, make_case):
    item, ct, distances = composed(make_case(prostate), prostate, tmp_path)
    assert item["image"].shape[0] == prostate.in_channels == 9
    assert torch.equal(item["image"][:1], ct.half()) and torch.equal(item["image"][1:], distances)
    assert "ct" not in item and "signed_distances" not in item


def test_head_and_neck_adds_prescription_and_region(tmp_path, head_and_neck, make_case):
    case = make_case(head_and_neck, absent=("PTV63",))
    item, *_ = composed(case, head_and_neck, tmp_path)
    image = dict(zip(head_and_neck.channel_names, item["image"].float().numpy(), strict=True))
    expected = np.maximum(case.structures["PTV70"] * 1.0, case.structures["PTV56"] * 0.8)
    assert np.allclose(image["prescribed_dose"], expected, atol=1e-3)
    assert np.array_equal(image["dose_region"] == 1, case.structures["possible_dose_mask"])
    assert (image["PTV63"] == 0).all()
