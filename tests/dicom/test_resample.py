"""From grid to grid in patient coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vmat.dicom.grid import Grid
from monai_vmat.dicom.resample import resample_dose, resample_image

FINE = Grid((-20.3, 11.0, 5.5), (1.0, 1.5, 2.0), (40, 30, 20))
COARSE = Grid((-18.1, 14.2, 9.0), (3.0, 2.5, 3.0), (10, 12, 9))


def linear(grid: Grid) -> np.ndarray:
    x, y, z = np.meshgrid(*(grid.centres_mm(axis) for axis in range(3)), indexing="ij")
    return 2 * x - y + 0.5 * z + 100


def inner(volume: np.ndarray) -> np.ndarray:
    return volume[2:-2, 2:-2, 2:-2]


@pytest.mark.parametrize("source, target", ((FINE, COARSE), (COARSE, Grid((-17.7, 15.0, 9.5), (1.0, 1.0, 1.0), (25, 25, 20)))))
@pytest.mark.parametrize("resample", (resample_image, resample_dose))
def test_a_linear_field_stays_what_it_is(source, target, resample):
    moved = resample(linear(source), source, target)
    assert moved.dtype == np.float32 and moved.shape == target.shape
    assert np.allclose(inner(moved), inner(linear(target)), atol=1e-3)


@pytest.mark.parametrize("resample", (resample_image, resample_dose))
def test_beyond_the_grid_values_hold_on(resample):
    grid = Grid((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (3, 3, 3))
    wide = resample(np.arange(27.0).reshape(3, 3, 3), grid, Grid((-6.0, 0.0, 0.0), (2.0, 2.0, 2.0), (9, 3, 3)))
    assert wide[:, 0, 0].tolist() == [0, 0, 0, 0, 9, 18, 18, 18, 18]


def test_an_image_is_averaged_and_a_dose_keeps_its_maximum():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, FINE.shape)
    noise[20, 15, 10] = 50
    centre = [o + s * n for o, s, n in zip(FINE.origin_mm, FINE.spacing_mm, (20, 15, 10), strict=True)]
    target = Grid((centre[0] - 12, centre[1] - 12, centre[2] - 12), (4.0, 4.0, 4.0), (7, 7, 7))
    assert resample_dose(noise, FINE, target).max() == pytest.approx(50)
    averaged = resample_image(noise, FINE, target)
    assert averaged.max() < 5 and averaged.std() < 0.7


def test_the_mean_of_an_image_stays():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (12, 12, 12))
    source = Grid((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), image.shape)
    for count in (3, 4, 6):
        size = 12 / count
        coarse = resample_image(image, source, Grid((size / 2,) * 3, (size,) * 3, (count,) * 3))
        assert coarse.mean() == pytest.approx(image.mean(), abs=0.02)


def test_a_dose_never_overshoots():
    """A step, as at the skin: cubic convolution alone would give -4 and 64 Gy beside it."""
    step = np.zeros((12, 4, 4))
    step[6:] = 60
    source = Grid((0.0, 0.0, 0.0), (2.5, 2.5, 2.5), step.shape)
    fine = resample_dose(step, source, Grid((0.0, 0.0, 0.0), (0.5, 2.5, 2.5), (56, 4, 4)))
    assert fine.min() == 0 and fine.max() == 60 and (np.diff(fine[:, 0, 0]) >= 0).all()


def test_the_shoulder_of_a_dose_is_not_cut():
    """A penumbra of 6 mm on 2.5 mm; where it bends most, linear interpolation is 1 Gy off."""

    def profile(x):
        return 70 / (1 + np.exp((x - 20) / 2.2))

    source = Grid((0.0, 0.0, 0.0), (2.5, 2.5, 2.5), (20, 2, 2))
    target = Grid((0.0, 0.0, 0.0), (0.5, 2.5, 2.5), (90, 2, 2))
    dose = np.broadcast_to(profile(source.centres_mm(0))[:, None, None], source.shape)
    error = resample_dose(dose, source, target)[:, 0, 0] - profile(target.centres_mm(0))
    assert np.abs(error).max() < 0.3
