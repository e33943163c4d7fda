"""The dose engine: calibration, geometry, and the mend of PyDoseRT's resampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pydosert = pytest.importorskip("pydosert", reason="the extra 'planning' is not installed")

from pydosert.geometry.projections import resample_fluence_map  # noqa: E402

from monai_vmat.planning.beam_model import (  # noqa: E402
    DoseGrid,
    Field,
    _resample_fluence_map,
    arc,
    dose_engine,
    halve,
)


def test_resampling_equals_pydoserts_own():
    values = torch.rand(3, 12, 7, 1)
    widths = torch.tensor([5.0, 5, 10, 5, 5, 10, 5])
    expected = resample_fluence_map(values, widths, 45, torch.float32)
    torch.testing.assert_close(_resample_fluence_map(values, widths, 45, torch.float32), expected)


@pytest.mark.parametrize("final", [False, True])
def test_calibration_holds_in_water(final):
    """110 MU of an open 10 cm x 10 cm field give 1 Gy ten centimetres deep in water, wherever the isocentre is."""
    step = 3.0 if final else 6.0
    shape = tuple(int(s / step) for s in (180, 240, 180))
    isocentre = (90.0, 102.0, 90.0)
    density = torch.ones(shape)
    grid = DoseGrid(density, step, isocentre, (slice(0, 1),) * 3)
    field = Field(leaf_pairs=20, width_mm=100)
    engine = dose_engine(grid, field, final=final)
    beam = replace(arc(field, np.zeros(1), isocentre), mus=torch.tensor([110.0]))
    with torch.no_grad():
        dose = engine.compute_dose(beam, density[None])[0]
    at = tuple(int(i / step) for i in isocentre)
    assert float(dose[at]) == pytest.approx(1.0, abs=0.02)  # 2 mm deeper than where it was calibrated
    beyond = (at[0], at[1] + int(48 / step), at[2])
    assert 0.7 < float(dose[beyond] / dose[at]) < 0.85  # 10 MV loses some 4 % a centimetre


def test_grids_hold_the_body_and_give_doses_back(small):
    grid = DoseGrid.around(small.ct_hu, small.structures["Body"], small.structures["PTV56"], 3.0)
    depth, width = grid.shape[1:]
    assert depth == width and all(n % 2 == 0 for n in grid.shape)
    marked = np.arange(small.ct_hu.size, dtype=np.float32).reshape(small.ct_hu.shape) * small.structures["Body"]
    np.testing.assert_array_equal(grid.take(grid.place(marked), small.ct_hu.shape), marked)
    h, d, w = np.nonzero(grid.place(small.structures["Body"]))
    from_centre = np.hypot(d * 3.0 - grid.isocentre_mm[1], w * 3.0 - grid.isocentre_mm[2])
    assert from_centre.max() < 3.0 * (depth / 2 - 1)
    assert float(grid.density[grid.place(small.structures["Body"]) == 0].max()) == 0.0


def test_isocentre_is_the_targets_middle_on_both_grids(small):
    fine = DoseGrid.around(small.ct_hu, small.structures["Body"], small.structures["PTV56"], 3.0)
    target = torch.from_numpy(fine.place(small.structures["PTV56"]))
    for grid, share in ((fine, target), (fine.coarse, halve(target))):
        indices = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij"), -1).double()
        middle = (indices * share[..., None]).sum((0, 1, 2)) / share.sum() * grid.spacing_mm
        np.testing.assert_allclose(middle.numpy(), grid.isocentre_mm, atol=1.51)
    assert fine.coarse.density.sum() * 8 == pytest.approx(float(fine.density.sum()), rel=1e-5)
