"""Results of one case and of several."""

import json

import numpy as np
import pytest

from monai_vmat.masks import BODY, DOSE_REGION
from monai_vmat.metrics.case_metrics import aggregate, case_metrics, gamma_metrics, within_mm
from monai_vmat.metrics.gamma import gamma_analysis
from monai_vmat.transforms.load_case import case_masks


@pytest.fixture
def neck(head_and_neck, make_case):
    case = make_case(head_and_neck)
    return case, case_masks(case, head_and_neck)


def evaluate(pred, case, masks, protocol):
    return case_metrics(pred, case.dose_gy, masks, case.spacing_mm, protocol)


def test_a_uniform_shift(neck, head_and_neck):
    case, masks = neck
    result = evaluate(case.dose_gy + 1.5, case, masks, head_and_neck)
    assert result["dose_metrics"]["mae_gy"] == pytest.approx(1.5, abs=1e-4)
    assert result["dose_metrics"]["rmse_gy"] == pytest.approx(1.5, abs=1e-4)
    assert result["dose_metrics"]["mae_body_gy"] == pytest.approx(1.5, abs=1e-4)
    assert all(v == pytest.approx(1.5, abs=1e-4) for k, v in result["dose_metrics"].items())
    gaps = [m["gap"] for s in result["dvh"].values() for m in s.values()]
    assert gaps == pytest.approx([1.5] * len(gaps), abs=1e-4)
    assert list(result["openkbp"]["dvh_errors_gy"].values()) == pytest.approx([1.5] * 23, abs=1e-4)


def test_whole_volume_and_body_differ_as_their_voxels_do(neck, head_and_neck):
    case, masks = neck
    pred = case.dose_gy + 2.0 * masks[BODY]
    result = evaluate(pred, case, masks, head_and_neck)["dose_metrics"]
    assert result["mae_body_gy"] == pytest.approx(2.0, abs=1e-4)
    assert result["mae_gy"] == pytest.approx(2.0 * masks[BODY].mean(), abs=1e-4)


def test_d95_is_the_numpy_percentile(neck, head_and_neck):
    case, masks = neck
    pred = case.dose_gy * np.float32(0.9)
    d95 = evaluate(pred, case, masks, head_and_neck)["dvh"]["PTV70"]["D95"]
    assert d95["reference"] == pytest.approx(np.percentile(case.dose_gy[masks["PTV70"]], 5))
    assert d95["gap"] == pytest.approx(-0.1 * d95["reference"], rel=1e-4)


def test_goals_by_hand(prostate, make_case):
    case = make_case(prostate, shape=(24, 20, 16))
    masks = case_masks(case, prostate)
    dose = np.where(masks["PTV70"], 70.0, 10.0).astype(np.float32)
    pred = dose.copy()
    pred[masks["PTV70"]] = 66.0
    result = case_metrics(pred, dose, masks, case.spacing_mm, prostate)
    goal = next(g for g in result["goals"] if g["structure"] == "PTV70")
    assert (goal["predicted"], goal["reference"]) == (66.0, 70.0)
    assert (goal["predicted_met"], goal["reference_met"]) == (False, True)
    assert goal["op"] == ">=" and goal["limit"] == 66.5


def test_absent_structures_are_left_out(head_and_neck, make_case):
    case = make_case(head_and_neck, absent=("PTV56", "Larynx"))
    result = evaluate(case.dose_gy, case, case_masks(case, head_and_neck), head_and_neck)
    assert "PTV56" not in result["dvh"] and not any(g["structure"] == "Larynx" for g in result["goals"])
    assert "mae_PTV56_gy" not in result["dose_metrics"]


def test_small_structures_are_flagged(neck, head_and_neck):
    case, masks = neck
    masks["Larynx"] = np.zeros_like(masks[DOSE_REGION])
    masks["Larynx"].flat[:99] = True
    small = evaluate(case.dose_gy, case, masks, head_and_neck)["small_structures"]
    assert "Larynx" in small and "PTV56" not in small


def test_aggregate(neck, head_and_neck):
    case, masks = neck
    results = [evaluate(case.dose_gy + shift, case, masks, head_and_neck) for shift in (1.0, 3.0)]
    summary = aggregate(results, head_and_neck)
    assert summary["mae_gy_mean"] == pytest.approx(2.0, abs=1e-4) and summary["mae_gy_std"] == pytest.approx(1.0, abs=1e-4)
    rates = [r["gamma"]["gamma_pass_rate"] for r in results]
    assert rates[0] == 100.0 > rates[1] and summary["gamma_pass_rate_mean"] == pytest.approx(np.mean(rates))
    assert summary["gamma_pass_rate_PTV70+5mm_mean"] == pytest.approx(
        np.mean([r["gamma"]["regions"]["PTV70+5mm"] for r in results])
    )
    assert summary["PTV70_D95_gap_gy_mean"] == pytest.approx(2.0, abs=1e-4)
    region = np.count_nonzero(masks[DOSE_REGION])
    assert summary["openkbp_dose_score_gy"] == pytest.approx(2.0 * case.dose_gy.size / region, rel=1e-4)
    assert summary["openkbp_dvh_score_gy"] == pytest.approx(2.0, abs=1e-4)
    json.dumps({"results": results, "summary": summary}, allow_nan=False)


def test_gamma_is_read_from_one_map_by_region(neck, head_and_neck):
    case, masks = neck
    shifted = case.dose_gy + 3.0
    found = gamma_metrics(shifted, case.dose_gy, masks, case.spacing_mm, head_and_neck)
    (expected,) = gamma_analysis(case.dose_gy, shifted, case.spacing_mm, mode="exact")
    assert found["gamma_pass_rate"] == pytest.approx(expected.pass_rate_percent) and "3 %/3 mm" in found["convention"]
    rim = within_mm(masks["PTV70"], 5.0, case.spacing_mm)
    inside = expected.gamma[rim & expected.evaluated]
    assert found["regions"]["PTV70+5mm"] == pytest.approx(100 * np.mean(inside < 1))
    assert {"Body", "PTV70+5mm", "Brainstem"} <= set(found["regions"]) and "PTV70" not in found["regions"]
    without = gamma_metrics(shifted, np.zeros_like(case.dose_gy), masks, case.spacing_mm, head_and_neck)
    assert without["gamma_pass_rate"] is None and set(without["regions"].values()) == {None}


def test_margins_are_euclidean():
    rng = np.random.default_rng(0)
    mask, spacing = rng.random((9, 8, 7)) > 0.99, (2.0, 3.0, 2.5)
    mask[0, 0, 0] = True
    centres = np.argwhere(np.ones(mask.shape, bool)) * spacing
    nearest = np.linalg.norm(centres[:, None] - np.argwhere(mask) * spacing, axis=-1).min(1)
    np.testing.assert_array_equal(within_mm(mask, 5.0, spacing), (nearest <= 5.0).reshape(mask.shape))
    assert not within_mm(np.zeros((4, 4, 4), bool), 5.0, spacing[:3]).any()
