"""One trial as a run of the bundle: its configuration files and overrides, and the training itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_vmat.errors import InputError
from monai_vmat.handlers.run_record import METRICS, read_metrics, training_summary
from monai_vmat.sweeps.hold import hold
from monai_vmat.sweeps.space import OVERLAY, Space

logger = logging.getLogger(__name__)

LOG = "training.log"
_OUTLIVED_S = 60.0  # how long a worker is waited for that has outlived its session; Ray ends it within seconds


@dataclass(frozen=True)
class Job:
    """What a worker needs to train a trial, on whichever machine it is.

    Args:
        name: the trial's.
        files: configuration files, absolute.
        overrides: as on a bundle's command line.
        folder: the run's folder, absolute.
        metric: a ``val/...`` column of ``metrics.csv``.
    """

    name: str
    files: list[str]
    overrides: Mapping[str, Any]
    folder: Path
    metric: str


def make_jobs(space: Space, bundle_root: str | Path, out: str | Path) -> list[Job]:
    """The trials as runs in folders of ``out``, each checked against its configuration files.

    Raises:
        InputError: for a file that is missing, a key that a trial's files do not have, or validations that do not come when
            ASHA decides.
    """
    configs = Path(bundle_root).resolve() / "configs"
    parsers: dict[tuple[str, ...], ConfigParser] = {}
    jobs = []
    for trial in space.trials:
        settings = {**space.content["settings"], **trial.settings}
        overlay = [f"experiments/{settings.pop(OVERLAY)}.json"] if OVERLAY in settings else []
        files = tuple(str(configs / name) for name in (*space.content["base"], *overlay))
        if files not in parsers:
            for file in files:
                if not Path(file).is_file():
                    raise InputError(space.path, f"trial {trial.name}: there is no {file}", "Correct 'base' or 'space.overlay'")
            parsers[files] = ConfigParser()
            parsers[files].read_config(list(files))
        _check(space, trial.name, settings, parsers[files])
        folder = Path(out).resolve() / trial.name
        of_the_sweep = {
            "bundle_root": str(configs.parent),
            "experiment": f"{folder.parent.name}/{trial.name}",
            "output_dir": str(folder),
            "max_epochs": space.content["max_epochs"],
            "resume": True,
        }
        jobs.append(Job(trial.name, list(files), {**settings, **of_the_sweep}, folder, space.content["metric"]))
    return jobs


def _check(space: Space, name: str, settings: Mapping[str, Any], parser: ConfigParser) -> None:
    for key in settings:
        if key not in parser:
            problem = f"trial {name}: none of its configuration files has '{key}'"
            raise InputError(space.path, problem, "Correct the key, or leave out the overlays that lack it")
    interval = settings.get("val_interval", parser["val_interval"])
    if not isinstance(interval, int) or interval < 1 or space.grace_period % interval:
        if space.content["asha"] is None:
            return
        problem = f"trial {name}: 'asha.grace_period' {space.grace_period} is no multiple of val_interval {interval}"
        raise InputError(space.path, problem, 'Validate when ASHA decides, e.g. "settings": {"val_interval": 1}')


def train(job: Job, report: Callable[[dict[str, Any]], None]) -> None:
    """Train as ``monai.bundle run training`` does, going on where an earlier session stopped.

    Args:
        job: the trial.
        report: called after every validated epoch, when its records and checkpoint are written, with ``epoch``, ``value`` (the
            metric) and ``summary`` (what ``training_summary.json`` says of a run that ends here); and when the run is complete
            with ``complete`` true as well. Of an earlier session the last validated epoch is reported again: the process may
            have died between writing and reporting it.

    Raises:
        InputError: when another process is training the run, or it does not record the metric; whatever the training raises.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    workflow = ConfigWorkflow(job.files, workflow_type="train", run_id="training", **job.overrides)
    with open(job.folder / LOG, "a", encoding="utf-8") as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            if not hold(log, _OUTLIVED_S):
                raise InputError(job.folder, "is being trained by another process", "End that one, then go on with --resume")
            _train(job, workflow, report)
        except Exception:
            logger.exception(f"{job.name} failed")
            raise
        finally:
            logging.getLogger().removeHandler(handler)


def _train(job: Job, workflow: ConfigWorkflow, report: Callable[[dict[str, Any]], None]) -> None:
    workflow.initialize()
    parser = workflow.parser
    *prepare, run = (f"training#{step}" for step in range(len(parser["training"])))
    for step in prepare:
        parser.get_parsed_content(step)
    trainer, validator = (parser.get_parsed_content(name) for name in ("train#trainer", "validate#evaluator"))

    def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return training_summary(trainer, validator, job.overrides["experiment"], rows)

    def tell(**more: Any) -> None:
        rows = [row for row in read_metrics(job.folder / METRICS) if row["epoch"] <= trainer.state.epoch]
        validated = [row for row in rows if any(name.startswith("val/") for name in row)]
        if not validated:
            return
        if job.metric not in validated[-1]:
            problem = f"has no column '{job.metric}', which the space file names as 'metric'"
            raise InputError(job.folder / METRICS, problem, "Name one of its val/ columns, and begin another sweep")
        report({"epoch": validated[-1]["epoch"], "value": validated[-1][job.metric], "summary": summary(rows), **more})

    def tell_epoch(engine: Engine) -> None:
        if validator.state.epoch == engine.state.epoch < engine.state.max_epochs:  # the last one when the run is complete
            try:
                tell()
            except SystemExit:  # how a worker learns that its trial is given up
                logger.info("Stopped by the sweep")
                trainer.logger.disabled = True  # it would call this an error
                raise

    if trainer.state.epoch < trainer.state.max_epochs:
        tell()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, tell_epoch)  # the last handler: records and checkpoint are written
    parser.get_parsed_content(run)
    tell(complete=True)
