"""Plans and the gates they pass."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

from monai_vmat.planning.objectives import Objectives  # noqa: E402
from monai_vmat.planning.plan import PTV70_D95_GY, gates  # noqa: E402


def test_gates_by_hand():
    dose = np.zeros((10, 10, 1), np.float32)
    names = ("PTV70", "PTV56", "Rectum", "Bladder", "Femur_L", "Femur_R")
    structures = {name: np.zeros(dose.shape, bool) for name in names}
    for row, name in enumerate(names):
        structures[name][row] = True
    dose[0] = 70
    dose[1] = 54
    dose[2, :2] = 70  # 20 % of the rectum
    dose[2, 2:4] = 50
    dose[4, 3] = 45.5
    found = {g.name: g for g in gates(dose, structures, 56.0)}
    assert [g.name for g in found.values() if not g.passed] == ["Rectum V70", "Rectum V50", "Femur max"]
    assert found["Rectum V70"].value == pytest.approx(20) and found["Rectum V50"].value == pytest.approx(40)
    assert found["Rectum mean"].value == pytest.approx(24) and found["Femur max"].value == pytest.approx(45.5)
    assert found["PTV56 D95"].limit == pytest.approx(53.2)
    assert not {g.name: g for g in gates(dose - 1, structures, 56.0)}["PTV56 D95"].passed
    assert {g.name: g for g in gates(dose - 1, structures, 50.4)}["PTV56 D95"].passed


@pytest.fixture(scope="module")
def plans(planner):
    return [planner.plan(Objectives(name, lean), 9) for name, lean in (("rectum-first", 0.95), ("bladder-first", 0.05))]


def test_plans_cover_their_targets_and_spare_what_they_should(plans, small):
    for plan in plans:
        assert plan.dose_gy.shape == small.ct_hu.shape and plan.dose_gy.dtype == np.float32
        assert not plan.dose_gy[~small.structures["Body"]].any()
        found = {g.name: g for g in gates(plan.dose_gy, small.structures, 56.0)}
        assert found["PTV70 D95"].value == pytest.approx(PTV70_D95_GY, abs=0.01)
        assert found["PTV56 D95"].passed and found["PTV70 D2"].passed
    rectum_first, bladder_first = plans
    for organ, sparing, other in (("Rectum", rectum_first, bladder_first), ("Bladder", bladder_first, rectum_first)):
        mean, mean_of_other = (float(p.dose_gy[small.structures[organ]].mean()) for p in (sparing, other))
        assert mean < mean_of_other - 1.0, organ
