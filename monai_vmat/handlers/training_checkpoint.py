"""The state of a training run on disk: resumable to the bit, and its best weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_vmat.distributed import is_first
from monai_vmat.engines import flag
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole
from monai_vmat.weights import check_and_load, describe, load_checkpoint

logger = logging.getLogger(__name__)

LAST = "last.pt"
BEST_PATTERN = "best-epoch=*.pt"

_RESTART = "Use another last.pt of the run, or start anew with another --experiment NAME"


def best_checkpoint(folder: str | Path) -> str:
    """The best checkpoint of a run.

    Raises:
        InputError: when there is none.
    """
    found = sorted(Path(folder).glob(BEST_PATTERN))
    if not found:
        raise InputError(folder, "holds no best-epoch=*.pt checkpoint", "Train first, or name weights with --weights FILE")
    return str(found[-1])


def default_weights(
    bundle_root: str | Path, project_root: str | Path, experiment: str | None = None, shipped: Sequence[str] = ("model.pt",)
) -> str | list[str]:
    """The best weights of the run ``experiment``; where none is named, those that came with the bundle, of which several are an
    ensemble.

    Raises:
        InputError: when the run has none. Whether the bundle has any is for those to find out who read them.
    """
    if experiment is not None:
        return best_checkpoint(Path(project_root) / "runs" / str(experiment) / "checkpoints")
    files = [str(Path(bundle_root) / "models" / name) for name in shipped]
    return files[0] if len(files) == 1 else files


def may_train(run_folder: str | Path, resume: bool | str) -> None:
    """Refuse to start a new run where an earlier one is that has finished an epoch; call it before any data is read.

    Args:
        run_folder: the run's folder.
        resume: go on with the earlier run; text ("true") as it comes from a command line is understood.

    Raises:
        InputError: when there is such a run and ``resume`` is off, or its ``last.pt`` is damaged.
    """
    last = Path(run_folder) / "checkpoints" / LAST
    if not flag(resume) and last.exists() and load_checkpoint(last).get("epoch") != 0:
        raise InputError(run_folder, "holds a run already", "Go on with --resume true, or choose another --experiment NAME")


class TrainingCheckpoint:
    """At the start and after every epoch write ``last.pt`` (everything a resumed run needs) and, of the best, the weights.

    ``last.pt`` holds the network, the evaluated (perhaps averaged) network, the optimiser, the schedule, epoch and
    iteration, the validator's best value and epoch, and the state of torch's random generators. All other randomness is a
    function of seed, epoch and case. ``best-epoch=NNN-val_mae_gy=X.XXX.pt`` holds the evaluated weights; older best files
    go only when the newer one and ``last.pt`` are whole. Of several processes the first writes and all restore.

    Args:
        folder: the run's ``checkpoints`` folder.
        network, evaluated_network: the trained network and the one that is validated (may be the same).
        optimizer, scheduler: of the training.
        validator: the evaluator whose key metric, lower is better, decides.
        also: whatever else has a state that training changes (learned loss weights, a discriminator and its optimiser), by
            the name that it gets in ``last.pt``.
        facts: what the weights need to be known by (:func:`monai_vmat.weights.describe`), kept beside them.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        network: torch.nn.Module,
        evaluated_network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        validator: Engine,
        also: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.networks = {"network": network, "evaluated_network": evaluated_network}
        self.stateful: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, **(also or {})}
        self.validator = validator
        self.facts = facts or {}
        self._saved_epoch = 0

    def attach(self, engine: Engine) -> None:
        if is_first():
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def __str__(self) -> str:
        """What there is to go on from."""
        return f"{self.folder / LAST} is as after epoch {self._saved_epoch}; go on with --resume true"

    def _begin(self, trainer: Engine) -> None:
        if trainer.state.epoch == 0:
            self.save(trainer)

    def save(self, trainer: Engine) -> None:
        """Write the files of the epoch that has just ended."""
        state = self.validator.state
        best = None
        if state.best_metric_epoch > 0:
            best = self.folder / f"best-epoch={state.best_metric_epoch:03d}-val_mae_gy={state.best_metric:.3f}.pt"
            if state.best_metric_epoch == trainer.state.epoch:
                weights = self._weights("evaluated_network")
                _save({"network": weights, "epoch": trainer.state.epoch, "val_mae_gy": float(state.best_metric)}, best)
        _save(
            {
                **{name: self._weights(name) for name in self.networks},
                **{name: thing.state_dict() for name, thing in self.stateful.items()},
                "epoch": trainer.state.epoch,
                "iteration": trainer.state.iteration,
                "best_metric": float(state.best_metric),
                "best_metric_epoch": state.best_metric_epoch,
                "random_state": torch.get_rng_state(),
                "cuda_random_state": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            self.folder / LAST,
        )
        self._saved_epoch = trainer.state.epoch
        if best is not None:
            for old in self.folder.glob(BEST_PATTERN):
                if old != best:
                    old.unlink()

    def _weights(self, name: str) -> dict[str, Any]:
        return describe(self.networks[name].state_dict(), self.facts)

    def restore(self, trainer: Engine, resume: bool | str = True) -> None:
        """Continue from ``last.pt`` if there is one and ``resume`` is on; start afresh otherwise.

        Raises:
            InputError: when ``last.pt`` is damaged or does not fit.
        """
        path = self.folder / LAST
        if not (flag(resume) and path.exists()):
            logger.info(f"Starting a new run in {self.folder.parent}")
            return
        saved = load_checkpoint(path)
        missing = {*self.networks, *self.stateful, "epoch", "iteration", "best_metric", "best_metric_epoch", "random_state"}
        missing -= set(saved)
        if missing:
            raise InputError(path, f"is no training checkpoint (lacks {sorted(missing)})", "Use a last.pt of this program")
        for name, network in self.networks.items():
            check_and_load(path, network, saved[name])
        for name, thing in self.stateful.items():
            _load(thing, saved[name], path, name)
        length = trainer.state.epoch_length
        _require_counts(saved, path)
        if saved["iteration"] != saved["epoch"] * length:
            problem = f"{saved['iteration']} steps in {saved['epoch']} epochs do not fit epochs of {length} steps"
            mend = "Resume with the run's own datalist and batch size (batch_size times processes, when there are several)"
            raise InputError(path, problem, mend)
        self._saved_epoch = trainer.state.epoch = saved["epoch"]
        trainer.state.iteration = saved["iteration"]
        self.validator.state.best_metric = saved["best_metric"]
        self.validator.state.best_metric_epoch = saved["best_metric_epoch"]
        try:
            torch.set_rng_state(saved["random_state"].cpu())
            if torch.cuda.is_available() and saved.get("cuda_random_state"):
                torch.cuda.set_rng_state_all([s.cpu() for s in saved["cuda_random_state"]])
        except (AttributeError, TypeError, RuntimeError) as error:
            raise InputError(path, f"'random_state' is none of this PyTorch ({error})", _RESTART) from error
        logger.info(f"Resuming {self.folder.parent} after epoch {saved['epoch']}")


def _require_counts(saved: Mapping[str, Any], path: Path) -> None:
    for name, least in (("epoch", 0), ("iteration", 0), ("best_metric_epoch", -1)):
        if type(saved[name]) is not int or saved[name] < least:
            raise InputError(path, f"'{name}': a whole number from {least} was expected, got {saved[name]!r}", _RESTART)
    if type(saved["best_metric"]) not in (int, float):
        raise InputError(path, f"'best_metric': a number was expected, got {saved['best_metric']!r}", _RESTART)


def _load(thing: Any, state: Any, path: Path, name: str) -> None:
    """Load a state; an optimiser's is compared with its parameters, of whose shapes PyTorch learns in the next step only."""
    try:
        kinds = {key: type(value) for key, value in thing.state_dict().items()} if name == "scheduler" else {}
        for key, kind in kinds.items():
            if not isinstance(state[key], kind):
                raise ValueError(f"{key}: {kind.__name__} was expected")
        thing.load_state_dict(state)
        if isinstance(thing, torch.optim.Optimizer):
            _require_moments(thing)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            path, f"'{name}' does not fit this configuration ({error})", "Resume with the run's own settings"
        ) from error


def _require_moments(optimizer: torch.optim.Optimizer) -> None:
    states = list(optimizer.state.values())
    if len({frozenset((moment, type(value)) for moment, value in state.items()) for state in states}) > 1:
        raise ValueError("its parameters have different kinds of moments")
    for parameter, state in optimizer.state.items():
        for moment, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape not in (parameter.shape, ()):
                raise ValueError(f"{moment} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
            if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
                raise ValueError(f"{moment} holds NaN or infinity")


def _save(content: dict[str, Any], path: Path) -> None:
    # Given a path, torch.save does not say that the disk is full but that a position was not expected.
    with write_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
