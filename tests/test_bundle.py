"""The bundle as its users run it: train, evaluate, predict, resume after a crash; and what bad input is told."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import BundleProperty, BundlePropertyConfig
from pydicom import dcmread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

from monai_vmat.case import V2_SPACING_MM, read_case, read_dose, read_dose_sd, write_case
from monai_vmat.dicom.dose import read_dose as read_dicom_dose
from monai_vmat.dicom.study import find_studies
from monai_vmat.networks.film_unet import FiLMUNet
from monai_vmat.weights import describe, load_checkpoint, read_weights

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = "bundles/dose/configs"
SMALL = {"base_channels": 8, "patch_size": "[16,16,16]", "max_epochs": 3, "threads": 1}
# Padding, batches of two patients, several windows and worker processes: what the quick overlay does without.
FULL = SMALL | {"patch_size": "[32,16,16]", "batch_size": 2, "window": "[16,16,16]", "workers": 1, "amp": "false"}
PROSTATE = ("train.json",)
NECK = ("train.json", "openkbp.json", "quick.json")


def command(run_id, configs, cwd=ROOT, **overrides):
    folder = CONFIGS if cwd == ROOT else "configs"
    files = "[" + ",".join(f"'{folder}/{name}'" for name in configs) + "]"
    arguments = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in overrides.items())
    return [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id, "--config_file", files, *arguments]


def bundle(run_id, configs, cwd=ROOT, **overrides):
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.run(command(run_id, configs, cwd, **overrides), cwd=cwd, env=environment, capture_output=True, text=True)


def succeed(*args, **overrides):
    done = bundle(*args, **overrides)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def refused(*args, **overrides):
    """Run what must fail; its last line of error."""
    done = bundle(*args, **overrides)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory, prostate, head_and_neck, make_case, write_v2):
    """A small cohort of each protocol."""
    folders = {}
    for protocol in (prostate, head_and_neck):
        folder = folders[protocol.name] = tmp_path_factory.mktemp(protocol.name)
        content = {"protocol": protocol.name, "training": [], "validation": [], "test": []}
        for i, section in enumerate(("training", "training", "training", "validation", "test")):
            if protocol is prostate and i in (0, 3):  # v2.x files train and validate beside native ones
                write_v2(folder / f"case_{i}.npz", make_case(protocol, spacing=V2_SPACING_MM, seed=i, case_id=f"case_{i}"))
            else:
                write_case(make_case(protocol, seed=i, case_id=f"case_{i}"), folder / f"case_{i}.npz")
            content[section].append({"case": f"case_{i}.npz", "case_id": f"case_{i}", "patient": f"case_{i}"})
        (folder / "datalist.json").write_text(json.dumps(content))
    return folders


@pytest.fixture(scope="module")
def trained(cohorts, tmp_path_factory):
    """A finished small run on the prostate cohort: its data, and the folder of runs and predictions."""
    out = tmp_path_factory.mktemp("trained")
    data = cohorts["prostate_sib"]
    succeed("training", PROSTATE, dataset_dir=data, output_dir=out / "run", **FULL)
    return data, out


@pytest.mark.parametrize(
    "kind, files", [("train", ["train.json"]), ("train", ["train.json", "evaluate.json"]), ("infer", ["inference.json"])]
)
def test_the_model_zoos_properties_are_there(kind, files):
    folder = ROOT / CONFIGS
    workflow = ConfigWorkflow(
        [str(folder / name) for name in files],
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(ROOT / "bundles" / "dose"),
    )
    workflow.parser.parse(reset=True)
    required = {name: p[BundlePropertyConfig.ID] for name, p in workflow.properties.items() if p[BundleProperty.REQUIRED]}
    assert [name for name, key in required.items() if key not in workflow.parser] == []
    optional = {name: p for name, p in workflow.properties.items() if not p[BundleProperty.REQUIRED]}
    assert [name for name, p in optional.items() if not workflow._check_optional_id(name, p)] == []


def test_metadata_agrees_with_the_pinned_versions():
    metadata = json.loads((ROOT / CONFIGS / "metadata.json").read_text())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    stated = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"], "numpy": metadata["numpy_version"]}
    for package, version in {**stated, **metadata["required_packages_version"]}.items():
        assert pinned[package] == version, package
    assert metadata["version"] in metadata["changelog"]


def test_training_leaves_its_records(trained):
    _, out = trained
    names = {p.name for p in (out / "run").iterdir()}
    assert {"checkpoints", "metrics.csv", "training_config.json", "training_summary.json", "test_cases.json"} <= names
    assert len([n for n in names if n.startswith("events.")]) == 1
    checkpoints = sorted(p.name for p in (out / "run" / "checkpoints").iterdir())
    assert checkpoints[1:] == ["last.pt"] and checkpoints[0].startswith("best-epoch=00")
    config = json.loads((out / "run" / "training_config.json").read_text())
    assert config["config"]["base_channels"] == 8  # overrides are in the record
    assert config["config"]["learning_rate"] == 0.0001
    assert config["cases"]["test"] == ["case_4"]


def test_tensorboard_knows_the_run(trained):
    _, out = trained
    events = EventAccumulator(str(out / "run")).Reload()
    summary = json.loads((out / "run" / "training_summary.json").read_text())
    assert events.Scalars("best/mae_gy")[-1].value == pytest.approx(summary["best_val_mae_gy"], rel=1e-5)
    assert {f"validation/case_3/{picture}" for picture in ("planes", "dvh")} == set(events.Tags()["images"])
    start = hparams.parse_session_start_info_plugin_data(
        events.SummaryMetadata(hparams.SESSION_START_INFO_TAG).plugin_data.content
    )
    assert (
        start.hparams["base_channels"].number_value == 8 and start.hparams["loss"].string_value == "0.1 negative_dose + 1 mse"
    )
    (configuration,) = events.Tensors("resolved_configuration/text_summary")
    assert str(ROOT).encode() not in configuration.tensor_proto.string_val[0]


def test_notebooks_of_earlier_users_read_the_records(trained):
    data, out = trained
    metrics = pd.read_csv(out / "run" / "metrics.csv")
    validated = metrics[metrics["val/mae_gy"].notnull()]
    assert len(validated) == 3 and np.isfinite(validated[["epoch", "val/loss", "val/mae_gy"]].to_numpy()).all()
    succeed(
        "evaluating",
        (*PROSTATE, "evaluate.json"),
        dataset_dir=data,
        output_dir=out / "run",
        predictions_dir=out / "test",
        uncertainty="flips",
        **FULL,
    )
    test_results = json.loads((out / "test" / "evaluation_results.json").read_text())
    assert 0 <= test_results["aggregate_metrics"]["gamma_pass_rate_mean"] <= 100
    assert test_results["per_case_results"][0]["dose_metrics"]["mae_gy"] > 0
    assert test_results["n_cases"] == 1 and read_dose_sd(out / "test" / "case_4_pred.npz").max() > 0


def test_evaluation_repeats_the_validation(trained):
    """The best checkpoint, evaluated on the validation split, gives the value that it was chosen for."""
    data, out = trained
    succeed(
        "evaluating",
        (*PROSTATE, "evaluate.json"),
        dataset_dir=data,
        output_dir=out / "run",
        split="validation",
        predictions_dir=out / "validation",
        **FULL,
    )
    summary = json.loads((out / "run" / "training_summary.json").read_text())
    results = json.loads((out / "validation" / "evaluation_results.json").read_text())
    assert results["aggregate_metrics"]["mae_gy_mean"] == pytest.approx(summary["best_val_mae_gy"], rel=1e-5)


def test_the_same_seed_gives_the_same_weights_from_wherever_they_are_trained(cohorts, tmp_path):
    """``run`` is a run id and the bundle's folder a place to start; workers and cache make no difference, the seed does."""
    options = SMALL | {"max_epochs": 1}
    succeed(
        "run",
        NECK,
        cwd=ROOT / "bundles" / "dose",
        dataset_dir=cohorts["openkbp_head_and_neck"],
        output_dir=tmp_path / "a",
        **options,
    )
    options |= {"dataset_dir": cohorts["openkbp_head_and_neck"], "workers": 2, "cache_rate": 0}
    succeed("training", NECK, output_dir=tmp_path / "b", **options)
    succeed("training", NECK, output_dir=tmp_path / "c", seed=43, **options)
    a, b, c = (torch.load(tmp_path / x / "checkpoints" / "last.pt", weights_only=True)["network"] for x in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a if a[name].ndim == 5)
    config = json.loads((tmp_path / "b" / "training_config.json").read_text())["config"]
    assert config["learning_rate"] == 0.001 and config["protocol_name"] == "openkbp_head_and_neck"  # overlays are in the record


