"""From free fluence to arcs that a linac can turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

from monai_vmat.planning.arcs import sliding_windows  # noqa: E402
from monai_vmat.planning.beam_model import FRACTIONS, halve  # noqa: E402
from monai_vmat.planning.objectives import Objectives, PlanCost  # noqa: E402
from monai_vmat.planning.optimise import free_fluence, full_dose, refine  # noqa: E402


@pytest.fixture(scope="module")
def cost(planner) -> PlanCost:
    return PlanCost(Objectives("rectum-first", 0.9), planner.masks, 6.0, planner.voxels, planner.weights)


@pytest.fixture(scope="module")
def start(planner, cost):
    target = cost.masks["PTV70"]
    arcs = sliding_windows(free_fluence(planner.bixels, cost, target), planner.bixels, 2, 9)
    model = FRACTIONS * (arcs.fluence(planner.bixels) @ planner.bixels.dose_gy)
    return replace(arcs, monitor_units=arcs.monitor_units * 70.6 / float(model[target].median()))


@pytest.fixture(scope="module")
def refined(planner, cost, start):
    none = torch.zeros(len(planner.voxels))
    return refine(start, planner.bixels, cost, none, none, 60, 1.5)


def test_free_fluence_covers_the_target_and_is_never_negative(planner, cost):
    target = cost.masks["PTV70"]
    fluence = free_fluence(planner.bixels, cost, target)
    assert (fluence >= 0).all()
    dose = FRACTIONS * (fluence @ planner.bixels.dose_gy)
    assert np.percentile(dose[target], 5) > 66.5 and float(dose[cost.masks["Rectum"]].mean()) < 35


def test_refining_lowers_the_cost_within_the_linacs_limits(planner, cost, start, refined):
    bixels = planner.bixels

    def of(arcs) -> float:
        return float(cost(FRACTIONS * (arcs.fluence(bixels) @ bixels.dose_gy)))

    assert of(refined) < 0.6 * of(start)
    assert (refined.right_mm >= refined.left_mm).all() and (refined.monitor_units > 0).all()
    edges = bixels.column_edges_mm
    for angle, row in ((0, 5), (20, 6)):
        columns = torch.nonzero(bixels.openable[angle, row])[:, 0]
        assert float(refined.left_mm[:, angle, row].min()) >= float(edges[columns[0]])
        assert float(refined.right_mm[:, angle, row].max()) <= float(edges[columns[-1] + 1])
    travel = torch.cat([refined.left_mm.diff(dim=1), refined.right_mm.diff(dim=1)]).abs()
    assert float(travel.quantile(0.99)) < 25
    units = refined.monitor_units
    assert float(units.max() / units.min()) < np.exp(2.6)


def test_the_model_and_the_full_engine_agree_in_the_target(planner, cost, refined):
    """Head scatter, leakage and fine edges change the dose by some per cent: that is what the correction is for."""
    dose = torch.from_numpy(full_dose(refined, planner.bixels, planner.fine, between=True))
    full = halve(dose).flatten()[torch.from_numpy(planner.voxels)]
    model = FRACTIONS * (refined.fluence(planner.bixels) @ planner.bixels.dose_gy)
    target = cost.masks["PTV70"]
    assert float(full[target].mean()) == pytest.approx(float(model[target].mean()), rel=0.08)
    assert float(torch.corrcoef(torch.stack([full, model]))[0, 1]) > 0.98
    at_points = full_dose(refined, planner.bixels, planner.fine, between=False)
    inside = planner.fine.place(planner.phantom.structures["PTV70"]) > 0
    assert float(at_points[inside].mean()) == pytest.approx(float(dose.numpy()[inside].mean()), rel=0.01)


def test_dose_is_proportional_to_monitor_units(planner, refined):
    twice = replace(refined, monitor_units=2 * refined.monitor_units)
    once, doubled = (full_dose(a, planner.bixels, planner.fine, between=False) for a in (refined, twice))
    np.testing.assert_allclose(doubled, 2 * once, rtol=1e-3, atol=1e-3)
