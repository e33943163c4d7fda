"""Results of one case and of several."""

import json
from dataclasses import replace

import numpy as np
import pytest

from monai_vmat.masks import BODY, DOSE_REGION
from monai_vmat.metrics.case_metrics import aggregate, case_metrics, gamma_metrics, within_mm
from monai_vmat.metrics.gamma import gamma_analysis
from monai_vmat.metrics.isodose_dice import isodose_dice
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
    assert {"rmse_body_gy", "mean_error_body_gy", "mae_above_90_percent_gy"} <= set(result["dose_metrics"])
    lower = evaluate(case.dose_gy - 1.5, case, masks, head_and_neck)["dose_metrics"]
    assert lower["mean_error_body_gy"] == pytest.approx(-1.5, abs=1e-4)
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


def test_errors_above_a_part_of_the_prescription(neck, head_and_neck):
    """Where the reference has 50 % of 70 Gy the prediction is 2 Gy off, elsewhere 1 Gy."""
    case, masks = neck
    high = case.dose_gy >= 35.0
    result = evaluate(case.dose_gy + np.where(high, 2.0, -1.0), case, masks, head_and_neck)
    found = result["dose_metrics"]
    assert found["mae_above_50_percent_gy"] == pytest.approx(2.0, abs=1e-4)
    assert found["mae_above_90_percent_gy"] == pytest.approx(2.0, abs=1e-4)
    share = high.sum() / (case.dose_gy >= 7.0).sum()
    assert found["mae_above_10_percent_gy"] == pytest.approx(1 + share, abs=1e-4) and share < 1
    body_share = high[masks[BODY]].mean()
    assert found["rmse_body_gy"] == pytest.approx((1 + 3 * body_share) ** 0.5, abs=1e-4)
    low = evaluate(case.dose_gy, replace(case, dose_gy=case.dose_gy * 0.1), masks, head_and_neck)["dose_metrics"]
    assert low["mae_above_90_percent_gy"] is None


def test_goals_follow_the_plans_prescription_and_the_reference(prostate, make_case):
    """PTV56 prescribed 50.4 Gy: its D95 goal is 53.2 x 50.4 / 56 = 47.88 Gy; that of the rectum stays."""
    case = make_case(prostate)
    masks = case_masks(case, prostate)
    pred = case.dose_gy + np.float32(0.5)
    goals = case_metrics(pred, case.dose_gy, masks, case.spacing_mm, prostate, {"PTV70": 70.0, "PTV56": 50.4})["goals"]
    limits = {(g["structure"], g["metric"]): g["limit"] for g in goals}
    assert limits["PTV56", "D95"] == pytest.approx(47.88) and limits["PTV70", "D95"] == 66.5 and limits["Rectum", "V50Gy"] == 50
    for goal in goals:  # half a gray more: better for targets, not for organs
        assert goal["gap"] == pytest.approx(goal["predicted"] - goal["reference"]) and goal["gap"] >= 0
        assert goal["not_worse"] == (goal["structure"].startswith("PTV") or goal["gap"] == 0)
    assert any(goal["gap"] > 0 and not goal["not_worse"] for goal in goals)


def test_plan_quality(prostate, make_case):
    """A lower target's isodose is compared with what it is meant to cover: that target and the higher one."""
    case = make_case(prostate)
    masks = case_masks(case, prostate)
    masks["PTV56"] = masks["PTV56"] & ~masks["PTV70"]  # some contour the lower target without the higher one
    both = masks["PTV70"] | masks["PTV56"]
    ideal = np.select([masks["PTV70"], masks["PTV56"]], [70.0, 56.0], 20.0).astype(np.float32)
    pred = np.where(both, ideal, 54.0).astype(np.float32)  # spills 54 Gy over everything
    quality = case_metrics(pred, ideal, masks, case.spacing_mm, prostate)["plan_quality"]
    assert quality["PTV70"]["conformity"] == {"predicted": 1.0, "reference": 1.0, "gap": 0.0}
    assert quality["PTV56"]["conformity"]["reference"] == 1.0
    assert quality["PTV56"]["conformity"]["predicted"] == pytest.approx(both.mean())
    assert quality["PTV70"]["homogeneity"]["predicted"] == 0.0
    cold = case_metrics(0 * ideal, ideal, masks, case.spacing_mm, prostate)["plan_quality"]["PTV70"]
    assert cold["conformity"] == {"predicted": None, "reference": 1.0, "gap": None} == cold["homogeneity"] | {"reference": 1.0}


def test_isodoses_are_parts_of_the_plans_prescription(neck, head_and_neck):
    case, masks = neck
    found = case_metrics(case.dose_gy * 0.9, case.dose_gy, masks, case.spacing_mm, head_and_neck, {"PTV70": 60.0})
    expected = isodose_dice(case.dose_gy * 0.9, case.dose_gy, 60.0)
    assert found["isodose_dice"] == {str(level): value for level, value in expected.items()}
    assert found["prescription_gy"]["PTV70"] == 60.0 and found["prescription_gy"]["PTV63"] == 63.0


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


def test_goals_agree_where_both_doses_meet_or_miss_them(neck, head_and_neck):
    case, masks = neck
    result = evaluate(case.dose_gy, case, masks, head_and_neck)
    pairs = ((True, True), (False, False), (True, False), (False, False), (False, True))
    goals = [{"predicted_met": predicted, "reference_met": reference} for predicted, reference in pairs]
    assert (
        aggregate([result | {"goals": goals[:2]}, result | {"goals": goals[2:]}], head_and_neck)["goal_agreement_percent"]
        == 60.0
    )
    assert aggregate([result | {"goals": []}], head_and_neck)["goal_agreement_percent"] is None


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
    for name, (percent, mm) in {"3 %/2 mm": (3, 2), "2 %/2 mm": (2, 2)}.items():
        (other,) = gamma_analysis(case.dose_gy, shifted, case.spacing_mm, criteria=[(percent, mm)])
        assert found["other_criteria"][name] == pytest.approx(other.pass_rate_percent)
    without = gamma_metrics(shifted, np.zeros_like(case.dose_gy), masks, case.spacing_mm, head_and_neck)
    assert without["gamma_pass_rate"] is None and set(without["regions"].values()) == {None}
    assert set(without) == set(found) and without["other_criteria"] == {"3 %/2 mm": None, "2 %/2 mm": None}


@pytest.mark.parametrize(("share", "spacing"), [(0.01, (2.0, 3.0, 2.5)), (0.0, (0.8, 3.0, 2.5))])
def test_margins_are_euclidean(share, spacing):
    rng = np.random.default_rng(0)
    mask = rng.random((9, 8, 7)) < share
    mask[0, 0, 0] = True
    centres = np.argwhere(np.ones(mask.shape, bool)) * spacing
    nearest = np.linalg.norm(centres[:, None] - np.argwhere(mask) * spacing, axis=-1).min(1)
    np.testing.assert_array_equal(within_mm(mask, 5.0, spacing), (nearest <= 5.0).reshape(mask.shape))
    assert not within_mm(np.zeros((4, 4, 4), bool), 5.0, spacing[:3]).any()
