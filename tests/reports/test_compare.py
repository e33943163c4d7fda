"""Comparing experiments by the records of their runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from monai_vmat.errors import InputError
from monai_vmat.reports import compare as module
from monai_vmat.reports.compare import compare, comparison_table, holm, markdown, read_run

CASES = [f"p{i}_{plan}" for i in range(4) for plan in "ab"]

FINAL = {"epoch": 14, "train/mse": 0.004, "train/mse_weighted": 0.004, "train/dvh": 0.02, "train/dvh_weighted": 0.01}


def write_run(root: Path, name: str, errors: dict[str, float] | None, val: float = 1.0) -> Path:
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    (folder / "training_summary.json").write_text(json.dumps({"best_val_mae_gy": val, "seconds": 120.0, "final": FINAL}))
    record = {
        "parameters": 1000,
        "seed": 7,
        "git_commit": "0123456789abcdef",
        "cases": {"training": ["t1", "t2"], "validation": ["v1"]},
        "config": {"max_epochs": 14, "patch_size": [8, 8, 8]},
        "hardware": {"gpu": None, "cpu": "some CPU", "torch_threads": 2},
        "versions": {"torch": "2.13.0", "monai": "1.6.1"},
    }
    (folder / "training_config.json").write_text(json.dumps(record))
    if errors is not None:
        results = [
            {
                "case_id": case,
                "patient": case.split("_")[0],
                "dose_metrics": {"mae_gy": error / 2, "mae_body_gy": error},
                "gamma": {"gamma_pass_rate": None},
                "dvh": {"PTV70": {"D95": {"gap": -error / 10}}, "Rectum": {"Dmean": {"gap": 1.0 - error}}},
            }
            for case, error in errors.items()
        ]
        path = root / "predictions" / f"{name}_test" / "evaluation_results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"per_case_results": results}))
    return folder


def read_all(root: Path) -> list[module.Run]:
    return [read_run(folder, root / "predictions", "test") for folder in sorted((root / "runs").iterdir())]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_seeds_are_taken_together(tmp_path):
    errors = {case: 2.0 + i / 10 for i, case in enumerate(CASES)}
    write_run(tmp_path, "baseline-seed1", errors, val=1.0)
    write_run(tmp_path, "baseline-seed2", {c: e + 0.4 for c, e in errors.items()}, val=1.2)
    write_run(tmp_path, "better", {c: e - 0.5 for c, e in errors.items()})
    better, baseline = compare(read_all(tmp_path), "baseline")
    assert (better.experiment, baseline.experiment) == ("better", "baseline")  # the best first
    assert baseline.body_mae_gy[0] == pytest.approx(np.mean(list(errors.values())) + 0.2)
    header, rows = comparison_table([better, baseline], "baseline")
    row = dict(zip(header, rows[1], strict=True))
    assert row["seeds"] == 2 and row["val MAE Gy"] == "1.100 +- 0.141" and row["test body MAE Gy"] == "2.55 +- 0.28"
    assert row["PTV70 |D95 gap| Gy"] == "0.26 +- 0.03" and row["gamma %"] is None and row["minutes"] == "2.0 +- 0.0"
    assert "Rectum |D95 gap| Gy" not in header
    change = dict(zip(header, rows[0], strict=True))["against baseline %"]
    assert change == f"{100 * (1.85 / 2.55 - 1):+.1f}"


def test_p_values_are_scipys_corrected(tmp_path):
    rng = np.random.default_rng(0)
    base = {case: 2.0 for case in CASES}
    small, large = ({c: 2.0 + shift + rng.normal(0, 0.1) for c in CASES} for shift in (0.02, 0.5))
    for name, errors in (("baseline", base), ("small", small), ("large", large)):
        write_run(tmp_path, name, errors)
    found = {c.experiment: c.p_value for c in compare(read_all(tmp_path), "baseline")}
    raw = [stats.wilcoxon(np.array(list(e.values())) - 2.0).pvalue for e in (small, large)]
    assert [found["small"], found["large"]] == pytest.approx(holm(raw))
    assert found["baseline"] is None and found["large"] < 0.05 < found["small"]


def test_intervals_keep_plans_of_a_patient_together(tmp_path):
    """Errors that depend on the patient alone: eight cases tell no more than four patients."""
    write_run(tmp_path, "baseline", {case: float(case[1]) for case in CASES})
    (found,) = compare(read_all(tmp_path), "baseline")
    mean, low, high = found.body_mae_gy
    assert mean == pytest.approx(1.5)
    draws = np.random.default_rng(1).integers(4, size=(20_000, 4)).mean(1)
    assert [low, high] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.05)


def test_differences_are_paired(tmp_path):
    """Cases differ much, the experiments by 0.3 Gy in every case: the interval is that of the difference."""
    errors = {case: float(case[1]) for case in CASES}
    write_run(tmp_path, "baseline", errors)
    write_run(tmp_path, "other", {case: error + 0.3 for case, error in errors.items()})
    other = next(c for c in compare(read_all(tmp_path), "baseline") if c.experiment == "other")
    assert other.differences["body_mae_gy"] == pytest.approx((0.3, 0.3, 0.3))
    assert other.differences["PTV70_D95_abs_gap_gy"] == pytest.approx((0.03, 0.03, 0.03))
    assert other.differences["organs_Dmean_abs_gap_gy"][0] == pytest.approx(
        np.mean([abs(0.7 - e) - abs(1 - e) for e in errors.values()])
    )


def test_seeds_widen_the_interval(tmp_path):
    """Trainings that differ by 1 Gy from seed to seed: of two, their mean is 0, 0.5 or 1 off with 1/4, 1/2 and 1/4."""
    errors = dict.fromkeys(CASES, 2.0)
    write_run(tmp_path, "baseline", errors)
    write_run(tmp_path, "other-seed1", {case: error + 0.1 for case, error in errors.items()})
    write_run(tmp_path, "other-seed2", {case: error + 1.1 for case, error in errors.items()})
    other = next(c for c in compare(read_all(tmp_path), "baseline") if c.experiment == "other")
    assert other.differences["body_mae_gy"] == pytest.approx((0.6, 0.1, 1.1))
    assert other.body_mae_gy == pytest.approx((2.6, 2.1, 3.1))


def test_few_cases_are_not_tested_and_unevaluated_runs_are_shown(tmp_path):
    write_run(tmp_path, "baseline", {case: 1.0 for case in CASES[:5]})
    write_run(tmp_path, "other", {case: 2.0 for case in CASES[:5]})
    write_run(tmp_path, "unfinished", None)
    found = compare(read_all(tmp_path), "baseline")
    assert [c.experiment for c in found] == ["baseline", "other", "unfinished"] and all(c.p_value is None for c in found)
    assert "| unfinished | 1 |" in markdown(comparison_table(found, "baseline"))


def test_trainings_that_a_sweep_stopped_are_taken_together_apart(tmp_path):
    for seed, val in ((1, 1.0), (2, 5.0), (3, 7.0)):
        folder = write_run(tmp_path, f"losses-seed{seed}", None, val)
        if seed > 1:
            summary = json.loads((folder / "training_summary.json").read_text())
            (folder / "training_summary.json").write_text(json.dumps(summary | {"stopped": True}))
    header, rows = comparison_table(compare(read_all(tmp_path), "baseline"), "baseline")
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["experiment"], row["val MAE Gy"]) for row in found] == [
        ("losses", "1.000"),
        ("losses (stopped early)", "6.000 +- 1.414"),
    ]


def test_other_cases_and_unfinished_runs_are_refused(tmp_path):
    write_run(tmp_path, "baseline", {case: 1.0 for case in CASES})
    write_run(tmp_path, "other", {case: 1.0 for case in CASES[1:]})
    with pytest.raises(InputError, match="other: was evaluated on other cases than baseline"):
        compare(read_all(tmp_path), "baseline")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no training_summary.json"):
        read_run(tmp_path / "empty", tmp_path, "test")


def test_the_command_line_writes_every_form(tmp_path):
    for name, shift in (("baseline", 0.0), ("other", 0.3)):
        write_run(tmp_path, name, {case: 2.0 + i / 10 + shift for i, case in enumerate(CASES)})
    command = [sys.executable, "-m", "monai_vmat.reports", "compare", "runs/baseline", "runs/other", "--out", "out/found"]
    command += ["--command", "make them"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "test body MAE Gy" in done.stdout and "0.008" in done.stdout  # of 2 ** 8 signs, 2 are as one-sided as these
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"found.md", "found.csv", "found.html", "found.png"}
    page = (tmp_path / "out" / "found.md").read_text()
    assert "body MAE +0.30 Gy (+0.30 to +0.30)" in done.stdout and "body MAE +0.30 Gy (+0.30 to +0.30)" in page
    assert "Made by `make them`" in page and "2 training and 1 validation cases" in page and "8 plans of 4 patients" in page
    assert "* other: mse 0.004, dvh 0.01\n" in page
    assert "0123456789, " not in page and "PTV70 \\|D95 gap\\| Gy" in page
    assert (tmp_path / "out" / "found.csv").read_text().count("\n") == 3
    command[5] = "runs/missing"
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and "Traceback" not in failed.stderr
