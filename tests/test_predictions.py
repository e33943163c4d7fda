"""Predicted doses from files: each kind as it is written, none guessed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from monai_vmat.case import lps_affine, write_dose
from monai_vmat.errors import InputError
from monai_vmat.openkbp import GRID
from monai_vmat.predictions import find_prediction, predicted_case, read_prediction

RX_GY = 70.0


@pytest.fixture(scope="module")
def case(make_case, prostate):
    """On 24 x 20 x 16 voxels."""
    return make_case(prostate)


@pytest.fixture(scope="module")
def square(make_case, prostate):
    """Of as many voxels along X as along Y."""
    return make_case(prostate, shape=(20, 20, 16))


def refuse(path, case, problem, **options):
    with pytest.raises(InputError, match=problem) as error:
        read_prediction(path, case, RX_GY, **options)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_own_files(tmp_path, case):
    write_dose(tmp_path / "a_pred.npz", case.dose_gy + 1, case.affine, {})
    dose_gy, words = read_prediction(tmp_path / "a_pred.npz", case, RX_GY, dose_unit="fraction", axes="yxz")  # for others only
    assert np.abs(dose_gy - case.dose_gy - 1).max() < 0.00501 and dose_gy.dtype == np.float32
    assert words == "monai_vmat, Gy, (X, Y, Z)"


def test_own_files_on_another_grid(tmp_path, case):
    for name, dose, affine in (
        ("shape", case.dose_gy[1:], case.affine),
        ("spacing", case.dose_gy, lps_affine((3, 3, 2))),
        ("origin", case.dose_gy, lps_affine((3, 3, 3), (3, 0, 0))),
    ):
        write_dose(tmp_path / f"{name}_pred.npz", dose, affine, {})
        refuse(tmp_path / f"{name}_pred.npz", case, "lies on another grid than its case")


@pytest.mark.parametrize("unit", ["gy", "fraction"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("axes", ["xyz", "yxz"])
def test_the_shape_tells_the_axes(tmp_path, case, unit, dtype, axes):
    dose = case.dose_gy / (RX_GY if unit == "fraction" else 1)
    np.savez(tmp_path / "a_pred.npz", dose=(dose if axes == "xyz" else dose.swapaxes(0, 1)).astype(dtype))
    dose_gy, words = read_prediction(tmp_path / "a_pred.npz", case, RX_GY, dose_unit=unit)
    np.testing.assert_allclose(dose_gy, case.dose_gy, rtol=2e-3 if dtype == np.float16 else 1e-6, atol=1e-2)
    assert (dose_gy.dtype, dose_gy.flags.c_contiguous) == (np.float32, True)
    assert words == f"{np.dtype(dtype)}, {'Gy' if unit == 'gy' else 'fraction of 70 Gy'}, ({', '.join(axes.upper())})"
    again, _ = read_prediction(tmp_path / "a_pred.npz", case, RX_GY, dose_unit=unit, axes=axes)
    np.testing.assert_array_equal(again, dose_gy)
    other = "yxz" if axes == "xyz" else "xyz"
    refuse(tmp_path / "a_pred.npz", case, f"does not fit .* with --axes {other}", dose_unit=unit, axes=other)


def test_axes_that_the_shape_does_not_tell_are_asked(tmp_path, square):
    np.savez(tmp_path / "a_pred.npz", dose=square.dose_gy)
    refuse(tmp_path / "a_pred.npz", square, r"does not tell \(X, Y, Z\) from \(Y, X, Z\).*--axes yxz", dose_unit="gy")
    for axes, expected in (("xyz", square.dose_gy), ("yxz", square.dose_gy.swapaxes(0, 1))):
        dose_gy, _ = read_prediction(tmp_path / "a_pred.npz", square, RX_GY, dose_unit="gy", axes=axes)
        np.testing.assert_array_equal(dose_gy, expected)
    assert np.abs(square.dose_gy - square.dose_gy.swapaxes(0, 1)).max() > 1  # so the two do differ


def test_the_unit_is_asked(tmp_path, case):
    np.savez(tmp_path / "a_pred.npz", dose=case.dose_gy / 70)
    refuse(tmp_path / "a_pred.npz", case, r"'dose' has no unit \(no dose_scale_gy\); it reaches 1\.\d+.*--dose-unit")
    refuse(tmp_path / "a_pred.npz", case, "far below the reference's .*Say --dose-unit fraction", dose_unit="gy")
    np.savez(tmp_path / "b_pred.npz", dose=case.dose_gy)
    refuse(tmp_path / "b_pred.npz", case, r"at most 200 Gy were expected, got \d{4}.*--dose-unit", dose_unit="fraction")
    np.savez(tmp_path / "c_pred.npz", dose=np.zeros_like(case.dose_gy))  # a network that learned nothing is no error
    assert not read_prediction(tmp_path / "c_pred.npz", case, RX_GY, dose_unit="gy")[0].any()


def test_negative_doses_are_zero(tmp_path, case):
    np.savez(tmp_path / "a_pred.npz", dose=case.dose_gy - 5)
    assert read_prediction(tmp_path / "a_pred.npz", case, RX_GY, dose_unit="gy")[0].min() == 0


@pytest.mark.parametrize(
    ("dose", "problem"),
    [
        (
            np.zeros((24, 20, 15), np.float32),
            r"shape \(24, 20, 15\) does not fit the case's grid X 24, Y 20, Z 16 with any order",
        ),
        (np.zeros((16, 20, 24), np.float32), "does not fit the case's grid"),
        (np.zeros((1, 24, 20, 16), np.float32), r"three dimensions were expected, got float32 of shape \(1, 24, 20, 16\)"),
        (np.zeros((24, 20, 16), np.uint16), "floating-point numbers in three dimensions were expected, got uint16"),
        (np.full((24, 20, 16), np.nan), "finite doses .* got NaN"),
        (np.full((24, 20, 16), 7000.0), "at most 200 Gy were expected, got 7000 Gy"),
        (np.asarray([{}], object), "array 'dose' is of type 'object'.*never read"),
    ],
)
def test_what_is_no_dose(tmp_path, case, dose, problem):
    np.savez(tmp_path / "a_pred.npz", dose=dose)
    refuse(tmp_path / "a_pred.npz", case, problem, dose_unit="gy")


def test_openkbp_files(tmp_path, case, make_case, head_and_neck):
    """Its voxel is 10th from anterior, 20th from right and 30th from superior."""
    patient = make_case(head_and_neck, shape=GRID)
    (tmp_path / "pt_1.csv").write_text(f",data\n{(10 * 128 + 20) * 128 + 30},70.25\n")
    dose_gy, words = read_prediction(tmp_path / "pt_1.csv", patient, RX_GY)
    assert np.argwhere(dose_gy).tolist() == [[20, 10, 97]] and dose_gy[20, 10, 97] == 70.25 and words == "OpenKBP CSV, Gy"
    refuse(tmp_path / "pt_1.csv", case, r"is on a grid of \(128, 128, 128\), the case on \(24, 20, 16\)")
    (tmp_path / "pt_2.csv").write_text("data\n1,2\n")
    refuse(tmp_path / "pt_2.csv", patient, "the header line ',data' was expected")


def test_finding(tmp_path):
    assert [predicted_case(tmp_path / n) for n in ("a.b_pred.npz", "pt_1.csv", "a.npz", "x.json")] == [
        "a.b",
        "pt_1",
        None,
        None,
    ]
    with pytest.raises(InputError, match="has no prediction a_pred.npz or a.csv"):
        find_prediction(tmp_path, "a")
    (tmp_path / "a_pred.npz").touch()
    assert find_prediction(tmp_path, "a") == tmp_path / "a_pred.npz"
    (tmp_path / "a.csv").touch()
    with pytest.raises(InputError, match="has two predictions, a_pred.npz and a.csv"):
        find_prediction(tmp_path, "a")


def test_a_case_without_dose_can_still_be_read(tmp_path, case):
    np.savez(tmp_path / "a_pred.npz", dose=case.dose_gy)
    without = dataclasses.replace(case, dose_gy=None)
    np.testing.assert_array_equal(read_prediction(tmp_path / "a_pred.npz", without, RX_GY, dose_unit="gy")[0], case.dose_gy)
