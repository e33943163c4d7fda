"""Gamma by hand-computed values and by the laws that it obeys, in every mode."""

import doctest
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_vmat.errors import InputError
from monai_vmat.metrics import gamma as module
from monai_vmat.metrics.gamma import gamma_analysis, gamma_map, gamma_pass_rate

SPACING = (3.0, 2.5, 2.0)
TOLERANCE = 1e-2
OWN_MODES = ("exact", "sampled", "pass_rate")


def smooth(shape=(16, 15, 14), seed=0, sigma=2.0):
    """A dose between 5 and 70 Gy."""
    dose = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (5 + 65 * (dose - dose.min()) / np.ptp(dose)).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
    """A dose and a prediction with gamma below and above 1."""
    dose = smooth()
    return dose, (dose + 20 * (smooth(seed=1) / 70 - 0.4)).astype(np.float32)


@pytest.mark.parametrize("mode", ["exact", "sampled"])
def test_a_uniform_shift_of_a_uniform_dose(mode):
    """Distance does not help: gamma is the dose difference over its criterion."""
    dose = np.full((8, 9, 10), 50, np.float32)
    assert gamma_map(dose, dose + 0.75, SPACING, mode=mode) == pytest.approx(0.5, abs=1e-6)
    assert gamma_map(dose, dose - 0.75, SPACING, mode=mode, normalisation_gy=25.0) == pytest.approx(1.0, abs=1e-6)
    assert gamma_map(dose, dose + 3, SPACING, 5, 2, mode=mode) == pytest.approx(1.2, abs=1e-5)
    assert (gamma_map(dose, dose + 30, SPACING, mode=mode) == 2).all()
    assert (gamma_map(dose, dose + 30, SPACING, mode=mode, max_gamma=1.5) == 1.5).all()


@pytest.mark.parametrize(("mode", "tolerance"), [("exact", 1e-2), ("exact", 1e-3), ("exact", 1e-5), ("sampled", None)])
def test_a_uniform_gradient_has_a_closed_form(mode, tolerance):
    """A dose that rises by a Gy/mm, too high by c: gamma = (c / dose) / sqrt(1 + (a distance / dose)^2)."""
    x, y, z = np.meshgrid(*(np.arange(20) * s for s in SPACING), indexing="ij")
    dose = (10 + 0.6 * x + 0.3 * y - 0.2 * z).astype(np.float32)
    slope, norm = np.sqrt(0.6**2 + 0.3**2 + 0.2**2), 60.0
    for c, percent, distance in ((1.5, 3, 3), (-2, 2, 3), (1, 3, 1)):
        criterion = percent / 100 * norm
        expected = abs(c) / criterion / np.sqrt(1 + (slope * distance / criterion) ** 2)
        options = {"mode": mode, "normalisation_gy": norm} | ({"tolerance": tolerance} if tolerance else {})
        found = gamma_map(dose, dose + np.float32(c), SPACING, percent, distance, **options)
        inner = found[3:-3, 3:-3, 4:-4]
        assert inner.min() >= expected - 2e-5
        assert inner.max() <= expected + (0.02 if mode == "sampled" else tolerance + 2e-5)


def test_local_gamma_is_relative_to_each_voxel():
    dose = np.full((8, 6, 6), 10, np.float32)
    dose[4:] = 40
    flat = np.r_[:3, 5:8]  # away from the step
    found = gamma_map(dose, 1.015 * dose, (30, 30, 30), 3, 3, local=True)
    assert found[flat] == pytest.approx(0.5, abs=1e-4)
    found = gamma_map(dose, 1.015 * dose, (30, 30, 30), 3, 3)
    assert found[:3] == pytest.approx(0.125, abs=1e-4) and found[5:] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("mode", OWN_MODES)
@pytest.mark.parametrize("local", [False, True])
def test_equal_doses_give_zero(pair, mode, local):
    for dose in (pair[0], pair[0].astype(np.float64) * 1.0000001):
        assert (gamma_map(dose, dose, SPACING, mode=mode, local=local, cutoff_percent=0) == 0).all()


@pytest.mark.parametrize("local", [False, True])
def test_doubling_both_criteria_halves_gamma(pair, local):
    once, twice = (gamma_map(*pair, SPACING, p, p, local=local, max_gamma=m, tolerance=1e-3) for p, m in ((2, 2), (4, 1)))
    assert np.nanmax(np.abs(once / 2 - twice)) <= 1e-3 + 1e-5


