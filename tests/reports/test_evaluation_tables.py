"""Tables from results as they are, older and newer ones."""

from __future__ import annotations

import pytest

from monai_vmat.files import read_json
from monai_vmat.reports.evaluation_tables import (
    case_table,
    goal_summary,
    goal_table,
    metric_label,
    metric_tables,
    summary_table,
)


@pytest.fixture
def cases(evaluated) -> list[dict]:
    return read_json(evaluated / "predictions" / "ours_test" / "evaluation_results.json")["per_case_results"]


@pytest.fixture
def older(cases) -> list[dict]:
    """As evaluations wrote results at first."""
    for case in cases:
        for field in ("plan_quality", "isodose_dice", "prescription_gy"):
            case.pop(field)
        case["gamma"].pop("other_criteria")
        kept = [name for name in case["dose_metrics"] if "above" not in name and not name.startswith("mean_error")]
        case["dose_metrics"] = {name: case["dose_metrics"][name] for name in kept}
        for goal in case["goals"]:
            goal.pop("gap"), goal.pop("not_worse")
    return cases


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("mae_gy", "MAE whole volume, Gy"),
        ("mae_body_gy", "MAE body, Gy"),
        ("mae_Femur_L_gy", "MAE Femur_L, Gy"),
        ("mae_above_10_percent_gy", "MAE where dose \N{GREATER-THAN OR EQUAL TO} 10 %, Gy"),
        ("mean_error_body_gy", "mean error body, Gy"),
        ("gamma_pass_rate", "gamma pass rate, %"),
        ("gamma_pass_rate_PTV70+5mm", "gamma pass rate PTV70+5mm, %"),
        ("PTV70_D95_abs_gap_gy", "PTV70 |D95 gap|, Gy"),
        ("goal_agreement_percent", "goal agreement, %"),
        ("isodose_dice_10_percent", "Dice overlap of the 10 % isodose"),
        ("something_new", "something new"),
    ],
)
def test_labels_have_words_and_units(name, label):
    assert metric_label(name) == label


def test_summary_pairs_means_with_deviations():
    header, rows = summary_table({"mae_gy_mean": 1.0, "mae_gy_std": 0.2, "goal_agreement_percent": 90.0, "rmse_gy_mean": None})
    assert len(header) == 3
    assert rows == [
        ("MAE whole volume, Gy", 1.0, 0.2),
        ("goal agreement, %", 90.0, None),
        ("RMSE whole volume, Gy", None, None),
    ]


def test_case_table_has_the_columns_that_results_have(older, prostate):
    header, rows = case_table(older, prostate)
    assert header[:2] == ("case", "MAE body, Gy") and [row[0] for row in rows] == ["mild", "worst", "medium"]
    row = dict(zip(header, rows[1], strict=True))
    assert row["MAE body, Gy"] == pytest.approx(4.0, abs=1e-3)
    assert row["PTV70 D95 gap, Gy"] == pytest.approx(4.0, abs=1e-3)
    assert row["goals met, predicted"] == sum(g["predicted_met"] for g in older[1]["goals"])
    assert not any("PTV70, Gy" in h or "OpenKBP" in h or "above" in h or h.startswith("gamma 2") for h in header)


def test_case_table_has_what_is_newer_and_leaves_room_for_what_is_not_known(cases, prostate):
    for case in cases:
        case["dose_metrics"]["mae_above_50_percent_gy"] = 1.5
        case["gamma"]["other_criteria"] = {"2 %/2 mm": 55.5}
        case["openkbp"] = {"dose_error_gy": 3.25, "dvh_errors_gy": {}}
    cases[0]["gamma"]["gamma_pass_rate"] = None
    cases[0].pop("goals")
    header, rows = case_table(cases, prostate)
    row = dict(zip(header, rows[0], strict=True))
    assert row["MAE where dose \N{GREATER-THAN OR EQUAL TO} 50 %, Gy"] == 1.5 and row["gamma 2 %/2 mm, %"] == 55.5
    assert row["OpenKBP dose error, Gy"] == 3.25 and row["goals met, reference"] is None and row["gamma 3 %/3 mm, %"] is None


