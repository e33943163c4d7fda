"""The bundle under torchrun with two processes: the same results, one writer, the end and the return of a killed process."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import BundleProperty, BundlePropertyConfig

from monai_vmat.case import write_case
from monai_vmat.errors import find_input_error

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "dose" / "configs"
TRAIN = ("train.json", "quick.json")
SETTINGS = {"base_channels": 8, "patch_size": "[16,16,16]", "max_epochs": 2, "val_interval": 1, "threads": 1, "amp": "false"}
CASES = {"training": 4, "validation": 1, "test": 3}  # less than the processes and odd, both in what is evaluated

# Kills the second process in the second epoch, unless torchrun has started it again, or ends torchrun (SIGTERM); after a step,
# which the two make together, so the first process has written the first epoch's checkpoint by then.
KILLER = """
import os, signal
from ignite.engine import Events

class Killer:
    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), self)

    def __call__(self, engine):
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)

class Ender(Killer):
    def __call__(self, engine):
        if os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.SIGTERM)
"""


def files(*names):
    return [str(CONFIGS / name) if Path(name).parent == Path(".") else name for name in names]


@pytest.fixture(scope="module")
def data(tmp_path_factory, prostate, make_case):
    folder = tmp_path_factory.mktemp("cohort")
    names = [f"case_{number}" for number in range(sum(CASES.values()))]
    for number, name in enumerate(names):
        write_case(make_case(prostate, seed=number, case_id=name), folder / f"{name}.npz")
    waiting = iter(names)
    sections = {
        section: [{"case": f"{name}.npz", "case_id": name, "patient": name} for name in itertools.islice(waiting, count)]
        for section, count in CASES.items()
    }
    (folder / "datalist.json").write_text(json.dumps({"protocol": prostate.name, **sections}))
    return folder


@pytest.fixture(scope="module")
def torchrun(data, tmp_path_factory):
    """``torchrun(run_id, configs, restarts=0, **overrides)``: a bundle command of two processes, as it ended."""
    helper = tmp_path_factory.mktemp("helper")
    (helper / "killer.py").write_text(KILLER)
    (helper / "killed.json").write_text('{"extra_handlers": [{"_target_": "killer.Killer"}]}')
    (helper / "ended.json").write_text('{"extra_handlers": [{"_target_": "killer.Ender"}]}')
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{helper}", "PYTHONWARNINGS": "ignore"}

    def run(run_id, configs, restarts=0, **overrides):
        configs = [str(helper / name) if (helper / name).exists() else name for name in configs]
        options = {"dataset_dir": data, **SETTINGS, **overrides}
        arguments = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in options.items())
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", f"--max-restarts={restarts}"]
        bundle = ["-m", "monai.bundle", "run", run_id, "--config_file", str(files(*configs)), *arguments]
        call = [sys.executable, *launcher, *bundle]
        return subprocess.run(call, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=115)

    return run


@pytest.fixture
def alone(data, monkeypatch):
    """``alone(run_id, configs, **overrides)``: the same by one process, this one."""
    monkeypatch.setattr("sys.excepthook", lambda *args: None)  # the bundle sets its own; put back afterwards
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun's processes have
    options = {"logging_file": False, "dataset_dir": str(data), **SETTINGS, "patch_size": [16, 16, 16]}
    yield lambda run_id, configs, **overrides: monai.bundle.run(
        run_id=run_id, config_file=files(*configs), **{**options, **overrides}
    )
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(torchrun, tmp_path_factory):
    """A finished run of two processes, and what it said."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = torchrun("training", (*TRAIN, "multi_gpu_train.json"), output_dir=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done.stdout + done.stderr


