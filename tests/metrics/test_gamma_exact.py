"""The proven search against brute force, on noise, and where it cannot hold its promise."""

import pickle

import numpy as np
import pytest

from monai_vmat.metrics import gamma_exact
from monai_vmat.metrics.gamma import gamma_map
from monai_vmat.metrics.gamma_exact import GammaNotConverged, _drop, _dual


@pytest.fixture
def noise():
    random = np.random.default_rng(5)
    return [random.uniform(0, 70, (12, 11, 10)).astype(np.float32) for _ in range(2)]


def brute_force(reference, evaluation, spacing, voxel, percent, distance, max_gamma):
    """The least gamma over every cell in reach, by another way.

    For given x and y the interpolant is linear in z, so that the best z is known; x and y are the best of a 21 x 21 grid, then
    of finer and finer ones around it.
    """
    spacing, voxel = np.asarray(spacing) / distance, np.asarray(voxel)
    reach = np.ceil(max_gamma / spacing).astype(int)
    axes = [np.arange(max(v - r, 0), min(v + r, n - 1)) for v, r, n in zip(voxel, reach, evaluation.shape, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    values = evaluation[tuple(np.moveaxis(cells[:, None] + corners, -1, 0))].reshape(-1, 2, 2, 2, 1).astype(np.float64)
    values = (values - reference[tuple(voxel)]) / (percent / 100 * float(reference.max()))
    low = ((cells - voxel) * spacing)[:, :, None]
    steps = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 2, indexing="ij")).reshape(2, -1)
    centre, width = np.full((2, len(cells), 1), 0.5), 0.5
    for _ in range(16):
        x, y = np.clip(centre + width * steps[:, None], 0, 1)
        at_y = values[:, :, 0] * (1 - y[:, None, None]) + values[:, :, 1] * y[:, None, None]
        e0, e1 = np.moveaxis(at_y[:, 0] * (1 - x[:, None]) + at_y[:, 1] * x[:, None], 1, 0)
        rise = e1 - e0
        z = np.clip(-(e0 * rise + low[:, 2] * spacing[2]) / (rise**2 + spacing[2] ** 2), 0, 1)
        squared = (e0 + rise * z) ** 2 + (low[:, 2] + z * spacing[2]) ** 2
        squared += (low[:, 0] + x * spacing[0]) ** 2 + (low[:, 1] + y * spacing[1]) ** 2
        best = squared.argmin(1), np.arange(len(cells))
        centre = np.stack([x[best[1], best[0]], y[best[1], best[0]]])[:, :, None]
        width *= 0.5
    return min(float(np.sqrt(squared.min())), max_gamma)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(("spacing", "percent", "distance"), [((3.0, 3.0, 3.0), 3, 3), ((4, 2, 2.5), 1, 3), ((3, 5, 4), 5, 2)])
def test_against_brute_force_on_noise(noise, spacing, percent, distance, tolerance):
    found = gamma_map(*noise, spacing, percent, distance, cutoff_percent=0, tolerance=tolerance)
    voxels = [(0, 0, 0), (11, 10, 9), (6, 5, 4), (3, 0, 7), *np.argwhere(found == found.max())[:1].tolist()]
    for voxel in map(tuple, [*voxels, *np.argwhere(found > 0.6)[::150].tolist()]):
        expected = brute_force(*noise, spacing, voxel, percent, distance, 2.0)
        assert expected - 2e-4 <= found[voxel] <= expected + tolerance + 1e-5


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("mode", ["exact", "pass_rate"])
def test_white_noise_ends(noise, mode, local):
    """Criteria a hundred times tighter than usual, every cell full of curvature; also doses that are all but zero."""
    for reference in (noise[0], np.where(noise[0] < 20, np.float32(1e-6), noise[0])):
        found = gamma_map(reference, noise[1], (3, 3, 3), 0.03, 3, mode=mode, local=local, cutoff_percent=0, tolerance=1e-3)
        assert np.isfinite(found).all()


