"""What MONAI's metric handlers compare, in Gy and where it lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_vmat.errors import InputError
from monai_vmat.handlers.dose_pairs import DosePairs


def test_doses_in_gy_masks_in_the_order_asked_for_and_the_voxel_size(prostate, make_case, evaluate_cases):
    case = make_case(prostate, spacing=(3.0, 2.0, 2.5), absent=("Bowel",))
    output = evaluate_cases(prostate, [case], -1.5).state.output
    (prediction,), (reference,) = DosePairs(prostate, ["Rectum", "Bowel", "PTV70", "Body"])(output)
    assert prediction.shape == (1, *case.ct_hu.shape) and reference.shape == (5, *case.ct_hu.shape)
    np.testing.assert_allclose(prediction[0], case.dose_gy - 1.5, atol=1e-4)
    np.testing.assert_allclose(reference[0], case.dose_gy, atol=1e-4)
    np.testing.assert_array_equal(reference[1], case.structures["Rectum"])
    np.testing.assert_array_equal(reference[3], case.structures["PTV70"])
    assert not reference[2].any() and 0.3 < reference[4].mean() < 0.9
    assert torch.equal(reference.affine, torch.diag(torch.tensor([3.0, 2.0, 2.5, 1.0], dtype=torch.float64)))


def test_every_case_of_a_batch_has_its_own(prostate, make_case, evaluate_cases):
    cases = [make_case(prostate, seed=seed, spacing=(spacing,) * 3) for seed, spacing in ((0, 2.0), (1, 3.0))]
    outputs = [evaluate_cases(prostate, [case], 0.0).state.output[0] for case in cases]
    predictions, references = DosePairs(prostate)(outputs)
    assert [float(r.affine[0, 0]) for r in references] == [2.0, 3.0] and not torch.equal(*predictions)
    assert all(r.shape[0] == 1 for r in references)


def test_unknown_structures(prostate):
    with pytest.raises(InputError, match="structure 'PTV': protocol prostate_sib has none. Known: .*Body"):
        DosePairs(prostate, ["PTV"])
