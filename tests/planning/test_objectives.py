"""What is asked for, and what it costs not to get it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_vmat.planning.objectives import Objectives, PlanCost
from monai_vmat.protocol import load_protocol

PROTOCOL = load_protocol("prostate_sib")


@pytest.fixture(scope="module")
def masks(small) -> dict[str, np.ndarray]:
    return small.structures


def make_cost(masks, lean: float = 0.5, ptv56_gy: float = 56.0) -> PlanCost:
    voxels = np.flatnonzero(masks["Body"])
    return PlanCost(Objectives("x", lean, ptv56_gy), masks, 3.0, voxels, np.ones(len(voxels)))


def ideal(masks, ptv56_gy: float = 56.0) -> torch.Tensor:
    """What is prescribed in the targets, and a steep fall-off outside."""
    distance = ndimage.distance_transform_edt(~masks["PTV56"]) * 3.0
    dose = np.where(masks["PTV70"], 71.0, np.where(masks["PTV56"], ptv56_gy + 1.3, ptv56_gy * np.exp(-distance / 6)))
    return torch.from_numpy(dose[masks["Body"]]).float()


def test_stated_objectives_are_the_protocols_constraints_and_lean():
    rectum, bladder = Objectives("rectum-first", 1.0).stated, Objectives("bladder-first", 0.0).stated
    for name in rectum:
        assert (rectum[name] < bladder[name]) == name.startswith("Rectum"), name
    assert rectum["Rectum_V50Gy"] == 0.12 and bladder["Rectum_V50Gy"] == 0.35  # the ends of the range
    vector = PROTOCOL.encode_constraints({"PTV70": 70.0, "PTV56": 50.4}, Objectives("balanced", 0.5, 50.4).stated)
    assert vector[:3].tolist() == pytest.approx([1.0, 0.0, 0.72])
    vector = PROTOCOL.encode_constraints({"PTV70": 70.0, "PTV56": 56.0}, rectum)
    assert vector[:3].tolist() == pytest.approx([1.0, 0.8, 0.0])


def test_every_departure_costs(masks):
    cost, best = make_cost(masks), ideal(masks)
    body = masks["Body"]
    least = float(cost(best))

    def changed(name: str, gy: float) -> float:
        dose = best.clone()
        dose[torch.from_numpy(masks[name][body])] += gy
        return float(cost(dose))

    assert changed("PTV70", -3) > least + 50 and changed("PTV70", 4) > least + 50
    low_only = best.clone()
    low_only[torch.from_numpy((masks["PTV56"] & ~masks["PTV70"])[body])] -= 3
    assert float(cost(low_only)) > least + 50
    for organ in ("Rectum", "Bladder", "Femur_L"):
        assert changed(organ, 40) > least + 1, organ
    peak = torch.zeros_like(best)
    peak[torch.from_numpy(masks["PTV70"][body])] = 4.0
    assert float(cost(best, peak)) > least + 50


def test_lean_says_whose_dose_counts(masks):
    best, body = ideal(masks), masks["Body"]

    def price(lean: float, organ: str) -> float:
        cost, dose = make_cost(masks, lean), best.clone()
        dose[torch.from_numpy(masks[organ][body])] += 10
        return float(cost(dose) - cost(best))

    assert price(0.9, "Rectum") > 3 * price(0.1, "Rectum")
    assert price(0.1, "Bladder") > 3 * price(0.9, "Bladder")


def test_a_lower_prescription_is_held(masks):
    assert (
        float(make_cost(masks, ptv56_gy=50.4)(ideal(masks, 50.4)))
        < float(make_cost(masks, ptv56_gy=56.0)(ideal(masks, 50.4))) - 100
    )
