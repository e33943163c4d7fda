"""The evaluation of prediction files as users start it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import V2_SPACING_MM, read_case, write_case
from monai_vmat.handlers.evaluation_record import EvaluationRecord
from monai_vmat.masks import DOSE_REGION
from monai_vmat.transforms.load_case import case_masks

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "evaluate_predictions.py"


def evaluate(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, *map(str, arguments), "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def numbers(value, path: str = "") -> dict[str, float]:
    """Every number of a JSON value by its place."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in numbers(item, f"{path}/{key}").items()}
    return {path: value} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}


@pytest.mark.parametrize("site", ["prostate_sib", "openkbp_head_and_neck"])
def test_the_evaluators_own_files_give_the_evaluators_results(tmp_path, request, make_case, evaluate_cases, site):
    protocol = request.getfixturevalue({"prostate_sib": "prostate"}.get(site, "head_and_neck"))
    cases = []
    for i in range(2):
        path = tmp_path / "cases" / f"c{i}.npz"
        write_case(make_case(protocol, case_id=f"c{i}", patient=f"p{i}", seed=i, absent=("PTV56",) if i else ()), path)
        cases.append(read_case(path, protocol))
    facts = {"experiment": "e", "split": "test", "checkpoint": "/x/best.pt", "project_root": str(tmp_path)}
    evaluate_cases(protocol, cases, 1.2345, EvaluationRecord(tmp_path / "e_test", protocol=protocol, **facts))

    done = evaluate(tmp_path / "e_test", tmp_path / "cases", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    theirs, ours = (json.loads((tmp_path / n / "evaluation_results.json").read_text()) for n in ("e_test", "out"))
    assert set(theirs) - {"checkpoint", "trainings"} == set(ours) - {"predictions", "predictions_read_as", "not_evaluated"}
    assert (ours["experiment"], ours["split"], ours["predictions"], ours["not_evaluated"]) == ("e_test", "all", "e_test", {})
    assert ours["predictions_read_as"] == {"monai_vmat, Gy, (X, Y, Z)": 2}
    assert ours["conventions"] == theirs["conventions"] and ours["protocol"] == site and ours["n_cases"] == 2
    share = max(c.ct_hu.size / np.count_nonzero(case_masks(c, protocol)[DOSE_REGION]) for c in cases)
    for key in ("aggregate_metrics", "per_case_results"):
        a, b = numbers(theirs[key]), numbers(ours[key])
        assert a.keys() == b.keys() and len(a) > 20
        for place, value in a.items():
            if "openkbp_dose_score" in place or "dose_error_gy" in place:  # errors of the whole volume over part of its voxels
                assert value == pytest.approx(b[place], abs=0.0051 * share), place
            elif place.endswith(("gy", "Gy")) or re.search(r"/dvh/|dvh_errors_gy|_gy_(mean|std)$", place):
                assert value == pytest.approx(b[place], abs=0.0051), place  # the rounding of the file
            else:
                assert value == pytest.approx(b[place], abs=2.0, rel=0.02), place  # single voxels at a limit
    assert [r["patient"] for r in ours["per_case_results"]] == ["p0", "p1"]
    assert "read_as" not in ours["per_case_results"][0]
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("c1"))
    assert row[1] == "1.23" and "goals:" in done.stdout and "read as: monai_vmat, Gy, (X, Y, Z): 2" in done.stdout


