import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_vmat.errors import InputError
from monai_vmat.metrics.dvh import dose_at_volume, dose_at_volume_cc, dvh_metric, volume_at_dose

TEN = np.arange(1.0, 11.0)  # 1, 2, ... 10 Gy


@pytest.fixture
def dose() -> np.ndarray:
    return np.random.default_rng(0).gamma(8, 5, 1237).astype(np.float32)


def test_by_hand():
    """Ten voxels of 0.05 cc; the linear percentile p of 1..10 lies at 1 + 9 p / 100."""
    expected = {
        ("D95", "Gy"): 1.45,
        ("D50", "Gy"): 5.5,
        ("D2", "Gy"): 9.82,
        ("D100", "Gy"): 1,
        ("D0", "Gy"): 10,
        ("D99.5", "Gy"): 1.045,
        ("D0.1cc", "Gy"): 9,  # two voxels
        ("D0.08cc", "Gy"): 9,  # 1.6 voxels round to two
        ("D0.01cc", "Gy"): 10,  # never less than one voxel
        ("D5cc", "Gy"): 1,  # more than there is
        ("V8Gy", "%"): 30,
        ("V8Gy", "cc"): 0.15,
        ("V7.5Gy", "%"): 30,
        ("V10.01Gy", "cc"): 0,
        ("Dmean", "Gy"): 5.5,
        ("Dmax", "Gy"): 10,
        ("Dmin", "Gy"): 1,
    }
    found = {key: dvh_metric(TEN[::-1].reshape(2, 5), *key, voxel_cc=0.05) for key in expected}
    assert found == pytest.approx(expected)
    assert all(type(value) is float for value in found.values())


def test_uniform_dose():
    """Every dose metric is the dose; every volume is all up to the dose and none above."""
    dose = np.full((4, 5), 42.0, np.float32)
    for metric in ("D95", "D0", "D100", "D2", "D0.1cc", "D99cc", "Dmean", "Dmax", "Dmin"):
        assert dvh_metric(dose, metric, "Gy", 0.02) == 42.0
    assert dvh_metric(dose, "V42Gy", "%", 0.02) == 100
    assert dvh_metric(dose, "V42Gy", "cc", 0.02) == pytest.approx(20 * 0.02)
    assert dvh_metric(dose, "V42.01Gy", "%", 0.02) == 0


def test_volumes_and_doses_fall(dose):
    volumes = [volume_at_dose(dose, x) for x in np.linspace(0, 120, 300)]
    assert volumes[0] == 100 and volumes[-1] == 0 and np.diff(volumes).max() <= 0
    assert np.diff([dose_at_volume(dose, x) for x in np.linspace(0, 100, 300)]).max() <= 0
    assert np.diff([dose_at_volume_cc(dose, x, 0.01) for x in np.linspace(0, 13, 300)]).max() <= 0


@pytest.mark.parametrize("percent", [0.0, 2.0, 47.3, 95.0, 98.0, 100.0])
def test_dose_at_volume_against_sorting(dose, percent):
    ordered = np.sort(dose.astype(np.float64))
    place = (1 - percent / 100) * (dose.size - 1)
    low = min(int(place), dose.size - 2)
    expected = ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])
    assert dose_at_volume(dose, percent) == pytest.approx(expected, abs=1e-4)
    assert dose_at_volume(2 * dose, percent) == pytest.approx(2 * expected, abs=2e-4)


@pytest.mark.parametrize("n", [1, 10, 500, 1237])
def test_dose_at_volume_cc_against_sorting(dose, n):
    before = dose.copy()
    assert dose_at_volume_cc(dose, n * 0.027, 0.027) == np.sort(dose)[::-1][n - 1]
    np.testing.assert_array_equal(dose, before)


@pytest.mark.parametrize("volume", [0.5, 3, 20])
def test_dose_and_volume_are_inverse(dose, volume):
    """At least the volume asked for receives D_x cc, and no more than a voxel above it."""
    reached = dvh_metric(dose, f"V{dose_at_volume_cc(dose, volume, 0.027):.12f}Gy", "cc", 0.027)
    assert reached == pytest.approx(volume, abs=0.027)


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("D95", "%"),
        ("V50Gy", "Gy"),
        ("V50", "%"),
        ("D95%", "Gy"),
        ("Dmedian", "Gy"),
        ("D", "Gy"),
        ("", "Gy"),
        ("D101", "Gy"),
        ("D-5", "Gy"),
        ("D95 ", "Gy"),
        ("d95", "Gy"),
        ("Dmean", "cGy"),
        ("D95", None),
    ],
)
def test_unknown_metrics_are_refused(metric, unit):
    with pytest.raises(InputError, match=f"metric '{metric}' in '{unit}': unknown. Use D95"):
        dvh_metric(TEN, metric, unit, 0.05)


DOSES = arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 100))
PERCENTS = st.floats(0, 100)


@given(DOSES, PERCENTS, PERCENTS, st.randoms(use_true_random=False))
def test_laws_of_any_dose(dose, percent, other, shuffler):
    """Between least and greatest dose; falling with the volume; the same in any order; as scaled and shifted as the dose."""
    found = dose_at_volume(dose, percent)
    slack = 1e-9 * (1 + dose.max())
    assert dose.min() - slack <= found <= dose.max() + slack
    low, high = sorted((percent, other))
    assert dose_at_volume(dose, low) >= dose_at_volume(dose, high) - slack
    assert dose_at_volume(np.asarray(shuffler.sample(dose.tolist(), len(dose))), percent) == found
    assert dose_at_volume(2 * dose + 1, percent) == pytest.approx(2 * found + 1)


@given(DOSES, st.floats(0, 120), st.floats(0, 120))
def test_laws_of_any_threshold(dose, threshold, other):
    low, high = sorted((threshold, other))
    assert 100 >= volume_at_dose(dose, low) >= volume_at_dose(dose, high) >= 0
    assert volume_at_dose(dose, 0) == 100
    assert volume_at_dose(dose, threshold) == pytest.approx(100 * np.count_nonzero(dose >= threshold) / len(dose))