def test_inference_needs_no_dose_and_hears_the_constraints(trained, tmp_path, prostate, make_case):
    _, out = trained
    write_case(make_case(prostate, with_dose=False, case_id="new"), tmp_path / "in" / "new.npz")
    weights = next((out / "run" / "checkpoints").glob("best*"))
    options = {"input": tmp_path / "in", "weights": weights, "window": -1}
    succeed("inference", ("inference.json",), output_dir=tmp_path / "plan", **options)
    succeed("inference", ("inference.json",), output_dir=tmp_path / "strict", constraints="{'Rectum_V50Gy': 0.0}", **options)
    plan, strict = (np.load(tmp_path / n / "new_pred.npz", allow_pickle=False)["dose"] for n in ("plan", "strict"))
    assert plan.shape == (24, 20, 16) and plan.max() > 0 and (plan != strict).any()
    assert (tmp_path / "plan" / "new_pred.nii.gz").exists()


def test_the_shipped_model_predicts_by_default_what_it_is_shipped_for(tmp_path):
    """In another window than that of its training it would be wrong by many Gy."""
    case = ROOT / "data" / "cohort" / "phantom_005_rectum-first.npz"
    succeed("inference", ("inference.json",), input=case, output_dir=tmp_path)
    predicted, reference = (read_dose(path)[0] for path in (tmp_path / "phantom_005_rectum-first_pred.npz", case))
    assert np.abs(predicted - reference)[reference > 7].mean() < 3