def last(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def rows(folder):
    return pd.read_csv(folder / "metrics.csv").drop(columns="seconds")


def test_one_process_writes(whole):
    folder, told = whole
    assert list(rows(folder)["epoch"]) == [1, 2] and rows(folder)[["val/loss", "val/mae_gy"]].notnull().all(axis=None)
    assert len(list(folder.glob("events.*"))) == 1
    (session,) = json.loads((folder / "training_config.json").read_text())["sessions"]
    assert session["processes"] == 2
    for line in ("Epoch 2/2", "Starting a new run", "4 of 4 cases in memory", "1 of 1 cases in memory"):
        assert told.count(line) == 1, line
    content = last(folder)
    assert content["iteration"] == 2 * 2 and not any(name.startswith("module.") for name in content["network"])
    assert not all(torch.equal(content["network"][k], content["evaluated_network"][k]) for k in content["network"])


def test_evaluation_is_that_of_one_process(whole, torchrun, alone, tmp_path):
    """Every figure, in the same order, and every prediction to the byte."""
    options = {"output_dir": str(whole[0])}
    configs = (*TRAIN, "evaluate.json")
    done = torchrun("evaluating", (*configs, "multi_gpu_evaluate.json"), predictions_dir=tmp_path / "two", **options)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("test split, 3 cases") == 1
    alone("evaluating", configs, predictions_dir=str(tmp_path / "one"), **options)
    one, two = (json.loads((tmp_path / name / "evaluation_results.json").read_text()) for name in ("one", "two"))
    del one["seconds"], two["seconds"]
    assert one == two and [r["case_id"] for r in two["per_case_results"]] == ["case_5", "case_6", "case_7"]
    predictions = [{p.name: p.read_bytes() for p in (tmp_path / n).glob("*.npz")} for n in ("one", "two")]
    assert predictions[0] == predictions[1] and len(predictions[0]) == 3


def test_training_is_that_of_one_process_which_can_go_on_with_it(whole, alone, tmp_path):
    """A patient in each of two processes makes the steps that two patients in one batch do, also when the run is resumed."""
    single, taken_over = tmp_path / "single", tmp_path / "taken_over"
    alone("training", TRAIN, output_dir=str(single), batch_size=2)
    np.testing.assert_allclose(rows(single), rows(whole[0]), rtol=1e-3, atol=1e-3)
    shutil.copytree(whole[0], taken_over)
    for folder in (single, taken_over):
        alone("training", TRAIN, output_dir=str(folder), batch_size=2, max_epochs=3, resume=True)
    np.testing.assert_allclose(rows(single), rows(taken_over), rtol=1e-3, atol=1e-3)
    sessions = json.loads((taken_over / "training_config.json").read_text())["sessions"]
    assert [(s["first_epoch"], s["processes"]) for s in sessions] == [(1, 2), (3, 1)]
    with pytest.raises(Exception) as caught:
        alone("training", TRAIN, output_dir=str(taken_over), max_epochs=4, resume=True)
    assert "batch_size times processes" in str(find_input_error(caught.value))


def test_a_killed_process_comes_back_and_leaves_no_trace(whole, torchrun, tmp_path):
    """Nor do the cases that come from disk."""
    options = {"restarts": 1, "output_dir": tmp_path, "cache_dir": tmp_path / "cache", "cache_rate": 0.0}
    done = torchrun("training", (*TRAIN, "multi_gpu_train.json", "killed.json"), **options)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "failed (exitcode: -9) local_rank: 1" in done.stderr
    assert f"Resuming {tmp_path} after epoch 1" in done.stdout
    undisturbed, returned = last(whole[0]), last(tmp_path)
    assert returned["epoch"] == 2
    for network in ("network", "evaluated_network"):
        assert all(torch.equal(undisturbed[network][k], returned[network][k]) for k in undisturbed[network])
    pd.testing.assert_frame_equal(rows(whole[0]), rows(tmp_path), check_exact=True)
    assert len(list((tmp_path / "cache").iterdir())) == CASES["training"] + CASES["validation"]


def test_an_interrupted_run_says_so_once_and_goes_on(whole, torchrun, tmp_path):
    """torchrun hands the signal on to all its processes; then it raises an error of its own."""
    done = torchrun("training", (*TRAIN, "multi_gpu_train.json", "ended.json"), output_dir=tmp_path)
    assert done.returncode != 0
    told = f"interrupted: {tmp_path / 'checkpoints' / 'last.pt'} is as after epoch 1; go on with --resume true"
    assert done.stderr.count("interrupted: ") == 1 and told in done.stderr
    assert "monai_vmat/" not in done.stderr and "another process of this run" not in done.stderr, done.stderr
    again = torchrun("training", (*TRAIN, "multi_gpu_train.json"), output_dir=tmp_path, resume="true")
    assert again.returncode == 0, again.stderr[-4000:]
    undisturbed, resumed = last(whole[0]), last(tmp_path)
    for network in ("network", "evaluated_network"):
        assert all(torch.equal(undisturbed[network][k], resumed[network][k]) for k in undisturbed[network])


@pytest.mark.parametrize("configs", [("multi_gpu_train.json",), ("evaluate.json", "multi_gpu_evaluate.json")])
def test_the_model_zoos_properties_stay(configs):
    workflow = ConfigWorkflow(
        files("train.json", *configs), logging_file=False, workflow_type="train", bundle_root=str(CONFIGS.parent)
    )
    workflow.parser.parse(reset=True)
    ids = {name: p[BundlePropertyConfig.ID] for name, p in workflow.properties.items() if p[BundleProperty.REQUIRED]}
    assert [name for name, key in ids.items() if key not in workflow.parser] == []
    optional = {name: p for name, p in workflow.properties.items() if not p[BundleProperty.REQUIRED]}
    assert [name for name, p in optional.items() if not workflow._check_optional_id(name, p)] == []
    assert "finalize" in workflow.parser and "initialize" in workflow.parser


def test_no_other_overlay_sets_what_these_set():
    """So that their place in the list does not matter."""
    own = set(json.loads((CONFIGS / "multi_gpu_train.json").read_text()))
    others = [CONFIGS / "openkbp.json", CONFIGS / "quick.json", *(CONFIGS / "experiments").glob("*.json")]
    for path in others:
        for theirs in json.loads(path.read_text()):
            assert not any(mine == theirs or mine.startswith(f"{theirs}#") or theirs.startswith(f"{mine}#") for mine in own)
