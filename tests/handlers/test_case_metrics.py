"""The evaluator's metrics are those of the cases, by name."""

import numpy as np
import pytest


def test_metrics_and_results(head_and_neck, make_case, evaluate_cases):
    cases = [make_case(head_and_neck, case_id=f"c{i}", seed=i) for i in (0, 1)]
    engine = evaluate_cases(head_and_neck, cases, -1.5)
    metrics = engine.state.metrics
    assert metrics["val/mae_gy"] == pytest.approx(1.5, abs=1e-3)
    assert metrics["val/openkbp_dvh_score_gy"] == pytest.approx(1.5, abs=1e-3)
    assert metrics["val/PTV70_D95_gap_gy"] == pytest.approx(-1.5, abs=1e-3)
    assert not any(name.endswith(("_mean", "_std")) for name in metrics)
    assert np.isfinite(list(metrics.values())).all()
    assert [r["case_id"] for r in engine.state.case_results] == ["c0", "c1"]
    engine.run(cases[:1])
    assert [r["case_id"] for r in engine.state.case_results] == ["c0"]  # a new run starts afresh
