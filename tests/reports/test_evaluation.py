"""Reading what an evaluation left, and refusing what does not belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from monai_vmat.case import read_case, read_dose, write_case, write_dose
from monai_vmat.errors import InputError
from monai_vmat.files import read_json, write_json
from monai_vmat.metrics.gamma import gamma_map
from monai_vmat.protocol import load_protocol
from monai_vmat.reports.evaluation import find_cases, read_evaluation, read_volumes, unchanged_files


def read(root: Path, experiment: str = "ours"):
    return read_evaluation(root / "predictions" / f"{experiment}_test", root / "runs")


def results_of(root: Path) -> Path:
    return root / "predictions" / "ours_test" / "evaluation_results.json"


def change_results(root: Path, change) -> None:
    content = read_json(results_of(root))
    change(content)
    write_json(results_of(root), content)


def test_the_worst_case_is_first_and_an_unknown_error_last(project):
    assert [case["case_id"] for case in read(project).cases] == ["worst", "medium", "mild"]
    change_results(project, lambda c: c["per_case_results"][1]["dose_metrics"].update(mae_body_gy=None))
    found = read(project)
    assert [case["case_id"] for case in found.cases] == ["medium", "mild", "worst"]
    assert found.title == "ours, test split" and len(found.run.metrics) == 2 and found.run.summary["epochs"] == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("per_case_results"), "'per_case_results'"),
        (lambda c: c.update(per_case_results=[]), "'per_case_results'"),
        (lambda c: c["per_case_results"][2].pop("case_id"), r"per_case_results\[2\].case_id"),
        (lambda c: c["per_case_results"][1]["dose_metrics"].pop("mae_body_gy"), r"\[1\].dose_metrics.mae_body_gy"),
        (lambda c: c["per_case_results"][0].update(dose_metrics=3), r"\[0\].dose_metrics.mae_body_gy"),
        (lambda c: c.update(experiment=None), "'experiment'"),
        (lambda c: c.update(experiment="../../ours"), "'experiment': a name"),
        (lambda c: c.update(split="/test"), "'split': a name"),
        (lambda c: c.pop("protocol"), "'protocol'"),
    ],
)
def test_results_that_lack_what_a_report_needs(project, change, told):
    change_results(project, change)
    with pytest.raises(InputError, match=told):
        read(project)


def test_no_results_and_results_with_nan(project):
    with pytest.raises(InputError, match="holds no evaluation_results.json"):
        read_evaluation(project / "predictions", project / "runs")
    text = results_of(project).read_text()
    results_of(project).write_text(text.replace('"mae_body_gy": ', '"mae_body_gy": NaN, "was": ', 1))
    with pytest.raises(InputError, match="NaN is no JSON number"):
        read(project)


def test_a_protocol_of_ones_own_is_found_through_the_run(project):
    site = json.loads((Path(load_protocol.__globals__["__file__"]).parent / "protocols" / "prostate_sib.json").read_text())
    write_json(project / "site.json", site | {"name": "our_site"})
    config = read_json(project / "runs" / "ours" / "training_config.json")
    config["config"]["protocol_name"] = str(project / "site.json")
    write_json(project / "runs" / "ours" / "training_config.json", config)
    change_results(project, lambda c: c.update(protocol="our_site"))
    assert read(project).protocol.name == "our_site"
    shutil.rmtree(project / "runs")
    with pytest.raises(InputError, match="protocol 'our_site'"):
        read(project)


def test_cases_are_found_through_the_run_or_where_one_says(project, evaluated, tmp_path):
    by_run = find_cases(read(project), None)
    assert list(by_run) == ["worst", "medium", "mild"]
    assert by_run["mild"]["case"] == str(evaluated / "data" / "mild.npz")
    told = find_cases(read(project), project / "data")
    assert told["mild"]["case"] == str(project / "data" / "mild.npz")
    (project / "data" / "medium.npz").unlink()
    with pytest.raises(InputError, match="'medium' is not in its datalist or has no file"):
        find_cases(read(project), project / "data")
    with pytest.raises(InputError, match="datalist.json"):
        find_cases(read(project), tmp_path / "nowhere")


def test_where_the_cases_are_must_be_known(project):
    path = project / "runs" / "ours" / "training_config.json"
    config = read_json(path)
    config["config"]["dataset_dir"] = "$@project_root + '/data'"
    write_json(path, config)
    with pytest.raises(InputError, match="does not say where its cases are.*--dataset_dir DIR"):
        find_cases(read(project), None)
    shutil.rmtree(project / "runs" / "ours")
    found = read(project)
    assert found.run is None and unchanged_files(found, {}) is None
    with pytest.raises(InputError, match="no run record.*--dataset_dir DIR"):
        find_cases(found, None)


def test_files_that_changed_since_the_training_are_counted(project):
    found = read(project)
    items = find_cases(found, project / "data")
    assert unchanged_files(found, items) == 3
    (project / "data" / "mild.npz").write_bytes(b"something else")
    assert unchanged_files(found, items) == 2
    path = project / "runs" / "ours" / "training_config.json"
    config = read_json(path)
    config["data_sha256"] = {f"{name}.npz": digest for name, digest in config["data_sha256"].items()}  # as earlier runs did
    write_json(path, config)
    assert unchanged_files(read(project), items) == 2


def test_volumes_of_a_case(project, prostate):
    found = read(project)
    item = find_cases(found, None)["worst"]
    volumes = read_volumes(found, found.cases[0], item)
    case = read_case(item["case"], prostate)
    assert volumes.case_id == "worst" and volumes.spacing_mm == case.spacing_mm
    assert list(volumes.masks) == list(prostate.structure_names)
    assert np.array_equal(volumes.reference_gy, case.dose_gy) and np.array_equal(volumes.ct_hu, case.ct_hu)
    assert volumes.predicted_gy[12, 10, 8] == pytest.approx(case.dose_gy[12, 10, 8] + 4.0, abs=0.0051)
    expected = gamma_map(case.dose_gy, volumes.predicted_gy, case.spacing_mm)
    assert np.array_equal(volumes.gamma, expected, equal_nan=True) and "3 %/3 mm" in volumes.gamma_convention


def test_a_prediction_that_is_not_what_was_evaluated(project):
    found = read(project)
    item = find_cases(found, None)["worst"]
    path = project / "predictions" / "ours_test" / "worst_pred.npz"
    dose, affine = read_dose(path)
    write_dose(path, dose + np.float32(0.03), affine, {})
    with pytest.raises(InputError, match="the results say"):
        read_volumes(found, found.cases[0], item)
    write_dose(path, dose[:-1], affine, {})
    with pytest.raises(InputError, match="grid .* is not the case's"):
        read_volumes(found, found.cases[0], item)
    moved = affine.copy()
    moved[0, 3] += 3
    write_dose(path, dose, moved, {})
    with pytest.raises(InputError, match="lies elsewhere"):
        read_volumes(found, found.cases[0], item)
    path.unlink()
    with pytest.raises(InputError, match="worst_pred.npz: does not exist"):
        read_volumes(found, found.cases[0], item)


def test_a_case_without_its_reference_dose(project, make_case, prostate):
    found = read(project)
    write_case(make_case(prostate, case_id="worst", with_dose=False), project / "data" / "worst.npz")
    with pytest.raises(InputError, match="array 'dose' is missing"):
        read_volumes(found, found.cases[0], find_cases(found, project / "data")["worst"])