def test_a_pass_is_decided_where_the_tolerance_is_not_enough():
    """A uniform difference of 0.9995 criteria passes, though a tolerance of 0.5 would allow 1.4."""
    dose = np.full((6, 6, 6), 50, np.float32)
    for mode in ("exact", "pass_rate"):
        for ratio, passes in ((0.9995, True), (1.0005, False)):
            found = gamma_map(dose, dose + np.float32(1.5 * ratio), (3, 3, 3), mode=mode, tolerance=0.5)
            assert (found < 1).all() == passes and (found < 1).any() == passes


def test_too_many_boxes_are_an_error(noise, monkeypatch):
    monkeypatch.setattr(gamma_exact, "MAX_BOXES_PER_VOXEL", 8)
    for mode in ("exact", "pass_rate"):
        with pytest.raises(GammaNotConverged, match="or more of 1.* voxels did not reach the tolerance") as caught:
            gamma_map(*noise, (3, 3, 3), mode=mode)
        assert 0 < caught.value.voxels <= caught.value.of
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) and copy.voxels == caught.value.voxels


def test_what_cannot_be_proven_is_an_error(noise):
    """A criterion below the doses' rounding errors: no bound gets within the tolerance."""
    with pytest.raises(GammaNotConverged):
        gamma_map(*noise, (3, 3, 3), 1e-18, 3, tolerance=1e-5, max_gamma=2)


def test_bounds_hold_for_random_boxes():
    """The bound L(m) and the point u: never above the true minimum of the linear problem, and tight without remainder."""
    random = np.random.default_rng(3)
    for _ in range(300):
        e, k = random.normal(0, 3), random.normal(0, 2, 3)
        low = random.uniform(-2, 1, 3)
        high = low + random.uniform(0.1, 1.5, 3)
        remainder = random.choice([0.0, random.uniform(0, 1)])
        limits = np.stack([low, high], 1).ravel()
        bound, *u = _dual(e, *k, *limits, remainder, np.inf, 1e-9)
        assert (low - 1e-12 <= u).all() and (u <= high + 1e-12).all()
        points = random.uniform(low, high, (4000, 3))
        values = (points**2).sum(1) + np.maximum(0, np.abs(e + points @ k) - remainder) ** 2
        assert bound <= values.min() + 1e-9
        if remainder == 0:
            assert np.dot(u, u) + (e + np.dot(u, k)) ** 2 == pytest.approx(bound, abs=1e-7)


def test_drop_is_the_least_value():
    random = np.random.default_rng(4)
    for _ in range(200):
        slope, curvature, low, high = random.normal(), random.normal(), -random.uniform(), random.uniform()
        d = np.linspace(low, high, 2001)
        assert _drop(slope, curvature, low, high) == pytest.approx((slope * d + curvature * d**2).min(), abs=1e-5)


def test_no_cell_within_reach_is_left_out():
    """Voxels of a grid of another spacing lie anywhere in their cells: the bounds hold for each of them and every point."""
    rng = np.random.default_rng(0)
    widths, reach = np.array([1.3, 0.7, 1.0]), 2.0
    fractions = (np.array([0.1, 0.55]), np.array([0.0, 0.3, 0.9]), np.array([0.4]))
    offsets, bounds = gamma_exact.cell_offsets(widths, fractions, reach)
    bound = {tuple(offset): value for offset, value in zip(offsets.tolist(), bounds, strict=True)}
    assert (np.diff(bounds) >= 0).all()
    reached = 0
    for cell in rng.integers(-4, 5, (20_000, 3)):
        voxel = [rng.choice(of_axis) for of_axis in fractions]
        squared = float(np.sum(((cell + rng.random(3) - voxel) * widths) ** 2))
        if squared < reach**2:
            reached += 1
            assert bound[tuple(cell.tolist())] <= squared + 1e-12
    assert reached > 1000