@pytest.mark.parametrize("mode", ["exact", "pass_rate"])
def test_a_shift_below_the_distance_passes(mode):
    dose = smooth((18, 12, 12), sigma=1.0)
    moved = np.roll(dose, 1, 0)
    rates = {mm: gamma_map(dose, moved, (2.0, 2.0, 2.0), 0.1, mm, mode=mode, cutoff_percent=0)[1:-2] < 1 for mm in (1.0, 2.2)}
    assert rates[2.2].all() and not rates[1.0].all()


def test_a_shift_that_the_origin_undoes():
    """The same dose, moved by whole voxels and fractions, put back by its origin."""
    dose = smooth()
    for index in (0, 3):
        origin = (5.0 + index * SPACING[0], -7.0, 0.0)
        options = {"origin_mm": (5.0, -7.0, 0.0), "evaluation_spacing_mm": SPACING, "evaluation_origin_mm": origin}
        for mode in OWN_MODES:
            assert np.nanmax(gamma_map(dose, dose[index:], SPACING, mode=mode, **options)[index:]) == 0
    found = gamma_map(dose, dose, SPACING, 0.1, 3, evaluation_origin_mm=(1.5, 0, 0), cutoff_percent=0)
    assert found[1:-1].max() <= 0.5 + TOLERANCE


@pytest.mark.parametrize("mode", ["exact", "sampled"])
def test_grids_of_different_spacing(mode):
    """A linear dose is the same on every grid."""

    def linear(shape, spacing, origin):
        x, y, z = np.meshgrid(*(o + np.arange(n) * s for n, s, o in zip(shape, spacing, origin, strict=True)), indexing="ij")
        return 40 + 0.5 * x - 0.3 * y + 0.2 * z

    coarse, fine = ((8, 9, 7), (4.0, 3.5, 5.0), (-3.0, 2.0, 1.0)), ((30, 30, 30), (1.5, 1.7, 2.0), (-8.0, -5.0, -6.0))
    reference, evaluation = linear(*coarse), linear(*fine) + 1.0
    options = {"origin_mm": coarse[2], "evaluation_spacing_mm": fine[1], "evaluation_origin_mm": fine[2]}
    found = gamma_map(reference, evaluation, coarse[1], mode=mode, normalisation_gy=50.0, cutoff_percent=0, **options)
    expected = (1 / 1.5) / np.sqrt(1 + 0.38 * (3 / 1.5) ** 2)
    covered = found[2:-1, 2:-1, 2:-1]
    assert covered.min() >= expected - 1e-5 and covered.max() <= expected + 0.02


@pytest.mark.parametrize("mode", OWN_MODES)
def test_out_of_reach_is_nan(mode):
    """The evaluation's box ends at x = 15 mm; its gradient is nil, so distance alone counts."""
    reference, evaluation = np.full((16, 4, 4), 50, np.float32), np.full((6, 4, 4), 50, np.float32)
    options = {"evaluation_spacing_mm": (3, 3, 3), "evaluation_origin_mm": (0, 0, 0), "mode": mode}
    found = gamma_map(reference, evaluation, (2.5, 3, 3), interp_fraction=20, **options)[:, 1, 1]
    distance = np.maximum(0, np.arange(16) * 2.5 - 15) / 3
    expected = np.where(distance > 2, np.nan, distance)
    if mode == "pass_rate":
        expected = np.where(distance > 2, np.nan, expected >= 1)
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert gamma_pass_rate(reference, evaluation, (2.5, 3, 3), **options) == pytest.approx(100 * 8 / 9)


def test_cutoff_and_normalisation(pair):
    dose, prediction = pair
    for cutoff, norm in ((10.0, None), (60.0, None), (30.0, 100.0), (0.0, 20.0)):
        found = gamma_map(dose, prediction, SPACING, cutoff_percent=cutoff, normalisation_gy=norm)
        assert np.array_equal(~np.isnan(found), dose >= np.float32(cutoff / 100 * (norm or dose.max())))
    with_maximum = gamma_map(dose, prediction, SPACING, normalisation_gy=float(dose.max()))
    assert np.array_equal(with_maximum, gamma_map(dose, prediction, SPACING), equal_nan=True)


def test_local_gamma_of_zero_dose_is_unknown():
    dose = np.full((6, 6, 6), 50, np.float32)
    dose[0] = 0
    for mode in OWN_MODES:
        found = gamma_map(dose, dose + 1, SPACING, mode=mode, local=True, cutoff_percent=0)
        assert np.isnan(found[0]).all() and not np.isnan(found[1:]).any()


@pytest.mark.parametrize("local", [False, True])
def test_pass_rate_decides_as_exact(pair, local):
    maps = {mode: gamma_map(*pair, SPACING, 2, 2, local=local, mode=mode) for mode in ("exact", "pass_rate")}
    assert np.array_equal(maps["exact"] < 1, maps["pass_rate"] < 1)
    assert 5 < gamma_pass_rate(*pair, SPACING, 2, 2, local=local) < 95
    assert set(np.unique(maps["pass_rate"][~np.isnan(maps["pass_rate"])])) == {0, 1}