def test_the_shipped_ensemble_predicts_by_default(tmp_path, head_and_neck, make_case):
    """Each of its networks in the window it was trained in, together with how far they differ."""
    write_case(make_case(head_and_neck, with_dose=False, case_id="neck"), tmp_path / "in" / "neck.npz")
    options = {"input": tmp_path / "in", "output_dir": tmp_path / "out"}
    succeed("inference", ("inference.json", "openkbp_inference.json"), **options)
    with np.load(tmp_path / "out" / "neck_pred.npz", allow_pickle=False) as saved:
        both = saved["dose"] * saved["dose_scale_gy"]
        assert saved["dose_sd"].max() > 0
    single = []
    for name, window in (("openkbp.pt", "[112,64,96]"), ("openkbp_folded.pt", -1)):
        out = tmp_path / name
        weights = ROOT / "bundles" / "dose" / "models" / name
        options = {"input": tmp_path / "in", "output_dir": out, "weights": weights, "window": window}
        succeed("inference", ("inference.json", "openkbp_inference.json"), **options)
        with np.load(out / "neck_pred.npz", allow_pickle=False) as saved:
            single.append(saved["dose"] * saved["dose_scale_gy"])
    assert np.abs(single[0] - single[1]).max() > 1
    mean, positive = (single[0] + single[1]) / 2, (single[0] > 0) & (single[1] > 0)
    assert np.count_nonzero(positive) > both.size / 4
    np.testing.assert_allclose(both[positive], mean[positive], rtol=0, atol=0.05)
    assert (both <= mean + 0.05).all()  # a dose below zero is none, but counts in the mean


def test_inference_knows_the_weights_protocol_and_width(trained, tmp_path, head_and_neck, make_case):
    """The overlay predicts OpenKBP's cases by weights of a width that nobody states; what contradicts a file is one line."""
    write_case(make_case(head_and_neck, with_dose=False, case_id="neck"), tmp_path / "in" / "neck.npz")
    network = FiLMUNet(head_and_neck.in_channels, head_and_neck.constraint_dim, base_channels=16)
    torch.save(
        describe(network.state_dict(), {"protocol": head_and_neck.name, "settings": network.settings}), tmp_path / "w.pt"
    )
    options = {"input": tmp_path / "in", "weights": tmp_path / "w.pt", "window": -1, "output_dir": tmp_path / "out"}
    ensemble = {"weights": f"[{tmp_path / 'w.pt'},{tmp_path / 'w.pt'}]", "uncertainty": "turns"}
    succeed("inference", ("inference.json", "openkbp_inference.json"), **options | ensemble)
    with np.load(tmp_path / "out" / "neck_pred.npz", allow_pickle=False) as saved:
        assert saved["dose"].shape == saved["dose_sd"].shape and saved["dose_sd"].max() > 0
    assert (tmp_path / "out" / "neck_pred_sd.nii.gz").exists()
    told = refused("inference", ("inference.json",), **options | {"output_dir": tmp_path / "none"})
    assert "was trained for protocol 'openkbp_head_and_neck', the configuration says 'prostate_sib'" in told
    _, out = trained
    weights = next((out / "run" / "checkpoints").glob("best*"))
    told = refused("inference", ("inference.json",), weights=weights, base_channels=16, output_dir=tmp_path / "none")
    assert "base_channels 8, the configuration says 16" in told and not (tmp_path / "none").exists()


