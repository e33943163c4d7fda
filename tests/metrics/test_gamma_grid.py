"""How a reference grid lies on an evaluation grid."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vmat.metrics.gamma_grid import Grid, relate_grids


def relate(shape, spacing, origin, other_shape, other_spacing, other_origin) -> Grid:
    spacing, origin, other_spacing, other_origin = np.array([spacing, origin, other_spacing, other_origin], float)
    return relate_grids(shape, spacing, origin, other_shape, other_spacing, other_origin)


@pytest.mark.parametrize(
    ("spacing", "other_spacing", "other_origin"),
    [
        ((2, 3, 1.5), (2, 3, 1.5), (0.7, -4, 2)),
        ((2, 3, 1.5), (2.5, 1, 3), (0.7, -4, 2)),
        ((0.1, 0.3, 0.7), (0.1, 0.1, 0.1), (0, 0, 0)),
    ],
)
def test_cell_and_fraction_give_back_the_place(spacing, other_spacing, other_origin):
    shape, origin = (5, 4, 7), np.array([1.0, 2.0, 3.0])
    grid = relate(shape, spacing, origin, (6, 6, 6), other_spacing, other_origin)
    assert grid.same_lattice == (spacing == other_spacing)
    for axis, n in enumerate(shape):
        place = origin[axis] + np.arange(n) * spacing[axis]
        assert grid.position_mm[axis, :n] == pytest.approx(place)
        back = other_origin[axis] + (grid.base[axis, :n] + grid.fraction[axis, :n]) * other_spacing[axis]
        assert back == pytest.approx(place)
        assert (grid.fraction[axis, :n] >= 0).all() and (grid.fraction[axis, :n] < 1).all()
        for filled in (grid.position_mm, grid.base, grid.fraction):
            assert not filled[axis, n:].any()


def test_on_one_lattice_the_fraction_is_the_same_everywhere():
    grid = relate((1000, 2, 2), (0.1, 1, 1), (0.03, 0, 0), (9, 9, 9), (0.1, 1, 1), (0, 0, 0))
    assert np.unique(grid.fraction[0]).tolist() == pytest.approx([0.3], abs=1e-12)
    assert grid.base[0].tolist() == list(range(1000))


def test_planes_that_rounding_would_miss_are_hit():
    """0.3 / 0.1 is 2.9999999999999996: cell 2 at its far end, where cell 3 begins."""
    grid = relate((4, 1, 1), (0.3, 1, 1), (0, 0, 0), (12, 1, 1), (0.1, 1, 1), (0, 0, 0))
    assert 0.3 / 0.1 < 3
    assert grid.base[0].tolist() == [0, 3, 6, 9] and not grid.fraction[0].any()


def test_a_spacing_that_differs_by_a_hair_is_another_lattice():
    assert relate((100, 1, 1), (1, 1, 1), (0, 0, 0), (9, 9, 9), (1 + 1e-12, 1, 1), (0, 0, 0)).same_lattice
    assert not relate((100, 1, 1), (1, 1, 1), (0, 0, 0), (9, 9, 9), (1 + 1e-10, 1, 1), (0, 0, 0)).same_lattice


def test_distance_from_the_evaluation_grid():
    """A box from (0, 0, 0) to (4, 4, 4) mm; reference voxels every 3 mm from -3."""
    grid = relate((4, 4, 4), (3, 3, 3), (-3, -3, -3), (5, 5, 5), (1, 1, 1), (0, 0, 0))
    voxels = [np.ravel_multi_index(at, (4, 4, 4)) for at in ((1, 1, 1), (0, 1, 2), (0, 0, 1), (3, 0, 1), (3, 3, 3))]
    assert grid.outside_mm(np.array(voxels)).tolist() == pytest.approx([0, 3, np.sqrt(18), np.sqrt(13), np.sqrt(12)])


@pytest.mark.parametrize(
    ("origin", "covered"), [((0, 0, 0), True), ((1, 1, 1), True), ((-0.1, 0, 0), False), ((0, 0, 1.1), False)]
)
def test_whether_all_of_the_reference_is_covered(origin, covered):
    assert relate((4, 2, 4), (1, 1, 1), origin, (5, 5, 5), (1, 1, 1), (0, 0, 0)).covered == covered