def goal(predicted_met: bool, reference_met: bool, structure: str = "Rectum", **more) -> dict:
    known = {
        "structure": structure,
        "metric": "V70Gy",
        "op": "<=",
        "limit": 15,
        "unit": "%",
        "predicted": 16.0,
        "reference": 14.0,
    }
    return known | {"predicted_met": predicted_met, "reference_met": reference_met} | more


def test_goals_say_in_words_what_became_of_them():
    case = {"goals": [goal(True, True), goal(False, True), goal(True, False)]}
    header, rows = goal_table(case)
    assert [row[header.index("verdict")] for row in rows] == ["same", "lost", "gained"]
    assert rows[0][:4] == ("Rectum", "V70Gy \N{LESS-THAN OR EQUAL TO} 15 %", "14.00 %", "16.00 %") and "gap" not in header
    header, rows = goal_table({"goals": [goal(False, True, gap=2.0, not_worse=False)]})
    assert rows[0][header.index("gap")] == 2.0 and rows[0][header.index("not worse")] is False
    assert goal_table({})[1] == []


def test_goals_are_counted_over_cases():
    cases = [
        {"goals": [goal(True, True), goal(True, True, "Bladder")]},
        {"goals": [goal(False, True)]},
        {"goals": [goal(False, False)]},
        {},
    ]
    header, rows = goal_summary(cases)
    text = "V70Gy \N{LESS-THAN OR EQUAL TO} 15 %"
    assert rows == [("Rectum", text, 3, 2, 1, 2), ("Bladder", text, 1, 1, 1, 1)]


def test_everything_measured_on_a_case_is_shown(cases):
    case = cases[1]
    case["isodose_dice"]["100"] = None
    case["openkbp"] = {"dose_error_gy": 2.0, "dvh_errors_gy": {"PTV70_D95": -1.0}}
    found = dict(metric_tables(case))
    quality = case["plan_quality"]["PTV70"]["conformity"]
    row = ("PTV70", "conformity", quality["reference"], quality["predicted"], quality["gap"])
    assert found["Plan quality"][1][0] == row
    assert found["Isodose overlap"][1][0] == ("10 %", case["isodose_dice"]["10"])
    assert found["Isodose overlap"][1][-1] == ("100 %", None)
    assert found["OpenKBP DVH errors"][1] == [("PTV70_D95", -1.0)]
    rates = dict(found["Gamma pass rate"][1])
    assert rates["3 %/3 mm"] == case["gamma"]["gamma_pass_rate"] and "3 %/3 mm in Rectum" in rates
    assert rates["2 %/2 mm"] == case["gamma"]["other_criteria"]["2 %/2 mm"]
    d95 = case["dvh"]["PTV70"]["D95"]
    assert ("PTV70", "D95", d95["reference"], d95["predicted"], d95["gap"]) in found["DVH"][1] and d95["gap"] > 3.9
    assert len(found["DVH"][1]) == sum(len(metrics) for metrics in case["dvh"].values())
    assert len(found["Dose error"][1]) == len(case["dose_metrics"])


def test_what_older_results_lack_is_left_out(older):
    assert [title for title, _ in metric_tables(older[0])] == ["Dose error", "Gamma pass rate", "DVH"]
    assert len(goal_table(older[0])[0]) == 7


def test_which_cases_are_unlike_the_training(cases, prostate):
    header, _ = case_table(cases, prostate)
    assert "training's range" not in header  # of weights that say nothing
    for case, outside in zip(cases, ([], ["Body volume, cc: 9 (training: 1 to 2)"], None), strict=True):
        case["outside_training_range"] = outside
    header, rows = case_table(cases, prostate)
    assert [row[header.index("training's range")] for row in rows] == ["inside", "far outside", None]
