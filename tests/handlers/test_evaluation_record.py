"""Predictions and results on disk, and the table that is shown."""

import json

import numpy as np
import pytest
import torch

from monai_vmat.case import read_dose_sd
from monai_vmat.distributed import SPARE
from monai_vmat.handlers.evaluation_record import EvaluationRecord
from monai_vmat.weights import describe


def test_files_and_table(tmp_path, head_and_neck, make_case, evaluate_cases, capsys):
    cases = [make_case(head_and_neck, case_id=f"c{i}", seed=i, absent=("PTV56",) if i else ()) for i in (0, 1)]
    facts = {"experiment": "e", "split": "test", "checkpoint": "/somewhere/best.pt", "project_root": str(tmp_path)}
    evaluate_cases(head_and_neck, cases, 2.0, EvaluationRecord(tmp_path, protocol=head_and_neck, **facts))
    results = json.loads((tmp_path / "evaluation_results.json").read_text())
    assert results["n_cases"] == 2 and results["checkpoint"] == "best.pt"
    # what earlier users' notebooks read
    assert 0 <= results["aggregate_metrics"]["gamma_pass_rate_mean"] <= 100
    assert results["aggregate_metrics"]["mae_gy_mean"] == pytest.approx(2.0, abs=1e-3)
    assert results["per_case_results"][1]["dose_metrics"]["mae_gy"] == pytest.approx(2.0, abs=1e-3)
    with np.load(tmp_path / "c0_pred.npz", allow_pickle=False) as saved:
        assert saved["dose"] * saved["dose_scale_gy"] == pytest.approx(cases[0].dose_gy + 2.0, abs=0.0051)
        assert np.allclose(saved["affine"], cases[0].affine) and "not a medical device" in str(saved["metadata"])
    assert set(results["seconds"]) == {"inference", "metrics"}
    goals = [goal for result in results["per_case_results"] for goal in result["goals"]]
    met = sum(goal["predicted_met"] for goal in goals)
    shown = capsys.readouterr().out
    assert "OpenKBP dose score" in shown and "c1" in shown and "mean" in shown
    assert f"goals: {met} of {len(goals)} met by the predictions" in shown and 0 < met < len(goals)
    row = next(line.split() for line in shown.splitlines() if line.startswith("c1"))
    assert row[1] == "2.00" and "-" in row  # MAE; no PTV56


def test_a_case_that_another_process_has_is_not_written(tmp_path, prostate, make_case, evaluate_cases):
    facts = {"experiment": "e", "split": "test", "checkpoint": "best.pt", "project_root": str(tmp_path)}
    record = EvaluationRecord(tmp_path / "out", protocol=prostate, **facts)
    engine = evaluate_cases(prostate, [make_case(prostate)], 1.0)
    record._start(engine)
    engine.state.batch[0][SPARE] = True
    record._write_predictions(engine)
    assert not (tmp_path / "out").exists()
    del engine.state.batch[0][SPARE]
    record._write_predictions(engine)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case_1_pred.npz"]
    assert read_dose_sd(tmp_path / "out" / "case_1_pred.npz") is None
    (out,) = engine.state.output
    out["pred_sd"] = torch.full_like(out["pred"], 0.1)
    record._write_predictions(engine)
    assert read_dose_sd(tmp_path / "out" / "case_1_pred.npz") == pytest.approx(0.1 * prostate.rx_gy, abs=0.0051)


def test_an_ensemble_is_named_by_all_its_files(tmp_path, prostate):
    facts = {"experiment": "e", "split": "test", "project_root": str(tmp_path)}
    record = EvaluationRecord(tmp_path, protocol=prostate, checkpoint="[a/one.pt,b/two.pt]", **facts)
    assert record.facts["checkpoint"] == "one.pt, two.pt"


def test_results_say_which_cases_are_unlike_the_training(tmp_path, prostate, make_case, evaluate_cases, caplog):
    """By what the weight files hold; where they hold nothing, nothing is said to be inside."""
    for name, facts in (("old.pt", {}), ("new.pt", {"ranges": {"voxel size Z, mm": [2.0, 3.2]}})):
        torch.save(describe(torch.nn.Linear(1, 1).state_dict(), facts), tmp_path / name)
    cases = [make_case(prostate, case_id=f"z{z:g}", spacing=(3.0, 3.0, z)) for z in (3.0, 6.0)]
    told = {}
    for name in ("old.pt", "new.pt"):
        facts = {"experiment": "e", "split": "test", "project_root": str(tmp_path), "checkpoint": tmp_path / name}
        record = EvaluationRecord(tmp_path / name[:3], protocol=prostate, **facts)
        evaluate_cases(prostate, cases, 1.0, record)
        results = json.loads((tmp_path / name[:3] / "evaluation_results.json").read_text())
        told[name] = {r["case_id"]: r["outside_training_range"] for r in results["per_case_results"]}
        assert "outside_training_range" in results["conventions"]
    assert told["old.pt"] == {"z3": None, "z6": None}
    assert told["new.pt"] == {"z3": [], "z6": ["voxel size Z, mm: 6 (training: 2 to 3.2)"]}
    with np.load(tmp_path / "new" / "z6_pred.npz", allow_pickle=False) as saved:
        assert json.loads(str(saved["metadata"]))["outside_training_range"] == told["new.pt"]["z6"]
    assert "z6 is unlike the cases of the training" in caplog.text and "z3" not in caplog.text
