import numpy as np
import pytest

from monai_vmat.beams import BIXEL_MM, SOURCE_MM, beam_doses, best_fluence, depth_dose, trace_rays
from monai_vmat.errors import InputError

LPS = np.diag([-4.0, -4.0, 4.0, 1.0])  # indices towards left, posterior, superior


def water_cylinder(shape=(50, 50, 20), radius=22):
    x, y = np.mgrid[: shape[0], : shape[1]]
    disc = np.hypot(x - (shape[0] - 1) / 2, y - (shape[1] - 1) / 2) < radius
    return np.repeat(disc[..., None], shape[2], 2)


def ball(shape, centre, radius):
    grid = np.stack(np.indices(shape), -1)
    return np.linalg.norm(grid - centre, axis=-1) < radius


def rays_in_water(angles, affine=LPS):
    body = water_cylinder()
    target = ball(body.shape, (24.5, 24.5, 9.5), 5)
    return body, target, trace_rays(body.astype(np.float32), affine, np.argwhere(body), target[body], angles)


def volume_of(values, body):
    out = np.zeros(body.shape, np.float32)
    out[body] = values
    return out


def test_depth_dose_is_that_of_a_6_mv_beam():
    depth = np.arange(0.0, 201.0)
    assert depth_dose(depth).argmax() == pytest.approx(15, abs=1)
    assert depth_dose(200.0) / depth_dose(100.0) == pytest.approx(0.67, abs=0.005)


def test_one_beam_on_its_axis():
    """Open beam from the front on the central axis: depth dose times inverse square, by hand."""
    body, target, rays = rays_in_water([0])
    dose = volume_of(rays.dose(np.ones_like(rays.openable)), body)
    y = np.flatnonzero(body[24, :, 9])
    depth = (y - y[0] + 0.5) * 4.0  # through water to the middle of each voxel
    from_source = SOURCE_MM + (y - 24.5) * 4.0
    expected = depth_dose(depth) * (SOURCE_MM / from_source) ** 2
    np.testing.assert_allclose(dose[24, y, 9][3:], expected[3:], rtol=0.01)  # 4 mm steps of depth: build-up is coarser


@pytest.mark.parametrize(("angle", "axis", "sign"), [(0, 1, 1), (180, 1, -1), (90, 0, -1), (270, 0, 1)])
def test_gantry_angles_are_iec(angle, axis, sign):
    """Dose falls away from the source: 0 shines from the front (to larger y, which is posterior), 90 from the left."""
    body, _, rays = rays_in_water([angle])
    dose = volume_of(rays.dose(rays.openable), body)
    line = dose[:, 24, 9] if axis == 0 else dose[24, :, 9]
    assert np.sign(line[35:45].mean() - line[5:15].mean()) == -sign


def test_beams_diverge():
    """What is seen 10 bixels off axis at the isocentre lies 10 % nearer the axis 100 mm before it."""
    body, _, rays = rays_in_water([0])
    fluence = np.zeros_like(rays.openable)
    middle = [n // 2 for n in fluence.shape[1:]]
    fluence[0, middle[0] + 4] = 1  # a line of bixels 20 mm to the side
    dose = volume_of(rays.dose(fluence), body)
    for y in (4, 24, 44):
        line = dose[:, y, 9]
        centre = (np.arange(50) * line).sum() / line.sum()
        expected = 4 * BIXEL_MM * (SOURCE_MM + (y - 24.5) * 4) / SOURCE_MM
        assert abs(centre - 24.5) * 4 == pytest.approx(expected, abs=0.6)


def test_back_projection_is_the_transpose():
    body, _, rays = rays_in_water([0, 40, 80])
    rng = np.random.default_rng(1)
    fluence = rng.random(rays.openable.shape).astype(np.float32) * rays.openable
    voxels = rng.random(int(body.sum())).astype(np.float32)
    assert np.vdot(rays.dose(fluence), voxels) == pytest.approx(np.vdot(fluence, rays.back_project(voxels)), rel=1e-4)


def test_orientation_of_the_arrays_does_not_matter():
    """A grid stored the other way round gives the same dose in the same places."""
    body = water_cylinder((40, 50, 20), 18)
    target = ball(body.shape, (15, 25, 9), 5)
    organs = ball(body.shape, (24, 25, 9), 4) & ~target
    ct = np.where(body, 0, -1000)
    one = beam_doses(ct, LPS, body, 70.0 * target, organs, [0, 100])
    flipped = np.diag([4.0, -4.0, 4.0, 1.0])
    other = beam_doses(ct[::-1], flipped, body[::-1], 70.0 * target[::-1], organs[::-1], [0, 100])
    np.testing.assert_allclose(one, other[:, ::-1], atol=0.5)


def test_best_fluence_solves_the_least_squares():
    """Against scipy's solution of the same non-negative problem."""
    from scipy.optimize import nnls

    body, target, rays = rays_in_water([0, 120, 240])
    goal = target[body].astype(np.float32)
    weight = np.where(goal > 0, 1, 0.05).astype(np.float32)
    where = np.flatnonzero(rays.openable)
    columns = []
    for i in where:
        unit = np.zeros(rays.openable.size, np.float32)
        unit[i] = 1
        columns.append(rays.dose(unit.reshape(rays.openable.shape)))
    matrix = np.stack(columns, 1) * np.sqrt(weight)[:, None]
    _, residual = nnls(matrix, np.sqrt(weight) * goal)

    def cost(fluence):
        return float((weight * (rays.dose(fluence) - goal) ** 2).sum())

    assert cost(best_fluence(rays, goal, weight, 400)) == pytest.approx(residual**2, rel=0.01)
    assert cost(best_fluence(rays, goal, weight, 0)) > 1.05 * residual**2
    assert best_fluence(rays, goal, weight, 40).min() >= 0


def test_doses_aim_at_the_target_and_spare_the_organ():
    body = water_cylinder()
    target = ball(body.shape, (20, 25, 9), 5)
    organ = ball(body.shape, (31, 25, 9), 4) & ~target
    ct = np.where(body, 0, -1000)
    opened, best = beam_doses(ct, LPS, body, 70.0 * target, organ, np.arange(0, 360, 40))
    _, blind = beam_doses(ct, LPS, body, 70.0 * target, organ & False, np.arange(0, 360, 40))
    assert opened[target].mean() == pytest.approx(70, rel=1e-3)
    assert best[target].mean() == pytest.approx(70, abs=8)  # a ball of 20 mm: the blur of the fluence takes from it
    assert best[organ].mean() < 0.97 * blind[organ].mean()
    assert best[organ].mean() < best[target].mean() / 2
    assert not best[~body].any() and not opened[~body].any()


def test_prescribed_levels_are_followed():
    body = water_cylinder()
    high = ball(body.shape, (24, 25, 9), 4)
    low = ball(body.shape, (24, 25, 9), 8) & ~high
    goal = 70.0 * high + 56.0 * low
    _, best = beam_doses(np.where(body, 0, -1000), LPS, body, goal, high & False, np.arange(0, 360, 40))
    assert best[high].mean() == pytest.approx(70, abs=5) and best[low].mean() == pytest.approx(56, abs=5)


def test_nothing_to_aim_at():
    body = water_cylinder()
    with pytest.raises(InputError, match="no target voxel"):
        beam_doses(np.zeros(body.shape), LPS, body, np.zeros(body.shape), body, [0])
