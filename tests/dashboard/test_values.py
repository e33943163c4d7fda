"""Means over cases, each by its own tag."""

import dataclasses

import pytest

from monai_vmat.dashboard.values import goal_name, plan_values
from monai_vmat.protocol import Goal


def result(protocol, absent=(), shift=0.0, rate=90.0):
    """One case's result as ``case_metrics`` gives it, with made-up numbers."""
    goals = [
        {**vars(goal), "predicted": 10.0 + shift, "reference": 10.0, "predicted_met": True, "reference_met": True}
        for goal in protocol.goals
        if goal.structure not in absent
    ]
    dvh = {
        n: {"D95": {"predicted": 60.0 + shift, "reference": 60.0, "gap": shift}} for n in ("PTV70", "PTV56") if n not in absent
    }
    return {"dvh": dvh, "goals": goals, "gamma": {"gamma_pass_rate": rate, "regions": {"PTV70+5mm": rate, "Bowel": None}}}


def test_means_over_the_cases_that_have_a_structure(prostate):
    values = plan_values(
        [result(prostate, shift=2.0), result(prostate, absent=("PTV56", "Bowel"), shift=4.0, rate=70.0)], prostate
    )
    assert values["dvh/PTV70_D95/predicted"] == 63.0 and values["dvh/PTV70_D95/reference"] == 60.0
    assert values["dvh/PTV56_D95/predicted"] == 62.0
    assert values["goals/Rectum_V70Gy/predicted"] == 13.0 and values["goals/Rectum_V70Gy/limit"] == 15.0
    assert values["goals/Bowel_V45Gy/predicted"] == 12.0
    assert values["gamma/whole_volume"] == values["gamma/PTV70+5mm"] == 80.0


def test_what_no_case_has_has_no_value(prostate):
    values = plan_values([result(prostate, absent=("Bowel",), rate=None)], prostate)
    assert not any(tag.startswith("gamma/") or "Bowel" in tag for tag in values)
    assert len([tag for tag in values if tag.startswith("goals/")]) == 3 * (len(prostate.goals) - 1)


def test_two_goals_for_one_metric_are_two(prostate):
    hot = Goal("PTV70", "D95", "<=", 75.0, "Gy")
    protocol = dataclasses.replace(prostate, goals=(*prostate.goals, hot))
    values = plan_values([result(protocol)], protocol)
    assert [values[f"goals/{goal_name(goal, protocol)}/limit"] for goal in (protocol.goals[0], hot)] == [66.5, 75.0]
    assert goal_name(protocol.goals[0], protocol) == "PTV70_D95"


def test_limits_are_those_of_the_plans(prostate):
    """A plan that prescribes less to PTV56 has a lower limit, and counts; a second goal of the same kind stays apart."""
    higher = Goal("PTV56", "D95", ">=", 55.0, "Gy")
    protocol = dataclasses.replace(prostate, goals=(*prostate.goals, higher))
    results = [result(protocol), result(protocol)]
    for entry in results[1]["goals"]:
        entry["limit"] *= 0.9 if entry["structure"] == "PTV56" else 1.0
    values = plan_values(results, protocol)
    assert values["goals/PTV56_D95/limit"] == pytest.approx(53.2 * 0.95)
    assert values["goals/PTV56_D95_2/limit"] == pytest.approx(55.0 * 0.95)
    assert values["goals/PTV70_D95/limit"] == 66.5
