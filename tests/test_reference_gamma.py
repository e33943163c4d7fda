"""Mode ``sampled`` is pymedphys.gamma, voxel by voxel; mode ``exact`` is never above it."""

import numpy as np
import pytest
from scipy import ndimage

from monai_vmat.metrics.gamma import gamma_map, gamma_pass_rate

pymedphys = pytest.importorskip("pymedphys")

INNER = (slice(1, -1),) * 3
SHAPE = (17, 14, 12)


def doses(kind, dtype, shape=SHAPE):
    random = np.random.default_rng(len(kind))
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), 2.0)
    dose = 70 * (smooth - smooth.min()) / np.ptp(smooth)
    predictions = {
        "error": dose * (1 + 0.04 * ndimage.gaussian_filter(random.standard_normal(shape), 1.5) / 0.1),
        "shift": np.roll(dose, 1, 0),
        "blur": ndimage.gaussian_filter(dose, 1.5),
        "noise": dose + random.normal(0, 4, shape),
    }
    return dose.astype(dtype), predictions[kind].astype(dtype)


def axes(shape, spacing, origin=(0, 0, 0)):
    return tuple(o + np.arange(n) * float(s) for n, s, o in zip(shape, spacing, origin, strict=True))


def theirs(reference, evaluation, spacing, percent, distance, local, cutoff, fraction, max_gamma, norm=None):
    grid = axes(reference.shape, spacing)
    options = {"local_gamma": local, "lower_percent_dose_cutoff": cutoff, "interp_fraction": fraction, "max_gamma": max_gamma}
    with np.errstate(invalid="ignore"):
        return pymedphys.gamma(grid, reference, grid, evaluation, percent, distance, global_normalisation=norm, **options)


def ours(reference, evaluation, spacing, percent, distance, local, cutoff, fraction, max_gamma, norm=None, mode="sampled"):
    options = {"local": local, "cutoff_percent": cutoff, "interp_fraction": fraction, "max_gamma": max_gamma, "mode": mode}
    return gamma_map(reference, evaluation, spacing, percent, distance, normalisation_gy=norm, **options)


@pytest.mark.parametrize(
    ("kind", "spacing", "dtype"),
    [
        ("error", (3, 3, 3), np.float32),
        ("shift", (3.906, 3.906, 2.5), np.float32),
        ("blur", (2.5, 2, 4), np.float64),
        ("noise", (1, 1, 2), np.float64),
    ],
)
@pytest.mark.parametrize(
    ("percent", "distance", "local", "cutoff", "fraction", "max_gamma", "norm"),
    [
        (3, 3, False, 10, 10, 2, None),
        (3, 3, True, 10, 5, 1.1, None),
        (2, 2, True, 0, 3, 2, None),
        (1, 1.5, False, 20, 3, 1.1, 60.0),
        (5, 2, False, 0, 5, 2, None),
    ],
)
def test_sampled_equals_pymedphys(kind, spacing, dtype, percent, distance, local, cutoff, fraction, max_gamma, norm):
    settings = (spacing, percent, distance, local, cutoff, fraction, max_gamma, norm)
    pair = doses(kind, dtype)
    expected, found = theirs(*pair, *settings), ours(*pair, *settings)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)[INNER]) <= 2e-5
    assert np.array_equal((found < 1)[INNER], (expected < 1)[INNER])
    # On the outer face pymedphys loses samples to rounding: ours can only be lower.
    assert np.nanmax(found - expected) <= 2e-5
    exact = ours(*pair, *settings, mode="exact")
    assert np.array_equal(np.isnan(exact), np.isnan(expected))
    assert np.nanmax(exact - expected) <= 1e-2 + 2e-5


@pytest.mark.parametrize(
    ("spacing", "origin", "own_spacing", "own_origin"),
    [
        ((3, 3, 3), (0, 0, 0), (3, 3, 3), (1, -2, 0.5)),
        ((3, 3, 3), (0, 0, 0), (3, 3, 3), (9.1, -9, 20)),
        ((2.5, 2.5, 3), (5.3, 5, 0), (2, 3, 2.5), (0, 7.7, -3)),
    ],
)
@pytest.mark.parametrize(("local", "fraction", "max_gamma"), [(False, 5, 2), (True, 3, 1.1)])
def test_different_grids(spacing, origin, own_spacing, own_origin, local, fraction, max_gamma):
    reference, evaluation = doses("error", np.float64)[0], doses("blur", np.float64, (15, 16, 13))[1]
    options = {"local": local, "interp_fraction": fraction, "max_gamma": max_gamma, "origin_mm": origin}
    options |= {"evaluation_spacing_mm": own_spacing, "evaluation_origin_mm": own_origin}
    found, expected = (gamma_map(reference, evaluation, spacing, mode=mode, **options) for mode in ("sampled", "pymedphys"))
    assert np.array_equal(np.isnan(found), np.isnan(expected)) and np.isnan(expected).any()
    assert np.nanmax(np.abs(found - expected)) <= 2e-5
    exact = gamma_map(reference, evaluation, spacing, **options)
    assert np.nanmax(exact - expected) <= 1e-2 + 2e-5


def test_pymedphys_as_a_backend():
    pair = doses("error", np.float32)
    expected = theirs(*pair, (3, 3, 3), 3, 3, False, 10, 5, 2)
    found = gamma_map(*pair, (3, 3, 3), mode="pymedphys", interp_fraction=5)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.array_equal(found < 1, expected < 1)
    rate = gamma_pass_rate(*pair, (3, 3, 3), mode="pymedphys", interp_fraction=5)
    assert rate == pytest.approx(100 * (expected < 1).sum() / (~np.isnan(expected)).sum())


def test_pass_or_fail_at_exactly_one():
    """Rounding must not decide: a distance of exactly 3 mm fails in both, a hair's breadth less passes."""
    steps = np.zeros((14, 8, 8), np.float32)
    steps[7:] = 60
    for spacing in ((3.0, 3.0, 3.0), (2.999999, 3.0, 3.0)):
        settings = (spacing, 0.5, 3, False, 0, 10, 2)
        pair = steps + 1, np.roll(steps, 1, 0) + 1
        expected, found = theirs(*pair, *settings), ours(*pair, *settings)
        assert np.array_equal((found < 1)[INNER], (expected < 1)[INNER])
