"""The state of a training run on disk: resumable to the bit, and its best weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_vmat.distributed import is_first
from monai_vmat.engines import check_and_load, flag, load_checkpoint
from monai_vmat.errors import InputError
from monai_vmat.files import write_whole

logger = logging.getLogger(__name__)

LAST = "last.pt"
BEST_PATTERN = "best-epoch=*.pt"


def best_checkpoint(folder: str | Path) -> str:
    """The best checkpoint of a run.

    Raises:
        InputError: when there is none.
    """
    found = sorted(Path(folder).glob(BEST_PATTERN))
    if not found:
        raise InputError(folder, "holds no best-epoch=*.pt checkpoint", "Train first, or name weights with --weights FILE")
    return str(found[-1])


def default_weights(bundle_root: str | Path, run_folder: str | Path) -> str:
    """The weights that came with the bundle, ``models/model.pt``; where it has none, the best of a run.

    Raises:
        InputError: when there are neither.
    """
    shipped = Path(bundle_root) / "models" / "model.pt"
    return str(shipped) if shipped.is_file() else best_checkpoint(Path(run_folder) / "checkpoints")


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
    ) -> None:
        self.folder = Path(folder)
        self.networks = {"network": network, "evaluated_network": evaluated_network}
        self.stateful: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, **(also or {})}
        self.validator = validator
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
                weights = self.networks["evaluated_network"].state_dict()
                _save({"network": weights, "epoch": trainer.state.epoch, "val_mae_gy": float(state.best_metric)}, best)
        _save(
            {
                **{name: network.state_dict() for name, network in self.networks.items()},
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
        if saved["iteration"] != saved["epoch"] * length:
            problem = f"{saved['iteration']} steps in {saved['epoch']} epochs do not fit epochs of {length} steps"
            mend = "Resume with the run's own datalist and batch size (batch_size times processes, when there are several)"
            raise InputError(path, problem, mend)
        self._saved_epoch = trainer.state.epoch = saved["epoch"]
        trainer.state.iteration = saved["iteration"]
        self.validator.state.best_metric = saved["best_metric"]
        self.validator.state.best_metric_epoch = saved["best_metric_epoch"]
        torch.set_rng_state(saved["random_state"].cpu())
        if torch.cuda.is_available() and saved.get("cuda_random_state"):
            torch.cuda.set_rng_state_all([s.cpu() for s in saved["cuda_random_state"]])
        logger.info(f"Resuming {self.folder.parent} after epoch {saved['epoch']}")


def _load(thing: Any, state: Any, path: Path, name: str) -> None:
    try:
        thing.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            path, f"'{name}' does not fit this configuration ({error})", "Resume with the run's own settings"
        ) from error


def _save(content: dict[str, Any], path: Path) -> None:
    # Given a path, torch.save does not say that the disk is full but that a position was not expected.
    with write_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
