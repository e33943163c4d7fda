"""A plan's dose on the grid of its case."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.plan_dose import dose_on_case, require_whole_plan
from monai_vmat.errors import InputError

CASE = Grid((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (10, 6, 6))
SMALL = Grid((3.0, 0.0, 0.0), (2.0, 2.0, 2.0), (5, 6, 6))  # along X it reaches from 2 to 12 mm: centres 2 to 12 of the case
WHOLE = Grid((-1.0, -1.0, -1.0), (2.0, 2.0, 2.0), (12, 8, 8))


def test_there_is_none_where_none_was_calculated():
    dose = dose_on_case(np.full(SMALL.shape, 7.0), SMALL, CASE)
    assert dose.dtype == np.float32 and dose.shape == CASE.shape
    assert dose[:, 3, 3].tolist() == [0, 7, 7, 7, 7, 7, 7, 0, 0, 0]
    assert (dose == dose[:, 3:4, 3:4]).all()


def box(*x: int) -> np.ndarray:
    mask = np.zeros(CASE.shape, bool)
    mask[slice(*x), 2:4, 2:4] = True
    return mask


def test_a_dose_grid_that_ends_within_a_target():
    dose = dose_on_case(np.full(SMALL.shape, 70.0), SMALL, CASE)
    within, across = {"PTV70": box(1, 7)}, {"PTV70": box(1, 7), "PTV56": box(1, 8)}
    require_whole_plan(dose, SMALL, CASE, within, {"PTV70": 70.0}, "rd")
    require_whole_plan(dose, SMALL, CASE, across, {"PTV70": 70.0}, "rd")  # other structures may lie beyond
    with pytest.raises(InputError, match="rd: the dose grid leaves out part of PTV56: it reaches from 2.0 to 12.0 mm along X"):
        require_whole_plan(dose, SMALL, CASE, across, {"PTV70": 70.0, "PTV56": 56.0}, "rd")


@pytest.mark.parametrize(("mean", "plausible"), ((55.9, False), (56.1, True), (87.4, True), (87.6, False), (2.5, False)))
def test_the_mean_of_the_highest_target_is_near_its_prescription(mean, plausible):
    """From 0.8 to 1.25 of 70 Gy; a lower target's may be anything, hotter ones may lie in it."""
    dose = np.full(CASE.shape, mean, np.float32)
    dose[5:] = 700.0
    structures = {"PTV56": box(1, 9), "PTV70": box(1, 5)}
    prescription = {"PTV56": 56.0, "PTV70": 70.0}
    if plausible:
        require_whole_plan(dose, WHOLE, CASE, structures, prescription, "rd")
    else:
        with pytest.raises(InputError, match=f"mean dose of PTV70: about 70 Gy were expected, got {mean:.2f}"):
            require_whole_plan(dose, WHOLE, CASE, structures, prescription, "rd")