def test_dicom_in_and_rtdose_out(trained, tmp_path, prostate, make_case, write_dicom_set):
    """The written RTDOSE, read back, has the DVH of the prediction; it alone says whose it is."""
    _, out = trained
    export = write_dicom_set(make_case(prostate, with_dose=False), tmp_path / "export", prostate, orientation="FFS")
    weights = next((out / "run" / "checkpoints").glob("best*"))
    options = {"input": export, "weights": weights, "window": -1, "output_dir": tmp_path / "plan"}
    shown = succeed("inference", ("inference.json",), **options)
    (written,) = (tmp_path / "plan").glob("*_pred.dcm")
    assert "names the patient" in shown and "SECRET" not in shown
    name = written.name.removesuffix("_pred.dcm")
    case = read_case(tmp_path / "plan" / "cases" / f"{name}.npz", prostate)
    predicted, affine = read_dose(tmp_path / "plan" / f"{name}_pred.npz")
    (study,) = find_studies(export)
    dose, grid = read_dicom_dose(replace(study, doses=(written,)))
    np.testing.assert_allclose(grid.affine, affine, atol=1e-4)
    np.testing.assert_allclose(dose, predicted, atol=0.006)
    for mask in case.structures.values():
        for percent in (5, 50, 98):
            assert np.percentile(dose[mask], percent) == pytest.approx(np.percentile(predicted[mask], percent), abs=0.1)
    assert dcmread(written).PatientID == dcmread(study.ct[0]).PatientID
    succeed("inference", ("inference.json",), dose_spacing_mm="[4.0,4.0,4.0]", **options)
    coarse, coarse_grid = read_dicom_dose(replace(study, doses=(written,)))
    assert coarse_grid.spacing_mm == (4.0, 4.0, 4.0) and coarse.max() == pytest.approx(dose.max(), rel=0.2)


# Sends a signal, as a terminal does, to the command and its workers, when an epoch begins.
def test_a_training_begins_with_given_weights(trained, tmp_path):
    """Where nothing is learned the weights in the end are those of the file; weights of another width are refused."""
    data, out = trained
    file = next((out / "run" / "checkpoints").glob("best*"))
    options = SMALL | {"initial_weights": file, "learning_rate": 0, "average_decay": 0.9, "max_epochs": 1, "dataset_dir": data}
    succeed("training", PROSTATE, output_dir=tmp_path / "run", **options)
    given, last = read_weights(file), load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    for network in ("network", "evaluated_network"):
        assert all(torch.equal(last[network][name], tensor) for name, tensor in given.items()), network
    told = refused("training", PROSTATE, output_dir=tmp_path / "none", **options | {"base_channels": 16})
    assert "best-epoch" in told and "another architecture" in told


SIGNALLER = """
import os
from ignite.engine import Events

class Signaller:
    def __init__(self, signum, epoch):
        self.signum, self.epoch = signum, epoch

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine):
        if engine.state.epoch == self.epoch:
            os.killpg(0, self.signum)
"""


