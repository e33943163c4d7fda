"""ASHA as a sweep uses it: its decisions, and what it knows after a crash. (On Ray: tests/data_scripts/test_sweep.py.)"""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from monai_vmat.errors import InputError
from monai_vmat.sweeps.environment import prepare_environment
from monai_vmat.sweeps.job import Job
from monai_vmat.sweeps.results import mark_stopped, recorded
from monai_vmat.sweeps.space import read_space

pytest.importorskip("ray", reason="the extra 'scale' is not installed")
prepare_environment(local=True)

from monai_vmat.sweeps import engine  # noqa: E402


@pytest.fixture
def scheduler(tmp_path):
    """``scheduler(done, begun, **content)``: ASHA after a crash; trials done and begun have these values, epoch by epoch."""

    def scheduler(done=(), begun=(), **content):
        content = {
            "base": ["train.json"],
            "space": {"seed": {"grid": list(range(9))}},
            "max_epochs": 4,
            "asha": {"grace_period": 1, "reduction_factor": 2},
        } | content
        (tmp_path / "space.json").write_text(json.dumps(content))
        space = read_space(tmp_path / "space.json")
        jobs = [Job(trial.name, [], {}, tmp_path / trial.name, "val/mae_gy") for trial in space.trials]
        for i, (job, values) in enumerate(zip(jobs, (*done, *begun))):
            job.folder.mkdir()
            rows = [f"{epoch},{value}" for epoch, value in enumerate(values, 1)]
            (job.folder / "metrics.csv").write_text("\n".join(["epoch,val/mae_gy", *rows]) + "\n")
            if i < len(done):
                mark_stopped(job.folder, {})
        return engine.make_scheduler(space, jobs, {job.name: recorded(job.folder, "val/mae_gy") for job in jobs})

    return scheduler


def trial(scheduler, seed, ray_id="of Ray"):
    """A trial that Ray has added."""
    added = SimpleNamespace(trial_id=ray_id, config={"trial": f"01-seed{seed}"})
    scheduler.on_trial_add(None, added)
    return added


def decide(scheduler, trial, epoch, value):
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "value": value})


def test_the_worse_half_is_stopped(scheduler):
    asha = scheduler()
    values = (3.0, 2.0, 2.9, 2.6, 1.0)
    decisions = [decide(asha, trial(asha, seed, str(seed)), 1, value) for seed, value in enumerate(values)]
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE", "CONTINUE"]  # against the median of those before


def test_whoever_reaches_the_last_epoch_is_not_called_stopped(scheduler):
    asha = scheduler()
    best = trial(asha, 1)
    assert [decide(asha, best, epoch, 5.0 - epoch) for epoch in (1, 2, 3, 4)] == ["CONTINUE"] * 4


def test_for_max_the_smaller_half_is_stopped(scheduler):
    asha = scheduler(mode="max")
    assert [decide(asha, trial(asha, s, str(s)), 1, value) for s, value in enumerate((3.0, 2.0, 4.0))] == [
        "CONTINUE",
        "STOP",
        "CONTINUE",
    ]


def test_after_a_crash_new_trials_are_judged_by_all_that_came_before(scheduler):
    asha = scheduler(done=[(2.0, 1.5, 1.2, 1.0), (3.0,)], begun=[(1.0, 0.9)])
    going_on = trial(asha, 2, "a")
    assert decide(asha, trial(asha, 3, "b"), 1, 2.5) == "STOP"  # the median of 2.0, 3.0 and 1.0 is 2.0
    new = trial(asha, 4, "c")
    assert decide(asha, new, 1, 1.9) == "CONTINUE" and decide(asha, new, 2, 1.6) == "STOP"  # of 1.5 and 0.9: 1.2
    assert decide(asha, going_on, 2, 0.9) == "CONTINUE"  # reported again: decided before
    assert decide(asha, going_on, 3, 9.0) == "CONTINUE"  # between the rungs
    assert decide(asha, going_on, 4, 1.1) == "STOP"  # the rung at 4 epochs has 1.0


def test_without_asha_nothing_is_stopped(scheduler):
    asha = scheduler(done=[(1.0, 1.0, 1.0, 1.0)], asha=None)
    worse = trial(asha, 1)
    assert [decide(asha, worse, epoch, 9.0) for epoch in (1, 2, 3)] == ["CONTINUE"] * 3


@pytest.mark.parametrize(
    "raised, told",
    [
        (InputError("data", "is missing", "Make it"), "InputError: data: is missing. Make it"),
        (FloatingPointError("the loss is nan"), "FloatingPointError: the loss is nan"),
    ],
)
def test_what_a_training_raises_is_reported_without_its_wrappings(raised, told, monkeypatch):
    def train(job, report):
        try:
            raise raised
        except Exception as error:
            raise RuntimeError("Failed to evaluate") from error

    reports = []
    monkeypatch.setattr(engine, "train", train)
    monkeypatch.setattr(engine.tune, "report", reports.append)
    engine.train_and_report(Job("01", [], {}, None, "val/mae_gy"))
    assert reports == [{"error": told}]


def test_a_ray_that_does_not_start_is_told(tmp_path, monkeypatch):
    def init(**settings):
        raise Exception("The current node timed out during startup.\nSee the logs")

    monkeypatch.setattr(engine.ray, "init", init)
    with pytest.raises(
        InputError, match=r"^Ray: does not start on this machine \(The current node timed out.*--resume"
    ) as caught:
        engine.start_ray(None, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match=f"--address: no Ray cluster at 127.0.0.1:{port}"):
        engine.start_ray(f"127.0.0.1:{port}", tmp_path)