def test_every_case_is_listed(tmp_path, make_case, write_v2, prostate):
    """Predictions as the earlier project wrote them: float32, a fraction of 70 Gy, (Y, X, Z)."""
    folder, predictions = tmp_path / "cases", tmp_path / "predictions"
    folder.mkdir()
    predictions.mkdir()
    for case_id in ("good", "other", "none", "pickled"):
        case = write_v2(folder / f"{case_id}.npz", make_case(prostate, spacing=V2_SPACING_MM))
        if case_id != "none":
            dose = (case.dose_gy.swapaxes(0, 1) + 2) / np.float32(70)
            content = {"good": dose, "other": dose[1:], "pickled": np.asarray([dose], object)}[case_id]
            np.savez(predictions / f"{case_id}_pred.npz", dose=content)
    write_v2(folder / "bare.npz", dose=None)
    (folder / "half.npz").write_bytes((folder / "good.npz").read_bytes()[:-500])
    np.savez(predictions / "stranger_pred.npz", dose=dose)

    options = ("--protocol", "prostate_sib", "--dose-unit", "fraction", "--axes", "yxz", "--experiment", "mine")
    done = evaluate(predictions, folder, *options)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    results = json.loads((predictions / "evaluation_results.json").read_text())
    assert [r["case_id"] for r in results["per_case_results"]] == ["good"] and results["experiment"] == "mine"
    assert results["per_case_results"][0]["dose_metrics"]["mae_gy"] == pytest.approx(2.0, abs=1e-3)
    assert results["predictions_read_as"] == {"float32, fraction of 70 Gy, (Y, X, Z)": 1}
    reasons = results["not_evaluated"]
    assert set(reasons) == {"bare", "half", "none", "other", "pickled"}
    for case_id, reason in {
        "bare": "array 'dose' is missing",
        "half": "is not a whole .npz archive",
        "none": "has no prediction none_pred.npz or none.csv",
        "other": r"shape (19, 24, 16) does not fit the case's grid X 24, Y 20, Z 16",
        "pickled": "array 'dose' is of type 'object'",
    }.items():
        assert reason in reasons[case_id] and f"  {case_id}: {reasons[case_id]}" in done.stdout
    assert re.search(r"predictions of no case in .*: stranger_pred.npz$", done.stdout, re.M)

    done = evaluate(predictions, folder, *options)
    assert done.returncode == 2 and "holds evaluation_results.json already" in done.stderr
    (predictions / "evaluation_results.json").write_text("{}")
    assert evaluate(predictions, folder, *options, "--overwrite").returncode == 1
    assert json.loads((predictions / "evaluation_results.json").read_text()) != {}


def test_voxel_size_and_patient_are_what_the_datalist_says(tmp_path, monkeypatch, write_v2, prostate):
    """Of v2.x cases, which say neither; else --spacing and the case's name."""
    spec = importlib.util.spec_from_file_location("script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "case_metrics", lambda pred, dose, masks, spacing_mm, *rest: {"spacing_mm": spacing_mm})
    case = write_v2(tmp_path / "a.npz")
    np.savez(tmp_path / "a_pred.npz", dose=case.dose_gy.swapaxes(0, 1) / np.float32(70))
    settings = {"predictions": tmp_path, "protocol": prostate, "dose_unit": "fraction", "axes": "yxz"}
    for item, given, spacing_mm, patient in (
        ({"spacing_mm": [1, 1, 4], "patient": "p1"}, [1, 1, 3], (1, 1, 4), "p1"),
        ({}, [1, 1, 3], (1, 1, 3), "a"),
        ({}, None, V2_SPACING_MM, "a"),
    ):
        found = script.evaluate({"case": str(tmp_path / "a.npz"), **item}, spacing_mm=given, **settings)
        assert (found["spacing_mm"], found["patient"]) == (spacing_mm, patient)


def test_openkbp_submissions_and_a_split(tmp_path, make_case, head_and_neck):
    datalist = {"protocol": "openkbp_head_and_neck", "training": [], "validation": [], "test": []}
    for case_id, section in (("pt_1", "training"), ("pt_201", "validation")):
        case = make_case(head_and_neck, shape=(128, 128, 128), spacing=(4.0, 4.0, 4.0), case_id=case_id)
        write_case(case, tmp_path / "cases" / f"{case_id}.npz")
        datalist[section].append({"case": f"{case_id}.npz", "case_id": case_id, "patient": case_id})
    (tmp_path / "cases" / "datalist.json").write_text(json.dumps(datalist))
    # what the challenge takes: only voxels with dose, indices from anterior, right and superior
    dose = read_case(tmp_path / "cases" / "pt_201.npz", head_and_neck).dose_gy[:, :, ::-1].transpose(1, 0, 2).ravel() + 1.5
    index = np.flatnonzero(dose > 1.5)
    (tmp_path / "sub").mkdir()
    rows = "".join(f"{i},{v:.6f}\n" for i, v in zip(index, dose[index], strict=True))
    (tmp_path / "sub" / "pt_201.csv").write_text(",data\n" + rows)
    done = evaluate(tmp_path / "sub", tmp_path / "cases", "--split", "validation")
    assert done.returncode == 0, done.stderr + done.stdout
    results = json.loads((tmp_path / "sub" / "evaluation_results.json").read_text())
    assert (results["n_cases"], results["split"]) == (1, "validation")
    assert results["aggregate_metrics"]["openkbp_dose_score_gy"] == pytest.approx(1.5, abs=0.01)
    assert "OpenKBP dose score 1.50" in done.stdout


@pytest.mark.parametrize("what", ["no predictions", "no cases"])
def test_nothing_to_evaluate(tmp_path, what):
    (tmp_path / "p").mkdir()
    done = evaluate(tmp_path / "p" if what == "no cases" else tmp_path / "none", tmp_path / "p")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert ("holds no cases" if what == "no cases" else "is not a folder") in done.stderr
    assert not list((tmp_path / "p").iterdir())