def test_killed_interrupted_and_resumed_equals_undisturbed(cohorts, tmp_path):
    """SIGTERM in the first epoch, SIGKILL and Ctrl-C in later ones; in the end the weights are the same, bit for bit."""
    data = cohorts["openkbp_head_and_neck"]
    options = SMALL | {"flip_probability": 0.5, "motion_probability": 0.5, "turn_probability": 0.5, "max_epochs": 7}
    succeed("training", NECK, dataset_dir=data, output_dir=tmp_path / "whole", **options)
    run = tmp_path / "disturbed"
    last = run / "checkpoints" / "last.pt"
    (tmp_path / "signaller.py").write_text(SIGNALLER)

    for signum, epoch in ((signal.SIGTERM, 1), (signal.SIGKILL, 3), (signal.SIGINT, 6)):
        handler = [{"_target_": "signaller.Signaller", "signum": int(signum), "epoch": epoch}]
        changes = {"dataset_dir": data, "output_dir": run, "resume": "true", "workers": 1, "extra_handlers": handler}
        ended = subprocess.run(
            command("training", NECK, **options | changes),
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))},
            capture_output=True,
            text=True,
            start_new_session=True,
            # Whoever runs the tests in the background of a shell has SIGINT ignored, and so would the command.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert torch.load(last, weights_only=True)["epoch"] == epoch - 1
        assert ended.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), ended.stderr[-3000:]
        if signum != signal.SIGKILL:
            assert ended.stderr.endswith(f"interrupted: {last} is as after epoch {epoch - 1}; go on with --resume true\n")
            assert "Traceback" not in ended.stdout + ended.stderr and "exception" not in ended.stdout + ended.stderr
    succeed("training", NECK, dataset_dir=data, output_dir=run, resume="true", **options)
    whole, resumed = (torch.load(tmp_path / n / "checkpoints" / "last.pt", weights_only=True) for n in ("whole", "disturbed"))
    for network in ("network", "evaluated_network"):
        assert all(torch.equal(whole[network][k], resumed[network][k]) for k in whole[network])
    tables = [pd.read_csv(tmp_path / n / "metrics.csv").drop(columns="seconds") for n in ("whole", "disturbed")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert not list(run.rglob("*.part"))


def test_resuming_a_finished_run_changes_nothing(trained):
    data, out = trained
    before = (out / "run" / "checkpoints" / "last.pt").read_bytes()
    told = succeed("training", PROSTATE, dataset_dir=data, output_dir=out / "run", resume="true", **FULL)
    assert "finished" in told and (out / "run" / "checkpoints" / "last.pt").read_bytes() == before


def test_missing_data_names_folder_and_command(tmp_path):
    told = refused("training", PROSTATE, dataset_dir=tmp_path / "nowhere", output_dir=tmp_path / "run")
    assert str(tmp_path / "nowhere") in told and "data_scripts/openkbp_to_npz.py" in told
    assert not (tmp_path / "run").exists()


def test_a_training_that_diverges_names_the_cases_and_can_go_on(cohorts, tmp_path):
    """The first step's weights are of no use, so the second step's loss is no number."""
    options = SMALL | {"dataset_dir": cohorts["prostate_sib"], "output_dir": tmp_path / "run"}
    line = refused("training", PROSTATE, learning_rate=1e12, **options)
    assert re.match(
        r"error: cases case_[012]: in epoch 1 the loss is nan, .* Look at them with data_scripts/verify_cases", line
    )
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert last["epoch"] == 0 and all(torch.isfinite(tensor).all() for tensor in last["network"].values())


def without_dose(folder, content):
    with np.load(folder / "case_1.npz", allow_pickle=False) as archive:
        np.savez(folder / "case_1.npz", **{name: archive[name] for name in archive.files if not name.startswith("dose")})


BAD = {
    "truncated": (
        "whole .npz",
        lambda folder, content: (folder / "case_1.npz").write_bytes((folder / "case_1.npz").read_bytes()[:900]),
    ),
    "pickled": (
        "pickled",
        lambda folder, content: np.savez(
            folder / "case_1.npz", structure_names=np.asarray(["PTV70"]), metadata=np.asarray({"a": 1}, dtype=object)
        ),
    ),
    "missing file": ("not found", lambda folder, content: (folder / "case_1.npz").unlink()),
    "missing test file": ("not found", lambda folder, content: (folder / "case_4.npz").unlink()),
    "no dose": ("'dose' is missing", without_dose),
    "two splits": ("two sections", lambda folder, content: content["test"][0].update(patient="case_0")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(cohorts, tmp_path, name):
    told, damage = BAD[name]
    source, folder = cohorts["prostate_sib"], tmp_path / "data"
    folder.mkdir()
    for path in source.glob("*.npz"):
        (folder / path.name).write_bytes(path.read_bytes())
    content = json.loads((source / "datalist.json").read_text())
    damage(folder, content)
    (folder / "datalist.json").write_text(json.dumps(content))
    line = refused("training", PROSTATE, dataset_dir=folder, output_dir=tmp_path / "run", **SMALL)
    assert line.startswith("error: ") and told in line and str(folder) in line
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture(trained, tmp_path):
    data, out = trained
    options = FULL | {"base_channels": 16}
    line = refused("training", PROSTATE, dataset_dir=data, output_dir=out / "run", resume="true", **options)
    assert "another architecture" in line and "last.pt" in line
    line = refused(
        "evaluating",
        (*PROSTATE, "evaluate.json"),
        dataset_dir=data,
        output_dir=out / "run",
        predictions_dir=tmp_path / "p",
        **options,
    )
    assert "another architecture" in line and not (tmp_path / "p").exists()


def test_an_earlier_run_is_not_overwritten(trained):
    data, out = trained
    assert "--resume true" in refused("training", PROSTATE, dataset_dir=data, output_dir=out / "run", **SMALL)
