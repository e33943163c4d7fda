"""Stated objectives reach their entry of the vector, and only that one."""

import pytest
import torch

from monai_vmat.errors import InputError
from monai_vmat.transforms.encode_constraints import EncodeConstraintsd


def test_a_stated_objective_replaces_its_entry_only(prostate):
    plan = torch.as_tensor(prostate.encode_constraints({"PTV70": 70.0, "PTV56": 50.4}))
    stated = {"Rectum_V50Gy": 0.35, "Bowel_V45Gy": 250.0}
    out = EncodeConstraintsd(protocol=prostate)({"constraints": plan, "stated_constraints": stated})
    expected = plan.clone()
    expected[3], expected[11] = 0.35, 0.5
    assert torch.equal(out["constraints"], expected)
    assert "stated_constraints" not in out


def test_nothing_stated_changes_nothing(prostate):
    plan = torch.rand(13)
    assert torch.equal(EncodeConstraintsd(protocol=prostate)({"constraints": plan})["constraints"], plan)


@pytest.mark.parametrize("stated", [{"Rectum": 0.3}, {"Rectum_V50Gy": -1.0}, {"Rectum_V50Gy": "much"}, {"Rectum_V50Gy": True}])
def test_bad_objectives_are_refused(prostate, stated):
    with pytest.raises(InputError, match="Rectum"):
        EncodeConstraintsd(protocol=prostate)({"constraints": torch.zeros(13), "stated_constraints": stated})
