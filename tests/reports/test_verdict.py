"""Plain words that follow from the figures."""

from __future__ import annotations

from monai_vmat.reports.compare import Comparison, Run
from monai_vmat.reports.verdict import verdicts


def run(name: str) -> Run:
    return Run(name, name.split("-")[0], 1, 1.0, 60.0, {}, {}, {}, {})


def comparison(differences: dict[str, tuple[float, float, float]], seeds: int = 1) -> Comparison:
    return Comparison("other", [run(f"other-seed{n}") for n in range(seeds)], None, None, differences)


def test_signs_and_intervals_decide():
    """Less error is better, more gamma is better; an interval with zero in it says nothing."""
    found = {
        "body_mae_gy": (-0.1, -0.2, -0.05),
        "gamma_pass_rate": (-3.0, -5.0, -1.0),
        "PTV70_D95_abs_gap_gy": (0.4, -0.1, 0.9),
        "mae_gy": (-1.0, -1.0, -1.0),
    }
    (said,) = verdicts([comparison(found, seeds=2)], "baseline")
    assert said == (
        "other against baseline: better: body MAE -0.10 Gy (-0.20 to -0.05); worse: gamma -3.00 points (-5.00 to -1.00); "
        "no clear difference: |D95 gap| of PTV70 +0.40 Gy (-0.10 to +0.90)."
    )
    better = verdicts([comparison({"gamma_pass_rate": (3.0, 1.0, 5.0)}, seeds=2)], "baseline")
    assert better == ["other against baseline: better: gamma +3.00 points (+1.00 to +5.00)."]


def test_single_trainings_are_warned_about():
    found = {"body_mae_gy": (-0.1, -0.2, -0.05)}
    assert "may be chance" in verdicts([comparison(found)], "baseline")[-1]
    assert len(verdicts([comparison(found, seeds=2)], "baseline")) == 1
    assert verdicts([Comparison("baseline", [run("baseline")], None, None, {})], "baseline") == []
