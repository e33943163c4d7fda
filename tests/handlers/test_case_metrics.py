"""The evaluator's metrics are those of the cases, by name."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from ignite.engine import Events
from ignite.exceptions import NotComputableError

from monai_vmat.distributed import SPARE
from monai_vmat.handlers.case_metrics import CaseMetrics
from monai_vmat.metrics.case_metrics import aggregate, case_metrics
from monai_vmat.metrics.dvh_metric import DVHMetric
from monai_vmat.metrics.gamma3d import Gamma3D
from monai_vmat.protocol import load_protocol
from monai_vmat.transforms.load_case import case_masks


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
    assert set(engine.state.case_seconds) == {"inference", "metrics"} and engine.state.case_seconds["metrics"] > 0


def test_each_result_is_that_of_its_case(prostate, make_case, evaluate_cases):
    """With the plan's own prescription, in the order of the cases, however many wait."""
    drawn = [make_case(prostate, case_id=f"c{i}", seed=i) for i in range(5)]
    cases = [replace(case, prescription_gy={"PTV70": 70.0, "PTV56": 50.4}) for case in drawn]
    engine = evaluate_cases(prostate, cases, 1.0)
    for case, result in zip(cases, engine.state.case_results, strict=True):
        scale = np.float32(prostate.rx_gy)
        dose = case.dose_gy / scale
        doses = (dose + np.float32(1.0 / prostate.rx_gy)) * scale, dose * scale
        expected = case_metrics(*doses, case_masks(case, prostate), case.spacing_mm, prostate, case.prescription_gy)
        assert result["case_id"] == case.case_id and expected["prescription_gy"]["PTV56"] == pytest.approx(50.4)
        assert result["dvh"]["PTV56"]["D95"]["gap"] == pytest.approx(1.0, abs=1e-4)
        assert {k: result[k] for k in ("gamma", "plan_quality")} == {k: expected[k] for k in ("gamma", "plan_quality")}


def test_an_error_in_a_case_ends_the_run(prostate, make_case, evaluate_cases, monkeypatch):
    def broken(*args):
        raise RuntimeError("broken metric")

    monkeypatch.setattr("monai_vmat.handlers.case_metrics.case_metrics", broken)
    with pytest.raises(RuntimeError, match="broken metric"):
        evaluate_cases(prostate, [make_case(prostate)], 1.0)


def test_a_case_that_another_process_has_does_not_count(prostate, make_case, evaluate_cases):
    engine = evaluate_cases(prostate, [make_case(prostate)], 1.0)
    (item,), (out,) = engine.state.batch, engine.state.output
    metric = CaseMetrics(prostate)
    metric._engine = engine
    metric.update(([item | {SPARE: True}], [out]))
    with pytest.raises(NotComputableError):
        metric.compute()


def run_share(rank: int, folder: str) -> None:
    """Each of two processes measures its cases: 0, 2, 4 and 1, 3 and, dealt out again to fill up, 0."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    protocol = load_protocol("openkbp_head_and_neck")
    metric = CaseMetrics(protocol)
    gamma, dvh = Gamma3D(spacing_mm=(3, 3, 3), scale_gy=protocol.rx_gy), DVHMetric(scale_gy=protocol.rx_gy)
    batches = torch.load(f"{folder}/batches.pt", weights_only=True)
    engine = torch.nn.Module()  # something with a state
    engine.state = torch.nn.Module()
    engine.state.metrics = {}
    metric._engine = engine
    for number in ((0, 2, 4), (1, 3, 0))[rank]:
        item, out = batches[number]
        metric.update(([item], [out]))
        dose, pred = out["label"]["dose"][None], out["pred"][None]
        if number or not rank:
            gamma(pred, dose)
            dvh(pred, torch.cat([dose, (dose > 0.5).float()], 1))
    metric.compute()
    found = {
        "cases": [result["case_id"] for result in engine.state.case_results],
        "summary": aggregate(engine.state.case_results, protocol),
        "gamma": gamma.aggregate().item(),
        "D95": dvh.aggregate().item(),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_find_what_one_finds(tmp_path, head_and_neck, make_case, evaluate_cases):
    cases = [make_case(head_and_neck, case_id=f"c{i}", seed=i) for i in range(5)]
    batches = []

    def keep(engine):
        item = {k: v for k, v in engine.state.batch[0].items() if k != "structures"}
        out = engine.state.output[0]
        out["pred"] = out["pred"] * (1 + 0.03 * len(batches))
        batches.append((item, out))

    class Keep:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, keep)

    evaluate_cases(head_and_neck, cases, 0.0, Keep())
    torch.save(batches, tmp_path / "batches.pt")
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    metric = CaseMetrics(head_and_neck)
    metric._engine = evaluate_cases(head_and_neck, cases, 0.0)
    metric.update(tuple(zip(*batches, strict=True)))
    metric.compute()
    assert first["cases"] == ["c0", "c1", "c2", "c3", "c4"]
    assert first["summary"] == aggregate(metric._engine.state.case_results, head_and_neck)
    gamma, dvh = Gamma3D(spacing_mm=(3, 3, 3), scale_gy=head_and_neck.rx_gy), DVHMetric(scale_gy=head_and_neck.rx_gy)
    for _, out in batches:
        dose, pred = out["label"]["dose"][None], out["pred"][None]
        gamma(pred, dose)
        dvh(pred, torch.cat([dose, (dose > 0.5).float()], 1))
    assert first["gamma"] == pytest.approx(gamma.aggregate().item()) and first["gamma"] < 100
    assert first["D95"] == pytest.approx(dvh.aggregate().item()) and first["D95"] > 0


if __name__ == "__main__":
    run_share(int(sys.argv[1]), sys.argv[2])
