"""The dose that leaves the program: whole grid, no negative values, nothing outside the dose region."""

import numpy as np
import pytest
import torch

from monai_vmat.errors import InputError
from monai_vmat.masks import BODY, DOSE_REGION, pack_masks
from monai_vmat.transforms.finish_dose import FinishDosed


def test_crop_goes_back_to_its_place(prostate):
    structures = torch.as_tensor(pack_masks({BODY: np.ones((6, 7, 8), bool)}, prostate)[None])
    pred = torch.rand(1, 2, 3, 4) + 0.1
    item = {"pred": pred, "structures": structures, "foreground_start_coord": np.asarray([1, 2, 3])}
    out = FinishDosed(protocol=prostate)(item)["pred"]
    assert out.shape == (1, 6, 7, 8)
    assert torch.equal(out[:, 1:3, 2:5, 3:7], pred) and "pred_sd" not in FinishDosed(protocol=prostate)(item)
    assert int((out != 0).sum()) == pred.numel()


def test_the_standard_deviation_goes_beside_the_dose(head_and_neck):
    region = np.zeros((4, 4, 4), bool)
    region[:2] = True
    structures = torch.as_tensor(pack_masks({DOSE_REGION: region}, head_and_neck)[None])
    item = {"pred": torch.stack([torch.full((3, 4, 4), 2.0), torch.full((3, 4, 4), 0.5)]), "structures": structures}
    out = FinishDosed(protocol=head_and_neck)(item | {"foreground_start_coord": np.zeros(3, int)})
    assert out["pred"].shape == out["pred_sd"].shape == (1, 4, 4, 4)
    assert (out["pred"].sum(), out["pred_sd"].sum()) == (64.0, 16.0)  # inside the region alone


def test_negative_becomes_zero(prostate):
    structures = torch.zeros((1, 2, 2, 2), dtype=torch.int16)
    pred = torch.tensor([-1.0, 0.5]).repeat(4).reshape(1, 2, 2, 2)
    item = {"pred": pred, "structures": structures, "foreground_start_coord": np.zeros(3, int)}
    out = FinishDosed(protocol=prostate)(item)["pred"]
    assert sorted(out.unique().tolist()) == [0.0, 0.5]


def test_only_a_protocol_with_a_dose_region_is_masked(prostate, head_and_neck):
    region = np.zeros((4, 4, 4), bool)
    region[:2] = True
    pred = torch.ones(1, 4, 4, 4)
    for protocol, kept in ((head_and_neck, 32), (prostate, 64)):
        structures = torch.as_tensor(pack_masks({DOSE_REGION: region}, protocol)[None])
        item = {"pred": pred, "structures": structures, "foreground_start_coord": np.zeros(3, int)}
        assert float(FinishDosed(protocol=protocol)(item)["pred"].sum()) == kept


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_dose_names_its_case(prostate, value):
    structures = torch.as_tensor(pack_masks({BODY: np.ones((2, 2, 2), bool)}, prostate)[None])
    pred = torch.ones(1, 2, 2, 2)
    pred[0, 1, 0, 1] = value
    with pytest.raises(InputError, match="^case p7: its predicted dose holds NaN or infinity"):
        FinishDosed(protocol=prostate)(
            {"pred": pred, "structures": structures, "foreground_start_coord": np.zeros(3, int), "case_id": "p7"}
        )
