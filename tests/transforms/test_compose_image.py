"""The input image holds what the protocol says, in its order."""

import numpy as np
import torch

from monai_vmat.beams import beam_doses
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


def test_head_and_neck_adds_what_its_beams_can_do(tmp_path, head_and_neck, make_case):
    case = make_case(head_and_neck)
    item, *_ = composed(case, head_and_neck, tmp_path)
    organs = np.any([case.structures[organ.name] for organ in head_and_neck.organs], 0)
    goal = np.max([case.structures[t.name] * t.prescription_gy / 70 for t in head_and_neck.targets], 0)
    region = case.structures["possible_dose_mask"]
    expected = beam_doses(case.ct_hu, case.affine, region, goal, organs, head_and_neck.gantry_angles_deg)
    assert head_and_neck.channel_names[-2:] == ("open_beams", "best_fluence")
    assert expected.max() > 0.5 and np.allclose(item["image"][-2:].float(), expected, atol=2e-3)
