"""A bundle run from a folder that has nothing to do with it, and what ``--tracking mlflow`` keeps of the run."""

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from monai_vmat.case import write_case

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"base_channels": 8, "patch_size": "[16,16,16]", "max_epochs": 1, "threads": 1}
TRACKING = {"tracking": "mlflow"} if importlib.util.find_spec("mlflow") else {}
SECRET = "Sibelius"  # what stands for a patient's name: in case ids, patients and the folder's name


@pytest.fixture(scope="module")
def places(tmp_path_factory, prostate, make_case):
    """A project with the bundle and nothing else, the cases in one folder, the commands given in another."""
    root = tmp_path_factory.mktemp("anywhere")
    shutil.copytree(ROOT / "bundles" / "dose" / "configs", root / "project" / "bundles" / "dose" / "configs")
    data = root / f"{SECRET}_data"
    content = {"protocol": prostate.name, "training": [], "validation": [], "test": []}
    for i, section in enumerate(("training", "validation", "test")):
        case_id = f"{SECRET}_{i}"
        write_case(make_case(prostate, seed=i, case_id=case_id), data / f"{case_id}.npz")
        content[section].append({"case": f"{case_id}.npz", "case_id": case_id, "patient": case_id})
    (data / "datalist.json").write_text(json.dumps(content))
    (root / "elsewhere").mkdir()
    return SimpleNamespace(project=root / "project", data=data, elsewhere=root / "elsewhere")


def run(places, run_id, names, bundle_root, **options):
    """Run in the other folder, with the configurations' absolute paths."""
    configs = places.project / "bundles" / "dose" / "configs"
    call = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id]
    call += ["--config_file", "[" + ",".join(f"'{configs / name}'" for name in names) + "]", "--bundle_root", str(bundle_root)]
    for name, value in options.items():
        call += [f"--{name}", str(value)]
    done = subprocess.run(call, cwd=places.elsewhere, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def ran(places):
    """Trained, evaluated and predicted; the bundle named by its relative and by its absolute path, the data likewise."""
    relative, absolute = Path("..", "project", "bundles", "dose"), places.project / "bundles" / "dose"
    data = Path("..", places.data.name)
    run(places, "training", ["train.json"], relative, dataset_dir=data, **SMALL, **TRACKING)
    evaluation = SMALL | {"dataset_dir": places.data}
    run(places, "evaluating", ["train.json", "evaluate.json"], absolute, **evaluation, **TRACKING)
    run(places, "inference", ["inference.json"], relative, input=data, experiment="baseline", window=-1, threads=1)
    return places


def test_results_are_where_the_bundle_is(ran):
    assert list(ran.elsewhere.iterdir()) == []
    assert sorted(p.name for p in ran.project.iterdir()) == ["bundles", "predictions", "runs"]
    assert {"metrics.csv", "checkpoints"} <= {p.name for p in (ran.project / "runs" / "baseline").iterdir()}
    results = json.loads((ran.project / "predictions" / "baseline_test" / "evaluation_results.json").read_text())
    assert [case["case_id"] for case in results["per_case_results"]] == [f"{SECRET}_2"]
    predicted = {p.name for p in (ran.project / "predictions" / "inference").iterdir()}
    assert {f"{SECRET}_{i}_pred.{kind}" for i in range(3) for kind in ("npz", "nii.gz")} == predicted


@pytest.fixture(scope="module")
def tracked(ran):
    """MLflow's database: experiments with their runs, each with status, settings and last metrics."""
    if not TRACKING:
        pytest.skip("mlflow is not installed (pip install -e '.[dev]')")
    experiments = {}
    with sqlite3.connect(ran.project / "runs" / "baseline" / "mlruns.db") as database:
        query = "SELECT experiments.name, run_uuid, status FROM runs JOIN experiments USING (experiment_id)"
        for experiment, run_id, status in database.execute(query):
            params = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run_id]))
            order = "SELECT key, value FROM metrics WHERE run_uuid = ? ORDER BY step"
            metrics = dict(database.execute(order, [run_id]))
            kept = experiments.setdefault(experiment, [])
            kept.append(SimpleNamespace(status=status, params=params, metrics=metrics))
    return experiments


def test_training_is_tracked(ran, tracked):
    (training,) = tracked["baseline"]
    assert training.status == "FINISHED"
    recorded = pd.read_csv(ran.project / "runs" / "baseline" / "metrics.csv").iloc[-1]
    for name in ("train/loss", "train/mae_gy", "val/mae_gy", "val/loss"):
        assert training.metrics[name] == pytest.approx(recorded[name])
    root_mean_square_gy = 70 * recorded["train/mse"] ** 0.5
    assert 0.3 * root_mean_square_gy < recorded["train/mae_gy"] < root_mean_square_gy
    assert {name for name in training.metrics if "+" in name or "%" in name} == set()
    assert training.params["base_channels"] == "8" and training.params["learning_rate"] == "0.0001"
    assert training.params["loss"] == "0.1 negative_dose + 1 mse" and training.params["max_epochs"] == "1"
    assert not {"save_execute_config", "is_not_rank0"} & set(training.params)


def test_an_evaluation_is_a_run_of_its_own(ran, tracked):
    (evaluation,) = tracked["baseline_test"]
    assert evaluation.status == "FINISHED"
    results = json.loads((ran.project / "predictions" / "baseline_test" / "evaluation_results.json").read_text())
    assert evaluation.metrics["val/mae_gy"] == pytest.approx(results["aggregate_metrics"]["mae_gy_mean"])


def test_tracking_names_no_patient(ran, tracked):
    folder = ran.project / "runs" / "baseline"
    kept = [folder / "mlruns.db", *(p for p in (folder / "mlruns").rglob("*") if p.is_file())]
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
