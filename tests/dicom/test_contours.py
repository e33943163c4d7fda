"""Masks of contours whose volume is known."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import monai_vmat.dicom.contours as module
from monai_vmat.dicom.contours import _beyond_slabs, rasterise
from monai_vmat.dicom.grid import Grid


def grid(spacing=(1.0, 1.0, 1.0), extent=60.0) -> Grid:
    """A cube around the origin."""
    shape = [int(extent / s) for s in spacing]
    return Grid(tuple(-s * (n - 1) / 2 for s, n in zip(spacing, shape, strict=True)), spacing, tuple(shape))


def circle(radius, height, centre=(0.0, 0.0), points=180) -> np.ndarray:
    angle = np.arange(points) * 2 * np.pi / points
    x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
    return np.stack([x, y, np.full(points, height)], axis=1)


def box(low, high, height) -> np.ndarray:
    """A rectangle from ``low`` to ``high`` (X, Y)."""
    (x0, y0), (x1, y1) = low, high
    return np.asarray([(x0, y0, height), (x1, y0, height), (x1, y1, height), (x0, y1, height)], float)


def sphere(radius, centre, slice_mm, first_slice) -> list[np.ndarray]:
    heights = np.arange(first_slice, radius + centre[2], slice_mm)
    return [circle(np.sqrt(radius**2 - (z - centre[2]) ** 2), z, centre[:2]) for z in heights if abs(z - centre[2]) < radius]


@pytest.mark.parametrize("spacing", ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0), (2.0, 2.0, 2.0), (3.0, 3.0, 3.0)))
@pytest.mark.parametrize("radius, slice_mm", ((20.0, 3.0), (20.0, 2.0), (10.0, 1.0)))
def test_a_sphere_keeps_its_volume(spacing, radius, slice_mm):
    rng = np.random.default_rng(5)
    for _ in range(5):
        contours = sphere(radius, rng.uniform(-1.5, 1.5, 3), slice_mm, rng.uniform(-30, -28))
        volume = rasterise(contours, grid(spacing), slice_mm).sum() * np.prod(spacing)
        assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)


@pytest.mark.parametrize("slice_mm", (1.0, 2.0, 2.5, 3.0))
def test_a_small_sphere_keeps_its_volume_wherever_its_planes_lie(slice_mm):
    """20 mm across, drawn on a CT's slices. Areas times thickness alone would miss 1.5 % on 2.5 mm."""
    target = grid((1.0, 1.0, slice_mm), 30.0)
    for shift in np.arange(0, 1, 0.05):
        centre = np.array([0.3, -0.2, shift * slice_mm])
        contours = sphere(10.0, centre, slice_mm, target.origin_mm[2])
        volume = rasterise(contours, target, slice_mm).sum() * slice_mm
        assert volume == pytest.approx(4000 / 3 * np.pi, rel=1e-3)


@pytest.mark.parametrize("narrowing", (0.0, 0.5, -0.5))
def test_what_ends_flat_is_areas_times_thickness(narrowing):
    """Its areas have no end within a slice's distance."""
    radii = 10 - narrowing * np.arange(8)
    target = grid((1.0, 1.0, 2.5), 30.0)
    contours = [circle(radius, target.origin_mm[2] + 2.5 * (k + 2), (0.3, -0.2)) for k, radius in enumerate(radii)]
    volume = rasterise(contours, target, 2.5).sum() * 2.5
    assert volume == pytest.approx(2.5 * np.pi * (radii**2).sum(), rel=1e-3)


def test_the_course_of_areas_is_known_on_even_planes_only():
    """Areas 3, 2 and 1 end a step further on: a triangle there instead of half a slab, and the formula's slope / 12."""
    assert _beyond_slabs(np.array([0.0, 2.0, 4.0]), [3.0, 2.0, 1.0]) == pytest.approx(2 * (0.5 - 1 / 2 + 1 / 12))
    assert _beyond_slabs(np.array([0.0, 2.0, 5.0]), [3.0, 2.0, 1.0]) == 0
    assert _beyond_slabs(np.array([0.0, 2.0]), [2.0, 1.0]) == 0


def test_a_sphere_stays_where_it_is():
    centre = (0.7, -0.4, 1.2)
    target = grid((2.0, 2.0, 2.0))
    mask = rasterise(sphere(20.0, centre, 1.0, -30.0), target, 1.0)
    places = [target.centres_mm(axis)[index].mean() for axis, index in enumerate(np.nonzero(mask))]
    assert places == pytest.approx(centre, abs=0.05)


def test_contours_along_voxel_edges_are_exact():
    mask = rasterise([box((-5.0, -3.0), (4.0, 7.0), z + 0.5) for z in range(-2, 3)], grid(), 1.0)
    expected = np.zeros((60, 60, 60), bool)
    expected[25:34, 27:37, 28:33] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("reverse", (False, True))
def test_a_contour_inside_another_is_a_hole_and_one_inside_that_is_not(reverse):
    rings = [box((-r, -r), (r, r), 0.5) for r in (10.0, 6.0, 2.0)]
    contours = [ring[::-1] if reverse and k == 1 else ring for k, ring in enumerate(rings)]
    mask = rasterise(contours, grid(), 1.0)
    assert mask.sum() == 20**2 - 12**2 + 4**2
    assert mask[30, 30, 30] and not mask[34, 30, 30] and mask[38, 30, 30]


