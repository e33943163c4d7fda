"""What the goals table says."""

from monai_vmat.dashboard.goals_table import goals_table


def entry(goal, reference, predicted):
    verdicts = [v >= goal.limit if goal.op == ">=" else v <= goal.limit for v in (reference, predicted)]
    values = {"reference": reference, "predicted": predicted, "reference_met": verdicts[0], "predicted_met": verdicts[1]}
    return {**vars(goal), **values}


def test_a_row_for_each_goal_that_some_case_has(prostate):
    target, _, rectum = prostate.goals[:3]
    results = [{"goals": [entry(target, 67.0, 65.0), entry(rectum, 14.0, 16.0)]}, {"goals": [entry(target, 68.0, 67.0)]}]
    header, rule, *rows = goals_table(results, prostate).splitlines()
    assert rule.count("---") == header.count("|") - 1 == 7
    assert rows == [
        "| PTV70 | D95 >= 66.5 Gy | 67.5 Gy | 66.0 Gy | 2 of 2 | 1 of 2 | 1 of 2 |",
        "| Rectum | V70Gy <= 15 % | 14.0 % | 16.0 % | 1 of 1 | 0 of 1 | 0 of 1 |",
    ]
