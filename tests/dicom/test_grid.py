"""Where voxels lie in the patient."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vmat.dicom.grid import Grid, lay_out, patient_axes
from monai_vmat.errors import InputError

from ..dicom_set import ORIENTATIONS

HEIGHTS = np.array([4.0, -2.0, 1.0])  # in no order


def test_the_grid_of_an_affine():
    grid = Grid((-10.0, 20.0, 5.0), (1.0, 1.5, 3.0), (4, 5, 6))
    assert Grid.from_affine(grid.affine, grid.shape) == grid
    assert grid.edges_mm(1) == (19.25, 26.75) and grid.centres_mm(2).tolist() == [5, 8, 11, 14, 17, 20]


def test_the_affine_leads_to_right_anterior_superior():
    grid = Grid((-10.0, 20.0, 5.0), (1.0, 1.5, 3.0), (4, 5, 6))
    assert (grid.affine @ (2, 4, 1, 1)).tolist() == [10 - 2, -20 - 6, 5 + 3, 1]


@pytest.mark.parametrize("position", ORIENTATIONS)
def test_every_pixel_stays_where_it_is_in_the_patient(position):
    """Pixel (frame, row, column) is at first + column x step x direction of a row + row x step x direction of a column."""
    orientation = np.array(ORIENTATIONS[position], float)
    frames = np.arange(24.0).reshape(3, 2, 4)
    first = np.array([10.0, 20.0, HEIGHTS[0]])
    volume, grid = lay_out(frames, tuple(orientation), tuple(first), (1.5, 0.5), HEIGHTS, "here")
    for (frame, row, column), value in np.ndenumerate(frames):
        place = first + column * 0.5 * orientation[:3] + row * 1.5 * orientation[3:]
        place[2] = HEIGHTS[frame]
        index = (place - grid.origin_mm) / grid.spacing_mm
        assert volume[tuple(np.rint(index).astype(int))] == value and np.allclose(index, np.rint(index))
    assert grid.shape == volume.shape and grid.spacing_mm[2] == 3.0


@pytest.mark.parametrize(
    ("orientation", "problem"),
    [
        ((0.9999, 0.0141, 0, -0.0141, 0.9999, 0), "oblique"),
        ((1, 0, 0, 1, 0, 0), "oblique"),  # rows and columns alike
        ((1, 0, 0, 0, 0, -1), "axial images were expected"),
    ],
)
def test_other_axes_than_the_patients(orientation, problem):
    with pytest.raises(InputError, match=f"here: ImageOrientationPatient .*{problem}"):
        patient_axes(orientation, "here")


def test_directions_may_be_rounded():
    assert patient_axes((0.9999999, 0.0005, 0, -0.0005, 0.9999999, 0), "here") == ((0, 1), (1, 1))


@pytest.mark.parametrize(
    ("heights", "problem"),
    [
        ([0.0], "one slice only"),
        ([0.0, 3, 3.005, 6], "doubled slice: two are at 3.00 mm"),
        ([0.0, 3, 9, 12], "missing slice: 1 of 3.00 mm between 3.00 and 9.00 mm"),
        ([0.0, 3, 12, 15, 18], "missing slice: 2 of 3.00 mm between 3.00 and 12.00 mm"),
        ([0.0, 3, 6, 10], "not evenly spaced: 4.00 mm between 6.00 and 10.00 mm, 3.00 mm elsewhere"),
        ([0.0, 3, 6.05, 9], "not evenly spaced"),
    ],
)
def test_heights_that_make_no_grid(heights, problem):
    frames = np.zeros((len(heights), 2, 2))
    with pytest.raises(InputError, match=problem):
        lay_out(frames, ORIENTATIONS["HFS"], (0.0, 0.0, 0.0), (1.0, 1.0), np.array(heights), "here")


def test_rounded_heights_make_the_mean_spacing():
    heights = np.round(np.arange(7) * 10 / 3, 2)  # 0, 3.33, 6.67, 10.0, ...
    _, grid = lay_out(np.zeros((7, 2, 2)), ORIENTATIONS["HFS"], (0.0, 0.0, 0.0), (1.0, 1.0), heights, "here")
    assert grid.spacing_mm[2] == pytest.approx(20 / 6)


def test_pixels_of_no_size():
    with pytest.raises(InputError, match=r"PixelSpacing: numbers above 0 were expected, got \[1.0, 0.0\]"):
        lay_out(np.zeros((2, 2, 2)), ORIENTATIONS["HFS"], (0.0, 0.0, 0.0), (1.0, 0.0), np.array([0.0, 3.0]), "here")