def test_a_keyhole_is_a_hole():
    outer, inner = box((-10.0, -10.0), (10.0, 10.0), 0.5), box((-6.0, -6.0), (6.0, 6.0), 0.5)
    channel = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    assert rasterise([channel], grid(), 1.0).sum() == 20**2 - 12**2


def test_a_hostile_contour_takes_no_more_memory_than_its_points():
    """Twenty thousand lines across the whole picture cross eighteen million lines of ours: gigabytes at once."""
    x = np.where(np.arange(20_001) % 4 < 2, -25.0, 25.0)
    y = np.where(np.arange(20_001) % 2 < 1, -28.0, 28.0)
    tracemalloc.start()
    area = rasterise([np.stack([x, y, np.full_like(x, 0.5)], 1)], grid(), 1.0).sum()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20 and area < 60 * 60


def test_bands_of_lines_change_nothing(monkeypatch):
    contours = [circle(20.0, 0.5, (0.3, -0.2)), circle(9.0, 0.5, (3.0, 2.0))]
    whole = rasterise(contours, grid(), 1.0)
    monkeypatch.setattr(module, "_CROSSINGS", 100)
    assert np.array_equal(rasterise(contours, grid(), 1.0), whole)


def test_areas_take_no_more_memory_than_a_small_picture_and_are_the_same_wherever_lines_are_parted(monkeypatch):
    """A contour of twenty thousand points up and down; one across it whose edges end within pixels."""
    k = np.arange(20_000)
    zigzag = np.stack([np.full(len(k), 30.2), np.where(k % 2, 2.3, 12.1)], 1)
    wild = np.random.default_rng(1).uniform(-5, 65, (200, 2))
    low, high = np.zeros(2, int), np.full(2, 60)
    tracemalloc.start()
    module._area([zigzag], low, high)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20
    monkeypatch.setattr(module, "_CROSSINGS", 2**30)
    whole = module._area([wild], low, high)
    monkeypatch.setattr(module, "_CROSSINGS", 300)
    assert np.array_equal(module._area([wild], low, high), whole)


def test_the_same_contour_twice_is_no_hole():
    contour = box((-10.0, -10.0), (10.0, 10.0), 0.5)
    assert rasterise([contour, contour.copy()], grid(), 1.0).sum() == 20**2


def test_parts_side_by_side_both_count():
    mask = rasterise([circle(5, 0.5, (-12, 0)), circle(5, 0.5, (12, 0))], grid(), 1.0)
    assert mask.sum() == pytest.approx(2 * np.pi * 25, rel=0.02)
    assert not mask[30, 30, 30]


@pytest.mark.parametrize("shift", (0.0, 0.25, 0.5, 0.75))
def test_contours_between_slices_and_on_voxel_centres_keep_the_volume(shift):
    """At half a voxel every face runs through centres: one of two opposite sides counts, neither both nor none."""
    contours = [box((-5 + shift, -5 + shift), (5 + shift, 5 + shift), z + 0.5 + shift) for z in range(-5, 5)]
    assert rasterise(contours, grid(), 1.0).sum() == pytest.approx(1000, rel=0.03)  # edges of the box hold a quarter


def test_flat_faces_stay_flat():
    """Covered by 0.4, a face is in or out as a whole, whatever that does to the volume."""
    mask = rasterise([box((-5.0, -5.0), (5.4, 5.0), z + 0.5) for z in range(-5, 5)], grid(), 1.0)
    assert {int(n) for n in mask.sum((1, 2))} == {0, 100}


def test_contours_on_every_other_slice_are_filled_between():
    sparse = rasterise([box((-5.0, -5.0), (5.0, 5.0), z + 0.5) for z in range(-10, 11, 2)], grid(), 1.0)
    assert np.count_nonzero(sparse.any((0, 1))) == 22


def test_a_gap_stays_a_gap():
    heights = [*range(-10, -4), *range(5, 11)]
    mask = rasterise([box((-5.0, -5.0), (5.0, 5.0), z + 0.5) for z in heights], grid(), 1.0)
    assert np.flatnonzero(mask.any((0, 1))).tolist() == [z + 30 for z in heights]


@pytest.mark.parametrize("slice_mm", (1.0, 4.0))
def test_a_single_contour_is_as_thick_as_a_slice(slice_mm):
    assert rasterise([box((-5.0, -5.0), (5.0, 5.0), 0.0)], grid(), slice_mm).sum() == 100 * slice_mm


def test_only_what_is_on_the_grid():
    contours = [box((20.0, -5.0), (90.0, 5.0), z + 0.5) for z in range(25, 40)]
    mask = rasterise(contours, grid(), 1.0)
    assert mask.sum() == 10 * 10 * 5 and mask[50:, 25:35, 55:].all()
    assert not rasterise([box((100.0, -5.0), (110.0, 5.0), 0.5)], grid(), 1.0).any()
