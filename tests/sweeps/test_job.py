"""How a trial's settings become overrides of the bundle, and that training it is what the bundle's own command does."""

from __future__ import annotations

import json
from pathlib import Path

import monai.bundle
import pytest
import torch

from monai_vmat.case import write_case
from monai_vmat.errors import InputError, find_input_error
from monai_vmat.files import read_json
from monai_vmat.handlers.dashboard import Dashboard
from monai_vmat.handlers.run_record import read_metrics
from monai_vmat.handlers.training_checkpoint import TrainingCheckpoint
from monai_vmat.sweeps.hold import hold
from monai_vmat.sweeps.job import make_jobs, train
from monai_vmat.sweeps.space import read_space

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "dose"
SMALL = {"base_channels": 8, "patch_size": [32, 32, 32], "threads": 1, "val_interval": 1, "patches_per_case": 1}


@pytest.fixture
def jobs(tmp_path):
    """``jobs(space=..., ...)``: the jobs of a space file in ``tmp_path/sweep``."""

    def jobs(**content):
        content = {"base": ["train.json"], "settings": SMALL, "max_epochs": 3, **content}
        (tmp_path / "space.json").write_text(json.dumps(content))
        return make_jobs(read_space(tmp_path / "space.json"), BUNDLE, tmp_path / "sweep")

    return jobs


@pytest.fixture
def data(tmp_path, prostate, make_case):
    """Two patients to train on, one to validate and test."""
    content = {"protocol": prostate.name, "training": [], "validation": [], "test": []}
    for i, section in enumerate(("training", "training", "validation", "test")):
        write_case(make_case(prostate, (36, 32, 32), seed=i, case_id=f"case_{i}"), tmp_path / "data" / f"case_{i}.npz")
        content[section].append({"case": f"case_{i}.npz", "case_id": f"case_{i}", "patient": f"case_{i}"})
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(content))
    return str(tmp_path / "data")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr("sys.excepthook", lambda *args: None)  # the bundle sets its own; put back afterwards
    monkeypatch.setattr(Dashboard, "_figures", lambda self, validator: None)  # a second each, tested elsewhere


def test_settings_become_overrides(jobs, tmp_path):
    space = {"overlay": {"grid": ["grad_loss"]}, "loss#weights#gradient": {"grid": [0.2]}, "seed": {"grid": [7]}}
    (job,) = jobs(base=["train.json", "quick.json"], space=space)
    assert job.name == "01-grad_loss-seed7" and job.folder == tmp_path / "sweep" / job.name
    configs = BUNDLE / "configs"
    assert job.files == [str(configs / n) for n in ("train.json", "quick.json", "experiments/grad_loss.json")]
    assert job.overrides == SMALL | {
        "loss#weights#gradient": 0.2,
        "seed": 7,
        "bundle_root": str(BUNDLE),
        "experiment": "sweep/01-grad_loss-seed7",
        "output_dir": str(job.folder),
        "max_epochs": 3,
        "resume": True,
    }


WRONG = {
    "overlay": ({"space": {"overlay": {"grid": ["gradloss"]}}}, "experiments/gradloss.json"),
    "base": ({"base": ["train.json", "qick.json"], "space": {"seed": {"grid": [1]}}}, "configs/qick.json"),
    "key": ({"space": {"learning_rat": {"grid": [1]}}}, "trial 01: none of its configuration files has 'learning_rat'"),
    "setting": (
        {"settings": {"chanels": 8}, "space": {"seed": {"grid": [1]}}},
        "none of its configuration files has 'chanels'",
    ),
    "weight of another overlay": (
        {"space": {"overlay": {"grid": ["grad_loss", "baseline"]}, "loss#weights#gradient": {"grid": [0.2]}}},
        "trial 02-baseline: none of its configuration files has 'loss#weights#gradient'",
    ),
    "validations": (
        {
            "base": ["train.json", "quick.json"],
            "settings": {},
            "max_epochs": 14,
            "asha": {"grace_period": 4, "reduction_factor": 2},
            "space": {"seed": {"grid": [1]}},
        },
        "'asha.grace_period' 4 is no multiple of val_interval 7",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_before_anything_is_trained(jobs, tmp_path, name):
    content, told = WRONG[name]
    with pytest.raises(InputError) as caught:
        jobs(**content)
    assert caught.value.where == str(tmp_path / "space.json") and told in caught.value.problem
    assert not (tmp_path / "sweep").exists()


def last(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def test_a_trial_is_what_the_bundles_command_trains_also_when_interrupted(jobs, data, tmp_path, monkeypatch):
    """The adversarial loss: two networks whose first weights depend on the order in which they are made."""
    space = {"overlay": {"grid": ["adversarial"]}, "seed": {"grid": [7]}}
    settings = SMALL | {"dataset_dir": data, "discriminator#channels": 4}
    (job,) = jobs(space=space, settings=settings)
    options = settings | {"seed": 7, "max_epochs": 3, "output_dir": str(tmp_path / "command")}
    monai.bundle.run(run_id="training", config_file=job.files, logging_file=False, **options)

    save, reports = TrainingCheckpoint.save, []

    def save_and_crash(self, trainer):
        save(self, trainer)
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingCheckpoint, "save", save_and_crash)
    with pytest.raises(BaseException, match="KeyboardInterrupt|^$"):
        train(job, reports.append)
    assert [r["epoch"] for r in reports] == [1]  # the second one was saved, but not reported
    monkeypatch.setattr(TrainingCheckpoint, "save", save)
    train(job, reports.append)
    assert [(r["epoch"], r.get("complete", False)) for r in reports] == [(1, False), (2, False), (3, True)]
    assert [r["value"] for r in reports] == [row["val/mae_gy"] for row in read_metrics(job.folder / "metrics.csv")]
    assert reports[1]["summary"]["epochs"] == 2 and reports[1]["summary"]["final"]["epoch"] == 2
    assert reports[-1]["summary"] == read_json(job.folder / "training_summary.json")

    command, trial = last(tmp_path / "command"), last(job.folder)
    for part in ("network", "evaluated_network", "loss"):
        assert command[part] and all(torch.equal(command[part][k], trial[part][k]) for k in command[part]), part
    assert "Epoch 3/3" in (job.folder / "training.log").read_text()

    (job.folder / "training_summary.json").unlink()  # as if it had died just before writing it
    train(job, reports.append)
    assert reports[-1] == reports[-2] and read_json(job.folder / "training_summary.json") == reports[-1]["summary"]


def test_an_unknown_metric_is_told_after_the_first_validation(jobs, data):
    (job,) = jobs(space={"seed": {"grid": [7]}}, settings=SMALL | {"dataset_dir": data}, metric="val/mea_gy")
    with pytest.raises(Exception) as caught:
        train(job, lambda report: None)
    error = find_input_error(caught.value)
    assert error.where == str(job.folder / "metrics.csv") and "has no column 'val/mea_gy'" in error.problem
    assert "has no column" in (job.folder / "training.log").read_text()


def test_two_processes_do_not_train_one_run(jobs, data, monkeypatch):
    """A worker that has outlived its session (the second open of a file counts as another process's)."""
    (job,) = jobs(space={"seed": {"grid": [7]}}, settings=SMALL | {"dataset_dir": data})
    job.folder.mkdir(parents=True)
    monkeypatch.setattr("monai_vmat.sweeps.job._OUTLIVED_S", 0.1)
    with open(job.folder / "training.log", "a") as log:
        assert hold(log)
        with pytest.raises(InputError, match="is being trained by another process"):
            train(job, lambda report: None)
    assert not (job.folder / "checkpoints").exists()
