"""Whether error grows with predicted standard deviation: laws on drawn errors, and the report that says so."""

import sys

import numpy as np
import pytest

from monai_vmat.case import read_case, read_dose, write_dose
from monai_vmat.errors import InputError
from monai_vmat.files import read_json
from monai_vmat.reports.__main__ import main
from monai_vmat.reports.calibration import BINS, Spread, calibration, calibration_figure, read_spreads
from monai_vmat.reports.evaluation import find_cases, read_evaluation


def drawn(factor=1.0, informative=True, cases=5, voxels=20_000):
    """Errors drawn by the standard deviations, times a factor; or by those of other voxels."""
    draw = np.random.default_rng(0)
    spreads = []
    for case in range(cases):
        sd = draw.gamma(2.0, 0.5 * (case + 1), voxels).astype(np.float32)
        error = draw.normal(0.0, factor * (sd if informative else draw.permutation(sd))).astype(np.float32)
        spreads.append(Spread(f"c{case}", sd, error))
    return spreads


def test_errors_as_large_as_predicted():
    found = calibration(drawn())
    assert found["within_1_sd_percent"] == pytest.approx(68.3, abs=0.5)
    assert found["within_2_sd_percent"] == pytest.approx(95.4, abs=0.3)
    assert found["rmse_per_sd"] == pytest.approx(1.0, abs=0.02) and found["n_voxels"] == 100_000
    assert found["rank_correlation"] > 0.5 and found["rank_correlation_of_cases"] == pytest.approx(1.0)
    assert len(found["bins"]) == BINS and sum(b["voxels"] for b in found["bins"]) == 100_000
    for b in found["bins"]:
        assert b["sd_from_gy"] <= b["sd_mean_gy"] <= b["sd_to_gy"]
        assert b["rmse_gy"] == pytest.approx(b["sd_mean_gy"], rel=0.15) and b["mae_gy"] < b["rmse_gy"]
    of_voxels, of_cases = calibration_figure(found).axes
    assert list(of_voxels.lines[1].get_ydata()) == [b["rmse_gy"] for b in found["bins"]]
    assert len(of_cases.lines[0].get_xdata()) == 5


def test_errors_of_another_size_or_elsewhere():
    assert calibration(drawn(factor=2.0))["rmse_per_sd"] == pytest.approx(2.0, abs=0.04)
    assert calibration(drawn(factor=2.0))["within_1_sd_percent"] == pytest.approx(38.3, abs=0.5)
    blind = calibration(drawn(informative=False, cases=1))
    assert abs(blind["rank_correlation"]) < 0.03 and blind["rank_correlation_of_cases"] is None
    constant = [Spread("a", np.zeros(4, np.float32), np.ones(4, np.float32))]
    assert calibration(constant)["rmse_per_sd"] is None and calibration(constant)["within_1_sd_percent"] == 0.0


def test_the_report_has_it_where_standard_deviations_were_predicted(project, prostate, monkeypatch):
    folder = project / "predictions" / "ours_test"
    evaluation = read_evaluation(folder, project / "runs")
    items = find_cases(evaluation, None)
    assert read_spreads(evaluation, items) == []
    inside = {}
    for case_id, item in items.items():
        predicted, affine = read_dose(folder / f"{case_id}_pred.npz")
        case = read_case(item["case"], prostate)
        inside[case_id] = case.ct_hu > -400
        sd = 0.5 * np.abs(predicted - case.dose_gy)
        write_dose(folder / f"{case_id}_pred.npz", predicted, affine, {}, sd)
    spreads = {s.case_id: s for s in read_spreads(evaluation, items)}
    assert spreads["worst"].error_gy.mean() == pytest.approx(4.0, abs=0.02) and spreads["worst"].error_gy.size < 24 * 20 * 16
    monkeypatch.setattr(sys, "argv", ["reports", "evaluation", str(folder), "--cases", "1"])
    assert main() == 0
    found = read_json(folder / "calibration.json")
    assert found["rmse_per_sd"] == pytest.approx(2.0, abs=0.02) and found["rank_correlation_of_cases"] == pytest.approx(1.0)
    assert {"calibration.png", "uncertainty.pdf"} <= {path.name for path in (folder / "figures").iterdir()}
    page = (folder / "report.html").read_text()
    assert "rmse_per_sd" in page and 'alt="calibration"' in page
    predicted, affine = read_dose(folder / "mild_pred.npz")
    write_dose(folder / "mild_pred.npz", predicted, affine, {})
    with pytest.raises(InputError, match="has no standard deviation, others have"):
        read_spreads(evaluation, items)
