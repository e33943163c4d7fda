"""Ray Tune, as a sweep uses it: it places trials on processors and ends those that ASHA gives up.

What has to outlive a session is in the runs' own records, so that none of Ray's snapshots is needed to go on: trials that are
done are not given to Ray again, and ASHA is told what every trial has recorded.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from monai_vmat.errors import InputError
from monai_vmat.handlers.run_record import METRICS, read_metrics
from monai_vmat.interruption import hear_interruptions
from monai_vmat.sweeps.job import Job, train
from monai_vmat.sweeps.plan import SCRATCH
from monai_vmat.sweeps.results import is_done, mark_stopped, recorded
from monai_vmat.sweeps.space import Space

_RESTARTS = 3  # of a trial whose process or machine dies
_OBJECT_STORE_BYTES = 100 * 2**20  # of a local Ray; only small dictionaries go through it


def run_trials(
    space: Space,
    jobs: Sequence[Job],
    *,
    address: str | None,
    temporary: Path,
    changed: Callable[[str, Mapping[str, str]], None],
) -> dict[str, str]:
    """Bring every trial to its end, those that have begun first.

    A trial that fails by itself is not tried again in this session; one whose process dies goes on from its last epoch.

    Args:
        space: the sweep's.
        jobs: all its trials.
        address: of a Ray cluster (``auto``: the one of this machine); None starts Ray here and ends it afterwards.
        temporary: a folder for the files of a Ray that is started here.
        changed: called with a line about what has happened, and why trials have failed so far, by name.

    Returns:
        why trials have failed, by name.

    Raises:
        InputError: when Ray cannot be reached, or has no room for a single trial.
    """
    waiting = sorted((job for job in jobs if not is_done(job.folder)), key=lambda job: not (job.folder / METRICS).exists())
    if not waiting:
        return {}
    earlier = {job.name: recorded(job.folder, job.metric) for job in jobs}
    tell = _Tell(space, jobs, changed)
    start_ray(address, temporary)
    try:
        resources = {"cpu": space.content["cpus_per_trial"], "gpu": space.content["gpus_per_trial"]}
        for kind, wanted in resources.items():
            there = ray.cluster_resources().get(kind.upper(), 0)
            if wanted > there:
                mend = "Correct it, or use a larger machine or cluster"
                raise InputError(space.path, f"'{kind}s_per_trial': {wanted} is more than the {there:g} that Ray has", mend)
        by_name = {job.name: job for job in waiting}

        def trainable(config: dict[str, str]) -> None:
            train_and_report(by_name[config["trial"]])

        tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"trial": tune.grid_search(list(by_name))},
            tune_config=tune.TuneConfig(scheduler=make_scheduler(space, jobs, earlier)),
            run_config=tune.RunConfig(
                name=SCRATCH,
                storage_path=str(jobs[0].folder.parent),
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                callbacks=[tell],
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()
    return tell.errors


def start_ray(address: str | None, temporary: Path) -> None:
    """Connect to a cluster, or start Ray here: without dashboard, quiet, its files in ``temporary``.

    Raises:
        InputError: when there is no cluster at ``address``, or Ray does not start here: it waits half a minute for itself.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it tells of trials is told by _Tell
    if address is None:
        try:
            ray.init(
                include_dashboard=False,
                _temp_dir=str(temporary),
                object_store_memory=_OBJECT_STORE_BYTES,
                address="local",
                **quiet,
            )
        except Exception as error:  # Ray raises plain ones
            mend = "Go on with --resume when the machine is less busy"
            raise InputError("Ray", f"does not start on this machine ({error})", mend) from error
        hear_interruptions()  # Ray has set a handler of its own
        return
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for a quarter of an hour
        ray.init(address=address, **quiet)
        hear_interruptions()
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError("--address", f"no Ray cluster at {address} ({reason})", "Start one with 'ray start --head'") from error


def train_and_report(job: Job) -> None:
    """Train in a worker of Ray. What the training raises is reported: another attempt would raise it again."""
    try:
        train(job, tune.report)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, InputError):  # MONAI wraps what its components raise
            cause = cause.__cause__
        tune.report({"error": f"{type(cause).__name__}: {cause}"})


class ContinuedASHA(ASHAScheduler):
    """ASHA that first hears of each trial what earlier sessions have recorded; what followed from it was decided then."""

    def __init__(self, earlier: Mapping[str, Sequence[dict[str, float]]], **options: Any) -> None:
        super().__init__(**options)
        self.earlier = earlier

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for result in self.earlier[trial.config["trial"]]:
            super().on_trial_result(tune_controller, trial, result)


def make_scheduler(space: Space, jobs: Sequence[Job], earlier: Mapping[str, Sequence[dict[str, float]]]) -> ContinuedASHA:
    """The space file's ASHA, told of the trials that are done."""
    scheduler = ContinuedASHA(
        earlier,
        time_attr="epoch",
        metric="value",
        mode=space.content["mode"],
        max_t=space.content["max_epochs"],
        grace_period=space.grace_period,
        reduction_factor=space.reduction_factor,
        stop_last_trials=False,  # whoever reaches the last epoch is complete
    )
    for job in jobs:
        if is_done(job.folder):
            scheduler.on_trial_add(None, SimpleNamespace(trial_id=job.name, config={"trial": job.name}))
    return scheduler


class _Tell(tune.Callback):
    """Say what happens to the trials, and mark those that are stopped."""

    def __init__(self, space: Space, jobs: Sequence[Job], changed: Callable[[str, Mapping[str, str]], None]) -> None:
        self.content = space.content
        self.jobs = {job.name: job for job in jobs}
        self.changed = changed
        self.errors: dict[str, str] = {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = trial.config["trial"]
        rows = read_metrics(self.jobs[name].folder / METRICS)
        self._say(name, f"goes on after epoch {rows[-1]['epoch']}" if rows else "begins")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if "error" in result:
            self.errors[trial.config["trial"]] = result["error"]
        elif not result.get("complete"):
            self._say(trial.config["trial"], self._epoch(result))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name, last = trial.config["trial"], trial.last_result
        if "error" in last:
            self._say(name, f"failed: {last['error']}")
        elif last.get("complete"):
            self._say(name, f"finished: {self._epoch(last)}")
        else:
            mark_stopped(self.jobs[name].folder, last["summary"])
            self._say(name, f"stopped: {self._epoch(last)}")

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._say(trial.config["trial"], "its process died; goes on from its last epoch")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = trial.config["trial"]
        self.errors[name] = str(trial.get_pickled_error()).strip().splitlines()[-1]
        self._say(name, f"failed {_RESTARTS + 1} times: {self.errors[name]}")

    def _epoch(self, result: Mapping[str, Any]) -> str:
        return f"epoch {result['epoch']}/{self.content['max_epochs']}, {self.content['metric']} {result['value']:.4g}"

    def _say(self, name: str, what: str) -> None:
        self.changed(f"{name}: {what}", self.errors)
