"""The shapes that anatomies are made of: fields in mm, negative inside. What they make together is in test_phantom.py."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vmat.planning.anatomy import (
    SPACING_MM,
    VOXEL_CC,
    Frame,
    capsule,
    common,
    draw_anatomy,
    ellipsoid,
    grow_to,
    smooth_noise,
    union,
    without,
)

ORGANS = ("Prostate", "SeminalVesicles", "Rectum", "Bladder", "Bowel")


@pytest.fixture(scope="module")
def frame() -> Frame:
    """Straight coordinates, 3 mm apart; none is 0."""
    axis = SPACING_MM * (np.arange(30.0) - 14.5)
    return Frame(*np.meshgrid(axis, axis, axis, indexing="ij"))


def at(*points: tuple[float, float, float]) -> Frame:
    return Frame(*np.array(points, float).T)


@pytest.fixture(scope="module")
def anatomy():
    return draw_anatomy(np.random.default_rng(3))


def test_a_ball_is_its_distance(frame):
    field = ellipsoid(frame, (3, -6, 0), (20, 20, 20))
    expected = np.sqrt((frame.x - 3) ** 2 + (frame.y + 6) ** 2 + frame.z**2) - 20
    assert np.abs(field - expected)[expected > -15].max() < 1e-3


def test_an_ellipsoid_is_zero_on_its_surface_and_steep_by_one(frame):
    radii = (15, 24, 30)
    assert ellipsoid(at((15, 0, 0), (0, -24, 0), (0, 0, 30), (9, 0, 24)), (0, 0, 0), radii) == pytest.approx(0, abs=1e-9)
    field = ellipsoid(frame, (0, 0, 0), radii)
    near = np.abs(field) < 1.5
    slope = np.linalg.norm(np.gradient(field, SPACING_MM), axis=0)[near]
    assert slope == pytest.approx(1.0, abs=0.15)


def test_higher_powers_are_boxier():
    """From an octahedron by way of a ball to a cube; for the fourth power 8 Gamma(5/4) ** 3 / Gamma(7/4)."""
    axis = np.arange(-20.5, 21)
    millimetres = Frame(*np.meshgrid(axis, axis, axis, indexing="ij"))
    volumes = [np.count_nonzero(ellipsoid(millimetres, (0, 0, 0), (20, 20, 20), power) < 0) for power in (1, 2, 4, 80)]
    assert volumes == pytest.approx([share * 20**3 for share in (4 / 3, 4 / 3 * np.pi, 6.482, 8)], rel=0.02)


def test_a_capsule_is_the_distance_to_a_tapering_rod():
    """From (0, 0, -12) with radius 6 to (0, 0, 12) with radius 10."""
    places = at((0, 0, 0), (0, 0, 24), (15, 0, -12), (0, -9, -24), (0, 5, 6))
    distances = [-8, 12 - 10, 15 - 6, np.hypot(9, 12) - 6, 5 - 9]
    assert capsule(places, (0, 0, -12), (0, 0, 12), 6, 10) == pytest.approx(distances)


def test_fields_combine_as_sets(frame):
    one, other = ellipsoid(frame, (-6, 0, 0), (15,) * 3), ellipsoid(frame, (6, 0, 0), (15,) * 3)
    a, b = one < 0, other < 0
    assert np.array_equal(union(one, other) < 0, a | b) and np.array_equal(common(one, other) < 0, a & b)
    assert np.array_equal(without(one, other) < 0, a & (other > 0))
    assert np.array_equal(without(one, other, gap_mm=4.0) < 0, a & (other > 4))


def test_growing_gives_a_field_its_volume(frame):
    field = ellipsoid(frame, (1, 1, 1), (20, 16, 12))
    room = frame.x > 0
    for volume_cc in (1.0, 20.0, 80.0):
        wanted = round(volume_cc / VOXEL_CC)
        assert np.count_nonzero(grow_to(field, volume_cc) < 0) == pytest.approx(wanted, abs=8)  # eight voxels are alike
        inside = (grow_to(field, volume_cc / 2, room) < 0) & room
        assert np.count_nonzero(inside) == pytest.approx(wanted / 2, abs=8)
    assert VOXEL_CC == 0.027


def test_noise_is_smooth_over_its_scale():
    noise = smooth_noise(np.random.default_rng(0), (60, 50, 40), (30.0, 30.0, 60.0))
    assert noise.shape == (60, 50, 40) and noise.dtype == np.float32 and noise.std() == pytest.approx(1, rel=1e-5)

    def alike(mm: int, axis: int) -> float:
        moved = np.moveaxis(noise, axis, 0)
        steps = mm // 3
        return float(np.corrcoef(moved[:-steps].ravel(), moved[steps:].ravel())[0, 1])

    assert alike(3, 0) > 0.95 and alike(90, 0) < 0.4 and alike(30, 2) > alike(30, 0) + 0.2


def test_organs_leave_each_other_room(anatomy):
    inside = [anatomy.fields[name] < 0 for name in ORGANS]
    assert sum(mask.astype(int) for mask in inside).max() == 1
    bones = union(*(anatomy.fields[name] for name in ("PelvicBone", "Femur_L", "Femur_R"))) < 0
    assert not (bones & (sum(inside) > 0)).any()


def test_the_left_femur_is_on_the_left_and_ends_with_a_slice(anatomy):
    left, right = (anatomy.fields[f"Femur_{side}"] < 0 for side in "LR")
    assert anatomy.frame.x[left].min() > 40 and anatomy.frame.x[right].max() < -40
    for label, mask in (("L", left), ("R", right)):
        bone = anatomy.fields[f"FemurBone_{label}"] < 0
        lowest = np.flatnonzero(mask.any((0, 1)))[0]
        assert np.array_equal(mask[..., lowest], bone[..., lowest]) and bone[..., lowest - 1].any()


def test_a_seed_is_an_anatomy(anatomy):
    again, other = (draw_anatomy(np.random.default_rng(seed)) for seed in (3, 4))
    assert all(np.array_equal(field, again.fields[name]) for name, field in anatomy.fields.items())
    assert not np.array_equal(anatomy.fields["Prostate"], other.fields["Prostate"])