def test_exact_is_never_above_sampled(pair):
    for local in (False, True):
        exact, sampled = (gamma_map(*pair, SPACING, 2, 2, local=local, mode=mode) for mode in ("exact", "sampled"))
        assert np.nanmax(exact - sampled) <= TOLERANCE + 1e-5
        assert np.nanmax(sampled - exact) > 2 * TOLERANCE  # and sampling does overestimate


def test_exact_does_not_care_about_left_and_right(pair):
    found, mirrored = gamma_map(*pair, SPACING), gamma_map(*(d[::-1, :, ::-1] for d in pair), SPACING)
    assert np.nanmax(np.abs(found - mirrored[::-1, :, ::-1])) <= TOLERANCE + 1e-5


def test_several_criteria_and_regions_in_one_call(pair):
    regions = {"half": np.zeros(pair[0].shape, bool), "all": torch.ones(pair[0].shape), "none": np.zeros(pair[0].shape)}
    regions["half"][:8] = True
    criteria = [(3, 3), (2, 2), (3, 1)]
    results = gamma_analysis(*pair, SPACING, criteria=criteria, regions=regions)
    for (dose, distance), result in zip(criteria, results, strict=True):
        alone = gamma_map(*pair, SPACING, dose, distance)
        assert np.array_equal(result.gamma, alone, equal_nan=True)
        assert (result.dose_percent, result.distance_mm) == (dose, distance)
        evaluated = ~np.isnan(alone)
        assert np.array_equal(result.evaluated, evaluated)
        assert result.pass_rate_percent == pytest.approx(100 * (alone[evaluated] < 1).mean())
        half = alone[:8][evaluated[:8]]
        assert result.region_pass_rates_percent["half"] == pytest.approx(100 * (half < 1).mean())
        assert result.region_pass_rates_percent["all"] == result.pass_rate_percent
        assert result.region_pass_rates_percent["none"] is None
    assert "gamma 2 %/2 mm, global, normalisation reference maximum" in results[1].convention
    assert results[0].pass_rate_percent > results[1].pass_rate_percent


def test_no_voxel_above_the_cutoff():
    dose = np.full((4, 4, 4), 1.0)
    (result,) = gamma_analysis(dose, dose, SPACING, normalisation_gy=70.0)
    assert result.pass_rate_percent is None and np.isnan(gamma_pass_rate(dose, dose, SPACING, normalisation_gy=70.0))


def test_arrays_and_tensors_of_any_kind_and_layout(pair):
    expected = gamma_map(*pair, SPACING)
    kinds = [
        lambda d: torch.from_numpy(d),
        lambda d: torch.from_numpy(d).double().requires_grad_(),
        lambda d: MetaTensor(torch.from_numpy(d)),
        lambda d: np.asfortranarray(d),
        lambda d: np.repeat(d, 2, axis=1)[:, ::2],
    ]
    for kind in kinds:
        found = gamma_map(kind(pair[0]), kind(pair[1]), torch.tensor(SPACING))
        assert found.dtype == np.float32 and np.array_equal(found, expected, equal_nan=True)
    whole = [d.round() for d in pair]
    expected = gamma_map(*whole, SPACING)
    for kind in (lambda d: d.astype(np.int16), lambda d: d.astype(np.float16), lambda d: torch.from_numpy(d).bfloat16()):
        assert np.array_equal(gamma_map(*map(kind, whole), SPACING), expected, equal_nan=True)


@pytest.mark.parametrize("mode", OWN_MODES)
def test_threads_do_not_change_results_nor_inputs(pair, mode):
    before = [d.copy() for d in pair]
    threads = numba.get_num_threads()
    expected = gamma_map(*pair, SPACING, mode=mode)
    try:
        numba.set_num_threads(1)
        assert np.array_equal(gamma_map(*pair, SPACING, mode=mode), expected, equal_nan=True)
    finally:
        numba.set_num_threads(threads)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: gamma_map(*pair, SPACING, mode=mode), range(8)):
            assert np.array_equal(found, expected, equal_nan=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, pair, strict=True))


