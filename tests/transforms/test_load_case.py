"""What a case file becomes in memory."""

import numpy as np
import pytest
import torch

from monai_vmat.case import write_case
from monai_vmat.errors import InputError
from monai_vmat.masks import BODY, DOSE_REGION, unpack_mask
from monai_vmat.transforms.load_case import LoadCased, case_masks, scale_ct


def test_ct_scale_is_that_of_the_stored_files():
    ct = np.asarray([-2000, -1000, 0, 1000, 3000, 4000], np.int16)
    assert scale_ct(ct) == pytest.approx([0.25, 0.25, 0.5, 0.75, 1.25, 1.25])


def test_native_case(tmp_path, prostate, make_case):
    case = make_case(prostate, spacing=(2.0, 3.0, 4.0))
    write_case(case, tmp_path / "a.npz")
    item = LoadCased(protocol=prostate)({"case": str(tmp_path / "a.npz")})
    assert item["case_id"] == case.case_id
    assert item["ct"].shape == item["label"].shape == item["structures"].shape == (1, *case.ct_hu.shape)
    assert torch.allclose(item["label"] * 70, torch.as_tensor(case.dose_gy)[None], atol=0.0051)
    assert item["constraints"].tolist() == pytest.approx(case.constraints.tolist())
    assert item["prescription_gy"].tolist() == [70.0, 56.0]
    assert item["spacing_mm"].tolist() == [2.0, 3.0, 4.0]
    assert np.allclose(item["ct"].affine, case.affine)
    for name, mask in case.structures.items():
        assert np.array_equal(unpack_mask(item["structures"].numpy()[0], name, prostate), mask)


def test_a_case_without_dose_has_no_label(tmp_path, prostate, make_case):
    write_case(make_case(prostate, with_dose=False), tmp_path / "a.npz")
    assert "label" not in LoadCased(protocol=prostate)({"case": str(tmp_path / "a.npz")})


def test_training_refuses_a_case_without_dose(tmp_path, prostate, make_case):
    write_case(make_case(prostate, with_dose=False), tmp_path / "a.npz")
    with pytest.raises(InputError, match="a.npz.*'dose'"):
        LoadCased(protocol=prostate, require_dose=True)({"case": str(tmp_path / "a.npz")})


def test_the_datalists_names_hold(tmp_path, prostate, make_case):
    write_case(make_case(prostate), tmp_path / "a.npz")
    item = LoadCased(protocol=prostate)({"case": str(tmp_path / "a.npz"), "case_id": "plan_b", "patient": "p"})
    assert (item["case_id"], item["patient"]) == ("plan_b", "p")


def test_an_empty_body_is_told(tmp_path, prostate, make_case):
    case = make_case(prostate)
    case.ct_hu[:] = -1000
    write_case(case, tmp_path / "a.npz")
    with pytest.raises(InputError, match="a.npz.*no body"):
        LoadCased(protocol=prostate)({"case": str(tmp_path / "a.npz")})


def test_v2_files_bring_their_distances(tmp_path, prostate, write_v2):
    case = write_v2(tmp_path / "v2.npz")
    item = LoadCased(protocol=prostate)({"case": str(tmp_path / "v2.npz")})
    assert item["stored_distances"].shape == (8, *case.ct_hu.shape)
    assert ((item["stored_distances"][0] < 0).numpy() == case.structures["PTV70"]).all()


def test_dose_region_is_the_protocols_or_the_body(prostate, head_and_neck, make_case):
    pelvis, neck = make_case(prostate), make_case(head_and_neck)
    masks = case_masks(pelvis, prostate)
    assert np.array_equal(masks[DOSE_REGION], masks[BODY])
    assert np.array_equal(case_masks(neck, head_and_neck)[DOSE_REGION], neck.structures["possible_dose_mask"])


def test_a_missing_dose_region_is_told(tmp_path, head_and_neck, make_case):
    case = make_case(head_and_neck)
    del case.structures["possible_dose_mask"]
    write_case(case, tmp_path / "a.npz")
    with pytest.raises(InputError, match="a.npz.*possible_dose_mask"):
        LoadCased(protocol=head_and_neck)({"case": str(tmp_path / "a.npz")})