def test_pytorch_keeps_its_threads():
    """In a new process: numba sets the number of OpenMP's threads, which are PyTorch's too, when it is first used."""
    code = (
        "import numpy, torch; from monai_vmat.metrics.gamma import gamma_map; before = torch.get_num_threads();"
        "gamma_map(numpy.ones((4, 4, 4)), numpy.ones((4, 4, 4)), (3, 3, 3)); print(before, torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=110)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_examples_in_the_docstrings():
    assert doctest.testmod(module).failed == 0 and doctest.testmod(module).attempted >= 5


DOSE = np.full((4, 5, 6), 50.0)
BAD = {
    "one axis too many": ((DOSE[None], DOSE[None], SPACING), {}, "reference_gy: got \\(1, 4, 5, 6\\)"),
    "a single slice": ((DOSE[:1], DOSE[:1], SPACING), {}, "reference_gy: got \\(1, 5, 6\\)"),
    "different shapes": ((DOSE, DOSE[1:], SPACING), {}, "shapes: the reference is \\(4, 5, 6\\).*evaluation_spacing_mm"),
    "NaN dose": ((DOSE, np.where(DOSE > 0, np.nan, 0), SPACING), {}, "evaluation_gy: got 'NaN or infinity'"),
    "infinite dose": ((DOSE + np.inf, DOSE, SPACING), {}, "reference_gy: got 'NaN or infinity'"),
    "text": ((DOSE.astype(str), DOSE, SPACING), {}, "reference_gy: got"),
    "zero reference": ((0 * DOSE, DOSE, SPACING), {}, "reference_gy: its maximum is 0.0"),
    "zero spacing": ((DOSE, DOSE, (1, 0, 1)), {}, "spacing_mm: got \\(1, 0, 1\\)"),
    "NaN spacing": ((DOSE, DOSE, (1, np.nan, 1)), {}, "spacing_mm"),
    "negative spacing": ((DOSE, DOSE, SPACING), {"evaluation_spacing_mm": (1, -1, 1)}, "evaluation_spacing_mm"),
    "one spacing": ((DOSE, DOSE, 3.0), {}, "spacing_mm: got 3.0"),
    "NaN origin": ((DOSE, DOSE, SPACING), {"origin_mm": (np.nan, 0, 0)}, "origin_mm"),
    "no criteria": ((DOSE, DOSE, SPACING), {"criteria": []}, "criteria: got \\[\\]"),
    "zero percent": ((DOSE, DOSE, SPACING), {"criteria": [(0, 3)]}, "dose_percent: got 0"),
    "negative distance": ((DOSE, DOSE, SPACING), {"criteria": [(3, 3), (3, -3)]}, "distance_mm: got -3"),
    "NaN distance": ((DOSE, DOSE, SPACING), {"criteria": [(3, np.nan)]}, "distance_mm: got nan"),
    "unknown mode": ((DOSE, DOSE, SPACING), {"mode": "fast"}, "mode: got 'fast'. Expected one of exact, pass_rate, sampled"),
    "cutoff": ((DOSE, DOSE, SPACING), {"cutoff_percent": -1}, "cutoff_percent: got -1"),
    "NaN cutoff": ((DOSE, DOSE, SPACING), {"cutoff_percent": np.nan}, "cutoff_percent: got nan"),
    "max_gamma": ((DOSE, DOSE, SPACING), {"max_gamma": np.inf}, "max_gamma: got inf"),
    "tolerance": ((DOSE, DOSE, SPACING), {"tolerance": 0}, "tolerance: got 0"),
    "fraction": ((DOSE, DOSE, SPACING), {"interp_fraction": 0}, "interp_fraction: got 0"),
    "normalisation": ((DOSE, DOSE, SPACING), {"normalisation_gy": -70}, "normalisation_gy: got -70"),
    "mask": ((DOSE, DOSE, SPACING), {"regions": {"PTV": DOSE[1:]}}, "regions\\['PTV'\\]: got \\(3, 5, 6\\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused(case):
    arguments, options, message = BAD[case]
    with pytest.raises(InputError, match=f"gamma: {message}"):
        gamma_analysis(*arguments, **options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="cutoff"):
        gamma_map(DOSE, DOSE, SPACING, cutoff=10)


@pytest.mark.parametrize("mode", OWN_MODES)
def test_a_voxel_at_the_cutoff_counts(mode):
    reference = np.full((4, 4, 4), 9.99)
    reference[1, 1, 1], reference[2, 2, 2] = 100.0, 10.0
    (found,) = gamma_analysis(reference, reference, (3, 3, 3), mode=mode)
    assert np.argwhere(found.evaluated).tolist() == [[1, 1, 1], [2, 2, 2]]


def test_rounding_makes_no_pass_a_fail():
    """gamma = 1 - 1e-9 is a pass; in float32 it would be 1."""
    reference = np.full((4, 4, 4), 50.0)
    (found,) = gamma_analysis(reference, reference + 1.5 * (1 - 1e-9), (3, 3, 3), mode="sampled")
    assert found.pass_rate_percent == 100.0 and 0.999999 < found.gamma.max() < 1
